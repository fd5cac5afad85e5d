//! Scores of documents that come with the request: no store, and no vector order to fall back to.

use tokio::time::Instant;
use tracing::Instrument;

use super::deadlines::{Deadlines, within};
use super::demand::Demand;
use super::fallback::StageFailure;
use super::ranking;
use super::rerank_stage::Pairs;
use super::searcher::bounded;
use super::served::RERANK_FIELDS;
use super::{
    RankedDocument, RequestContext, RerankRequest, RerankResponse, RerankerName, SearchError, Searcher, Timings,
    validate,
};
use crate::metrics::Stage;
use crate::traces::spans;

impl Searcher {
    /// Scores documents that come with the request, best first; equal scores in the order given.
    pub async fn rerank(
        &self,
        request: RerankRequest,
        context: &RequestContext,
    ) -> Result<RerankResponse, SearchError> {
        validate::query("query", &request.query)?;
        validate::documents("documents", request.documents.len(), self.maximum_documents())?;
        let instruction = validate::instruction(request.instruction.as_ref(), &self.config.reranker.instruction)?;
        if !self.config.reranker.enabled {
            return Err(unavailable(StageFailure::disabled()));
        }
        let key = self.served.reranker(&request.reranker, RERANK_FIELDS)?;
        let shared_bytes = self.shared_prompt_bytes(&key, &instruction, &request.query);
        let demand = Demand::of_texts(shared_bytes, request.documents.iter().map(String::len), self.maximum_tokens());
        let deadlines = Deadlines::new(context.arrival, &self.config.timeouts);
        let deadline = deadlines.rerank(Instant::now());
        self.admission.foresee(&context.caller.client, &key, demand.pairs, deadline)?;
        let mut admitted = self.admission.admit(&context.caller.client, demand)?;
        admitted.enter(&key, demand.pairs);
        let pairs = Pairs {
            instruction,
            query: request.query,
            documents: request.documents,
            reading: request.reading,
            admitted,
            deadline,
        };

        let mut timings = Timings::default();
        let work = async {
            let stage = self.rerank_stage(&key, None, self.waiting(), pairs, context, &mut timings);
            let span = spans::rerank(&key, demand.pairs);
            let outcome = within(deadline, stage).instrument(span.clone()).await;
            if !matches!(outcome, Some(Ok(_))) {
                spans::failed(&span);
            }
            match outcome {
                Some(Err(failure)) if failure.is_deadline() => Err(SearchError::DeadlineExceeded),
                Some(outcome) => outcome.map_err(unavailable),
                None => {
                    // Noted for the breaker, whatever is answered.
                    let _noted = self.past_the_deadline(&key, &timings);
                    Err(SearchError::DeadlineExceeded)
                }
            }
        };
        let reranked = bounded(context, deadlines.request, work).await?;

        timings.total = context.arrival.elapsed();
        self.metrics.observe_stage(Stage::Total, timings.total);
        for scored in &reranked.scored {
            self.metrics.observe_score(scored.score);
        }
        let results = ranking::rank(reranked.scored)
            .into_iter()
            .map(|scored| RankedDocument {
                index: scored.index,
                score: scored.score,
                log_odds: scored.log_odds,
                truncated: reranked.truncated.get(scored.index).copied().unwrap_or(false),
            })
            .collect();
        Ok(RerankResponse { results, reranker: RerankerName::from(&key), tokens: reranked.tokens, timings })
    }
}

/// Stage 2 cannot be, where there is nothing to fall back to.
pub(super) fn unavailable(failure: StageFailure) -> SearchError {
    match failure {
        StageFailure::NoReranker { fallback, retry_after_seconds } => {
            SearchError::RerankerUnavailable { reason: fallback.reason, message: fallback.message, retry_after_seconds }
        }
        StageFailure::Refused(error) => error,
    }
}
