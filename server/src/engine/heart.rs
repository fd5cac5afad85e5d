//! The steps of one engine as they begin and end: what tells an engine that is busy from one that hangs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What can be felt of an engine from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// When the batch under way, or the part of it that is, began; also of one that nobody waits for any more.
    pub running_since: Option<Instant>,
    /// The longest batch, or part of one, of late: what one took fades by a tenth with each batch that is done after it.
    pub longest_of_late: Option<Duration>,
}

impl Pulse {
    fn end_part(&mut self) {
        let faded = self.longest_of_late.map(|longest| longest.mul_f64(FADING));
        self.longest_of_late = faded.max(self.running_since.take().map(|began| began.elapsed()));
    }
}

/// What the longest batch still counts for after one more is done.
const FADING: f64 = 0.9;

/// Notes the batches of one engine, which does one at a time.
#[derive(Debug, Default)]
pub struct Heart {
    pulse: Mutex<Pulse>,
}

impl Heart {
    /// A batch begins; it is done when the beat is dropped. Hold it where the batch really runs and not where
    /// somebody waits for it.
    pub fn beat(self: &Arc<Self>) -> Beat {
        self.lock().running_since = Some(Instant::now());
        Beat { heart: Arc::clone(self) }
    }

    /// A part of the batch under way is done, in an engine that does one in parts: what hangs is the part, not the batch.
    pub fn step(&self) {
        let mut pulse = self.lock();
        pulse.end_part();
        pulse.running_since = Some(Instant::now());
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
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.heart.lock().end_part();
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

    #[tokio::test(start_paused = true)]
    async fn of_a_batch_in_parts_the_part_under_way_is_felt() {
        let heart = Arc::new(Heart::default());
        let beat = heart.beat();
        for seconds in [2, 5, 3] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            heart.step();
            assert_eq!(heart.pulse().running_since, Some(Instant::now()));
        }
        drop(beat);
        let pulse = heart.pulse();
        assert_eq!(pulse.running_since, None);
        let longest = pulse.longest_of_late.unwrap().as_secs_f64();
        assert!((4.0..4.1).contains(&longest), "five seconds, faded by two parts since: {longest}");
    }
}
