//! How long is waited after a failure. Pure, but for the dice.

use std::time::Duration;

use kube::runtime::utils::Backoff;

/// Pauses of one object's reconciles: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A pause is longer by up to this part of itself, so that a thousand objects that failed together do not come back together.
const JITTER: f64 = 0.1;

/// Pauses of watches: the first, and the longest.
const FIRST_WATCH_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_WATCH_PAUSE: Duration = Duration::from_secs(1);

/// The pause after so many failures of one object in a row: 1 s, doubled up to 300 s, and up to a tenth more.
pub fn after_failures(failures: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST_PAUSE);
    pause.mul_f64(1.0 + JITTER * fastrand::f64())
}

/// Pauses of the controller's watches: 0.1 s, doubled up to 1 s.
///
/// One serves all of them, so together they ask at most once a second, and while one waits the others do too. With the library's own
/// pauses, up to 30 s, a dozen watches that find their place in history gone after a restart of the API server
/// come back one after the other for minutes, and a kind that may not be watched holds up all others for half a minute each time.
#[derive(Debug, Default)]
pub struct WatchPauses {
    failures: u32,
}

impl Iterator for WatchPauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = FIRST_WATCH_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST_WATCH_PAUSE);
        self.failures = self.failures.saturating_add(1);
        Some(pause)
    }
}

impl Backoff for WatchPauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_of_an_object_double_up_to_five_minutes_and_differ_by_a_tenth() {
        for (failures, seconds) in [(1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (u32::MAX, 300.0)] {
            let pause = after_failures(failures).as_secs_f64();
            assert!((seconds..=seconds * 1.1).contains(&pause), "{failures}: {pause}");
        }
    }

    #[test]
    fn watches_come_back_within_a_second_and_quickly_again_after_they_worked() {
        let mut pauses = WatchPauses::default();
        let milliseconds: Vec<u128> = pauses.by_ref().take(6).map(|pause| pause.as_millis()).collect();
        assert_eq!(milliseconds, [100, 200, 400, 800, 1_000, 1_000]);
        pauses.reset();
        assert_eq!(pauses.next(), Some(FIRST_WATCH_PAUSE));
    }
}
