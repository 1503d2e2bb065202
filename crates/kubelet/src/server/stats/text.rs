//! The figures in Prometheus' text form: upstream's `/metrics/resource` and the part of cAdvisor's
//! metrics that dashboards and autoscalers read.

use std::fmt::Write;

use super::{CpuStats, MemoryStats, Moment, PodStats, Summary};

/// `/metrics/resource` (the stable resource metrics of the kubelet).
pub fn resource(summary: &Summary) -> String {
    let mut out = Text::default();
    out.family(
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        "counter",
    );
    for (labels, container) in containers(summary) {
        out.cpu("container_cpu_usage_seconds_total", &labels, container.cpu.as_ref());
    }
    out.family(
        "container_memory_working_set_bytes",
        "[STABLE] Current working set of the container in bytes",
        "gauge",
    );
    for (labels, container) in containers(summary) {
        out.working_set("container_memory_working_set_bytes", &labels, container.memory.as_ref());
    }
    out.family(
        "container_start_time_seconds",
        "[STABLE] Start time of the container since unix epoch in seconds",
        "gauge",
    );
    for (labels, container) in containers(summary) {
        out.line("container_start_time_seconds", &labels, seconds(&container.start_time), None);
    }
    out.family(
        "container_swap_usage_bytes",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        "gauge",
    );
    for (labels, container) in containers(summary) {
        if let Some(swap) = &container.swap {
            out.line("container_swap_usage_bytes", &labels, number(swap.swap_usage_bytes), Some(&swap.time));
        }
    }
    out.family(
        "node_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        "counter",
    );
    out.cpu("node_cpu_usage_seconds_total", "", summary.node.cpu.as_ref());
    out.family("node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes", "gauge");
    out.working_set("node_memory_working_set_bytes", "", summary.node.memory.as_ref());
    out.family(
        "pod_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        "counter",
    );
    for pod in &summary.pods {
        out.cpu("pod_cpu_usage_seconds_total", &pod_labels(pod), pod.cpu.as_ref());
    }
    out.family("pod_memory_working_set_bytes", "[STABLE] Current working set of the pod in bytes", "gauge");
    for pod in &summary.pods {
        out.working_set("pod_memory_working_set_bytes", &pod_labels(pod), pod.memory.as_ref());
    }
    out.family(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    );
    out.line("resource_scrape_error", "", "0".into(), None);
    out.family(
        "scrape_error",
        "[ALPHA] 1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    );
    out.line("scrape_error", "", "0".into(), None);
    out.0
}

/// `/metrics/cadvisor`.
pub fn cadvisor(summary: &Summary, cpu_cores: u64, memory_bytes: u64) -> String {
    let mut out = Text::default();
    out.family("machine_cpu_cores", "Number of logical CPU cores.", "gauge");
    out.line("machine_cpu_cores", "", number(cpu_cores), None);
    out.family("machine_memory_bytes", "Amount of memory installed on the machine.", "gauge");
    out.line("machine_memory_bytes", "", number(memory_bytes), None);
    out.family("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "counter");
    for (labels, cpu, _) in all(summary) {
        out.cpu("container_cpu_usage_seconds_total", &format!("{labels},cpu=\"total\""), cpu);
    }
    out.family(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        "gauge",
    );
    for (labels, _, memory) in all(summary) {
        out.memory("container_memory_usage_bytes", &labels, memory, |m| m.usage_bytes);
    }
    out.family("container_memory_working_set_bytes", "Current working set in bytes.", "gauge");
    for (labels, _, memory) in all(summary) {
        out.memory("container_memory_working_set_bytes", &labels, memory, |m| m.working_set_bytes);
    }
    out.family("container_memory_rss", "Size of RSS in bytes.", "gauge");
    for (labels, _, memory) in all(summary) {
        out.memory("container_memory_rss", &labels, memory, |m| m.rss_bytes);
    }
    for (name, help, of) in NETWORK {
        out.family(name, help, "counter");
        for pod in &summary.pods {
            for interface in pod.network.iter().flat_map(|network| &network.interfaces) {
                let labels = format!("{},interface={}", cadvisor_labels(pod, ""), quote(&interface.name));
                out.line(name, &labels, number(of(interface)), None);
            }
        }
    }
    out.family(
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
        "gauge",
    );
    for pod in &summary.pods {
        for container in &pod.containers {
            let labels = cadvisor_labels(pod, &container.name);
            out.line("container_start_time_seconds", &labels, seconds(&container.start_time), None);
        }
    }
    out.0
}

type Figure = fn(&super::InterfaceStats) -> u64;
const NETWORK: [(&str, &str, Figure); 4] = [
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

fn containers(summary: &Summary) -> impl Iterator<Item = (String, &super::ContainerStats)> {
    summary.pods.iter().flat_map(|pod| {
        pod.containers.iter().map(move |c| (format!("container={},{}", quote(&c.name), pod_labels(pod)), c))
    })
}

/// Pods, with an empty container name, and containers.
fn all(summary: &Summary) -> impl Iterator<Item = (String, Option<&CpuStats>, Option<&MemoryStats>)> {
    summary.pods.iter().flat_map(|pod| {
        let own = (cadvisor_labels(pod, ""), pod.cpu.as_ref(), pod.memory.as_ref());
        let containers =
            pod.containers.iter().map(|c| (cadvisor_labels(pod, &c.name), c.cpu.as_ref(), c.memory.as_ref()));
        std::iter::once(own).chain(containers)
    })
}

fn pod_labels(pod: &PodStats) -> String {
    format!("namespace={},pod={}", quote(&pod.pod_ref.namespace), quote(&pod.pod_ref.name))
}

fn cadvisor_labels(pod: &PodStats, container: &str) -> String {
    format!("container={},{}", quote(container), pod_labels(pod))
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn number(value: u64) -> String {
    value.to_string()
}

fn seconds(time: &Moment) -> String {
    let millis = time.0.as_millisecond();
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, help: &str, kind: &str) {
        // writing into a String cannot fail
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: String, time: Option<&Moment>) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let time = time.map(|time| format!(" {}", time.0.as_millisecond())).unwrap_or_default();
        let _ = writeln!(self.0, "{name}{labels} {value}{time}");
    }

    fn cpu(&mut self, name: &str, labels: &str, cpu: Option<&CpuStats>) {
        if let Some(cpu) = cpu {
            let nanos = cpu.usage_core_nano_seconds;
            let value = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
            self.line(name, labels, value, Some(&cpu.time));
        }
    }

    fn memory(
        &mut self,
        name: &str,
        labels: &str,
        memory: Option<&MemoryStats>,
        of: impl Fn(&MemoryStats) -> u64,
    ) {
        if let Some(memory) = memory {
            self.line(name, labels, number(of(memory)), Some(&memory.time));
        }
    }

    fn working_set(&mut self, name: &str, labels: &str, memory: Option<&MemoryStats>) {
        self.memory(name, labels, memory, |memory| memory.working_set_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::stats::{ContainerStats, NodeStats, PodReference};

    #[test]
    fn resource_metrics_have_upstreams_names_and_labels() {
        let time = Moment("2026-06-01T00:00:00Z".parse().unwrap());
        let cpu =
            CpuStats { time: time.clone(), usage_nano_cores: None, usage_core_nano_seconds: 1_500_000_000 };
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
            swap: None,
        };
        let container = ContainerStats {
            name: "app".into(),
            start_time: time.clone(),
            cpu: Some(cpu.clone()),
            memory: None,
            rootfs: None,
            logs: None,
            swap: None,
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
            swap: None,
        };
        let summary = Summary { node, pods: vec![pod] };
        let text = resource(&summary);
        for line in [
            "container_cpu_usage_seconds_total{container=\"app\",namespace=\"default\",pod=\"p\"} 1.500000000 1780272000000\n",
            "node_cpu_usage_seconds_total 1.500000000 1780272000000\n",
            "pod_cpu_usage_seconds_total{namespace=\"default\",pod=\"p\"} 1.500000000 1780272000000\n",
            "container_start_time_seconds{container=\"app\",namespace=\"default\",pod=\"p\"} 1780272000.000\n",
            "resource_scrape_error 0\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"], 1_500_000_000);
        assert_eq!(json["pods"][0]["podRef"]["namespace"], "default");
        assert!(cadvisor(&summary, 2, 3).contains("machine_cpu_cores 2\n"));
    }
}
