//! What a loaded model can be given. Pure: refuses what libraries would answer with a panic or a puzzling text.

use super::weights::ModelConfig;
use super::{EngineError, ModelRole, ScoreRequest, unsupported};

/// Bounds of one model's inputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs {
    role: ModelRole,
    vocabulary_size: usize,
    maximum_positions: usize,
}

impl Inputs {
    /// Of a model that was loaded in that role.
    pub(super) fn new(role: ModelRole, config: &ModelConfig) -> Self {
        Self { role, vocabulary_size: config.vocabulary_size, maximum_positions: config.maximum_positions }
    }

    /// Pairs to score.
    pub(super) fn check_pairs(&self, request: &ScoreRequest) -> Result<(), EngineError> {
        self.check(ModelRole::Reranker, &request.prompts)?;
        self.check_tokens(&[request.yes_token, request.no_token])
    }

    /// Texts to embed.
    pub(super) fn check_texts(&self, texts: &[Vec<u32>]) -> Result<(), EngineError> {
        self.check(ModelRole::Embedder, texts)
    }

    fn check(&self, role: ModelRole, inputs: &[Vec<u32>]) -> Result<(), EngineError> {
        if self.role != role {
            return Err(unsupported(format!("the model was loaded as {:?} and cannot serve as {role:?}", self.role)));
        }
        for (index, input) in inputs.iter().enumerate() {
            if input.is_empty() {
                return Err(unsupported(format!("input {index} has no tokens; at least one is needed")));
            }
            if input.len() > self.maximum_positions {
                return Err(unsupported(format!(
                    "input {index} has {} tokens, the model reads {} at most; set maxLength to that",
                    input.len(),
                    self.maximum_positions
                )));
            }
            self.check_tokens(input)?;
        }
        Ok(())
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), EngineError> {
        match tokens.iter().find(|token| **token as usize >= self.vocabulary_size) {
            None => Ok(()),
            Some(token) => Err(unsupported(format!(
                "token {token} is outside the model's vocabulary of {}; tokenizer.json is of another model",
                self.vocabulary_size
            ))),
        }
    }
}
