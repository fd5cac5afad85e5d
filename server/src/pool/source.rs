//! What the pool asks about a model before and while it loads it. The trait keeps folders, catalogue and tokenizers
//! out of the pool's own code; `models` implements it from the configuration.

use std::fmt;

use async_trait::async_trait;

use super::{MemoryFix, ModelInput, ModelKey};
use crate::engine::LoadSpec;
use crate::engine::weights::WeightsError;
use crate::hub::HubError;
use crate::prompt::PromptError;
use crate::self_test::{Expectations, ExpectationsError};

/// What a load needs to know before weights are touched.
#[derive(Clone, Debug)]
pub struct ModelPlan {
    /// What the engine loads.
    pub spec: LoadSpec,
    /// Predicted peak in bytes: weights, activations and key/value memory at the token budget, overhead.
    pub predicted_bytes: u64,
    /// Commit that the weights come from, where it is known.
    pub revision: Option<String>,
    /// The same prediction under each fix that this model leaves open.
    pub alternatives: Vec<(MemoryFix, u64)>,
}

/// Why a model cannot be planned or its inputs not be made.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configuration does not name it.
    #[error("model {model:?} is not configured as {role}")]
    NotConfigured {
        /// Model id.
        model: String,
        /// `embedder` or `reranker`.
        role: &'static str,
    },
    /// Its folder cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The configured engine does not run it; why, and what would do.
    #[error("{0}")]
    Engine(String),
    /// It cannot be downloaded.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Its tokenizer cannot be used.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// Says what is to be loaded. Calls that are not async read files and run off the async threads.
#[async_trait]
pub trait ModelSource: Send + Sync + fmt::Debug {
    /// Every configured model: the deployed ones and those that requests may ask for.
    fn keys(&self) -> Vec<ModelKey>;

    /// Whether the model's files are not there, or not all of them, and can be fetched.
    fn is_missing(&self, key: &ModelKey) -> bool;

    /// Fetches the model's files. Takes as long as it takes; dropping the future breaks off, and the next call goes on.
    async fn fetch(&self, key: &ModelKey) -> Result<(), SourceError>;

    /// Compares the model's files with their digests, where those are known. Reads all of them.
    fn verify(&self, key: &ModelKey, plan: &ModelPlan) -> Result<(), SourceError>;

    /// Checks a model's folder and predicts its memory. Loads nothing.
    fn describe(&self, key: &ModelKey) -> Result<ModelPlan, SourceError>;

    /// What the model must make of known texts; None where nothing is known of it.
    fn expectations(&self, key: &ModelKey, plan: &ModelPlan) -> Result<Option<Expectations>, ExpectationsError>;

    /// Makes what turns text into the model's token ids.
    fn input(&self, key: &ModelKey, plan: &ModelPlan) -> Result<ModelInput, SourceError>;
}
