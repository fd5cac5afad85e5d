//! How much may wait, for all together and for each client, whether it would be done in time, and the lane of each model in
//! which it waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rerank_crds::server_config::Limits;
use tokio::time::Instant;

use super::demand::Demand;
use super::lane::Lane;
use super::pressure::{Forecast, Pressure};
use super::{Client, SearchError};
use crate::metrics::Metrics;
use crate::pool::ModelKey;

/// When a refused request may come back: by then the engine has done some pairs.
const RETRY_AFTER_SECONDS: u64 = 1;
/// The longest time after which one is told to come back.
const LONGEST_RETRY_AFTER_SECONDS: u64 = 60;

/// A client that has something in the queue may have at most this many times of what is free. Alone it fills three
/// quarters, the first of two three sevenths; so there is always room for one that comes anew.
const SHARE_OF_FREE: usize = 3;

/// The queue.
#[derive(Debug)]
pub(super) struct Admission {
    maximum_pairs: usize,
    maximum_bytes: usize,
    queue: Mutex<Queue>,
    lanes: Mutex<HashMap<ModelKey, Arc<Lane>>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Queue {
    all: Demand,
    clients: HashMap<Client, Demand>,
    pressures: HashMap<ModelKey, Pressure>,
}

impl Admission {
    /// At most `api.limits.queuePairs` and `api.limits.queueBytes` wait or are being scored.
    pub(super) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            maximum_pairs: usize::try_from(limits.queue_pairs).unwrap_or(0),
            maximum_bytes: usize::try_from(limits.queue_bytes).unwrap_or(0),
            queue: Mutex::default(),
            lanes: Mutex::default(),
            metrics,
        })
    }

    /// How many requests of one client there is room for at the same time, where nobody else is there; at least one.
    pub(super) fn room_for(&self, each: Demand) -> usize {
        let of = |maximum: usize, each: usize| maximum * SHARE_OF_FREE / (SHARE_OF_FREE + 1) / each.max(1);
        of(self.maximum_pairs, each.pairs).min(of(self.maximum_bytes, each.bytes)).max(1)
    }

    /// Admits a request, or refuses it at once. One larger than the whole queue is admitted when the queue is empty: else
    /// it would be told for ever to come back later.
    ///
    /// # Errors
    /// [`SearchError::Overloaded`] where the queue has no room, [`SearchError::TooManyRequests`] where the client has its
    /// share already.
    pub(super) fn admit(self: &Arc<Self>, client: &Client, demand: Demand) -> Result<Admitted, SearchError> {
        {
            let mut queue = self.lock();
            if !queue.all.is_nothing() {
                self.check(&queue, client, demand)?;
            }
            queue.all += demand;
            *queue.clients.entry(client.clone()).or_default() += demand;
        }
        self.observe(Demand::default(), demand);
        Ok(Admitted { admission: Arc::clone(self), client: client.clone(), demand, entered: None })
    }

    /// Refuses a request at once that would not be done by its deadline, or would lengthen a queue that stands.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub(super) fn foresee(
        &self,
        client: &Client,
        key: &ModelKey,
        pairs: usize,
        deadline: Instant,
    ) -> Result<(), SearchError> {
        let queue = self.lock();
        let forecast =
            queue.pressures.get(key).map(|pressure| pressure.forecast(client, pairs, Instant::now(), deadline));
        drop(queue);
        let rounded = |retry_after: Duration| (retry_after.as_secs() + 1).min(LONGEST_RETRY_AFTER_SECONDS);
        match forecast {
            None | Some(Forecast::InTime) => Ok(()),
            Some(Forecast::Overloaded { retry_after }) => {
                Err(SearchError::Overloaded { retry_after_seconds: rounded(retry_after) })
            }
            Some(Forecast::OwnDoing { retry_after }) => {
                Err(SearchError::TooManyRequests { retry_after_seconds: rounded(retry_after) })
            }
        }
    }

    fn check(&self, queue: &Queue, client: &Client, demand: Demand) -> Result<(), SearchError> {
        let free_pairs = self.maximum_pairs.saturating_sub(queue.all.pairs);
        let free_bytes = self.maximum_bytes.saturating_sub(queue.all.bytes);
        if demand.pairs > free_pairs || demand.bytes > free_bytes {
            return Err(SearchError::Overloaded { retry_after_seconds: RETRY_AFTER_SECONDS });
        }
        let Some(held) = queue.clients.get(client) else { return Ok(()) };
        let fits =
            |held: usize, more: usize, free: usize| held.saturating_add(more) <= free.saturating_mul(SHARE_OF_FREE);
        if fits(held.pairs, demand.pairs, free_pairs) && fits(held.bytes, demand.bytes, free_bytes) {
            Ok(())
        } else {
            Err(SearchError::TooManyRequests { retry_after_seconds: RETRY_AFTER_SECONDS })
        }
    }

    fn observe(&self, before: Demand, now: Demand) {
        let change = |before: usize, now: usize| signed(now).saturating_sub(signed(before));
        self.metrics.change_queue(
            change(before.pairs, now.pairs),
            change(before.tokens, now.tokens),
            change(before.bytes, now.bytes),
        );
    }

    /// The model's lane.
    pub(super) fn lane(&self, key: &ModelKey) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry(key.clone()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as waiting while this lives.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    client: Client,
    demand: Demand,
    /// The model that it waits for, and its pairs that are not done.
    entered: Option<(ModelKey, usize)>,
}

