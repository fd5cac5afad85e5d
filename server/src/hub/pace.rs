//! Whether a transfer still gets anywhere. Pure: time comes in as a value.

use std::time::Duration;

use tokio::time::Instant;

/// A transfer brings at least so many bytes in each [`WINDOW`], about a kilobyte a second: less would never end.
pub(super) const LEAST_BYTES: u64 = 64 * 1024;

const WINDOW: Duration = Duration::from_secs(60);

/// The pace of one answer.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// So many bytes came. False where too few have come for a whole window.
    pub(super) fn came(&mut self, bytes: u64, now: Instant) -> bool {
        self.bytes += bytes;
        if now.saturating_duration_since(self.since) < WINDOW {
            return true;
        }
        let came = std::mem::replace(self, Self::new(now)).bytes;
        came >= LEAST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_that_crawls_is_noticed_and_one_that_pauses_is_not() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut crawling = Pace::new(begun);
        assert!((1..60).all(|second| crawling.came(1_000, at(second))));
        assert!(!crawling.came(1_000, at(60)));

        let mut pausing = Pace::new(begun);
        assert!(pausing.came(LEAST_BYTES, at(1)));
        assert!(pausing.came(1, at(61)), "enough came before the pause");
        assert!(!pausing.came(1, at(122)), "each window counts alone");
    }
}
