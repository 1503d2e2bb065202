//! What the controllers count, under upstream's names, in the Prometheus text form.
//!
//! A controller declares a [`Metric`] beside its code and says in its plans what there is to count: [`Sample`]s, which
//! the shell records. [`Levels`] are read off the world, when somebody asks for them and at no other time.

use client::WorkQueue;
use client::queue::Stats;
use meta::Time;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A metric as it is declared.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// As upstream has it, with the `_total` of a counter.
    pub name: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Histogram(Buckets),
}

/// Upper bounds of a histogram's buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Buckets {
    Of(&'static [f64]),
    /// So many, each `factor` times the one before.
    Exponential {
        first: f64,
        factor: f64,
        count: u16,
    },
}

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        match *self {
            Self::Of(bounds) => Histogram::new(bounds.iter().copied()),
            Self::Exponential { first, factor, count } => {
                Histogram::new(exponential_buckets(first, factor, count))
            }
        }
    }
}

impl Metric {
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, labels, kind: Kind::Counter }
    }

    /// Said by [`Controller::levels`](crate::Controller::levels).
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, labels, kind: Kind::Gauge }
    }

    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        buckets: Buckets,
        help: &'static str,
    ) -> Self {
        Self { name, help, labels, kind: Kind::Histogram(buckets) }
    }

    /// One more. `labels`: the values, in the order of the names.
    pub fn one<const N: usize>(&'static self, labels: [&str; N]) -> Sample {
        self.of(1.0, labels)
    }

    /// So many more; of a histogram, one observation.
    pub fn of<const N: usize>(&'static self, value: f64, labels: [&str; N]) -> Sample {
        Sample { metric: self, labels: labels.map(str::to_owned).to_vec(), value: Value::Of(value) }
    }

    /// The seconds since a time, when it is recorded.
    pub fn since<const N: usize>(&'static self, time: Time, labels: [&str; N]) -> Sample {
        Sample { metric: self, labels: labels.map(str::to_owned).to_vec(), value: Value::Since(time) }
    }

    fn labels(&self, values: &[String]) -> Labels {
        self.labels.iter().copied().zip(values.iter().cloned()).collect()
    }
}

/// Something to count, as a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    metric: &'static Metric,
    labels: Vec<String>,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Of(f64),
    Since(Time),
}

type Labels = Vec<(&'static str, String)>;
/// The values of a gauge.
type Series = Vec<(Labels, f64)>;

/// What controllers read off the world when they are asked.
#[derive(Default)]
pub struct Levels(BTreeMap<&'static str, (&'static Metric, Series)>);

impl Levels {
    pub fn set<const N: usize>(&mut self, metric: &'static Metric, labels: [&str; N], value: f64) {
        let labels = metric.labels(&labels.map(str::to_owned));
        self.0.entry(metric.name).or_insert_with(|| (metric, Vec::new())).1.push((labels, value));
    }
}

/// A counter whose name upstream gave no `_total`, which OpenMetrics demands of what it calls a counter.
#[derive(Clone, Debug, Default)]
struct Untyped(Counter);

