//! The engine trait: what loads and runs a model. It takes token ids and returns logits or vectors; prompts,
//! templates and ranking are not its business. Implementations live beside this file.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rerank_crds::catalog::{EngineKind, Quantization};
use tokio_util::sync::CancellationToken;

use fatal::FatalSignal;
use heart::Pulse;

mod batches;
pub mod choice;
pub mod fatal;
pub mod heart;
mod inputs;
pub mod memory;
pub mod packed;
mod turn;
pub mod weights;

#[cfg(feature = "mistralrs")]
pub mod mistralrs;

/// What a model is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelRole {
    /// Text to vector.
    Embedder,
    /// Query and document to logits.
    Reranker,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// Model id, for messages.
    pub model: String,
    /// Folder with `config.json`, `tokenizer.json` and `*.safetensors`, already checked by [`weights::inspect`].
    pub directory: PathBuf,
    /// What it is loaded for.
    pub role: ModelRole,
    /// How weights are held.
    pub quantization: Quantization,
    /// What loads it; never `Auto`.
    pub engine: EngineKind,
    /// Pairs in a batch, at most.
    pub batch_size: usize,
    /// Tokens in a batch, at most.
    pub token_budget: usize,
    /// Tokens of one prompt, at most.
    pub max_length: usize,
}

/// Pairs of one request, tokenized: all of them, or one batch of them.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// Token ids of each whole prompt, in the order of the answer. None is empty.
    pub prompts: Vec<Vec<u32>>,
    /// All prompts start with the same so many tokens (template, instruction, query); an engine may compute them once.
    pub shared_prefix_tokens: usize,
    /// Token that means relevant.
    pub yes_token: u32,
    /// Token that means not relevant.
    pub no_token: u32,
}

/// Logits of the two answer tokens at the last position of one prompt, float32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLogits {
    /// Logit of the token that means relevant.
    pub yes: f32,
    /// Logit of the token that means not relevant.
    pub no: f32,
}

impl PairLogits {
    /// `yes - no`.
    pub fn log_odds(self) -> f32 {
        self.yes - self.no
    }

    /// P(yes): softmax over the two logits, 0 to 1. Not finite where a logit is not.
    pub fn score(self) -> f32 {
        let log_odds = self.log_odds();
        1.0 / (1.0 + (-log_odds).exp())
    }
}

/// Memory of the device that a model computes on, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Free now. On CPU: what the cgroup's limit leaves, else the machine's available memory.
    pub free_bytes: u64,
    /// In all.
    pub total_bytes: u64,
}

/// Why an engine did not answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Device memory ran out in the middle of a load or a batch.
    #[error("the device ran out of memory: {message}")]
    OutOfMemory {
        /// The library's words.
        message: String,
    },
    /// Weights or configuration cannot be used; the same call will fail again.
    #[error(transparent)]
    Weights(#[from] weights::WeightsError),
    /// This build or device cannot do what is asked.
    #[error("{message}")]
    Unsupported {
        /// What is asked, and what would do.
        message: String,
    },
    /// The model answered a value that is no number.
    #[error("the model answered a value that is not finite for input {index}")]
    NotFinite {
        /// Position in the request.
        index: usize,
    },
    /// The client left; nothing was wrong.
    #[error("the request was cancelled")]
    Cancelled,
    /// The device answers no call any more, to no engine of this process: [`FatalSignal`] is tripped.
    #[error("the device is lost: {message}")]
    DeviceLost {
        /// The library's words.
        message: String,
    },
    /// Anything else: the forward pass failed or the engine's thread is gone.
    #[error("failed to run the model: {message}")]
    Failed {
        /// The library's words.
        message: String,
    },
}

/// One loaded model.
///
/// # Cancel safety
/// When `cancel` fires, at most the batch under way is finished and [`EngineError::Cancelled`] comes back. Dropping the
/// future has the same effect.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// Which prompts of one request run together: positions, each once, in the order in which the batches are best run.
    /// Scoring batch by batch, the caller decides between two of them whose turn it is. Pure.
    fn batches(&self, lengths: &[usize]) -> Vec<Vec<usize>> {
        if lengths.is_empty() { Vec::new() } else { vec![(0..lengths.len()).collect()] }
    }

    /// Logits of each prompt, in order. More than one batch is run as several.
    async fn score(&self, request: ScoreRequest, cancel: &CancellationToken) -> Result<Vec<PairLogits>, EngineError>;

    /// Embeds texts given as token ids (end token included): last token's hidden state after the final norm, divided
    /// by its length. In order.
    async fn embed(&self, texts: Vec<Vec<u32>>, cancel: &CancellationToken) -> Result<Vec<Vec<f32>>, EngineError>;

    /// Whether the engine's thread is gone, so that every further call fails: load the model again.
    fn is_dead(&self) -> bool {
        false
    }

    /// The batch under way, and the longest one of late.
    fn pulse(&self) -> Pulse;

    /// Ends the engine's threads and frees its memory before it returns. No other call is under way.
    async fn unload(&self) -> Result<(), EngineError>;
}

/// Loads models. Behind a trait so that the pool is tested without one.
#[async_trait]
pub trait EngineLoader: Send + Sync + fmt::Debug {
    /// Loads a model; the caller has checked that memory suffices. Blocking work runs off the async threads.
    async fn load(&self, spec: LoadSpec) -> Result<Arc<dyn Engine>, EngineError>;

    /// Memory of the device that a load would use.
    fn memory(&self) -> Result<DeviceMemory, EngineError>;

    /// Tripped when the device is lost, by whichever engine or load sees it first.
    fn fatal(&self) -> &FatalSignal;
}

fn unsupported(message: String) -> EngineError {
    EngineError::Unsupported { message }
}
