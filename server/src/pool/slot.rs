//! One slot's states, and what a caller does in each. Pure: time comes in as a value.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{LoadedModel, ModelKey, ModelState, ModelStatus, PoolError, SelfTestReport, Waiting, WarmUp};
use crate::engine::ModelRole;

/// Pause after the first failed load; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two loads.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a slot is doing.
#[derive(Debug)]
pub(super) enum Phase {
    Standby,
    Loading(LoadStep),
    Warming,
    Ready(Arc<LoadedModel>),
    Unloading,
    Failed { error: PoolError, retry_at: Instant },
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadStep {
    /// The folder is read and memory compared: a moment, which also those spend who do not wait for loads.
    Checking,
    /// Its files are fetched from a hub.
    Downloading,
    /// Other models have to leave or to end their own load first.
    WaitingForMemory,
    /// Memory is reserved, weights are compared with their digests and read.
    Reading,
}

/// What a caller does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Take the model.
    Lease(Arc<LoadedModel>),
    /// Begin a load.
    Begin,
    /// Get rid of an engine that is dead, and begin anew.
    Discard,
    /// Wait for the outcome of this load.
    Join(u64),
    /// Wait for the slot to change.
    Wait,
    /// Give up.
    Refuse(PoolError),
}

/// Why a load came to nothing, and whether trying again at once is cheap.
#[derive(Clone, Debug)]
pub(super) enum LoadFailure {
    /// Nothing was touched: the memory check is made anew for each request, since memory may come free.
    Refused(PoolError),
    /// The load itself failed: it is tried again after a pause.
    Failed(PoolError),
}

/// One model's place.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    /// Leases that live and callers that wait.
    pub(super) uses: usize,
    /// End of the last use.
    pub(super) idle_since: Instant,
    /// Predicted peak, once known.
    pub(super) predicted_bytes: u64,
    /// Commit of the weights, once known.
    pub(super) revision: Option<String>,
    /// What came back at the last unload.
    pub(super) freed_bytes: Option<u64>,
    /// What the largest batch took after the last load.
    pub(super) warm_up: Option<WarmUp>,
    /// What the self-test after the last load came to.
    pub(super) self_test: Option<SelfTestReport>,
    /// Somebody asked for the model while it was being unloaded.
    pub(super) load_wanted: bool,
    /// Wakes callers and the keeper.
    pub(super) changed: watch::Sender<()>,
    attempt: u64,
    failures: u32,
}