impl Admitted {
    /// From now on so many pairs wait for a model.
    pub(super) fn enter(&mut self, key: &ModelKey, pairs: usize) {
        self.leave();
        self.admission.lock().pressures.entry(key.clone()).or_default().enter(&self.client, pairs);
        self.entered = Some((key.clone(), pairs));
    }

    /// Whether so many pairs would be done by the deadline, behind those that have entered before.
    pub(super) fn would_be_late(&self, key: &ModelKey, pairs: usize, deadline: Instant) -> bool {
        let queue = self.admission.lock();
        let pressure = queue.pressures.get(key);
        pressure.is_some_and(|pressure| pressure.would_be_late(&self.client, pairs, Instant::now(), deadline))
    }

    /// Whether a batch of so many pairs is better not begun.
    pub(super) fn is_too_late(&self, pairs: usize, deadline: Instant) -> bool {
        let Some((key, _)) = &self.entered else { return false };
        let queue = self.admission.lock();
        queue.pressures.get(key).is_some_and(|pressure| pressure.is_too_late(pairs, Instant::now(), deadline))
    }

    /// A batch of so many of its pairs was done in so long.
    pub(super) fn done(&mut self, pairs: usize, took: Duration) {
        let Some((key, left)) = &mut self.entered else { return };
        *left = left.saturating_sub(pairs);
        if let Some(pressure) = self.admission.lock().pressures.get_mut(key) {
            pressure.done(&self.client, pairs, took, Instant::now());
        }
    }

    fn leave(&mut self) {
        let Some((key, left)) = self.entered.take() else { return };
        if let Some(pressure) = self.admission.lock().pressures.get_mut(&key) {
            pressure.leave(&self.client, left);
        }
    }

    /// Corrects what was feared by what is there: the candidates that came, the tokens that their texts have. What has
    /// become more is not refused any more, but counts.
    pub(super) fn correct(&mut self, demand: Demand) {
        let before = std::mem::replace(&mut self.demand, demand);
        self.change(before, demand);
    }

