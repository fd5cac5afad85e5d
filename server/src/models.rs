//! The configured models: where each lies, how large its batches are, what memory it is predicted to take, how its
//! inputs are made. Connects configuration, catalogue, weights folder and tokenizer for the pool. I/O: reads headers
//! and tokenizers, loads nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use rerank_crds::ServerConfig;
use rerank_crds::catalog::{
    self, DeviceKind, EngineKind, ModelShape, Prompt, Quantization, RERANKERS, Scoring, Workload, estimate_memory,
};
use rerank_crds::server_config::{EMBEDDER_BATCH_SIZE, EMBEDDER_MAXIMUM_LENGTH};

use crate::engine::choice::choose;
use crate::engine::weights::{self, Manifest, WeightsError};
use crate::engine::{DeviceMemory, LoadSpec, ModelRole};
use crate::hub::{Hub, HubError, Listing};
use crate::pool::{MemoryFix, ModelInput, ModelKey, ModelPlan, ModelSource, SourceError};
use crate::prompt::{EmbedPrompt, RerankPrompt, TextEncoder};
use crate::search::ServedModels;
use crate::self_test::{Expectations, ExpectationsError};

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
    hub: Option<Hub>,
}

impl ConfiguredModels {
    /// Models that are to be run on `device`.
    ///
    /// # Errors
    /// The client of a configured hub cannot be made.
    pub fn new(config: Arc<ServerConfig>, device: DeviceKind) -> Result<Arc<Self>, HubError> {
        let served = ServedModels::from_config(&config);
        let deployed = served.deployed_reranker().cloned();
        let hub = config.weights.hub.as_ref().map(Hub::new).transpose()?;
        Ok(Arc::new(Self { config, keys: served.keys(), deployed, device, hub }))
    }

    /// Folder of a model.
    pub fn directory(&self, key: &ModelKey) -> Result<PathBuf, WeightsError> {
        weights::resolve(&self.config.weights.directory, &key.model, self.revision(key))
    }

    /// What the hub has of a model, and where the hub is; None where none is configured.
    pub async fn on_hub(&self, key: &ModelKey) -> Option<Result<(Listing, &str), HubError>> {
        let hub = self.hub.as_ref()?;
        let listing = hub.list(&key.model, self.hub_revision(key)).await;
        Some(listing.map(|listing| (listing, hub.endpoint())))
    }

    fn hub_revision(&self, key: &ModelKey) -> &str {
        self.revision(key).unwrap_or("main")
    }

    /// The configured revision of a model, whatever its quantization.
    fn revision(&self, key: &ModelKey) -> Option<&str> {
        let reranker = &self.config.reranker;
        match key.role {
            ModelRole::Embedder => self.config.embedding.revision.as_deref(),
            ModelRole::Reranker if self.deployed.as_ref().is_some_and(|deployed| deployed.model == key.model) => {
                reranker.revision.as_deref()
            }
            ModelRole::Reranker => {
                let allowed = reranker.allowed_overrides.iter().find(|allowed| allowed.model == key.model);
                allowed.and_then(|allowed| allowed.revision.as_deref())
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
                // The engine runs one token more behind each prompt.
                let max_length = within(reranker.max_length, maximum_positions.saturating_sub(1));
                let token_budget = catalog::token_budget(reranker.token_budget, size, max_length, self.device);
                // One prompt of full length must fit into a batch.
                Batch { size, token_budget: token_budget.max(max_length), max_length }
            }
        }
    }

    fn predict(&self, engine: EngineKind, shape: &ModelShape, quantization: Quantization, batch: Batch) -> u64 {
        let workload = Workload {
            engine,
            device: self.device,
            quantization,
            batch_size: wide(batch.size),
            token_budget: wide(batch.token_budget),
            max_length: wide(batch.max_length),
        };
        estimate_memory(shape, &workload).total_bytes()
    }

