//! What the operator counts. Every label value comes from a closed list.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What an error was about.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Category {
    category: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Counter,
    errors: Family<Category, Counter>,
    duration: Histogram,
    objects: Gauge,
    leading: Gauge,
}

/// From 1 ms to 30 s.
const BUCKETS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("rerank_operator");
        let (reconciles, errors, objects, leading) =
            (Counter::default(), Family::default(), Gauge::default(), Gauge::default());
        let duration = Histogram::new(BUCKETS);
        registry.register("reconciles", "Reconciles that ended, well or not", reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed, by what failed", errors.clone());
        registry.register_with_unit("reconcile_duration", "Time of a reconcile", Unit::Seconds, duration.clone());
        registry.register("objects", "RerankDeployments that are watched", objects.clone());
        registry.register("leading", "1 while this operator holds the lease", leading.clone());
        Self { registry, reconciles, errors, duration, objects, leading }
    }
}

impl Metrics {
    /// A reconcile ended; `error`: the category of what failed.
    pub fn reconciled(&self, seconds: f64, error: Option<&'static str>) {
        self.reconciles.inc();
        self.duration.observe(seconds);
        if let Some(category) = error {
            self.errors.get_or_create(&Category { category }).inc();
        }
    }

    /// So many objects are watched.
    pub fn watched(&self, objects: usize) {
        self.objects.set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// Whether this operator holds the lease.
    pub fn leads(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    /// As Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