    fn change(&self, before: Demand, now: Demand) {
        {
            let mut queue = self.admission.lock();
            queue.all.replace(before, now);
            if let Some(held) = queue.clients.get_mut(&self.client) {
                held.replace(before, now);
                if held.is_nothing() {
                    queue.clients.remove(&self.client);
                }
            }
        }
        self.admission.observe(before, now);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.leave();
        self.change(self.demand, Demand::default());
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(pairs: i32, bytes: i64) -> Arc<Admission> {
        let limits = Limits { queue_pairs: pairs, queue_bytes: bytes, ..Limits::default() };
        Admission::new(&limits, Arc::new(Metrics::default()))
    }

    fn pairs(pairs: usize) -> Demand {
        Demand { pairs, tokens: pairs, bytes: pairs }
    }

    fn client(name: &str) -> Client {
        Client::Key(name.into())
    }

    fn assert_empty(admission: &Admission) {
        let queue = admission.lock();
        assert!(queue.all.is_nothing() && queue.clients.is_empty(), "{queue:?}");
    }

    #[test]
    fn what_does_not_fit_is_refused_until_others_are_done() {
        for (admission, more) in [(admission(10, 1_000), pairs(5)), (admission(1_000, 10), pairs(5))] {
            let (a, b) = (client("a"), client("b"));
            let first = admission.admit(&a, pairs(6)).unwrap();
            assert!(matches!(admission.admit(&b, more), Err(SearchError::Overloaded { .. })));
            let second = admission.admit(&b, pairs(4)).unwrap();
            drop(first);
            drop(admission.admit(&client("c"), pairs(6)).unwrap());
            drop(second);
            assert_empty(&admission);
        }
    }

    #[test]
    fn what_turns_out_not_to_be_needed_is_given_back() {
        let admission = admission(10, 1_000);
        let mut first = admission.admit(&client("a"), pairs(10)).unwrap();
        first.correct(Demand { pairs: 3, tokens: 100, bytes: 400 });
        drop(admission.admit(&client("b"), pairs(7)).unwrap());
        drop(first);
        assert_empty(&admission);
    }

    #[test]
    fn a_request_larger_than_the_queue_is_admitted_when_nothing_waits() {
        let admission = admission(10, 10);
        let large = admission.admit(&client("a"), pairs(50)).unwrap();
        assert!(admission.admit(&client("b"), pairs(1)).is_err());
        drop(large);
        admission.admit(&client("b"), pairs(1)).unwrap();
    }

    /// Requests of one pair until one is refused.
    fn fill(admission: &Arc<Admission>, client: &Client) -> Vec<Admitted> {
        let mut held = Vec::new();
        loop {
            match admission.admit(client, pairs(1)) {
                Ok(admitted) => held.push(admitted),
                Err(error) => {
                    assert!(matches!(error, SearchError::TooManyRequests { .. }), "{error}");
                    return held;
                }
            }
        }
    }

    #[test]
    fn no_client_takes_the_room_of_one_that_comes_after_it() {
        let admission = admission(1_000, 1_000_000);
        let first = fill(&admission, &client("a"));
        assert_eq!(first.len(), 750, "alone it has three quarters");
        let second = fill(&admission, &client("b"));
        assert!((180..=195).contains(&second.len()), "{}", second.len());
        let third = admission.admit(&client("c"), pairs(50)).unwrap();
        drop(first);
        let more = fill(&admission, &client("b"));
        let held = second.len() + more.len();
        assert!((700..=720).contains(&held), "b has the room that a left: {held}");
        drop((second, third, more));
        assert_empty(&admission);
    }

    #[test]
    fn there_is_room_for_as_many_requests_as_are_told() {
        for (admission, expected) in
            [(admission(100, 1_000_000), 7), (admission(1_000_000, 100), 7), (admission(5, 5), 1)]
        {
            assert_eq!(admission.room_for(pairs(10)), expected);
            let held: Vec<_> = (0..expected).map(|_| admission.admit(&client("a"), pairs(10)).unwrap()).collect();
            drop(held);
        }
    }

    #[test]
    fn a_large_first_request_needs_no_more_than_room() {
        let admission = admission(100, 1_000_000);
        let _other = admission.admit(&client("a"), pairs(10)).unwrap();
        let _large = admission.admit(&client("b"), pairs(90)).unwrap();
    }
}
