//! The figures in Prometheus' text form: upstream's `/metrics/resource` and the part of cAdvisor's
//! metrics that dashboards and autoscalers read.

use std::fmt::Write;

use super::{ContainerStats, CpuStats, InterfaceStats, MemoryStats, Moment, PodStats, Summary, SwapStats};

/// `/metrics/resource`: the kubelet's stable resource metrics and those of swap
/// (upstream's `kubelet/metrics/collectors/resource_metrics.go`).
pub fn resource(summary: &Summary) -> String {
    let mut out = Text::default();
    let node = |sample| std::iter::once((String::new(), sample));
    let pods = || summary.pods.iter().map(|pod| (pod_labels(pod), pod));
    out.family(
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        COUNTER,
        containers(summary).map(|(labels, container)| (labels, cpu_seconds(container.cpu.as_ref()))),
    );
    out.family(
        "container_memory_working_set_bytes",
        "[STABLE] Current working set of the container in bytes",
        GAUGE,
        containers(summary)
            .map(|(labels, container)| (labels, memory(container.memory.as_ref(), WORKING_SET))),
    );
    out.family(
        "container_start_time_seconds",
        "[STABLE] Start time of the container since unix epoch in seconds",
        GAUGE,
        containers(summary).map(|(labels, container)| (labels, start_time(container))),
    );
    out.family(
        "container_swap_limit_bytes",
        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
        GAUGE,
        containers(summary).map(|(labels, container)| (labels, swap_limit(container.swap.as_ref()))),
    );
    out.family(
        "container_swap_usage_bytes",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        GAUGE,
        containers(summary).map(|(labels, container)| (labels, swap_usage(container.swap.as_ref()))),
    );
    out.family(
        "node_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        COUNTER,
        node(cpu_seconds(summary.node.cpu.as_ref())),
    );
    out.family(
        "node_memory_working_set_bytes",
        "[STABLE] Current working set of the node in bytes",
        GAUGE,
        node(memory(summary.node.memory.as_ref(), WORKING_SET)),
    );
    out.family(
        "node_swap_usage_bytes",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        GAUGE,
        node(swap_usage(summary.node.swap.as_ref())),
    );
    out.family(
        "pod_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        COUNTER,
        pods().map(|(labels, pod)| (labels, cpu_seconds(pod.cpu.as_ref()))),
    );
    out.family(
        "pod_memory_working_set_bytes",
        "[STABLE] Current working set of the pod in bytes",
        GAUGE,
        pods().map(|(labels, pod)| (labels, memory(pod.memory.as_ref(), WORKING_SET))),
    );
    out.family(
        "pod_swap_usage_bytes",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        GAUGE,
        pods().map(|(labels, pod)| (labels, swap_usage(pod.swap.as_ref()))),
    );
    out.family(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        GAUGE,
        node(Some(Sample::now(0))),
    );
    out.0
}

/// `/metrics/cadvisor`.
pub fn cadvisor(summary: &Summary, cpu_cores: u64, memory_bytes: u64) -> String {
    let mut out = Text::default();
    let machine = |value| std::iter::once((String::new(), Some(Sample::now(value))));
    out.family("machine_cpu_cores", "Number of logical CPU cores.", GAUGE, machine(cpu_cores));
    out.family(
        "machine_memory_bytes",
        "Amount of memory installed on the machine.",
        GAUGE,
        machine(memory_bytes),
    );
    out.family(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
        COUNTER,
        all(summary).map(|(labels, cpu, _)| (format!("{labels},cpu=\"total\""), cpu_seconds(cpu))),
    );
    for (name, help, of) in MEMORY {
        out.family(name, help, GAUGE, all(summary).map(|(labels, _, stats)| (labels, memory(stats, of))));
    }
    for (name, help, of) in NETWORK {
        let figure = |(labels, interface)| (labels, Some(Sample::now(of(interface))));
        out.family(name, help, COUNTER, interfaces(summary).map(figure));
    }
    out.family(
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
        GAUGE,
        containers(summary).map(|(labels, container)| (labels, start_time(container))),
    );
    out.0
}

type MemoryFigure = fn(&MemoryStats) -> u64;
const WORKING_SET: MemoryFigure = |memory| memory.working_set_bytes;
const MEMORY: [(&str, &str, MemoryFigure); 3] = [
    (
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |memory| memory.usage_bytes,
    ),
    ("container_memory_working_set_bytes", "Current working set in bytes.", WORKING_SET),
    ("container_memory_rss", "Size of RSS in bytes.", |memory| memory.rss_bytes),
];

type NetworkFigure = fn(&InterfaceStats) -> u64;
const NETWORK: [(&str, &str, NetworkFigure); 4] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |i| i.rx_errors,
    ),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |i| i.tx_errors,
    ),
];

/// Every container with its labels.
fn containers(summary: &Summary) -> impl Iterator<Item = (String, &ContainerStats)> {
    summary
        .pods
        .iter()
        .flat_map(|pod| pod.containers.iter().map(move |c| (container_labels(pod, &c.name), c)))
}

/// Pods, with an empty container name, and containers.
fn all(summary: &Summary) -> impl Iterator<Item = (String, Option<&CpuStats>, Option<&MemoryStats>)> {
    summary.pods.iter().flat_map(|pod| {
        let own = (container_labels(pod, ""), pod.cpu.as_ref(), pod.memory.as_ref());
        let containers = pod
            .containers
            .iter()
            .map(|c| (container_labels(pod, &c.name), c.cpu.as_ref(), c.memory.as_ref()));
        std::iter::once(own).chain(containers)
    })
}

