//! The work that waits for one model, how fast it is done, and whether more of it would be done in time. Pure: time comes
//! in as a value.
//!
//! A queue that is bounded by its length alone serves nobody under lasting overload: whoever comes to the front has waited
//! until the deadline. So a request is refused at once where it would not be done in time. And a queue that does not
//! become empty is kept short: a burst is worth waiting for, a standing queue makes everyone late and helps no one.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Client;

/// Requests of the usual size that a standing queue may hold: as many clients may ask one after the other without a refusal.
const STANDING_REQUESTS: f64 = 10.0;

/// A queue stands once it has not been empty for as long as so many requests of the usual size take, and not less than
/// [`SHORTEST_STANDING`]. Until then what is allowed shrinks evenly.
const STANDING_AFTER_REQUESTS: f64 = 4.0;
const SHORTEST_STANDING: Duration = Duration::from_millis(200);

/// Of the last so many seconds of work the speed is the mean, older ones fading out.
const MEMORY_SECONDS: f64 = 5.0;

/// What a new request adds to the mean size of requests.
const NEWEST_WEIGHT: f64 = 0.05;

/// A batch is not begun with less than this part of its usual time left.
const LEAST_TIME: f64 = 0.8;

/// Work of one model.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// Pairs that are not done, by client.
    pending: HashMap<Client, usize>,
    /// Since when batches have followed each other with always something left to do.
    standing_since: Option<Instant>,
    /// Pairs done and seconds spent, fading out.
    done: Option<(f64, f64)>,
    /// Mean pairs of a request, fading out.
    usual_pairs: Option<f64>,
}

/// What to tell a request that comes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forecast {
    /// It will be done in time.
    InTime,
    /// It will not, or would lengthen a queue that stands. Others have put most of the work there.
    Overloaded { retry_after: Duration },
    /// The same, and most of the work before it is the client's own, while others wait.
    OwnDoing { retry_after: Duration },
}

impl Pressure {
    /// Whether so many more pairs of a client would be done by the deadline.
    pub(super) fn forecast(&self, client: &Client, pairs: usize, now: Instant, deadline: Instant) -> Forecast {
        let Some(speed) = self.pairs_per_second() else { return Forecast::InTime };
        let before = self.before(client, pairs);
        if before == 0 {
            return Forecast::InTime;
        }
        let allowed = self.allowed_before(pairs, speed, now, deadline);
        if float(before) <= allowed {
            return Forecast::InTime;
        }
        let retry_after = seconds(float(before) - allowed, speed);
        let own = self.pending.get(client).copied().unwrap_or(0);
        if self.pending.len() > 1 && own > before / 2 {
            Forecast::OwnDoing { retry_after }
        } else {
            Forecast::Overloaded { retry_after }
        }
    }

    /// Pairs that are done before so many more of a client: its own, and of each other client no more than it then has
    /// itself, since clients take turns by pairs.
    fn before(&self, client: &Client, pairs: usize) -> usize {
        let own = self.pending.get(client).copied().unwrap_or(0);
        let turn = own.saturating_add(pairs);
        let others = self.pending.iter().filter(|(other, _)| *other != client).map(|(_, pending)| (*pending).min(turn));
        others.fold(own, usize::saturating_add)
    }

    /// Pairs that may be done before so many of a new request: as many as the deadline leaves time for while the queue has
    /// only just begun, fewer the longer it has stood, down to some requests of the usual size.
    fn allowed_before(&self, pairs: usize, speed: f64, now: Instant, deadline: Instant) -> f64 {
        let in_time = deadline.saturating_duration_since(now).as_secs_f64().mul_add(speed, -float(pairs));
        let usual = self.usual_pairs.unwrap_or(1.0);
        let standing = (STANDING_REQUESTS * usual).min(in_time);
        let stands_after = seconds(STANDING_AFTER_REQUESTS * usual, speed).max(SHORTEST_STANDING);
        let has_stood = self.standing_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let patience = 1.0 - (has_stood.as_secs_f64() / stands_after.as_secs_f64()).min(1.0);
        patience.mul_add(in_time - standing, standing)
    }

    /// Whether so many more pairs of a client would be done by the deadline, however long the queue.
    pub(super) fn would_be_late(&self, client: &Client, pairs: usize, now: Instant, deadline: Instant) -> bool {
        let Some(speed) = self.pairs_per_second() else { return false };
        let before = self.before(client, pairs);
        before > 0 && seconds(float(before.saturating_add(pairs)), speed) > deadline.saturating_duration_since(now)
    }

    /// A batch of so many pairs would not end by the deadline, so it is better not begun.
    pub(super) fn is_too_late(&self, pairs: usize, now: Instant, deadline: Instant) -> bool {
        let Some(speed) = self.pairs_per_second() else { return false };
        let usual = seconds(float(pairs), speed);
        deadline.saturating_duration_since(now) < usual.mul_f64(LEAST_TIME)
    }

    /// A request of so many pairs is admitted.
    pub(super) fn enter(&mut self, client: &Client, pairs: usize) {
        *self.pending.entry(client.clone()).or_default() += pairs;
        let mean = self.usual_pairs.unwrap_or(float(pairs));
        self.usual_pairs = Some(mean + NEWEST_WEIGHT * (float(pairs) - mean));
    }

    /// So many pairs of a client are not waited for any more.
    pub(super) fn leave(&mut self, client: &Client, pairs: usize) {
        if let Some(pending) = self.pending.get_mut(client) {
            *pending = pending.saturating_sub(pairs);
            if *pending == 0 {
                self.pending.remove(client);
            }
        }
        if self.pending.is_empty() {
            self.standing_since = None;
        }
    }

