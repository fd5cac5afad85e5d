//! How the batches of one request are run, whichever model they are for: a batch for which memory does not suffice is
//! halved once, a panic is an error like any other, and after memory ran out for good one short prompt tells whether the
//! device still works. Waits for the engine.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::engine::{EngineError, ScoreRequest};
use crate::pool::{ModelLease, ModelPool};

/// Inputs that run together, as positions in the request.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) inputs: Vec<usize>,
    /// What memory did not suffice for is halved once.
    pub(super) is_half: bool,
}

/// The batches of one request that are not done yet.
#[derive(Debug)]
pub(super) struct Batches {
    waiting: VecDeque<Batch>,
}

impl Batches {
    /// As planned, first to last.
    pub(super) fn new(planned: impl IntoIterator<Item = Vec<usize>>) -> Self {
        Self { waiting: planned.into_iter().map(|inputs| Batch { inputs, is_half: false }).collect() }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Option<Batch> {
        self.waiting.pop_front()
    }

    /// Puts the halves of a batch where it was; false where it cannot be halved any more.
    fn halve(&mut self, batch: &Batch) -> bool {
        let Batch { inputs, is_half: false } = batch else { return false };
        if inputs.len() < 2 {
            return false;
        }
        let (first, second) = inputs.split_at(inputs.len() / 2);
        for half in [second, first] {
            self.waiting.push_front(Batch { inputs: half.to_vec(), is_half: true });
        }
        true
    }

    /// Halves a batch for which memory did not suffice; false for any other error, and where it cannot be halved. In that
    /// last case the canary is asked before this answers.
    pub(super) async fn halve_after(
        &mut self,
        error: &EngineError,
        batch: &Batch,
        canary: Canary,
        lease: &ModelLease,
        pool: &ModelPool,
    ) -> bool {
        let EngineError::OutOfMemory { .. } = error else { return false };
        if self.halve(batch) {
            tracing::warn!(
                model = lease.key.model,
                inputs = batch.inputs.len(),
                error = chain::describe(error),
                "The device ran out of memory in a batch, its halves are tried one after the other"
            );
            return true;
        }
        canary.ask(lease, pool).await;
        false
    }
}

/// Runs one call of an engine; a panic is an error like any other.
pub(super) async fn caught<T>(call: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|panic| {
        // What it said can repeat text of the request.
        tracing::debug!(panic = chain::describe_panic(panic.as_ref()), "What the engine said");
        Err(EngineError::Failed { message: "the engine panicked".to_owned() })
    })
}

/// Tokens of the prompt that tells whether a device still works.
const CANARY_TOKENS: usize = 16;
/// It is a moment's work.
const CANARY_PATIENCE: Duration = Duration::from_secs(10);

/// One short prompt. A device on which not even that runs any more is lost.
#[derive(Debug)]
pub(super) enum Canary {
    Score(ScoreRequest),
    Embed(Vec<u32>),
}

impl Canary {
    /// The beginning of a prompt, for a reranker.
    pub(super) fn score(prompt: &[u32], yes_token: u32, no_token: u32) -> Self {
        let prompts = vec![beginning(prompt)];
        Self::Score(ScoreRequest { prompts, shared_prefix_tokens: 0, yes_token, no_token })
    }

    /// The beginning of a text, for an embedder.
    pub(super) fn embed(text: &[u32]) -> Self {
        Self::Embed(beginning(text))
    }

    /// Runs it in a task of its own, so that it is answered for though nobody waits any more.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the task running.
    async fn ask(self, lease: &ModelLease, pool: &ModelPool) {
        let (lease, fatal) = (lease.clone(), pool.fatal().clone());
        let asked = tokio::spawn(async move {
            let failure = match tokio::time::timeout(CANARY_PATIENCE, caught(self.run(&lease))).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => chain::describe(&error),
                Err(_elapsed) => format!("no answer within {} s", CANARY_PATIENCE.as_secs()),
            };
            fatal.trip(&format!(
                "after running out of memory {} does not run one short prompt any more: {failure}",
                lease.key.model
            ));
        });
        // It catches panics, and nobody gives it up.
        drop(asked.await);
    }

    async fn run(self, lease: &ModelLease) -> Result<(), EngineError> {
        let cancel = CancellationToken::new();
        match self {
            Self::Score(request) => lease.engine.score(request, &cancel).await.map(drop),
            Self::Embed(text) => lease.engine.embed(vec![text], &cancel).await.map(drop),
        }
    }
}

fn beginning(prompt: &[u32]) -> Vec<u32> {
    prompt.iter().take(CANARY_TOKENS).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_halved_once_and_its_halves_come_before_what_follows() {
        let mut batches = Batches::new([vec![4, 0, 2], vec![1]]);
        let first = batches.next().unwrap();
        assert!(batches.halve(&first));
        let halves = [batches.next().unwrap(), batches.next().unwrap()];
        assert_eq!(halves.each_ref().map(|half| half.inputs.clone()), [vec![4], vec![0, 2]]);
        assert!(halves.iter().all(|half| half.is_half && !batches.halve(half)));
        let single = batches.next().unwrap();
        assert!(!batches.halve(&single), "one input has no halves");
        assert!(batches.next().is_none());
    }
}
