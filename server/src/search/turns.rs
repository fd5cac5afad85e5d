//! Scores the pairs of one request batch by batch, each batch in its turn (see `lane`). Waits for turns and for the engine.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;

use super::admission::Admitted;
use super::batches::{Batches, Canary, caught};
use super::{RequestContext, Searcher, Timings};
use crate::engine::{EngineError, PairLogits, ScoreRequest};
use crate::metrics::{Metrics, Stage};
use crate::pool::ModelLease;
use crate::stages::{Part, during};
use crate::traces::spans;

impl Searcher {
    /// Logits in the order of the request's prompts. `admitted` has entered the model's queue with as many pairs.
    pub(super) async fn score_by_turns(
        &self,
        lease: &ModelLease,
        request: ScoreRequest,
        admitted: &mut Admitted,
        deadline: Instant,
        context: &RequestContext,
        timings: &mut Timings,
    ) -> Result<Vec<PairLogits>, ScoreFailure> {
        let ScoreRequest { prompts, shared_prefix_tokens, yes_token, no_token } = request;
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let mut answers: Vec<Option<PairLogits>> = vec![None; prompts.len()];
        let mut queue = Stopwatch::new(&self.metrics, Stage::Queue, &mut timings.queue);
        let mut score = Stopwatch::new(&self.metrics, Stage::Score, &mut timings.score);
        let mut place = self.admission.lane(&lease.key).arrive(&context.caller.client, lengths.len());
        let mut batches = Batches::new(lease.engine.batches(&lengths));
        while let Some(batch) = batches.next() {
            let pairs = &batch.inputs;
            let prompts: Vec<Vec<u32>> = pairs.iter().filter_map(|at| prompts.get(*at).cloned()).collect();
            let tokens = prompts.iter().map(Vec::len).sum();
            let canary = Canary::score(prompts.first().map_or(&[], Vec::as_slice), yes_token, no_token);
            let request = ScoreRequest { prompts, shared_prefix_tokens, yes_token, no_token };

            let span = spans::batch(pairs.len(), tokens, batch.is_half);
            queue.start();
            let turn = during(Part::Stage(Stage::Queue), place.turn(pairs.len()));
            turn.instrument(span.in_scope(spans::queue)).instrument(span.clone()).await;
            queue.stop();
            if admitted.is_too_late(pairs.len(), deadline) {
                return Err(ScoreFailure::TooLate);
            }

            score.start();
            let begun = Instant::now();
            let scoring = span.in_scope(|| spans::score(&lease.key.model));
            let work = during(Part::Stage(Stage::Score), lease.engine.score(request, &context.cancel));
            let outcome = caught(work.instrument(scoring.clone())).instrument(span.clone()).await;
            score.stop();
            let logits = match outcome {
                Ok(logits) => logits,
                Err(error) => {
                    spans::failed(&scoring);
                    if batches.halve_after(&error, &batch, canary, lease, &self.pool).await {
                        continue;
                    }
                    return Err(in_request(error, pairs).into());
                }
            };
            if logits.len() != pairs.len() {
                let message = format!("{} pairs were given, {} came back", pairs.len(), logits.len());
                return Err(EngineError::Failed { message }.into());
            }
            admitted.done(pairs.len(), begun.elapsed());
            timings.batches += 1;
            self.metrics.count_scored(pairs.len(), tokens);
            for (at, logits) in pairs.iter().zip(logits) {
                if let Some(answer) = answers.get_mut(*at) {
                    *answer = Some(logits);
                }
            }
        }
        answers
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| EngineError::Failed { message: "the engine's batches leave pairs out".to_owned() }.into())
    }
}

/// Why there are no scores.
#[derive(Debug)]
pub(super) enum ScoreFailure {
    /// The engine's error.
    Engine(EngineError),
    /// The next batch would not have ended by the deadline, and was not begun.
    TooLate,
}

impl From<EngineError> for ScoreFailure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// An error about an input of a batch, about the same input of the request.
fn in_request(error: EngineError, batch: &[usize]) -> EngineError {
    match error {
        EngineError::NotFinite { index } => {
            EngineError::NotFinite { index: batch.get(index).copied().unwrap_or(index) }
        }
        other => other,
    }
}

/// Adds up a stage's parts and observes their sum when it is dropped, so also where the stage is given up in the middle.
/// A stage that was never begun is not observed.
struct Stopwatch<'a> {
    metrics: &'a Metrics,
    stage: Stage,
    sum: &'a mut Duration,
    begun: bool,
    running_since: Option<Instant>,
}

impl<'a> Stopwatch<'a> {
    fn new(metrics: &'a Metrics, stage: Stage, sum: &'a mut Duration) -> Self {
        Self { metrics, stage, sum, begun: false, running_since: None }
    }

    fn start(&mut self) {
        self.begun = true;
        self.running_since = Some(Instant::now());
    }

    fn stop(&mut self) {
        if let Some(begun) = self.running_since.take() {
            *self.sum += begun.elapsed();
        }
    }
}

impl Drop for Stopwatch<'_> {
    fn drop(&mut self) {
        self.stop();
        if self.begun {
            self.metrics.observe_stage(self.stage, *self.sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_an_input_of_a_batch_names_its_place_in_the_request() {
        let error = in_request(EngineError::NotFinite { index: 1 }, &[4, 7]);
        assert!(matches!(error, EngineError::NotFinite { index: 7 }), "{error}");
    }

    #[test]
    fn a_stage_is_observed_as_the_sum_of_its_parts_and_only_if_it_was_begun() {
        let metrics = Metrics::default();
        let (mut queue, mut score) = (Duration::ZERO, Duration::ZERO);
        {
            let mut queue = Stopwatch::new(&metrics, Stage::Queue, &mut queue);
            queue.start();
            queue.stop();
            queue.start();
            let _never_begun = Stopwatch::new(&metrics, Stage::Score, &mut score);
        }
        let text = metrics.encode();
        let count = |stage: &str| {
            let name = format!("rerank_stage_duration_seconds_count{{stage=\"{stage}\"}}");
            text.lines().find_map(|line| line.strip_prefix(&name)).map(|value| value.trim().to_owned())
        };
        assert_eq!(count("queue").as_deref(), Some("1"), "{text}");
        assert!(count("score").is_none_or(|value| value == "0"), "{text}");
    }
}
