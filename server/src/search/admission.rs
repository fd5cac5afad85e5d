//! How many pairs may wait, and the lane of each model in which they do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::SearchError;
use super::lane::Lane;
use crate::metrics::Metrics;
use crate::pool::ModelKey;

/// When a refused request may come back: by then the engine has done some pairs.
const RETRY_AFTER_SECONDS: u64 = 1;

/// The queue of pairs.
#[derive(Debug)]
pub(super) struct Admission {
    maximum_pairs: usize,
    pairs: Mutex<usize>,
    lanes: Mutex<HashMap<ModelKey, Arc<Lane>>>,
    metrics: Arc<Metrics>,
}

impl Admission {
    /// At most `maximum_pairs` (`api.limits.queuePairs`) wait or are being scored.
    pub(super) fn new(maximum_pairs: i32, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            maximum_pairs: usize::try_from(maximum_pairs).unwrap_or(0),
            pairs: Mutex::new(0),
            lanes: Mutex::default(),
            metrics,
        })
    }

    /// How many pairs may wait or be scored at the same time.
    pub(super) fn maximum_pairs(&self) -> usize {
        self.maximum_pairs
    }

    /// Admits so many pairs, or refuses at once. A request larger than the whole queue is admitted when the queue is
    /// empty: else it would be told for ever to come back later.
    pub(super) fn admit(self: &Arc<Self>, pairs: usize) -> Result<Admitted, SearchError> {
        {
            let mut waiting = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
            if *waiting > 0 && waiting.saturating_add(pairs) > self.maximum_pairs {
                return Err(SearchError::Overloaded { retry_after_seconds: RETRY_AFTER_SECONDS });
            }
            *waiting += pairs;
        }
        self.metrics.change_queue(signed(pairs), 0);
        Ok(Admitted { admission: Arc::clone(self), pairs, tokens: 0 })
    }

    /// The model's lane.
    pub(super) fn lane(&self, key: &ModelKey) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry(key.clone()).or_default())
    }
}

/// Pairs that count as waiting while this lives.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    pairs: usize,
    tokens: usize,
}

impl Admitted {
    /// Corrects what was admitted by what is really there: fewer pairs than feared, and their tokens.
    pub(super) fn correct(&mut self, pairs: usize, tokens: usize) {
        let given_back = self.pairs.saturating_sub(pairs);
        *self.admission.pairs.lock().unwrap_or_else(PoisonError::into_inner) -= given_back;
        self.pairs -= given_back;
        self.admission.metrics.change_queue(-signed(given_back), signed(tokens) - signed(self.tokens));
        self.tokens = tokens;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        *self.admission.pairs.lock().unwrap_or_else(PoisonError::into_inner) -= self.pairs;
        self.admission.metrics.change_queue(-signed(self.pairs), -signed(self.tokens));
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_above_the_bound_are_refused_until_others_are_done() {
        let admission = Admission::new(10, Arc::new(Metrics::default()));
        let first = admission.admit(6).unwrap();
        assert!(matches!(admission.admit(5), Err(SearchError::Overloaded { .. })));
        let second = admission.admit(4).unwrap();
        drop(first);
        drop(admission.admit(6).unwrap());
        drop(second);
        assert_eq!(*admission.pairs.lock().unwrap(), 0);
    }

    #[test]
    fn what_turns_out_not_to_be_needed_is_given_back() {
        let admission = Admission::new(10, Arc::new(Metrics::default()));
        let mut first = admission.admit(10).unwrap();
        first.correct(3, 100);
        drop(admission.admit(7).unwrap());
        drop(first);
        assert_eq!(*admission.pairs.lock().unwrap(), 0);
    }

    #[test]
    fn a_request_larger_than_the_queue_is_admitted_when_nothing_waits() {
        let admission = Admission::new(10, Arc::new(Metrics::default()));
        let large = admission.admit(50).unwrap();
        assert!(admission.admit(1).is_err());
        drop(large);
        admission.admit(1).unwrap();
    }
}
