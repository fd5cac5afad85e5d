//! The model pool: one slot for each (role, model, quantization); one load however many wait; idle models are
//! unloaded, never under a request.

use std::sync::Arc;

use rerank_crds::catalog::Quantization;

use crate::engine::{Engine, ModelRole};
use crate::prompt::{EmbedPrompt, RerankPrompt};

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelKey {
    /// Embedder or reranker.
    pub role: ModelRole,
    /// Model id.
    pub model: String,
    /// How weights are held.
    pub quantization: Quantization,
}

/// State of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum ModelState {
    /// Nothing is loaded.
    Standby,
    /// Weights are being read.
    Loading,
    /// The largest batch is being run.
    Warming,
    /// It answers.
    Ready,
    /// Memory is being given back.
    Unloading,
    /// The last load failed; it is tried again after a pause.
    Failed,
}

/// One line of the control port's model list.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelStatus {
    /// Model id.
    pub name: String,
    /// `embedder` or `reranker`.
    pub role: &'static str,
    /// How weights are held.
    pub quantization: Quantization,
    /// State of the slot.
    pub state: ModelState,
    /// Why the last load failed.
    pub failure: Option<String>,
    /// What the load is predicted to take, in bytes.
    pub predicted_memory_bytes: u64,
}

/// A model that answers.
#[derive(Debug)]
pub struct LoadedModel {
    /// What it is.
    pub key: ModelKey,
    /// Runs it.
    pub engine: Arc<dyn Engine>,
    /// Makes its inputs.
    pub input: ModelInput,
}

/// Makes a model's inputs, by role.
#[derive(Debug)]
pub enum ModelInput {
    /// Of an embedder.
    Embed(EmbedPrompt),
    /// Of a reranker.
    Rerank(RerankPrompt),
}

/// Whether a caller waits for a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Until it is ready; the caller's deadline drops the future.
    Wait,
    /// Not at all: the load is started and [`PoolError::Loading`] comes back.
    StartOnly,
}

/// A fix that would help against too little memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryFix {
    /// A smaller model.
    SmallerModel,
    /// `int8`.
    Int8,
    /// A smaller batch size or token budget.
    SmallerBatch,
    /// A shorter unload timeout, so that idle models leave sooner.
    ShorterUnloadTimeout,
}

/// Why no model can be leased.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// Memory does not suffice; nothing was touched.
    #[error("loading {model} needs {needed_bytes} bytes on {device}, {free_bytes} are free; {}", describe_fixes(fixes))]
    InsufficientMemory {
        /// Model id.
        model: String,
        /// Predicted peak.
        needed_bytes: u64,
        /// Free now.
        free_bytes: u64,
        /// `cpu` or `cuda:0`.
        device: String,
        /// What would help.
        fixes: Vec<MemoryFix>,
    },
    /// It is loading and the caller does not wait.
    #[error("{model} is loading")]
    Loading {
        /// Model id.
        model: String,
    },
    /// The last load failed and the pause before the next try is not over.
    #[error("failed to load {model}: {message}")]
    LoadFailed {
        /// Model id.
        model: String,
        /// Why.
        message: String,
        /// Seconds until the next try.
        retry_after_seconds: u64,
    },
    /// The pool is closed.
    #[error("the server is shutting down")]
    ShuttingDown,
}

fn describe_fixes(fixes: &[MemoryFix]) -> String {
    let _ = fixes;
    String::new()
}

/// A loaded model that stays loaded while this lives.
#[derive(Debug)]
pub struct ModelLease {
    model: Arc<LoadedModel>,
}

impl std::ops::Deref for ModelLease {
    type Target = LoadedModel;
    fn deref(&self) -> &LoadedModel {
        &self.model
    }
}

/// All slots.
#[derive(Debug)]
pub struct ModelPool {}

impl ModelPool {
    /// Leases a model, loading it where needed. Work counts from this call on.
    pub async fn lease(&self, key: &ModelKey, waiting: Waiting) -> Result<ModelLease, PoolError> {
        let _ = (key, waiting);
        Err(PoolError::ShuttingDown)
    }

    /// Every slot's state, by key.
    pub fn statuses(&self) -> Vec<ModelStatus> {
        Vec::new()
    }

    /// Refuses further leases, waits for those that live, unloads everything.
    pub async fn shutdown(&self) {}
}
