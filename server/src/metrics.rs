//! Every metric of the server, registered once, with base units and closed label sets. Pure: it counts in memory, and
//! the control port asks for the text.
//!
//! `docs/metrics.md` is made from the same registration, so a metric without documentation cannot exist. The labels are chosen
//! so that a server with four models exposes at most [`MAXIMUM_SERIES`] lines, whatever it has been asked.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Lines of samples that a server with four models exposes at most, every bucket of a histogram counted.
pub const MAXIMUM_SERIES: usize = 300;

/// Upper bounds of durations of requests and their stages: 1 ms to 10 s.
const DURATION_BUCKETS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Upper bounds of load durations: a tiny model loads in tens of milliseconds, a large one in minutes.
const LOAD_BUCKETS: [f64; 6] = [0.1, 1.0, 5.0, 15.0, 60.0, 180.0];
/// Upper bounds of the mean number of places that results moved.
const RANK_CHANGE_BUCKETS: [f64; 8] = [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
/// Upper bounds of the pairs that run together.
const BATCH_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0];
/// Upper bounds of scores, which lie between 0 and 1.
const SCORE_BUCKETS: [f64; 10] = [0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99];

/// A stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Text to token ids.
    Tokenize,
    /// Query to vector.
    Embed,
    /// Candidates from the store.
    Search,
    /// Waiting for the engine.
    Queue,
    /// Engine time.
    Score,
    /// Arrival to answer.
    Total,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 6] = [Self::Tokenize, Self::Embed, Self::Search, Self::Queue, Self::Score, Self::Total];

    /// Value of the label `stage`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokenize => "tokenize",
            Self::Embed => "embed",
            Self::Search => "search",
            Self::Queue => "queue",
            Self::Score => "score",
            Self::Total => "total",
        }
    }
}

/// How a load ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadOutcome {
    /// The model is ready.
    Ready,
    /// Memory did not suffice; nothing was loaded.
    InsufficientMemory,
    /// The model does not score as its reference does.
    SelfTestFailed,
    /// It failed.
    Failed,
}

impl LoadOutcome {
    /// All outcomes.
    pub const ALL: [Self; 4] = [Self::Ready, Self::InsufficientMemory, Self::SelfTestFailed, Self::Failed];

    /// Value of the label `outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::InsufficientMemory => "insufficient_memory",
            Self::SelfTestFailed => "self_test_failed",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    error: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadLabels {
    model: String,
    outcome: &'static str,
}

type HistogramFamily<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// One row of `docs/metrics.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Full name as scraped, `_total` of a counter included.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

/// All metrics. Cheap to clone through `Arc`.
pub struct Metrics {
    registry: Registry,
    descriptions: Vec<Description>,
    requests: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    stages: HistogramFamily<StageLabels>,
    scored_pairs: Counter,
    scored_tokens: Counter,
    batch_pairs: Histogram,
    truncated: Counter,
    fallbacks: Family<ReasonLabels, Counter>,
    queue_pairs: Gauge,
    queue_tokens: Gauge,
    queue_bytes: Gauge,
    loads: Family<LoadLabels, Counter>,
    unloads: Family<ModelLabels, Counter>,
    load_duration: HistogramFamily<ModelLabels>,
    rank_change: Histogram,
    score: Histogram,
    refusals: Family<ReasonLabels, Counter>,
    memory_used: Gauge,
    memory_free: Gauge,
    memory_total: Gauge,
    memory_predicted: Gauge,
    connections: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").field("count", &self.descriptions.len()).finish_non_exhaustive()
    }
}

/// Registers a metric and notes its documentation in the same breath.
struct Registration {
    registry: Registry,
    descriptions: Vec<Description>,
}

impl Registration {
    fn note(&mut self, name: String, kind: &'static str, labels: &'static [&'static str], help: &'static str) {
        self.descriptions.push(Description { name, kind, labels, help });
    }

    fn counter<M: Metric + Clone>(
        &mut self,
        name: &str,
        labels: &'static [&'static str],
        help: &'static str,
        metric: M,
    ) -> M {
        self.registry.register(name, without_full_stop(help), metric.clone());
        self.note(format!("rerank_{name}_total"), "counter", labels, help);
        metric
    }

    fn gauge(&mut self, name: &str, unit: Option<Unit>, help: &'static str) -> Gauge {
        let metric = Gauge::default();
        self.note(full_name(name, unit.as_ref()), "gauge", &[], help);
        self.register(name, unit, help, metric.clone());
        metric
    }

    fn histogram<M: Metric + Clone>(
        &mut self,
        name: &str,
        unit: Unit,
        labels: &'static [&'static str],
        help: &'static str,
        metric: M,
    ) -> M {
        self.note(full_name(name, Some(&unit)), "histogram", labels, help);
        self.register(name, Some(unit), help, metric.clone());
        metric
    }

    fn register(&mut self, name: &str, unit: Option<Unit>, help: &'static str, metric: impl Metric) {
        match unit {
            Some(unit) => self.registry.register_with_unit(name, without_full_stop(help), unit, metric),
            None => self.registry.register(name, without_full_stop(help), metric),
        }
    }
}

