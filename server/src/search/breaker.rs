//! Spares a failing engine and its callers: after some failures in a row the reranker is not asked for a while, then by one
//! request in each such while, and by all again once one is answered. Pure: time comes in as a value.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pool::ModelKey;

/// Failures in a row after which the reranker is not asked.
pub(super) const FAILURES: u32 = 5;
/// For how long.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

/// The breakers of all rerankers.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    states: Mutex<HashMap<ModelKey, State>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Everybody asks; so many failures in a row.
    Closed(u32),
    /// Nobody asks before then; the first one after it tries, and the pause begins anew for the others.
    Open { until: Instant },
}

impl Breakers {
    /// Whether a request may ask now; else after how long.
    pub(super) fn admit(&self, key: &ModelKey, now: Instant) -> Result<(), Duration> {
        match self.lock().get_mut(key) {
            Some(State::Open { until }) if now < *until => Err(until.duration_since(now)),
            Some(State::Open { until }) => {
                *until = now + PAUSE;
                Ok(())
            }
            Some(State::Closed(_)) | None => Ok(()),
        }
    }

    /// The engine answered.
    pub(super) fn succeeded(&self, key: &ModelKey) {
        if let Some(State::Open { .. }) = self.lock().insert(key.clone(), State::Closed(0)) {
            tracing::info!(model = key.model, "The reranker answers again");
        }
    }

    /// The engine failed, or did nothing until the deadline.
    pub(super) fn failed(&self, key: &ModelKey, now: Instant) {
        let mut states = self.lock();
        let state = states.entry(key.clone()).or_insert(State::Closed(0));
        match state {
            State::Closed(failures) if *failures + 1 < FAILURES => *failures += 1,
            State::Closed(_) => {
                *state = State::Open { until: now + PAUSE };
                tracing::warn!(
                    model = key.model,
                    failures = FAILURES,
                    pause_seconds = PAUSE.as_secs(),
                    "The reranker failed too often in a row and is not asked for a while"
                );
            }
            State::Open { until } => *until = now + PAUSE,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ModelKey, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rerank_crds::catalog::Quantization;

    use super::*;
    use crate::engine::ModelRole;
    use crate::fakes::model_key;

    fn key(model: &str) -> ModelKey {
        model_key(ModelRole::Reranker, model, Quantization::Float16)
    }

    fn opened(now: Instant) -> Breakers {
        let breakers = Breakers::default();
        for _ in 0..FAILURES {
            breakers.failed(&key("a"), now);
        }
        breakers
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not_count() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        for round in 0..3 {
            for _ in 1..FAILURES {
                breakers.failed(&key("a"), now);
            }
            assert_eq!(breakers.admit(&key("a"), now), Ok(()), "round {round}");
            breakers.succeeded(&key("a"));
        }
        assert_eq!(opened(now).admit(&key("a"), now), Err(PAUSE));
        assert_eq!(opened(now).admit(&key("b"), now), Ok(()), "another model has a breaker of its own");
    }

    #[test]
    fn after_the_pause_one_request_tries_and_decides_for_all() {
        let now = Instant::now();
        let later = now + PAUSE;
        let breakers = opened(now);
        assert_eq!(breakers.admit(&key("a"), later), Ok(()));
        assert_eq!(breakers.admit(&key("a"), later), Err(PAUSE), "one at a time");
        breakers.failed(&key("a"), later + Duration::from_secs(1));
        assert_eq!(breakers.admit(&key("a"), later + PAUSE), Err(Duration::from_secs(1)));

        let breakers = opened(now);
        assert_eq!(breakers.admit(&key("a"), later), Ok(()));
        breakers.succeeded(&key("a"));
        assert_eq!(breakers.admit(&key("a"), later), Ok(()));
        breakers.failed(&key("a"), later);
        assert_eq!(breakers.admit(&key("a"), later), Ok(()), "it counts from the beginning");
    }

    #[test]
    fn a_try_of_which_nothing_is_heard_is_followed_by_another() {
        let now = Instant::now();
        let breakers = opened(now);
        assert_eq!(breakers.admit(&key("a"), now + PAUSE), Ok(()));
        assert_eq!(breakers.admit(&key("a"), now + 2 * PAUSE), Ok(()));
    }
}
