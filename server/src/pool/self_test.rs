//! Runs a loaded model's self-test. Waits for the engine.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{ModelInput, ModelKey};
use crate::chain;
use crate::engine::{Engine, EngineError, ScoreRequest};
use crate::prompt::{PromptError, Reading};
use crate::self_test::{self, Expectations, ExpectationsError};

/// Longest self-test; a device too slow for it is not judged by it.
const LIMIT: Duration = Duration::from_secs(60);

/// What the self-test after the last load came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SelfTestReport {
    /// In a word.
    pub outcome: SelfTestOutcome,
    /// What was off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a self-test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum SelfTestOutcome {
    /// The model scores as its reference does.
    Passed,
    /// Nothing is known of the model; an answer fits its question better than a text about something else.
    Plausible,
    /// Nothing is known of the model, and what it answers looks wrong.
    Implausible,
    /// The model does not score as its reference does.
    Failed,
    /// It could not be run: the texts do not fit, or the device is too slow.
    NotRun,
}

impl SelfTestReport {
    fn new(outcome: SelfTestOutcome, message: impl Into<String>) -> Self {
        Self { outcome, message: Some(message.into()) }
    }

    /// Expectations that cannot be used.
    pub(super) fn unusable(error: &ExpectationsError) -> Self {
        Self::new(SelfTestOutcome::Failed, chain::describe(error))
    }
}

/// Runs it. An error is the engine's own.
pub(super) async fn run(
    key: &ModelKey,
    engine: &Arc<dyn Engine>,
    input: &Arc<ModelInput>,
    expectations: Option<Expectations>,
) -> Result<SelfTestReport, EngineError> {
    let (known, texts) = match expectations {
        Some(expectations) => (true, expectations),
        None => (false, self_test::plausible()),
    };
    let encoded = tokio::task::spawn_blocking({
        let (input, texts) = (Arc::clone(input), texts.clone());
        move || encode(&input, &texts)
    });
    let inputs = match encoded.await {
        Ok(Ok(Some(inputs))) => inputs,
        Ok(Ok(None)) => {
            return Ok(SelfTestReport::new(SelfTestOutcome::NotRun, "maxLength is too short for its texts"));
        }
        Ok(Err(error)) => return Ok(SelfTestReport::new(SelfTestOutcome::Failed, chain::describe(&error))),
        Err(error) => return Ok(SelfTestReport::new(SelfTestOutcome::Failed, chain::describe(&error))),
    };
    let cancel = CancellationToken::new();
    let Ok(measured) = tokio::time::timeout(LIMIT, measure(engine.as_ref(), inputs, &cancel)).await else {
        cancel.cancel();
        return Ok(SelfTestReport::new(
            SelfTestOutcome::NotRun,
            format!("it did not end within {} s", LIMIT.as_secs()),
        ));
    };
    let measured = measured?;
    let passed = |outcome| SelfTestReport { outcome, message: None };
    Ok(if known {
        match texts.judge(key.role, key.quantization, &measured) {
            Ok(()) => passed(SelfTestOutcome::Passed),
            Err(message) => SelfTestReport::new(SelfTestOutcome::Failed, message),
        }
    } else if self_test::is_plausible(&measured) {
        passed(SelfTestOutcome::Plausible)
    } else {
        let message =
            format!("an answer and a text about something else have {measured:.4?}: the first should have more");
        SelfTestReport::new(SelfTestOutcome::Implausible, message)
    })
}

enum Inputs {
    Score(ScoreRequest),
    /// The query first.
    Embed(Vec<Vec<u32>>),
}

/// None where a text would be cut.
fn encode(input: &ModelInput, texts: &Expectations) -> Result<Option<Inputs>, PromptError> {
    let documents: Vec<&str> = texts.documents.iter().map(|document| document.text.as_str()).collect();
    match input {
        ModelInput::Rerank(prompt) => {
            let reading = Reading { document_tokens: None, refuse_longer: true };
            let pairs = match prompt.encode(&texts.instruction, &texts.query, &documents, reading) {
                Ok(pairs) => pairs,
                Err(PromptError::DocumentTooLong { .. } | PromptError::QueryTooLong { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            Ok(Some(Inputs::Score(ScoreRequest {
                prompts: pairs.prompts,
                shared_prefix_tokens: pairs.shared_prefix_tokens,
                yes_token: prompt.yes_token,
                no_token: prompt.no_token,
            })))
        }
        ModelInput::Embed(prompt) => {
            let query = match prompt.query(&texts.instruction, &texts.query) {
                Ok(query) => query,
                Err(PromptError::QueryTooLong { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let mut inputs = vec![query];
            for (index, document) in documents.into_iter().enumerate() {
                match prompt.whole_document(index, document) {
                    Ok(ids) => inputs.push(ids),
                    Err(_longer) => return Ok(None),
                }
            }
            Ok(Some(Inputs::Embed(inputs)))
        }
    }
}

/// Log-odds, or cosines with the query.
async fn measure(engine: &dyn Engine, inputs: Inputs, cancel: &CancellationToken) -> Result<Vec<f64>, EngineError> {
    match inputs {
        Inputs::Score(request) => {
            let logits = engine.score(request, cancel).await?;
            Ok(logits.iter().map(|pair| f64::from(pair.log_odds())).collect())
        }
        Inputs::Embed(texts) => {
            let vectors = engine.embed(texts, cancel).await?;
            let Some((query, documents)) = vectors.split_first() else { return Ok(Vec::new()) };
            let dot = |document: &Vec<f32>| {
                query.iter().zip(document).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
            };
            Ok(documents.iter().map(dot).collect())
        }
    }
}
