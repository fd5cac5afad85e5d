//! A model source without folders.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rerank_crds::catalog::{EngineKind, Prompt, Quantization, Scoring};

use super::engine::EngineControls;
use super::tokenizer::text_encoder;
use crate::engine::{LoadSpec, ModelRole};
use crate::pool::{MemoryFix, ModelInput, ModelKey, ModelPlan, ModelSource, SourceError};
use crate::prompt::{EmbedPrompt, PromptError, RerankPrompt};
use crate::self_test::{Expectations, ExpectationsError};

/// Length of the fake embedder's vectors.
pub(super) const DIMENSION: usize = 8;
/// Tokens of one prompt.
const MAXIMUM_LENGTH: usize = 2048;

/// Names a slot.
pub fn model_key(role: ModelRole, model: &str, quantization: Quantization) -> ModelKey {
    ModelKey { role, model: model.to_owned(), quantization }
}

/// Plans any model that it was told of; memory comes from the engine's controls.
#[derive(Debug)]
pub struct FakeSource {
    keys: BTreeSet<ModelKey>,
    controls: Arc<EngineControls>,
    alternatives: Mutex<Vec<(MemoryFix, u64)>>,
    broken_tokenizers: Mutex<BTreeSet<String>>,
    expectations: Mutex<Option<Expectations>>,
    verification: Mutex<Verification>,
}

/// How often files were compared with their digests, and what that waits for.
#[derive(Debug, Default)]
struct Verification {
    times: usize,
    held: Option<std::sync::mpsc::Receiver<()>>,
}

impl FakeSource {
    /// A source of these models.
    pub fn new(keys: impl IntoIterator<Item = ModelKey>, controls: Arc<EngineControls>) -> Arc<Self> {
        Arc::new(Self {
            keys: keys.into_iter().collect(),
            controls,
            alternatives: Mutex::default(),
            broken_tokenizers: Mutex::default(),
            expectations: Mutex::default(),
            verification: Mutex::default(),
        })
    }

    /// The next comparison with digests takes until what is answered here is dropped.
    pub fn hold_verification(&self) -> std::sync::mpsc::Sender<()> {
        let (release, held) = std::sync::mpsc::channel();
        self.verification.lock().unwrap_or_else(PoisonError::into_inner).held = Some(held);
        release
    }

    /// How often files were compared with their digests.
    pub fn verifications(&self) -> usize {
        self.verification.lock().unwrap_or_else(PoisonError::into_inner).times
    }

    /// What every model would take under each fix.
    pub fn set_alternatives(&self, alternatives: Vec<(MemoryFix, u64)>) {
        *self.alternatives.lock().unwrap_or_else(PoisonError::into_inner) = alternatives;
    }

    /// What every model must make of known texts.
    pub fn set_expectations(&self, expectations: Expectations) {
        *self.expectations.lock().unwrap_or_else(PoisonError::into_inner) = Some(expectations);
    }

    /// This model's tokenizer cannot be used from now on.
    pub fn break_tokenizer(&self, model: &str) {
        self.broken_tokenizers.lock().unwrap_or_else(PoisonError::into_inner).insert(model.to_owned());
    }
}

#[async_trait]
impl ModelSource for FakeSource {
    fn keys(&self) -> Vec<ModelKey> {
        self.keys.iter().cloned().collect()
    }

    fn is_missing(&self, _: &ModelKey) -> bool {
        false
    }

    async fn fetch(&self, _: &ModelKey) -> Result<(), SourceError> {
        Ok(())
    }

    fn verify(&self, _: &ModelKey, _: &ModelPlan) -> Result<(), SourceError> {
        let held = {
            let mut verification = self.verification.lock().unwrap_or_else(PoisonError::into_inner);
            verification.times += 1;
            verification.held.take()
        };
        // An error is the end that is waited for.
        let _ = held.map(|held| held.recv());
        Ok(())
    }

    fn describe(&self, key: &ModelKey) -> Result<ModelPlan, SourceError> {
        if !self.keys.contains(key) {
            return Err(SourceError::NotConfigured { model: key.model.clone(), role: "fake" });
        }
        Ok(ModelPlan {
            spec: LoadSpec {
                engine: EngineKind::Packed,
                model: key.model.clone(),
                directory: PathBuf::new(),
                role: key.role,
                quantization: key.quantization,
                batch_size: 4,
                token_budget: 4 * 512,
                max_length: MAXIMUM_LENGTH,
            },
            revision: None,
            predicted_bytes: self.controls.model_bytes(&key.model),
            alternatives: self.alternatives.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }

    fn expectations(&self, _: &ModelKey, _: &ModelPlan) -> Result<Option<Expectations>, ExpectationsError> {
        Ok(self.expectations.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn input(&self, key: &ModelKey, plan: &ModelPlan) -> Result<ModelInput, SourceError> {
        if self.broken_tokenizers.lock().unwrap_or_else(PoisonError::into_inner).contains(&key.model) {
            return Err(PromptError::Tokenizer { message: "told so".to_owned() }.into());
        }
        let encoder = text_encoder()?;
        let length = plan.spec.max_length;
        Ok(match key.role {
            ModelRole::Embedder => ModelInput::Embed(EmbedPrompt::new(encoder, length)?),
            ModelRole::Reranker => {
                ModelInput::Rerank(RerankPrompt::new(encoder, &Prompt::default(), &Scoring::default(), length)?)
            }
        })
    }
}