    /// A batch of so many pairs was done in so long.
    pub(super) fn done(&mut self, client: &Client, pairs: usize, took: Duration, now: Instant) {
        let (old_pairs, old_seconds) = self.done.unwrap_or_default();
        let fading = (-took.as_secs_f64() / MEMORY_SECONDS).exp();
        self.done = Some((old_pairs.mul_add(fading, float(pairs)), old_seconds.mul_add(fading, took.as_secs_f64())));
        self.leave(client, pairs);
        if !self.pending.is_empty() {
            self.standing_since.get_or_insert(now.checked_sub(took).unwrap_or(now));
        }
    }

    /// None where nothing was done yet.
    fn pairs_per_second(&self) -> Option<f64> {
        self.done.filter(|(_, seconds)| *seconds > 0.0).map(|(pairs, seconds)| pairs / seconds)
    }

    /// Whether nothing waits.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }
}

fn seconds(pairs: f64, speed: f64) -> Duration {
    Duration::try_from_secs_f64(pairs / speed).unwrap_or(Duration::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts of pairs are far below 2^52")]
fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn client(name: &str) -> Client {
        Client::Key(name.into())
    }

    /// A model that does ten pairs a second, in requests of ten, and is idle.
    fn calm(now: Instant) -> Pressure {
        let mut pressure = Pressure::default();
        for _ in 0..20 {
            pressure.enter(&client("a"), 10);
            pressure.done(&client("a"), 10, SECOND, now);
        }
        assert!(pressure.is_idle());
        pressure
    }

    fn forecast(pressure: &Pressure, name: &str, pairs: usize, now: Instant, seconds: u32) -> Forecast {
        pressure.forecast(&client(name), pairs, now, now + SECOND * seconds)
    }

    #[test]
    fn a_burst_is_admitted_as_far_as_it_will_be_done_in_time() {
        let now = Instant::now();
        let mut pressure = calm(now);
        let mut admitted = 0;
        while forecast(&pressure, "a", 10, now, 20) == Forecast::InTime {
            pressure.enter(&client("a"), 10);
            admitted += 1;
        }
        assert_eq!(admitted, 20, "twenty seconds of work");
        assert_eq!(forecast(&pressure, "a", 10, now, 20), Forecast::Overloaded { retry_after: SECOND });
    }

    #[test]
    fn a_standing_queue_is_kept_short() {
        let now = Instant::now();
        let mut pressure = calm(now);
        for _ in 0..18 {
            pressure.enter(&client("a"), 10);
        }
        pressure.done(&client("a"), 10, SECOND, now);
        assert_eq!(forecast(&pressure, "a", 10, now, 600), Forecast::InTime, "it has only just begun");
        let halfway = now + SECOND * 2;
        assert_eq!(forecast(&pressure, "a", 10, halfway, 600), Forecast::InTime, "half of what the deadline allows");
        assert!(matches!(forecast(&pressure, "a", 10, halfway, 18), Forecast::Overloaded { .. }));
        let later = now + SECOND * 8;
        assert!(matches!(forecast(&pressure, "a", 10, later, 600), Forecast::Overloaded { .. }), "{pressure:?}");
        pressure.leave(&client("a"), 70);
        assert_eq!(forecast(&pressure, "a", 10, later, 600), Forecast::InTime, "ten requests may wait");
        pressure.leave(&client("a"), 100);
        pressure.enter(&client("a"), 200);
        assert_eq!(forecast(&pressure, "a", 10, later, 600), Forecast::InTime, "it was empty in between");
    }

    #[test]
    fn what_one_client_has_put_there_does_not_count_in_full_against_another() {
        let now = Instant::now();
        let mut pressure = calm(now);
        pressure.enter(&client("flooder"), 1_000);
        assert_eq!(forecast(&pressure, "other", 10, now, 20), Forecast::InTime, "ten of the other's, ten of its own");
        assert!(matches!(forecast(&pressure, "other", 150, now, 20), Forecast::Overloaded { .. }));
        pressure.enter(&client("other"), 10);
        assert!(matches!(forecast(&pressure, "flooder", 10, now, 20), Forecast::OwnDoing { .. }));
    }

    #[test]
    fn a_request_alone_is_admitted_however_long_it_is() {
        let now = Instant::now();
        assert_eq!(forecast(&calm(now), "a", 100_000, now, 1), Forecast::InTime);
        assert_eq!(forecast(&Pressure::default(), "a", 100_000, now, 1), Forecast::InTime, "nothing is known yet");
    }

    #[test]
    fn a_batch_that_would_not_end_in_time_is_not_begun() {
        let now = Instant::now();
        let pressure = calm(now);
        assert!(!pressure.is_too_late(10, now, now + SECOND));
        assert!(!pressure.is_too_late(10, now, now + SECOND.mul_f64(0.85)), "it may be quicker than usual");
        assert!(pressure.is_too_late(10, now, now + SECOND.mul_f64(0.75)));
        assert!(!Pressure::default().is_too_late(10, now, now), "nothing is known yet");
    }

    #[test]
    fn the_speed_follows_the_last_seconds() {
        let now = Instant::now();
        let mut pressure = calm(now);
        for _ in 0..10 {
            pressure.enter(&client("a"), 10);
            pressure.done(&client("a"), 10, SECOND * 2, now);
        }
        let speed = pressure.pairs_per_second().unwrap();
        assert!((4.9..5.3).contains(&speed), "{speed}");
    }
}
