//! Whose turn it is on one model. A model does one batch at a time; between two batches the turn may go to another request.
//!
//! Among the requests of one client the turn goes to the one that is due first, and a request is due once the client's pairs
//! taken up before it came, and as many as its own, are done. So requests of one size are served first come, first served,
//! each to its end: under load some are answered in time, instead of all of them late. A short request overtakes a long one
//! after the batch that is running; a long one is overtaken by nothing that comes after as many pairs as its own were
//! taken up.
//!
//! Among clients it goes to the one whose next request would leave it with the fewest pairs taken up (start-time fair
//! queueing by whole requests). A client that comes anew begins where the one with the fewest stands, so what others have
//! put into the queue before it came does not stand before it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Client;

/// The turns of one model.
#[derive(Debug, Default)]
pub(super) struct Lane {
    state: Mutex<State>,
}

/// When a request is due, in pairs of its client, then its number in the order of arrival.
type Due = (u64, u64);

#[derive(Debug, Default)]
struct State {
    arrivals: u64,
    busy: bool,
    clients: HashMap<Client, Share>,
}

/// What one client has of the lane. Forgotten with its last request.
#[derive(Debug)]
struct Share {
    /// Pairs whose turn has come, counted on from those of the client with the fewest when this one came.
    taken_up: u64,
    /// Its requests in the lane.
    places: usize,
    waiting: BTreeMap<Due, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    /// Pairs of its request whose turn has not come yet.
    left: u64,
    sender: oneshot::Sender<Turn>,
}

impl State {
    /// Takes out whoever is next; those that have given up waiting are forgotten.
    fn next(&mut self) -> Option<Waiter> {
        for share in self.clients.values_mut() {
            share.waiting.retain(|_, waiter| !waiter.sender.is_closed());
        }
        let first = |share: &Share| share.waiting.first_key_value().map(|(due, waiter)| (waiter.left, due.1));
        let heads = self.clients.values_mut().filter_map(|share| {
            let (left, arrival) = first(share)?;
            Some(((share.taken_up.saturating_add(left), arrival), share))
        });
        let (_, share) = heads.min_by_key(|(order, _)| *order)?;
        share.waiting.pop_first().map(|(_, waiter)| waiter)
    }

    /// Where a client that comes anew begins.
    fn fewest_taken_up(&self) -> u64 {
        self.clients.values().map(|share| share.taken_up).min().unwrap_or(0)
    }
}

