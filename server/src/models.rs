//! The configured models: where each lies, how large its batches are, what memory it is predicted to take, how its
//! inputs are made. Connects configuration, catalogue, weights folder and tokenizer for the pool. I/O: reads headers
//! and tokenizers, loads nothing.

use std::path::PathBuf;
use std::sync::Arc;

use rerank_crds::ServerConfig;
use rerank_crds::catalog::{
    self, DeviceKind, EngineKind, ModelShape, OutputHead, Prompt, Quantization, RERANKERS, Scoring, Workload,
    estimate_memory,
};

use crate::engine::weights::{self, WeightsError};
use crate::engine::{DeviceMemory, LoadSpec, ModelRole};
use crate::pool::{MemoryFix, ModelInput, ModelKey, ModelPlan, ModelSource, SourceError};
use crate::prompt::{EmbedPrompt, RerankPrompt, TextEncoder};
use crate::search::ServedModels;

/// Texts in a batch of the embedder.
const EMBEDDER_BATCH_SIZE: i32 = 32;
/// Tokens of one text of the embedder, at most; longer documents are cut.
const EMBEDDER_MAXIMUM_LENGTH: i32 = 8_192;

/// What the device of the loader is, for batch sizes and memory.
pub fn device_kind(memory: &DeviceMemory) -> DeviceKind {
    if memory.device.starts_with("cuda") { DeviceKind::Cuda } else { DeviceKind::Cpu }
}

/// The models of one configuration.
#[derive(Debug)]
pub struct ConfiguredModels {
    config: Arc<ServerConfig>,
    keys: Vec<ModelKey>,
    deployed: Option<ModelKey>,
    device: DeviceKind,
    engine: EngineKind,
}

impl ConfiguredModels {
    /// Models that are to be run on `device` by `engine` (the one that really loads them, never `Auto`).
    pub fn new(config: Arc<ServerConfig>, device: DeviceKind, engine: EngineKind) -> Arc<Self> {
        let served = ServedModels::from_config(&config);
        let deployed = served.deployed_reranker().cloned();
        Arc::new(Self { config, keys: served.keys(), deployed, device, engine })
    }

    /// Folder of a model.
    pub fn directory(&self, key: &ModelKey) -> Result<PathBuf, WeightsError> {
        weights::resolve(&self.config.weights.directory, &key.model, self.revision(key))
    }

    /// A revision belongs to the deployed model, whatever its quantization; other models have none.
    fn revision(&self, key: &ModelKey) -> Option<&str> {
        match key.role {
            ModelRole::Embedder => self.config.embedding.revision.as_deref(),
            ModelRole::Reranker => {
                let is_deployed = self.deployed.as_ref().is_some_and(|deployed| deployed.model == key.model);
                self.config.reranker.revision.as_deref().filter(|_| is_deployed)
            }
        }
    }

    /// The largest batch of a model.
    fn batch(&self, key: &ModelKey, maximum_positions: usize) -> Batch {
        let reranker = &self.config.reranker;
        match key.role {
            ModelRole::Embedder => {
                let max_length = within(EMBEDDER_MAXIMUM_LENGTH, maximum_positions);
                let token_budget = catalog::token_budget(None, EMBEDDER_BATCH_SIZE, max_length, self.device);
                Batch { size: EMBEDDER_BATCH_SIZE, token_budget, max_length }
            }
            ModelRole::Reranker => {
                // A number in the configuration is meant for the deployed model; others have their own row.
                let explicit = reranker.batch_size.filter(|_| self.deployed.as_ref() == Some(key));
                let size = explicit
                    .unwrap_or_else(|| catalog::batch_size(&key.model, key.quantization, &reranker.custom))
                    .max(1);
                let max_length = within(reranker.max_length, maximum_positions);
                let token_budget = catalog::token_budget(reranker.token_budget, size, max_length, self.device);
                // One prompt of full length must fit into a batch.
                Batch { size, token_budget: token_budget.max(max_length), max_length }
            }
        }
    }

    fn predict(&self, shape: &ModelShape, quantization: Quantization, batch: Batch) -> u64 {
        let workload = Workload {
            engine: self.engine,
            device: self.device,
            quantization,
            batch_size: wide(batch.size),
            token_budget: wide(batch.token_budget),
            max_length: wide(batch.max_length),
        };
        estimate_memory(shape, &workload).total_bytes()
    }

