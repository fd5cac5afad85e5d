//! Spares a failing part and its callers: after some failures in a row it is not asked for a while, then by one caller in
//! each such while, and by all again once one is answered. Pure: time comes in as a value.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which nobody asks.
pub(crate) const FAILURES: u32 = 5;

/// One part's breaker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Breaker {
    pause: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Everybody asks; so many failures in a row.
    Closed(u32),
    /// Nobody asks before then; the first one after it tries, and the pause begins anew for the others.
    Open { until: Instant },
}

/// Whether to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// As always.
    Ask,
    /// As the one who tries for all.
    Try,
    /// Not before so long.
    Wait(Duration),
}

impl Breaker {
    /// Closed. `pause`: how long nobody asks.
    pub(crate) fn new(pause: Duration) -> Self {
        Self { pause, state: State::Closed(0) }
    }

    /// Whether a caller may ask now.
    pub(crate) fn admit(&mut self, now: Instant) -> Admission {
        match &mut self.state {
            State::Open { until } if now < *until => Admission::Wait(until.duration_since(now)),
            State::Open { until } => {
                *until = now + self.pause;
                Admission::Try
            }
            State::Closed(_) => Admission::Ask,
        }
    }

    /// The part answered. Tells whether that is news.
    pub(crate) fn succeeded(&mut self) -> bool {
        let was_open = matches!(self.state, State::Open { .. });
        self.state = State::Closed(0);
        was_open
    }

    /// The part failed. Tells whether nobody asks from now on who did before.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Closed(failures) if *failures + 1 < FAILURES => {
                *failures += 1;
                false
            }
            State::Closed(_) => {
                self.state = State::Open { until: now + self.pause };
                true
            }
            State::Open { until } => {
                *until = now + self.pause;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(PAUSE);
        let news: Vec<bool> = (0..FAILURES).map(|_| breaker.failed(now)).collect();
        assert_eq!(news, [false, false, false, false, true]);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not_count() {
        let (mut breaker, now) = (Breaker::new(PAUSE), Instant::now());
        for round in 0..3 {
            for _ in 1..FAILURES {
                breaker.failed(now);
            }
            assert_eq!(breaker.admit(now), Admission::Ask, "round {round}");
            assert!(!breaker.succeeded());
        }
        assert_eq!(opened(now).admit(now), Admission::Wait(PAUSE));
    }

    #[test]
    fn after_the_pause_one_caller_tries_and_decides_for_all() {
        let now = Instant::now();
        let later = now + PAUSE;
        let mut breaker = opened(now);
        assert_eq!(breaker.admit(later), Admission::Try);
        assert_eq!(breaker.admit(later), Admission::Wait(PAUSE), "one at a time");
        breaker.failed(later + Duration::from_secs(1));
        assert_eq!(breaker.admit(later + PAUSE), Admission::Wait(Duration::from_secs(1)));

        let mut breaker = opened(now);
        assert_eq!(breaker.admit(later), Admission::Try);
        assert!(breaker.succeeded());
        assert_eq!(breaker.admit(later), Admission::Ask);
        breaker.failed(later);
        assert_eq!(breaker.admit(later), Admission::Ask, "it counts from the beginning");
    }

    #[test]
    fn a_try_of_which_nothing_is_heard_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.admit(now + PAUSE), Admission::Try);
        assert_eq!(breaker.admit(now + 2 * PAUSE), Admission::Try);
    }
}
