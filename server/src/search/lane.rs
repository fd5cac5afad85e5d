//! Whose turn it is on one model. A model does one batch at a time; between two batches the turn may go to another request.
//!
//! The turn goes to the request that is due first, and a request is due once the pairs taken up before it came, and as many
//! as its own, are done. So requests of one size are served first come, first served, each to its end: under load some are
//! answered in time, instead of all of them late. A short request overtakes a long one after the batch that is running;
//! a long one is overtaken by nothing that comes after as many pairs as its own were taken up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The turns of one model.
#[derive(Debug, Default)]
pub(super) struct Lane {
    state: Mutex<State>,
}

/// When a request is due, in pairs, then its number in the order of arrival.
type Due = (u64, u64);

#[derive(Debug, Default)]
struct State {
    /// Pairs whose turn has come so far.
    taken_up: u64,
    arrivals: u64,
    busy: bool,
    waiting: BTreeMap<Due, oneshot::Sender<Turn>>,
}

impl State {
    /// Forgets those that have given up waiting.
    fn forget_gone(&mut self) {
        self.waiting.retain(|_, waiter| !waiter.is_closed());
    }
}

impl Lane {
    /// A request with so many pairs (texts, where it embeds) arrives.
    pub(super) fn arrive(self: &Arc<Self>, pairs: usize) -> Place {
        let mut state = self.lock();
        state.arrivals += 1;
        let due = (state.taken_up.saturating_add(pairs as u64), state.arrivals);
        Place { lane: Arc::clone(self), due, turn: None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a request in its model's lane. Dropping it ends its turn.
#[derive(Debug)]
pub(super) struct Place {
    lane: Arc<Lane>,
    due: Due,
    turn: Option<Turn>,
}

impl Place {
    /// Ends the turn that the request may have, and waits for the turn of its next so many pairs.
    pub(super) async fn turn(&mut self, pairs: usize) {
        let another_is_due = {
            let mut state = self.lane.lock();
            state.forget_gone();
            state.waiting.first_key_value().is_some_and(|(due, _)| *due < self.due)
        };
        if another_is_due {
            self.turn = None;
        }
        if self.turn.is_none() {
            self.turn = Some(self.wait().await);
        }
        self.lane.lock().taken_up += pairs as u64;
    }

    async fn wait(&self) -> Turn {
        let receiver = {
            let mut state = self.lane.lock();
            if !state.busy {
                state.busy = true;
                return Turn { lane: Arc::clone(&self.lane) };
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.insert(self.due, sender);
            receiver
        };
        receiver.await.expect("a sender leaves the lane with a turn, or when its receiver is gone")
    }
}

/// The model may be used while this lives; then it goes to whoever is due first.
#[derive(Debug)]
struct Turn {
    lane: Arc<Lane>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = self.lane.lock();
            state.forget_gone();
            let next = state.waiting.pop_first();
            state.busy = next.is_some();
            next
        };
        if let Some((_, waiter)) = next {
            // Where the waiter has left in this very moment the turn comes back and is dropped, so passed on, here.
            drop(waiter.send(Turn { lane: Arc::clone(&self.lane) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    /// A request that does its pairs in batches of ten and writes its name for each of them.
    fn request(lane: &Arc<Lane>, log: &Arc<Mutex<String>>, name: char, batches: usize) -> BoxFuture<'static, ()> {
        let (mut place, log) = (lane.arrive(batches * 10), Arc::clone(log));
        async move {
            for _ in 0..batches {
                place.turn(10).await;
                log.lock().unwrap().push(name);
                tokio::task::yield_now().await;
            }
        }
        .boxed()
    }

    /// Requests that arrive in this order before the first has done anything.
    async fn order_of(requests: &[(char, usize)]) -> String {
        let (lane, log) = (Arc::new(Lane::default()), Arc::default());
        let all = requests.iter().map(|(name, batches)| request(&lane, &log, *name, *batches)).collect::<Vec<_>>();
        futures::future::join_all(all).await;
        let log = log.lock().unwrap();
        log.clone()
    }

    #[tokio::test]
    async fn requests_of_one_size_are_served_to_their_end_in_the_order_of_arrival() {
        assert_eq!(order_of(&[('a', 3), ('b', 3), ('c', 3)]).await, "aaabbbccc");
    }

    #[tokio::test]
    async fn a_short_request_overtakes_a_long_one_after_one_batch() {
        assert_eq!(order_of(&[('a', 4), ('b', 1)]).await, "abaaa");
    }

    #[tokio::test]
    async fn a_long_request_is_not_overtaken_by_what_comes_after_as_many_pairs_as_its_own() {
        let (lane, log) = (Arc::new(Lane::default()), Arc::default());
        let mut long = lane.arrive(30);
        for _ in 0..3 {
            request(&lane, &log, 's', 1).await;
        }
        let mut first = lane.arrive(10);
        first.turn(10).await;
        let mut late = lane.arrive(10);
        let (mut late, mut long) = (Box::pin(late.turn(10)), Box::pin(long.turn(10)));
        assert_eq!(futures::poll!(&mut late), Poll::Pending);
        assert_eq!(futures::poll!(&mut long), Poll::Pending);
        drop(first);
        assert_eq!(futures::poll!(&mut late), Poll::Pending);
        assert_eq!(futures::poll!(&mut long), Poll::Ready(()));
    }

    #[tokio::test]
    async fn those_that_leave_hold_up_nobody() {
        let lane = Arc::new(Lane::default());
        let mut first = lane.arrive(1);
        first.turn(1).await;
        let waits = |mut place: Place| {
            async move {
                place.turn(1).await;
                place
            }
            .boxed()
        };
        let (mut gives_up, mut leaves_with_the_turn) = (waits(lane.arrive(1)), waits(lane.arrive(1)));
        let mut last = waits(lane.arrive(1));
        for waiter in [&mut gives_up, &mut leaves_with_the_turn, &mut last] {
            assert!(futures::poll!(waiter).is_pending());
        }
        drop(gives_up);
        drop(first);
        assert!(futures::poll!(&mut last).is_pending(), "the second waiter has the turn and does not know it yet");
        drop(leaves_with_the_turn);
        let Poll::Ready(place) = futures::poll!(last) else { panic!("the turn was not passed on") };
        drop(place);
        lane.arrive(1).turn(1).now_or_never().expect("a free lane gives the turn at once");
    }
}
