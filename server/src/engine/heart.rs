//! The steps of one engine as they begin and end: what tells an engine that is busy from one that hangs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What can be felt of an engine from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// When the batch under way began, also one that nobody waits for any more.
    pub running_since: Option<Instant>,
    /// The longest batch of late: what one took fades by a tenth with each batch that is done after it.
    pub longest_of_late: Option<Duration>,
}

/// What the longest batch still counts for after one more is done.
const FADING: f64 = 0.9;

/// Notes the batches of one engine, which does one at a time.
#[derive(Debug, Default)]
pub struct Heart {
    pulse: Mutex<Pulse>,
}

impl Heart {
    /// A batch begins; it is done when the beat is dropped. Hold it where the batch really runs and not where somebody waits
    /// for it.
    pub fn beat(self: &Arc<Self>) -> Beat {
        let began = Instant::now();
        self.lock().running_since = Some(began);
        Beat { heart: Arc::clone(self), began }
    }

    /// As it is now.
    pub fn pulse(&self) -> Pulse {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that runs.
#[derive(Debug)]
#[must_use = "the batch is done when this is dropped"]
pub struct Beat {
    heart: Arc<Heart>,
    began: Instant,
}

impl Drop for Beat {
    fn drop(&mut self) {
        let mut pulse = self.heart.lock();
        pulse.running_since = None;
        let faded = pulse.longest_of_late.map(|longest| longest.mul_f64(FADING));
        pulse.longest_of_late = faded.max(Some(self.began.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn batch(heart: &Arc<Heart>, seconds: u64) {
        let (began, beat) = (Instant::now(), heart.beat());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert_eq!(heart.pulse().running_since, Some(began));
        drop(beat);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_felt_while_it_runs_and_the_longest_is_remembered_for_a_while() {
        let heart = Arc::new(Heart::default());
        assert_eq!(heart.pulse(), Pulse::default());
        batch(&heart, 40).await;
        assert_eq!(heart.pulse(), Pulse { running_since: None, longest_of_late: Some(Duration::from_secs(40)) });
        batch(&heart, 1).await;
        assert_eq!(heart.pulse().longest_of_late, Some(Duration::from_secs(36)));
        for _ in 0..50 {
            batch(&heart, 1).await;
        }
        assert_eq!(heart.pulse().longest_of_late, Some(Duration::from_secs(1)));
    }
}