/// The registry adds the full stop itself.
fn without_full_stop(help: &str) -> &str {
    help.trim_end_matches('.')
}

fn full_name(name: &str, unit: Option<&Unit>) -> String {
    match unit {
        Some(unit) => format!("rerank_{name}_{}", unit.as_str()),
        None => format!("rerank_{name}"),
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every metric.
    #[expect(clippy::too_many_lines, reason = "a list: each metric once, in the order of its page")]
    pub fn new() -> Self {
        let mut to = Registration { registry: Registry::with_prefix("rerank"), descriptions: Vec::new() };
        let requests = to.counter(
            "requests",
            &["route", "code"],
            "Requests answered, by route and class of the HTTP status: 2xx, 4xx, 5xx.",
            Family::default(),
        );
        let errors = to.counter(
            "errors",
            &["error"],
            "Requests answered with an error, by its code as in docs/errors.md, which tells the HTTP status.",
            Family::default(),
        );
        let stages: HistogramFamily<StageLabels> = to.histogram(
            "stage_duration",
            Unit::Seconds,
            &["stage"],
            "Time that a stage of a request took: tokenize, embed, search, queue, score, total.",
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
        );
        let scored_pairs = to.counter("scored_pairs", &[], "Query-document pairs scored.", Counter::default());
        let scored_tokens = to.counter("scored_tokens", &[], "Tokens of the pairs scored.", Counter::default());
        let batch_pairs = to.histogram(
            "batch",
            Unit::Other("pairs".to_owned()),
            &[],
            "Query-document pairs that the engine was given together.",
            Histogram::new(BATCH_BUCKETS),
        );
        let truncated = to.counter(
            "truncated_documents",
            &[],
            "Documents of which the reranker read only the beginning.",
            Counter::default(),
        );
        let fallbacks: Family<ReasonLabels, Counter> = to.counter(
            "fallbacks",
            &["reason"],
            "Searches answered in vector order though the reranker was asked for, by reason.",
            Family::default(),
        );
        let queue_pairs =
            to.gauge("queue_pairs", None, "Pairs, and texts of embedding requests, that wait or are being worked on.");
        let queue_tokens = to.gauge(
            "queue_tokens",
            None,
            "Tokens that wait or are being worked on; at most so many where the texts are not tokenized yet.",
        );
        let queue_bytes = to.gauge(
            "queue",
            Some(Unit::Bytes),
            "Memory of the texts and tokens that wait or are being worked on, which api.limits.queueBytes bounds.",
        );
        let loads = to.counter(
            "model_loads",
            &["model", "outcome"],
            "Loads of a model, by outcome: ready, insufficient_memory, self_test_failed, failed.",
            Family::default(),
        );
        let unloads = to.counter("model_unloads", &["model"], "Unloads of a model.", Family::default());
        let load_duration: HistogramFamily<ModelLabels> = to.histogram(
            "model_load_duration",
            Unit::Seconds,
            &["model"],
            "Time from the start of a load until the model was ready.",
            Family::new_with_constructor(|| Histogram::new(LOAD_BUCKETS)),
        );
        let rank_change = to.histogram(
            "rank_change",
            Unit::Other("places".to_owned()),
            &[],
            "How many places the results of one search moved between the vector order and the reranked order, mean.",
            Histogram::new(RANK_CHANGE_BUCKETS),
        );
        let score = to.histogram(
            "score",
            Unit::Other("ratio".to_owned()),
            &[],
            "Scores that the reranker gave, 0 to 1.",
            Histogram::new(SCORE_BUCKETS),
        );
        let refusals = to.counter(
            "refusals",
            &["reason"],
            "Requests refused before any work was done for them, by error code.",
            Family::default(),
        );
        let memory_used = to.gauge(
            "device_memory_used",
            Some(Unit::Bytes),
            "Memory of the device that is taken, by whomever, as last read.",
        );
        let memory_free = to.gauge("device_memory_free", Some(Unit::Bytes), "Free memory of the device, as last read.");
        let memory_total = to.gauge("device_memory_capacity", Some(Unit::Bytes), "Memory of the device in all.");
        let memory_predicted = to.gauge(
            "device_memory_predicted",
            Some(Unit::Bytes),
            "Memory that the loaded models are predicted to take at their peak.",
        );
        let connections = to.gauge("connections", None, "Open connections of the API port.");
        let Registration { registry, descriptions } = to;
        let metrics = Self {
            registry,
            descriptions,
            requests,
            errors,
            stages,
            scored_pairs,
            scored_tokens,
            batch_pairs,
            truncated,
            fallbacks,
            queue_pairs,
            queue_tokens,
            queue_bytes,
            loads,
            unloads,
            load_duration,
            rank_change,
            score,
            refusals,
            memory_used,
            memory_free,
            memory_total,
            memory_predicted,
            connections,
        };
        // A series that exists from the start shows its first event as an increase.
        for stage in Stage::ALL {
            drop(metrics.stages.get_or_create(&StageLabels { stage: stage.as_str() }));
        }
        metrics
    }

    /// The `OpenMetrics` text of all metrics.
    #[expect(clippy::missing_panics_doc, reason = "writing into a string does not fail")]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing into a string does not fail");
        text
    }

    /// What each metric means, in order of registration.
    pub fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    /// `docs/metrics.md`.
    pub fn documentation(&self) -> String {
        let mut text = String::from(
            "# Metrics\n\nServed as OpenMetrics text at `/metrics` on the control port (9090). Made from the code: `UPDATE_GOLDEN=1 cargo \
             test --workspace --lib metrics` writes this file.\n\nLabel values are closed sets: routes are the server's own, models \
             are those of the configuration, never text of a request. A server with four models exposes at most \
             300 lines of samples, every bucket of a histogram counted.\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n",
        );
        for row in &self.descriptions {
            let labels = row.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            writeln!(text, "| `{}` | {} | {labels} | {} |", row.name, row.kind, row.help)
                .expect("writing into a string does not fail");
        }
        text
    }

    /// A stage of a request took so long.
    pub fn observe_stage(&self, stage: Stage, took: Duration) {
        self.stages.get_or_create(&StageLabels { stage: stage.as_str() }).observe(took.as_secs_f64());
    }

    /// A request was answered. `route` is the route's pattern, never the path sent; `error` the code of the closed list.
    pub fn count_request(&self, route: &'static str, status: u16, error: Option<&'static str>) {
        let code = match status {
            ..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            500.. => "5xx",
        };
        self.requests.get_or_create(&RequestLabels { route, code }).inc();
        if let Some(error) = error {
            self.errors.get_or_create(&ErrorLabels { error }).inc();
        }
    }

    /// Pairs were scored together, with so many tokens.
    pub fn count_scored(&self, pairs: usize, tokens: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a batch has far fewer pairs than 2^52")]
        self.batch_pairs.observe(pairs as f64);
        self.scored_pairs.inc_by(pairs as u64);
        self.scored_tokens.inc_by(tokens as u64);
    }

    /// Documents were cut.
    pub fn count_truncated(&self, documents: usize) {
        self.truncated.inc_by(documents as u64);
    }

    /// A search was answered in vector order. `reason` is one of the closed list.
    pub fn count_fallback(&self, reason: &'static str) {
        self.fallbacks.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Pairs and tokens that wait or are being scored changed by so much.
    pub fn change_queue(&self, pairs: i64, tokens: i64, bytes: i64) {
        self.queue_pairs.inc_by(pairs);
        self.queue_tokens.inc_by(tokens);
        self.queue_bytes.inc_by(bytes);
    }

    /// A model was loaded, or not. `model` comes from the configuration, never from a request.
    pub fn observe_load(&self, model: &str, outcome: LoadOutcome, took: Duration) {
        self.loads.get_or_create(&LoadLabels { model: model.to_owned(), outcome: outcome.as_str() }).inc();
        if outcome == LoadOutcome::Ready {
            self.load_duration.get_or_create(&ModelLabels { model: model.to_owned() }).observe(took.as_secs_f64());
        }
    }

    /// A model was unloaded.
    pub fn count_unload(&self, model: &str) {
        self.unloads.get_or_create(&ModelLabels { model: model.to_owned() }).inc();
    }

    /// How many places results moved between the two orders, mean of one search.
    pub fn observe_rank_change(&self, places: f64) {
        self.rank_change.observe(places);
    }

    /// A score was given.
    pub fn observe_score(&self, score: f32) {
        self.score.observe(f64::from(score));
    }

    /// A request was refused before any work was done for it. `reason` is a closed list.
    pub fn count_refusal(&self, reason: &'static str) {
        self.refusals.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Memory of the device in bytes, as last read, and what the loaded models are predicted to take.
    pub fn set_device_memory(&self, free_bytes: u64, total_bytes: u64, predicted_bytes: u64) {
        self.memory_used.set(whole(total_bytes.saturating_sub(free_bytes)));
        self.memory_free.set(whole(free_bytes));
        self.memory_total.set(whole(total_bytes));
        self.memory_predicted.set(whole(predicted_bytes));
    }

    /// Open connections of the API port changed by so much.
    pub fn change_connections(&self, by: i64) {
        self.connections.inc_by(by);
    }
}

/// Gauges are signed; no device holds 2^63 bytes.
fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