impl Slot {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Standby,
            uses: 0,
            idle_since: now,
            predicted_bytes: 0,
            revision: None,
            freed_bytes: None,
            warm_up: None,
            self_test: None,
            load_wanted: false,
            changed: watch::Sender::new(()),
            attempt: 0,
            failures: 0,
        }
    }

    /// What a caller does now. `joined`: the load that it has waited for.
    pub(super) fn next_step(&mut self, key: &ModelKey, waiting: Waiting, joined: Option<u64>, now: Instant) -> Step {
        let loading = || Step::Refuse(PoolError::Loading { model: key.model.clone() });
        match (&self.phase, waiting) {
            (Phase::Ready(model), _) if model.engine.is_dead() => Step::Discard,
            (Phase::Ready(model), _) => Step::Lease(Arc::clone(model)),
            (Phase::Standby, _) => Step::Begin,
            (Phase::Failed { error, retry_at }, _) => {
                let waited_for_it = joined.is_some_and(|joined| joined <= self.attempt);
                if waited_for_it || now < *retry_at {
                    Step::Refuse(with_pause(error, retry_at.saturating_duration_since(now)))
                } else {
                    Step::Begin
                }
            }
            (Phase::Loading(LoadStep::Checking), _) | (Phase::Loading(_) | Phase::Warming, Waiting::Wait) => {
                Step::Join(self.attempt)
            }
            (Phase::Loading(_) | Phase::Warming, Waiting::StartOnly) => loading(),
            (Phase::Unloading, Waiting::StartOnly) => {
                self.load_wanted = true;
                loading()
            }
            (Phase::Unloading, Waiting::Wait) => Step::Wait,
        }
    }

    /// Enters Loading; answers the load's number.
    pub(super) fn begin_load(&mut self) -> u64 {
        self.attempt += 1;
        self.warm_up = None;
        self.self_test = None;
        self.load_wanted = false;
        self.enter(Phase::Loading(LoadStep::Checking));
        self.attempt
    }

    /// Number of the load under way, or of the last.
    pub(super) fn attempt(&self) -> u64 {
        self.attempt
    }

    /// The load ended well. The unload timeout counts from now, or from the end of the first use.
    pub(super) fn become_ready(&mut self, model: Arc<LoadedModel>, now: Instant) {
        self.failures = 0;
        self.idle_since = now;
        self.enter(Phase::Ready(model));
    }

    /// The load came to nothing.
    pub(super) fn become_failed(&mut self, failure: LoadFailure, now: Instant) {
        let (error, retry_at) = match failure {
            LoadFailure::Refused(error) => (error, now),
            LoadFailure::Failed(error) => {
                self.failures = self.failures.saturating_add(1);
                (error, now + pause_after(self.failures))
            }
        };
        self.enter(Phase::Failed { error, retry_at });
    }

    /// Takes the model out of a Ready slot that nobody uses, and enters Unloading.
    pub(super) fn take_for_unload(&mut self) -> Option<Arc<LoadedModel>> {
        let Phase::Ready(model) = &self.phase else { return None };
        if self.uses > 0 {
            return None;
        }
        let model = Arc::clone(model);
        self.enter(Phase::Unloading);
        Some(model)
    }

    /// Takes a dead engine out of its slot, whoever uses it: all it does for them is fail. A new load follows.
    pub(super) fn discard(&mut self) -> Option<Arc<LoadedModel>> {
        let Phase::Ready(model) = &self.phase else { return None };
        let model = Arc::clone(model);
        self.load_wanted = true;
        self.enter(Phase::Unloading);
        Some(model)
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.changed.send_replace(());
    }

    /// Loading, warming or unloading: it will change by itself.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Loading(_) | Phase::Warming | Phase::Unloading)
    }

    /// Ready and used by nobody.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Ready(_)) && self.uses == 0
    }

    /// Bytes promised to a load under way.
    pub(super) fn reserved_bytes(&self) -> u64 {
        match self.phase {
            Phase::Loading(LoadStep::Reading) | Phase::Warming => self.predicted_bytes,
            _ => 0,
        }
    }

    /// Predicted bytes of a model that is loaded.
    pub(super) fn held_bytes(&self) -> u64 {
        match self.phase {
            Phase::Ready(_) | Phase::Unloading | Phase::Warming => self.predicted_bytes,
            _ => 0,
        }
    }

    pub(super) fn state(&self) -> ModelState {
        match self.phase {
            Phase::Standby => ModelState::Standby,
            Phase::Loading(_) => ModelState::Loading,
            Phase::Warming => ModelState::Warming,
            Phase::Ready(_) => ModelState::Ready,
            Phase::Unloading => ModelState::Unloading,
            Phase::Failed { .. } => ModelState::Failed,
        }
    }

    pub(super) fn status(&self, key: &ModelKey) -> ModelStatus {
        ModelStatus {
            selection_reason: None,
            name: key.model.clone(),
            role: match key.role {
                ModelRole::Embedder => "embedder",
                ModelRole::Reranker => "reranker",
            },
            quantization: key.quantization,
            revision: self.revision.clone(),
            state: self.state(),
            failure: match &self.phase {
                Phase::Failed { error, .. } => Some(error.to_string()),
                _ => None,
            },
            predicted_memory_bytes: self.predicted_bytes,
            freed_memory_bytes: self.freed_bytes,
            warm_up: self.warm_up,
            self_test: self.self_test.clone(),
        }
    }
}

/// Pause after so many failed loads in a row.
fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
}

/// The stored error with the pause that is left, in whole seconds, at least one.
fn with_pause(error: &PoolError, left: Duration) -> PoolError {
    let mut error = error.clone();
    if let PoolError::LoadFailed { retry_after_seconds, .. } | PoolError::SelfTestFailed { retry_after_seconds, .. } =
        &mut error
    {
        *retry_after_seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        *retry_after_seconds = (*retry_after_seconds).max(1);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_from_one_second_to_sixty() {
        let seconds: Vec<u64> = (1..=8).map(|failures| pause_after(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn what_is_left_of_a_pause_is_told_in_whole_seconds_and_never_as_zero() {
        let error = PoolError::LoadFailed { model: "m".into(), message: "x".into(), retry_after_seconds: 0 };
        for (left, told) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
            assert_eq!(with_pause(&error, Duration::from_millis(left)).retry_after_seconds(), told, "{left} ms");
        }
    }
}