impl TypedMetric for Untyped {
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for Untyped {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        ConstGauge::new(i64::try_from(self.0.get()).unwrap_or(i64::MAX)).encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Where the samples of one metric go.
#[derive(Clone)]
enum Meter {
    /// Without labels: there from the beginning.
    Counter(Counter),
    Histogram(Histogram),
    Counters(Family<Labels, Counter>),
    Untyped(Family<Labels, Untyped>),
    Histograms(Family<Labels, Histogram, Buckets>),
}

/// Where the samples of a controller go. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Meters(Arc<BTreeMap<&'static str, Meter>>);

impl Meters {
    /// Counts. A metric that was not declared is a mistake, which tests see.
    pub fn record(&self, sample: &Sample) {
        let value = match sample.value {
            Value::Of(value) => value,
            Value::Since(time) => client::now().duration_since(time).as_secs_f64(),
        };
        let labels = || sample.metric.labels(&sample.labels);
        debug_assert_eq!(labels().len(), sample.labels.len(), "{}", sample.metric.name);
        match self.0.get(sample.metric.name) {
            Some(Meter::Counter(counter)) => drop(counter.inc_by(value as u64)),
            Some(Meter::Histogram(histogram)) => histogram.observe(value),
            Some(Meter::Counters(family)) => drop(family.get_or_create(&labels()).inc_by(value as u64)),
            Some(Meter::Untyped(family)) => drop(family.get_or_create(&labels()).0.inc_by(value as u64)),
            Some(Meter::Histograms(family)) => family.get_or_create(&labels()).observe(value),
            None => debug_assert!(false, "{} is not declared", sample.metric.name),
        }
    }
}

/// How long the keys of a queue wait, and how long they are worked on.
#[derive(Clone)]
pub(crate) struct QueueMeter {
    waited: Histogram,
    worked: Histogram,
}

impl QueueMeter {
    pub fn waited(&self, time: Duration) {
        self.waited.observe(time.as_secs_f64());
    }

    pub fn worked(&self, time: Duration) {
        self.worked.observe(time.as_secs_f64());
    }
}

type ReadLevels = dyn Fn(&mut Levels) + Send + Sync;
/// Tells the levels of one controller, as long as its owner keeps it.
pub(crate) type Reader = Arc<ReadLevels>;
type ReadStats = Box<dyn Fn() -> Stats + Send + Sync>;

/// What the controllers count. Cloning shares it.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    meters: Mutex<BTreeMap<&'static str, Meter>>,
    waited: Family<Labels, Histogram, Buckets>,
    worked: Family<Labels, Histogram, Buckets>,
    leaders: Family<Labels, Gauge>,
    asked: Arc<Asked>,
}

/// What is looked up when the metrics are asked for.
#[derive(Default)]
struct Asked {
    queues: Mutex<BTreeMap<&'static str, ReadStats>>,
    readers: Mutex<Vec<Weak<ReadLevels>>>,
}

/// Upstream's, of both histograms of the work queues.
const QUEUE_BUCKETS: Buckets = Buckets::Exponential { first: 10e-9, factor: 10.0, count: 10 };

impl Default for Metrics {
    fn default() -> Self {
        let queue_seconds = || Family::new_with_constructor(QUEUE_BUCKETS);
        let inner = Inner {
            registry: Mutex::default(),
            meters: Mutex::default(),
            waited: queue_seconds(),
            worked: queue_seconds(),
            leaders: Family::default(),
            asked: Arc::default(),
        };
        {
            let mut registry = inner.registry.lock();
            registry.register(
                "workqueue_queue_duration_seconds",
                "How long in seconds an item stays in workqueue before being requested",
                inner.waited.clone(),
            );
            registry.register(
                "workqueue_work_duration_seconds",
                "How long in seconds processing an item from workqueue takes",
                inner.worked.clone(),
            );
            registry.register(
                "leader_election_master_status",
                "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name",
                inner.leaders.clone(),
            );
            registry.register_collector(Box::new(inner.asked.clone()));
        }
        Self(Arc::new(inner))
    }
}

impl Metrics {
    /// Takes up a queue, under upstream's name of it.
    pub(crate) fn queue<K>(&self, name: &'static str, queue: &WorkQueue<K>) -> QueueMeter
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
    {
        let queue = queue.clone();
        self.0.asked.queues.lock().insert(name, Box::new(move || queue.stats()));
        let labels = vec![("name", name.to_owned())];
        let of = |family: &Family<Labels, Histogram, Buckets>| family.get_or_create(&labels).clone();
        QueueMeter { waited: of(&self.0.waited), worked: of(&self.0.worked) }
    }

    /// Takes up what a controller declares; what it counted when it ran before is kept.
    pub(crate) fn declare(&self, metrics: &[&'static Metric]) -> Meters {
        let mut known = self.0.meters.lock();
        let own = metrics.iter().filter_map(|metric| {
            if !known.contains_key(metric.name) {
                known.insert(metric.name, self.register(metric)?);
            }
            Some((metric.name, known.get(metric.name)?.clone()))
        });
        Meters(Arc::new(own.collect()))
    }

    /// None for gauges: they are read, not recorded.
    fn register(&self, metric: &'static Metric) -> Option<Meter> {
        let mut registry = self.0.registry.lock();
        let help = metric.help.trim_end_matches('.');
        let (name, typed) = match metric.name.strip_suffix("_total") {
            Some(name) if metric.kind == Kind::Counter => (name, true),
            _ => (metric.name, false),
        };
        Some(match (metric.kind, metric.labels.is_empty()) {
            (Kind::Gauge, _) => return None,
            (Kind::Counter, true) => {
                let counter = Counter::default();
                registry.register(name, help, counter.clone());
                Meter::Counter(counter)
            }
            (Kind::Counter, false) if typed => {
                let family = Family::default();
                registry.register(name, help, family.clone());
                Meter::Counters(family)
            }
            (Kind::Counter, false) => {
                let family = Family::default();
                registry.register(name, help, family.clone());
                Meter::Untyped(family)
            }
            (Kind::Histogram(buckets), true) => {
                let histogram = buckets.new_metric();
                registry.register(name, help, histogram.clone());
                Meter::Histogram(histogram)
            }
            (Kind::Histogram(buckets), false) => {
                let family = Family::new_with_constructor(buckets);
                registry.register(name, help, family.clone());
                Meter::Histograms(family)
            }
        })
    }

    /// Asks it for levels from now on, while somebody else keeps it.
    pub(crate) fn read(&self, reader: &Reader) {
        let mut readers = self.0.asked.readers.lock();
        readers.retain(|r| r.strong_count() > 0);
        readers.push(Arc::downgrade(reader));
    }

    /// Whether this instance holds the lease of this name.
    pub(crate) fn leads(&self, lease: &str, leads: bool) {
        self.0.leaders.get_or_create(&vec![("name", lease.to_owned())]).set(leads.into());
    }

    /// The text that `/metrics` answers.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // writing into a String cannot fail
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.0.registry.lock());
        out
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

/// What is read of a queue.
enum Reading {
    Count(fn(&Stats) -> u64),
    Level(fn(&Stats) -> f64),
}

const QUEUES: [(&str, &str, Reading); 5] = [
    ("workqueue_adds", "Total number of adds handled by workqueue", Reading::Count(|s| s.adds)),
    ("workqueue_retries", "Total number of retries handled by workqueue", Reading::Count(|s| s.retries)),
    ("workqueue_depth", "Current depth of workqueue", Reading::Level(|s| s.depth as f64)),
    (
        "workqueue_unfinished_work_seconds",
        "How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
        Reading::Level(|s| s.unfinished.as_secs_f64()),
    ),
    (
        "workqueue_longest_running_processor_seconds",
        "How many seconds has the longest running processor for workqueue been running.",
        Reading::Level(|s| s.longest.as_secs_f64()),
    ),
];

impl Asked {
    fn encode_queues(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let queues: Vec<_> =
            self.queues.lock().iter().map(|(name, read)| ([("name", *name)], read())).collect();
        for (name, help, reading) in QUEUES {
            let kind = match reading {
                Reading::Count(_) => MetricType::Counter,
                Reading::Level(_) => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, stats) in &queues {
                let encoder = family.encode_family(labels)?;
                match reading {
                    Reading::Count(read) => ConstCounter::new(read(stats)).encode(encoder)?,
                    Reading::Level(read) => ConstGauge::new(read(stats)).encode(encoder)?,
                }
            }
        }
        Ok(())
    }

    fn encode_levels(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let readers: Vec<Reader> = self.readers.lock().iter().filter_map(Weak::upgrade).collect();
        let mut levels = Levels::default();
        readers.iter().for_each(|read| read(&mut levels));
        for (name, (metric, series)) in &levels.0 {
            let mut family = encoder.encode_descriptor(name, metric.help, None, MetricType::Gauge)?;
            match series.as_slice() {
                [(labels, value)] if labels.is_empty() => ConstGauge::new(*value).encode(family)?,
                series => {
                    for (labels, value) in series {
                        ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Collector for Asked {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_queues(&mut encoder)?;
        self.encode_levels(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static JOBS: Metric = Metric::counter("jobs_total", &["result"], "Jobs.");
    static CHANGES: Metric = Metric::counter("changes", &["operation"], "Changes");
    static ALL: Metric = Metric::counter("all_total", &[], "All");
    static SKEW: Metric = Metric::histogram(
        "skew_seconds",
        &[],
        Buckets::Exponential { first: 1.0, factor: 2.0, count: 2 },
        "Skew",
    );
    static NODES: Metric = Metric::gauge("nodes", &["zone"], "Nodes");
    static SLICES: Metric = Metric::gauge("slices", &[], "Slices");

    #[test]
    fn what_is_counted_is_told_in_text() {
        let metrics = Metrics::default();
        let meters = metrics.declare(&[&JOBS, &CHANGES, &ALL, &SKEW, &NODES]);
        meters.record(&JOBS.one(["ok"]));
        meters.record(&JOBS.of(2.0, ["ok"]));
        meters.record(&CHANGES.one(["create"]));
        meters.record(&SKEW.of(1.5, []));
        let queue = WorkQueue::new();
        let meter = metrics.queue("job", &queue);
        queue.add("a");
        queue.add("b");
        meter.waited(Duration::from_secs(2));
        metrics.leads("lease", true);
        let reader: Reader = Arc::new(|levels: &mut Levels| {
            levels.set(&SLICES, [], 3.0);
            levels.set(&NODES, ["a"], 2.0);
        });
        metrics.read(&reader);
        // a controller that leads again goes on counting
        metrics.declare(&[&JOBS]).record(&JOBS.one(["ok"]));
        let text = metrics.render();
        for line in [
            "# HELP jobs Jobs.",
            "# TYPE jobs counter",
            "jobs_total{result=\"ok\"} 4",
            "# TYPE changes unknown",
            "changes{operation=\"create\"} 1",
            "all_total 0",
            "skew_seconds_bucket{le=\"1.0\"} 0",
            "skew_seconds_bucket{le=\"2.0\"} 1",
            "nodes{zone=\"a\"} 2.0",
            "slices 3.0",
            "leader_election_master_status{name=\"lease\"} 1",
            "workqueue_adds_total{name=\"job\"} 2",
            "workqueue_depth{name=\"job\"} 2.0",
            "workqueue_retries_total{name=\"job\"} 0",
            "workqueue_unfinished_work_seconds{name=\"job\"} 0.0",
            "workqueue_queue_duration_seconds_sum{name=\"job\"} 2.0",
            "workqueue_work_duration_seconds_count{name=\"job\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(reader);
        assert!(!metrics.render().contains("nodes{"));
    }
}
