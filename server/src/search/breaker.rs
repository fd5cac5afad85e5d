//! The breakers of the rerankers: see `crate::breaker`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::breaker::{Admission, Breaker, FAILURES};
use crate::pool::ModelKey;

/// For how long a failing reranker is not asked.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

/// One breaker for each reranker.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    states: Mutex<HashMap<ModelKey, Breaker>>,
}

impl Breakers {
    /// Whether a request may ask now; else after how long.
    pub(super) fn admit(&self, key: &ModelKey, now: Instant) -> Result<(), Duration> {
        match self.lock().get_mut(key).map(|breaker| breaker.admit(now)) {
            Some(Admission::Wait(left)) => Err(left),
            Some(Admission::Ask | Admission::Try) | None => Ok(()),
        }
    }

    /// The engine answered.
    pub(super) fn succeeded(&self, key: &ModelKey) {
        if self.lock().get_mut(key).is_some_and(Breaker::succeeded) {
            tracing::info!(model = key.model, "The reranker answers again");
        }
    }

    /// The engine failed, or did nothing until the deadline.
    pub(super) fn failed(&self, key: &ModelKey, now: Instant) {
        if self.lock().entry(key.clone()).or_insert_with(|| Breaker::new(PAUSE)).failed(now) {
            tracing::warn!(
                model = key.model,
                failures = FAILURES,
                pause_seconds = PAUSE.as_secs(),
                "The reranker failed too often in a row and is not asked for a while"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ModelKey, Breaker>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rerank_crds::catalog::Quantization;

    use super::*;
    use crate::engine::ModelRole;
    use crate::fakes::model_key;

    #[test]
    fn each_reranker_has_a_breaker_of_its_own() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        let key = |model| model_key(ModelRole::Reranker, model, Quantization::Float16);
        for _ in 0..FAILURES {
            breakers.failed(&key("a"), now);
        }
        assert_eq!(breakers.admit(&key("a"), now), Err(PAUSE));
        assert_eq!(breakers.admit(&key("b"), now), Ok(()));
        breakers.succeeded(&key("a"));
        assert_eq!(breakers.admit(&key("a"), now), Ok(()));
    }
}
