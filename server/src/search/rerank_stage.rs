//! Stage 2: scores of pairs. Waits for the reranker; tokenizes; `turns` waits for the engine.

use tokio::time::Instant;
use tracing::Instrument;

use super::admission::Admitted;
use super::demand::Demand;
use super::embed_stage::refuse_text;
use super::fallback::StageFailure;
use super::ranking::{self, Scored};
use super::turns::ScoreFailure;
use super::{FallbackReason, RequestContext, Searcher, Timings};
use crate::chain;
use crate::engine::{EngineError, ScoreRequest};
use crate::metrics::Stage;
use crate::pool::{ModelInput, ModelKey, ModelLease, Waiting};
use crate::prompt::{EncodedPairs, PromptError, Reading};
use crate::stages::{Part, during};
use crate::traces::spans;

/// One query with its documents.
pub(super) struct Pairs {
    pub(super) instruction: String,
    pub(super) query: String,
    pub(super) documents: Vec<String>,
    pub(super) reading: Reading,
    /// Their place in the queue, given back when they are scored.
    pub(super) admitted: Admitted,
    /// Until when scores are of use.
    pub(super) deadline: Instant,
}

/// What the reranker answered, in the order given.
#[derive(Debug)]
pub(super) struct Reranked {
    pub(super) key: ModelKey,
    pub(super) scored: Vec<Scored>,
    pub(super) truncated: Vec<bool>,
    pub(super) tokens: usize,
}

impl Searcher {
    /// Scores pairs. `lease`: the model, where the caller already holds it. Times are written as they become known, so
    /// they are there also where the stage is given up.
    pub(super) async fn rerank_stage(
        &self,
        key: &ModelKey,
        lease: Option<ModelLease>,
        waiting: Waiting,
        pairs: Pairs,
        context: &RequestContext,
        timings: &mut Timings,
    ) -> Result<Reranked, StageFailure> {
        self.breakers.admit(key, Instant::now()).map_err(StageFailure::breaker_open)?;
        let lease = match lease {
            Some(lease) => lease,
            None => during(Part::Load, self.pool.lease(key, waiting)).await?,
        };
        let Pairs { instruction, query, documents, reading, mut admitted, deadline } = pairs;
        let count = documents.len();

        let begun = Instant::now();
        let encoding = encode(lease.clone(), instruction, query, documents, reading);
        let (request, truncated) =
            during(Part::Stage(Stage::Tokenize), encoding).instrument(spans::tokenize(count)).await?;
        timings.tokenize = begun.elapsed();
        self.metrics.observe_stage(Stage::Tokenize, timings.tokenize);
        let tokens = request.prompts.iter().map(Vec::len).sum();
        admitted.correct(Demand::of_prompts(count, tokens));

        let logits = match self.score_by_turns(&lease, request, &mut admitted, deadline, context, timings).await {
            Ok(logits) => Ok(logits),
            Err(ScoreFailure::Engine(error)) => Err(error),
            Err(ScoreFailure::TooLate) => return Err(StageFailure::deadline(self.config.timeouts.rerank_seconds)),
        };
        let scored = logits.and_then(|logits| ranking::scores(&logits, count)).inspect_err(|error| {
            if !matches!(error, EngineError::Cancelled | EngineError::OutOfMemory { .. }) {
                self.breakers.failed(key, Instant::now());
            }
            if !matches!(error, EngineError::Cancelled) {
                tracing::error!(model = key.model, error = chain::describe(error), "Failed to score");
            }
        })?;
        self.breakers.succeeded(key);
        self.metrics.count_truncated(truncated.iter().filter(|cut| **cut).count());
        Ok(Reranked { key: key.clone(), scored, truncated, tokens })
    }
}

/// Tokenizes off the async threads, since it is work for the processor; answers the prompts, and which documents were
/// cut. The lease goes along: the model stays while its tokenizer is used, also where the caller is gone.
async fn encode(
    lease: ModelLease,
    instruction: String,
    query: String,
    documents: Vec<String>,
    reading: Reading,
) -> Result<(ScoreRequest, Vec<bool>), StageFailure> {
    let work = move || match &lease.input {
        ModelInput::Rerank(prompt) => {
            let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
            let EncodedPairs { prompts, shared_prefix_tokens, truncated } =
                prompt.encode(&instruction, &query, &documents, reading)?;
            let (yes_token, no_token) = (prompt.yes_token, prompt.no_token);
            Ok((ScoreRequest { prompts, shared_prefix_tokens, yes_token, no_token }, truncated))
        }
        ModelInput::Embed(_) => {
            Err(PromptError::Tokenizer { message: "the model was loaded as an embedder".to_owned() })
        }
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(encoded)) => Ok(encoded),
        Ok(Err(error @ (PromptError::QueryTooLong { .. } | PromptError::DocumentTooLong { .. }))) => {
            Err(StageFailure::Refused(refuse_text(error)))
        }
        Ok(Err(error)) => Err(tokenizer_failed(&chain::describe(&error))),
        Err(error) => Err(tokenizer_failed(chain::describe_lost_work(&error))),
    }
}

fn tokenizer_failed(error: &str) -> StageFailure {
    tracing::error!(error, "Failed to make prompts");
    StageFailure::new(FallbackReason::EngineFailed, "the reranker's prompts cannot be made".to_owned(), 1)
}