/// Every pod's interfaces.
fn interfaces(summary: &Summary) -> impl Iterator<Item = (String, &InterfaceStats)> {
    summary.pods.iter().flat_map(|pod| {
        let of_pod = pod.network.iter().flat_map(|network| &network.interfaces);
        of_pod.map(move |interface| {
            (format!("{},interface={}", container_labels(pod, ""), quote(&interface.name)), interface)
        })
    })
}

fn pod_labels(pod: &PodStats) -> String {
    format!("namespace={},pod={}", quote(&pod.pod_ref.namespace), quote(&pod.pod_ref.name))
}

fn container_labels(pod: &PodStats, container: &str) -> String {
    format!("container={},{}", quote(container), pod_labels(pod))
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// A figure in Prometheus' form.
struct Sample<'a> {
    value: String,
    /// When it was so, where it is not now.
    time: Option<&'a Moment>,
}

impl<'a> Sample<'a> {
    fn now(value: u64) -> Self {
        Self { value: value.to_string(), time: None }
    }

    fn at(value: u64, time: &'a Moment) -> Self {
        Self { value: value.to_string(), time: Some(time) }
    }
}

fn cpu_seconds(cpu: Option<&CpuStats>) -> Option<Sample<'_>> {
    let cpu = cpu?;
    let nanos = cpu.usage_core_nano_seconds;
    let value = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    Some(Sample { value, time: Some(&cpu.time) })
}

fn memory(memory: Option<&MemoryStats>, of: MemoryFigure) -> Option<Sample<'_>> {
    memory.map(|memory| Sample::at(of(memory), &memory.time))
}

fn swap_usage(swap: Option<&SwapStats>) -> Option<Sample<'_>> {
    swap.map(|swap| Sample::at(swap.swap_usage_bytes, &swap.time))
}

fn swap_limit(swap: Option<&SwapStats>) -> Option<Sample<'_>> {
    let swap = swap?;
    Some(Sample::at(swap.swap_available_bytes?.saturating_add(swap.swap_usage_bytes), &swap.time))
}

fn start_time(container: &ContainerStats) -> Option<Sample<'_>> {
    let millis = container.start_time.0.as_millisecond();
    Some(Sample { value: format!("{}.{:03}", millis / 1000, millis % 1000), time: None })
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

#[derive(Default)]
struct Text(String);

impl Text {
    /// A metric with its samples by their labels; what has no figure has no line.
    fn family<'a>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        samples: impl Iterator<Item = (String, Option<Sample<'a>>)>,
    ) {
        // writing into a String cannot fail
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, sample) in samples {
            let Some(Sample { value, time }) = sample else { continue };
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let time = time.map(|time| format!(" {}", time.0.as_millisecond())).unwrap_or_default();
            let _ = writeln!(self.0, "{name}{labels} {value}{time}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::stats::{NodeStats, PodReference};

    #[test]
    fn resource_metrics_have_upstreams_names_and_labels() {
        let time = Moment("2026-06-01T00:00:00Z".parse().unwrap());
        let cpu =
            CpuStats { time: time.clone(), usage_nano_cores: None, usage_core_nano_seconds: 1_500_000_000 };
        let swap = SwapStats { time: time.clone(), swap_available_bytes: Some(7), swap_usage_bytes: 5 };
        let node = NodeStats {
            own_image_fs: false,
            node_name: "n1".into(),
            start_time: time.clone(),
            cpu: Some(cpu.clone()),
            memory: None,
            network: None,
            fs: None,
            runtime: None,
            rlimit: None,
            swap: Some(swap.clone()),
        };
        let container = ContainerStats {
            name: "app".into(),
            start_time: time.clone(),
            cpu: Some(cpu.clone()),
            memory: None,
            rootfs: None,
            logs: None,
            swap: Some(swap.clone()),
        };
        let pod = PodStats {
            volume: Vec::new(),
            pod_ref: PodReference { name: "p".into(), namespace: "default".into(), uid: "u".into() },
            start_time: time,
            containers: vec![container],
            cpu: Some(cpu),
            memory: None,
            network: None,
            ephemeral_storage: None,
            process_stats: None,
            swap: Some(swap.clone()),
        };
        let summary = Summary { node, pods: vec![pod] };
        let text = resource(&summary);
        for line in [
            "container_cpu_usage_seconds_total{container=\"app\",namespace=\"default\",pod=\"p\"} 1.500000000 1780272000000\n",
            "node_cpu_usage_seconds_total 1.500000000 1780272000000\n",
            "pod_cpu_usage_seconds_total{namespace=\"default\",pod=\"p\"} 1.500000000 1780272000000\n",
            "container_start_time_seconds{container=\"app\",namespace=\"default\",pod=\"p\"} 1780272000.000\n",
            "container_swap_usage_bytes{container=\"app\",namespace=\"default\",pod=\"p\"} 5 1780272000000\n",
            "container_swap_limit_bytes{container=\"app\",namespace=\"default\",pod=\"p\"} 12 1780272000000\n",
            "node_swap_usage_bytes 5 1780272000000\n",
            "pod_swap_usage_bytes{namespace=\"default\",pod=\"p\"} 5 1780272000000\n",
            "resource_scrape_error 0\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("\nscrape_error "), "upstream hides it since 1.29");
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"], 1_500_000_000);
        assert_eq!(json["pods"][0]["podRef"]["namespace"], "default");
        assert!(cadvisor(&summary, 2, 3).contains("machine_cpu_cores 2\n"));
    }
}