    /// What the model would take under each fix that is left, the less drastic first.
    fn alternatives(
        &self,
        key: &ModelKey,
        shape: &ModelShape,
        engine: EngineKind,
        batch: Batch,
        predicted: u64,
    ) -> Vec<(MemoryFix, u64)> {
        let smallest_batch = Batch { size: 1, token_budget: batch.max_length, ..batch };
        let smaller_batch = self.predict(engine, shape, key.quantization, smallest_batch);
        let mut alternatives = vec![(MemoryFix::SmallerBatch, smaller_batch)];
        if key.quantization != Quantization::Int8 {
            alternatives.push((MemoryFix::Int8, self.predict(engine, shape, Quantization::Int8, batch)));
        }
        // Another embedder would mean to index everything anew: no fix for a load.
        if key.role == ModelRole::Reranker {
            let [smallest, ..] = &RERANKERS;
            let smaller = ModelKey { model: smallest.id.to_owned(), ..key.clone() };
            let positions = usize::try_from(smallest.shape.maximum_positions).unwrap_or(usize::MAX);
            let engine = self.config.engine.for_the_catalogue(self.device);
            let batch = self.batch(&smaller, positions);
            let bytes = self.predict(engine, &smallest.shape, key.quantization, batch);
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

#[async_trait]
impl ModelSource for ConfiguredModels {
    fn keys(&self) -> Vec<ModelKey> {
        self.keys.clone()
    }

    fn is_missing(&self, key: &ModelKey) -> bool {
        let whole = || weights::inspect(&self.directory(key)?, key.role);
        let is_absent = |error: &WeightsError| {
            matches!(
                error,
                WeightsError::Missing { .. } | WeightsError::MissingRevision { .. } | WeightsError::MissingFile { .. }
            )
        };
        self.hub.is_some() && self.keys.contains(key) && whole().is_err_and(|error| is_absent(&error))
    }

    async fn fetch(&self, key: &ModelKey) -> Result<(), SourceError> {
        let Some(hub) = &self.hub else { return Ok(()) };
        hub.download(&self.config.weights.directory, &key.model, self.hub_revision(key)).await?;
        Ok(())
    }

    fn verify(&self, key: &ModelKey, plan: &ModelPlan) -> Result<(), SourceError> {
        let directory = &plan.spec.directory;
        if let (true, Some(found), Some(expected)) =
            (self.config.weights.require_pinned, &plan.revision, self.revision(key))
            && found != expected
        {
            let (found, expected) = (found.clone(), expected.to_owned());
            return Err(WeightsError::OtherRevision { directory: directory.clone(), found, expected }.into());
        }
        match Manifest::read(directory)? {
            Some(manifest) => {
                let begun = Instant::now();
                let bytes = manifest.verify(directory)?;
                let seconds = begun.elapsed().as_secs_f64();
                tracing::info!(model = key.model, bytes, seconds, "Compared a model's files with their digests");
                Ok(())
            }
            // The commit that was asked for is an answer too; any other folder's name proves nothing.
            None if self.config.weights.require_pinned && (plan.revision.is_none() || self.revision(key).is_none()) => {
                Err(WeightsError::NotPinned { directory: directory.clone() }.into())
            }
            None => Ok(()),
        }
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
        let revision = match weights::revision_of(&directory) {
            Some(commit) => Some(commit),
            None => Manifest::read(&directory)?.and_then(|manifest| manifest.revision),
        };
        let shape = info.config.shape(key.role);
        let batch = self.batch(key, info.config.maximum_positions);
        let engine = choose(self.config.engine, self.device, &info, key.quantization).map_err(SourceError::Engine)?;
        let predicted_bytes = self.predict(engine, &shape, key.quantization, batch);
        Ok(ModelPlan {
            spec: LoadSpec {
                model: key.model.clone(),
                directory,
                role: key.role,
                quantization: key.quantization,
                engine,
                batch_size: narrow(batch.size),
                token_budget: narrow(batch.token_budget),
                max_length: narrow(batch.max_length),
            },
            predicted_bytes,
            revision,
            alternatives: self.alternatives(key, &shape, engine, batch, predicted_bytes),
        })
    }

    fn expectations(&self, key: &ModelKey, plan: &ModelPlan) -> Result<Option<Expectations>, ExpectationsError> {
        Expectations::find(&key.model, &plan.spec.directory)
    }

    fn input(&self, key: &ModelKey, plan: &ModelPlan) -> Result<ModelInput, SourceError> {
        let encoder = TextEncoder::from_file(&plan.spec.directory.join("tokenizer.json"))?;
        let input = match key.role {
            ModelRole::Embedder => ModelInput::Embed(EmbedPrompt::new(encoder, plan.spec.max_length)?),
            ModelRole::Reranker => {
                let (prompt, scoring) = self.format(&key.model);
                ModelInput::Rerank(RerankPrompt::new(encoder, &prompt, &scoring, plan.spec.max_length)?)
            }
        };
        // Reading a vocabulary takes several times what is kept of it.
        crate::engine::memory::give_back();
        Ok(input)
    }
}

/// The largest batch: pairs, tokens, tokens of one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    size: i32,
    token_budget: i32,
    max_length: i32,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use rerank_crds::catalog::CustomReranker;
    use rerank_crds::server_config::AllowedOverride;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    use serde_json::json;

    use super::*;
    use crate::fakes::{byte_level_tokenizer_json, model_key};

    const TINY: &str = "acme/tiny-reranker";
    const TINY_EMBEDDER: &str = "acme/tiny-embedder";

    /// A folder that passes the checks of weights: one layer, of which no engine could compute anything.
    fn write_model(weights: &Path, model: &str, role: ModelRole) {
        let folder = weights.join(model);
        std::fs::create_dir_all(&folder).unwrap();
        let (architecture, prefix) = match role {
            ModelRole::Reranker => ("Qwen3ForCausalLM", "model."),
            ModelRole::Embedder => ("Qwen3Model", ""),
        };
        let config = json!({
            "architectures": [architecture], "model_type": "qwen3", "hidden_act": "silu", "num_hidden_layers": 1,
            "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 4, "vocab_size": 265, "tie_word_embeddings": true, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "torch_dtype": "float32",
        });
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        std::fs::write(folder.join("tokenizer.json"), byte_level_tokenizer_json()).unwrap();
        let zeros = vec![0_u8; 265 * 8 * 4];
        let tensor = |shape: &[usize]| {
            let bytes = shape.iter().product::<usize>() * 4;
            TensorView::new(Dtype::F32, shape.to_vec(), &zeros[..bytes]).unwrap()
        };
        let tensors: BTreeMap<String, TensorView<'_>> = [
            (format!("{prefix}embed_tokens.weight"), tensor(&[265, 8])),
            (format!("{prefix}layers.0.self_attn.q_proj.weight"), tensor(&[8, 8])),
            (format!("{prefix}norm.weight"), tensor(&[8])),
        ]
        .into();
        let bytes = safetensors::serialize(tensors, None).unwrap();
        std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    }

    fn config(weights: &Path) -> ServerConfig {
        let mut config = ServerConfig::default();
        config.weights.directory = weights.to_owned();
        config.embedding.model = Some(TINY_EMBEDDER.to_owned());
        config.reranker.model = Some(TINY.to_owned());
        config
    }

    fn reranker(model: &str, quantization: Quantization) -> ModelKey {
        model_key(ModelRole::Reranker, model, quantization)
    }

    fn models(config: ServerConfig, device: DeviceKind) -> Arc<ConfiguredModels> {
        ConfiguredModels::new(Arc::new(config), device).unwrap()
    }

    #[test]
    fn a_model_is_planned_from_its_folder_and_its_inputs_are_made_by_its_own_tokenizer() {
        let weights = tempfile::tempdir().unwrap();
        write_model(weights.path(), TINY, ModelRole::Reranker);
        write_model(weights.path(), TINY_EMBEDDER, ModelRole::Embedder);
        let models = models(config(weights.path()), DeviceKind::Cpu);
        for key in models.keys() {
            let plan = models.describe(&key).unwrap();
            assert_eq!(plan.spec.directory, weights.path().join(&key.model));
            let positions = if key.role == ModelRole::Reranker { 4_095 } else { 4_096 };
            assert_eq!(plan.spec.max_length, positions, "the model has no more, and one token is run behind a prompt");
            assert_eq!(plan.spec.token_budget, positions, "on a CPU one prompt of full length");
            assert!(plan.predicted_bytes > 28_000_000, "the fixed overhead alone is 28 MB");
            match (models.input(&key, &plan).unwrap(), key.role) {
                (ModelInput::Rerank(prompt), ModelRole::Reranker) => assert_ne!(prompt.yes_token, prompt.no_token),
                (ModelInput::Embed(prompt), ModelRole::Embedder) => assert_eq!(prompt.document("ab").0.len(), 3),
                (input, role) => panic!("{input:?} for {role:?}"),
            }
        }
    }

    #[test]
    fn the_configured_batch_is_the_deployed_models_and_others_have_their_row() {
        let weights = tempfile::tempdir().unwrap();
        let mut config = config(weights.path());
        config.reranker.batch_size = Some(7);
        let quantizations = vec![Quantization::Float16, Quantization::Int8];
        config.reranker.allowed_overrides =
            vec![AllowedOverride { model: "Qwen/Qwen3-Reranker-4B".to_owned(), revision: None, quantizations }];
        let models = models(config, DeviceKind::Cuda);
        let batch = |model, quantization| models.batch(&reranker(model, quantization), 32_768);
        let deployed = Batch { size: 7, token_budget: 8_192, max_length: 8_192 };
        assert_eq!(batch(TINY, Quantization::Float16), deployed, "at least one prompt of full length");
        let large = |size: i32| Batch { size, token_budget: size * 512, max_length: 8_192 };
        assert_eq!(batch("Qwen/Qwen3-Reranker-4B", Quantization::Float16), large(32));
        assert_eq!(batch("Qwen/Qwen3-Reranker-4B", Quantization::Int8), large(64));
    }

    #[test]
    fn a_fix_is_offered_only_where_it_takes_less() {
        let weights = tempfile::tempdir().unwrap();
        let [small, .., large] = &RERANKERS;
        let models = models(config(weights.path()), DeviceKind::Cuda);
        let fixes = |model: &str, shape: &ModelShape, quantization| {
            let key = reranker(model, quantization);
            let batch = models.batch(&key, 32_768);
            let engine = models.config.engine.for_the_catalogue(models.device);
            let predicted = models.predict(engine, shape, quantization, batch);
            let alternatives = models.alternatives(&key, shape, engine, batch, predicted);
            assert!(alternatives.iter().all(|(_, bytes)| *bytes < predicted));
            alternatives.into_iter().map(|(fix, _)| fix).collect::<Vec<_>>()
        };
        assert_eq!(
            fixes(large.id, &large.shape, Quantization::Float16),
            [MemoryFix::SmallerBatch, MemoryFix::Int8, MemoryFix::SmallerModel]
        );
        let of_the_smallest = fixes(small.id, &small.shape, Quantization::Int8);
        assert_eq!(of_the_smallest, [MemoryFix::SmallerBatch], "no smaller model, no smaller precision");
    }

    #[test]
    fn a_users_own_prompt_and_answer_tokens_are_used() {
        let weights = tempfile::tempdir().unwrap();
        write_model(weights.path(), TINY, ModelRole::Reranker);
        let mut config = config(weights.path());
        config.reranker.custom = vec![CustomReranker {
            model: TINY.to_owned(),
            embedding_models: Vec::new(),
            batch_sizes: BTreeMap::new(),
            prompt: Prompt { prefix: "Q:".to_owned(), body: "{query}|{document}".to_owned(), suffix: "A:".to_owned() },
            scoring: Scoring { yes_token: "1".to_owned(), no_token: "0".to_owned() },
        }];
        let models = models(config, DeviceKind::Cpu);
        let key = reranker(TINY, Quantization::Float16);
        let plan = models.describe(&key).unwrap();
        let ModelInput::Rerank(prompt) = models.input(&key, &plan).unwrap() else { panic!("a reranker's input") };
        assert_eq!((prompt.yes_token, prompt.no_token), (u32::from(b'1'), u32::from(b'0')));
        let pairs = prompt.encode("unused", "x", &["y"], crate::prompt::Reading::default()).unwrap();
        assert_eq!(crate::fakes::text_of(&pairs.prompts[0]), "Q:x|yA:");
    }

    #[test]
    fn a_revision_belongs_to_one_model() {
        let weights = tempfile::tempdir().unwrap();
        let mut config = config(weights.path());
        config.reranker.revision = Some("v1".to_owned());
        config.embedding.revision = Some("v2".to_owned());
        let pinned = |model: &str, revision: &str| AllowedOverride {
            model: model.to_owned(),
            revision: Some(revision.to_owned()),
            quantizations: Vec::new(),
        };
        config.reranker.allowed_overrides = vec![pinned("large", "v3")];
        let models = models(config, DeviceKind::Cpu);
        assert_eq!(models.revision(&reranker(TINY, Quantization::Int8)), Some("v1"));
        assert_eq!(models.revision(&reranker("large", Quantization::Float16)), Some("v3"));
        assert_eq!(models.revision(&reranker("another", Quantization::Float16)), None);
        assert_eq!(models.revision(&model_key(ModelRole::Embedder, TINY_EMBEDDER, Quantization::Float16)), Some("v2"));
    }

    #[test]
    fn where_pinning_is_asked_for_a_commit_counts_where_it_was_asked_for_and_nothing_else_without_digests() {
        const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
        let weights = tempfile::tempdir().unwrap();
        write_model(weights.path(), TINY, ModelRole::Reranker);
        let key = reranker(TINY, Quantization::Float16);
        let verified = |wanted: Option<&str>, found: Option<&str>| {
            let mut config = config(weights.path());
            let plan = models(config.clone(), DeviceKind::Cpu).describe(&key).unwrap();
            let plan = ModelPlan { revision: found.map(str::to_owned), ..plan };
            config.weights.require_pinned = true;
            config.reranker.revision = wanted.map(str::to_owned);
            models(config, DeviceKind::Cpu).verify(&key, &plan)
        };
        assert!(verified(Some(COMMIT), Some(COMMIT)).is_ok());
        for (wanted, found) in [(None, Some(COMMIT)), (None, None), (Some(COMMIT), None)] {
            let refused = verified(wanted, found).unwrap_err();
            assert!(matches!(refused, SourceError::Weights(WeightsError::NotPinned { .. })), "{refused}");
        }
        let other = verified(Some(COMMIT), Some("another")).unwrap_err();
        assert!(matches!(other, SourceError::Weights(WeightsError::OtherRevision { .. })), "{other}");
    }

    #[test]
    fn what_is_not_configured_or_not_there_is_refused_by_name() {
        let weights = tempfile::tempdir().unwrap();
        let models = models(config(weights.path()), DeviceKind::Cpu);
        let refused = models.describe(&reranker("stranger", Quantization::Float16)).unwrap_err();
        assert_eq!(refused.to_string(), "model \"stranger\" is not configured as reranker");
        let refused = models.describe(&reranker(TINY, Quantization::Float16)).unwrap_err();
        assert!(matches!(refused, SourceError::Weights(WeightsError::Missing { .. })), "{refused}");
    }
}
