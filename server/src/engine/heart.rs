//! The steps of one engine as they begin and end: what tells an engine that is busy from one that hangs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What can be felt of an engine from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// When the batch under way began, also one that nobody waits for any more.
    pub running_since: Option<Instant>,
    /// The longest batch that was done.
    pub longest_done: Option<Duration>,
}

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
        pulse.longest_done = pulse.longest_done.max(Some(self.began.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_felt_while_it_runs_and_the_longest_is_remembered() {
        let heart = Arc::new(Heart::default());
        assert_eq!(heart.pulse(), Pulse::default());
        for seconds in [3, 1] {
            let (began, beat) = (Instant::now(), heart.beat());
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            assert_eq!(heart.pulse().running_since, Some(began));
            drop(beat);
        }
        assert_eq!(heart.pulse(), Pulse { running_since: None, longest_done: Some(Duration::from_secs(3)) });
    }
}