impl Lane {
    /// A request with so many pairs (texts, where it embeds) arrives.
    pub(super) fn arrive(self: &Arc<Self>, client: &Client, pairs: usize) -> Place {
        let mut state = self.lock();
        state.arrivals += 1;
        let (arrival, begin) = (state.arrivals, state.fewest_taken_up());
        let share = state.clients.entry(client.clone()).or_insert_with(|| Share {
            taken_up: begin,
            places: 0,
            waiting: BTreeMap::new(),
        });
        share.places += 1;
        let due = (share.taken_up.saturating_add(pairs as u64), arrival);
        Place { lane: Arc::clone(self), client: client.clone(), due, left: pairs as u64, turn: None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a request in its model's lane. Dropping it ends its turn.
#[derive(Debug)]
pub(super) struct Place {
    lane: Arc<Lane>,
    client: Client,
    due: Due,
    left: u64,
    turn: Option<Turn>,
}

impl Place {
    /// Ends the turn that the request may have, and waits for the turn of its next so many pairs.
    pub(super) async fn turn(&mut self, pairs: usize) {
        let receiver = {
            let (sender, receiver) = oneshot::channel();
            let mut state = self.lane.lock();
            if let Some(share) = state.clients.get_mut(&self.client) {
                share.waiting.insert(self.due, Waiter { left: self.left, sender });
            }
            receiver
        };
        // Passed on only now that this request waits beside the others: it may be the next one again.
        match self.turn.take() {
            Some(turn) => drop(turn),
            None => Turn::begin(&self.lane),
        }
        self.turn = Some(receiver.await.expect("a sender leaves the lane with a turn, or when its receiver is gone"));
        self.left = self.left.saturating_sub(pairs as u64);
        if let Some(share) = self.lane.lock().clients.get_mut(&self.client) {
            share.taken_up += pairs as u64;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.lane.lock();
            if let Some(share) = state.clients.get_mut(&self.client) {
                share.places -= 1;
                if share.places == 0 {
                    state.clients.remove(&self.client);
                }
            }
        }
        self.turn = None;
    }
}

/// The model may be used while this lives; then it goes to whoever is next.
#[derive(Debug)]
struct Turn {
    lane: Arc<Lane>,
}

impl Turn {
    /// Gives a turn where nobody has one.
    fn begin(lane: &Arc<Lane>) {
        let is_free = !std::mem::replace(&mut lane.lock().busy, true);
        if is_free {
            drop(Self { lane: Arc::clone(lane) });
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = self.lane.lock();
            let next = state.next();
            state.busy = next.is_some();
            next
        };
        if let Some(waiter) = next {
            // Where the waiter has left in this very moment the turn comes back and is dropped, so passed on, here.
            drop(waiter.sender.send(Turn { lane: Arc::clone(&self.lane) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    fn client(name: &str) -> Client {
        Client::Key(name.into())
    }

    /// A request that does its pairs in batches of ten and writes its name for each of them.
    fn request_of(
        lane: &Arc<Lane>,
        of: &Client,
        log: &Arc<Mutex<String>>,
        name: char,
        batches: usize,
    ) -> BoxFuture<'static, ()> {
        let (mut place, log) = (lane.arrive(of, batches * 10), Arc::clone(log));
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
    async fn order_of(requests: &[(&str, char, usize)]) -> String {
        let (lane, log) = (Arc::new(Lane::default()), Arc::default());
        let all = requests
            .iter()
            .map(|(of, name, batches)| request_of(&lane, &client(of), &log, *name, *batches))
            .collect::<Vec<_>>();
        futures::future::join_all(all).await;
        assert!(lane.lock().clients.is_empty(), "a client is forgotten with its last request");
        let log = log.lock().unwrap();
        log.clone()
    }

    #[tokio::test]
    async fn requests_of_one_size_are_served_to_their_end_in_the_order_of_arrival() {
        assert_eq!(order_of(&[("x", 'a', 3), ("x", 'b', 3), ("x", 'c', 3)]).await, "aaabbbccc");
        assert_eq!(order_of(&[("x", 'a', 3), ("y", 'b', 3), ("z", 'c', 3)]).await, "aaabbbccc", "of many clients too");
    }

    #[tokio::test]
    async fn a_short_request_overtakes_a_long_one_after_one_batch() {
        assert_eq!(order_of(&[("x", 'a', 4), ("x", 'b', 1)]).await, "abaaa");
        assert_eq!(order_of(&[("x", 'a', 4), ("y", 'b', 1)]).await, "abaaa");
    }

    #[tokio::test]
    async fn what_one_client_has_put_into_the_queue_does_not_stand_before_another() {
        let flood = ('a'..='f').map(|name| ("flooder", name, 2));
        let requests: Vec<_> = flood.chain([("other", 'x', 2), ("other", 'y', 2)]).collect();
        assert_eq!(order_of(&requests).await, "aaxxbbyyccddeeff");
    }

    #[tokio::test]
    async fn clients_share_by_pairs_and_not_by_requests() {
        let short = ('a'..='h').map(|name| ("short", name, 1));
        let requests: Vec<_> = short.chain([("long", 'x', 4), ("long", 'y', 4)]).collect();
        assert_eq!(order_of(&requests).await, "abcdxxxxefghyyyy");
    }

    #[tokio::test]
    async fn a_client_that_comes_anew_begins_where_the_others_stand() {
        let (lane, log) = (Arc::new(Lane::default()), Arc::default());
        let mut old = request_of(&lane, &client("old"), &log, 'a', 5);
        let stays = lane.arrive(&client("old"), 10);
        while futures::poll!(&mut old).is_pending() {}
        drop(old);
        let late = [
            request_of(&lane, &client("old"), &log, 'b', 1),
            request_of(&lane, &client("new"), &log, 'c', 1),
            request_of(&lane, &client("new"), &log, 'd', 1),
        ];
        drop(stays);
        futures::future::join_all(late).await;
        assert_eq!(*log.lock().unwrap(), "aaaaabcd", "it owes nothing and is owed nothing");
    }

    #[tokio::test]
    async fn a_long_request_is_not_overtaken_by_what_comes_after_as_many_pairs_as_its_own() {
        let (lane, log) = (Arc::new(Lane::default()), Arc::default());
        let x = client("x");
        let mut long = lane.arrive(&x, 30);
        for _ in 0..3 {
            request_of(&lane, &x, &log, 's', 1).await;
        }
        let mut first = lane.arrive(&x, 10);
        first.turn(10).await;
        let mut late = lane.arrive(&x, 10);
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
        let x = client("x");
        let mut first = lane.arrive(&x, 1);
        first.turn(1).await;
        let waits = |mut place: Place| {
            async move {
                place.turn(1).await;
                place
            }
            .boxed()
        };
        let (mut gives_up, mut leaves_with_the_turn) = (waits(lane.arrive(&x, 1)), waits(lane.arrive(&x, 1)));
        let mut last = waits(lane.arrive(&x, 1));
        for waiter in [&mut gives_up, &mut leaves_with_the_turn, &mut last] {
            assert!(futures::poll!(waiter).is_pending());
        }
        drop(gives_up);
        drop(first);
        assert!(futures::poll!(&mut last).is_pending(), "the second waiter has the turn and does not know it yet");
        drop(leaves_with_the_turn);
        let Poll::Ready(place) = futures::poll!(last) else { panic!("the turn was not passed on") };
        drop(place);
        lane.arrive(&x, 1).turn(1).now_or_never().expect("a free lane gives the turn at once");
        assert!(lane.lock().clients.is_empty());
    }
}