    /// What the model would take under each fix that is left, the less drastic first.
    fn alternatives(&self, key: &ModelKey, shape: &ModelShape, batch: Batch, predicted: u64) -> Vec<(MemoryFix, u64)> {
        let smallest_batch = Batch { size: 1, token_budget: batch.max_length, ..batch };
        let mut alternatives = vec![(MemoryFix::SmallerBatch, self.predict(shape, key.quantization, smallest_batch))];
        if key.quantization != Quantization::Int8 {
            alternatives.push((MemoryFix::Int8, self.predict(shape, Quantization::Int8, batch)));
        }
        // Another embedder would mean to index everything anew: no fix for a load.
        if key.role == ModelRole::Reranker {
            let [smallest, ..] = &RERANKERS;
            let smaller = ModelKey { model: smallest.id.to_owned(), ..key.clone() };
            let positions = usize::try_from(smallest.shape.maximum_positions).unwrap_or(usize::MAX);
            let bytes = self.predict(&smallest.shape, key.quantization, self.batch(&smaller, positions));
            alternatives.push((MemoryFix::SmallerModel, bytes));
        }
        alternatives.retain(|(_, bytes)| *bytes < predicted);
        alternatives
    }

    /// Prompt and scoring of a reranker: the user's own, else Qwen3's.
    fn format(&self, model: &str) -> (Prompt, Scoring) {
        let own = self.config.reranker.custom.iter().find(|entry| entry.model == model);
        own.map(|entry| (entry.prompt.clone(), entry.scoring.clone())).unwrap_or_default()
    }
}

impl ModelSource for ConfiguredModels {
    fn keys(&self) -> Vec<ModelKey> {
        self.keys.clone()
    }

    fn describe(&self, key: &ModelKey) -> Result<ModelPlan, SourceError> {
        if !self.keys.contains(key) {
            let role = match key.role {
                ModelRole::Embedder => "embedder",
                ModelRole::Reranker => "reranker",
            };
            return Err(SourceError::NotConfigured { model: key.model.clone(), role });
        }
        let directory = self.directory(key)?;
        let info = weights::inspect(&directory, key.role)?;
        let shape = shape_of(&info.config, key.role);
        let batch = self.batch(key, info.config.maximum_positions);
        let predicted_bytes = self.predict(&shape, key.quantization, batch);
        Ok(ModelPlan {
            spec: LoadSpec {
                model: key.model.clone(),
                directory,
                role: key.role,
                quantization: key.quantization,
                batch_size: narrow(batch.size),
                token_budget: narrow(batch.token_budget),
                max_length: narrow(batch.max_length),
            },
            predicted_bytes,
            alternatives: self.alternatives(key, &shape, batch, predicted_bytes),
        })
    }

    fn input(&self, key: &ModelKey, plan: &ModelPlan) -> Result<ModelInput, SourceError> {
        let encoder = TextEncoder::from_file(&plan.spec.directory.join("tokenizer.json"))?;
        Ok(match key.role {
            ModelRole::Embedder => ModelInput::Embed(EmbedPrompt::new(encoder, plan.spec.max_length)?),
            ModelRole::Reranker => {
                let (prompt, scoring) = self.format(&key.model);
                ModelInput::Rerank(RerankPrompt::new(encoder, &prompt, &scoring, plan.spec.max_length)?)
            }
        })
    }
}

/// The largest batch: pairs, tokens, tokens of one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    size: i32,
    token_budget: i32,
    max_length: i32,
}

fn shape_of(config: &weights::ModelConfig, role: ModelRole) -> ModelShape {
    let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    ModelShape {
        layers: count(config.layers),
        hidden_size: count(config.hidden_size),
        intermediate_size: count(config.intermediate_size),
        attention_heads: count(config.attention_heads),
        key_value_heads: count(config.key_value_heads),
        head_dimension: count(config.head_dimension),
        vocabulary: count(config.vocabulary_size),
        maximum_positions: count(config.maximum_positions),
        output_head: match (role, config.tied_embeddings) {
            (ModelRole::Embedder, _) => OutputHead::Absent,
            (ModelRole::Reranker, true) => OutputHead::Tied,
            (ModelRole::Reranker, false) => OutputHead::Separate,
        },
    }
}

/// A length that the configuration asks for, as far as the model has positions.
fn within(max_length: i32, maximum_positions: usize) -> i32 {
    max_length.max(1).min(i32::try_from(maximum_positions).unwrap_or(i32::MAX).max(1))
}

fn narrow(value: i32) -> usize {
    usize::try_from(value).unwrap_or(1)
}

fn wide(value: i32) -> u64 {
    u64::try_from(value).unwrap_or(1)
}
