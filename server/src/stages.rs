//! Where the time of one request went, for the line that tells of a slow one. Pure, but for the clock.
//!
//! The times are kept beside the request's task and not handed from call to call: they must be there also where a stage is
//! cut off in the middle, and no code between the stages has to know of them.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::Stage;

tokio::task_local! {
    static TIMES: Arc<StageTimes>;
}

/// What a request spends its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A stage as in the metrics.
    Stage(Stage),
    /// Waiting for a model that is being loaded.
    Load,
    /// Everything else: reading the body, writing the answer.
    Other,
}

impl Part {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stage(stage) => stage.as_str(),
            Self::Load => "load",
            Self::Other => "other",
        }
    }
}

/// The times of one request. Those of a batch's queries, which run side by side, are added up.
#[derive(Debug, Default)]
pub(crate) struct StageTimes(Mutex<Vec<(Part, Duration)>>);

impl StageTimes {
    /// Work whose stages count here.
    pub(crate) async fn of<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        TIMES.scope(Arc::clone(self), work).await
    }

    fn add(&self, part: Part, time: Duration) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match times.iter_mut().find(|(known, _)| *known == part) {
            Some((_, sum)) => *sum += time,
            None => times.push((part, time)),
        }
    }

    /// What took most of `total`, and how long.
    pub(crate) fn longest(&self, total: Duration) -> (Part, Duration) {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Duration = times.iter().map(|(_, time)| *time).sum();
        let other = (Part::Other, total.saturating_sub(known));
        times.iter().copied().chain([other]).max_by_key(|(_, time)| *time).unwrap_or(other)
    }
}

/// Work of a stage; its time counts also where it is dropped. Outside of a request it is just done.
pub(crate) async fn during<T>(part: Part, work: impl Future<Output = T>) -> T {
    let _running = TIMES.try_with(Arc::clone).ok().map(|times| Running { times, part, since: Instant::now() });
    work.await
}

struct Running {
    times: Arc<StageTimes>,
    part: Part,
    since: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.times.add(self.part, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_part_that_took_most_is_told_with_the_sum_of_its_times() {
        let times = Arc::new(StageTimes::default());
        let work = async {
            during(Part::Stage(Stage::Queue), sleep(SECOND)).await;
            during(Part::Stage(Stage::Score), sleep(2 * SECOND)).await;
            during(Part::Stage(Stage::Queue), sleep(2 * SECOND)).await;
        };
        times.of(work).await;
        assert_eq!(times.longest(5 * SECOND), (Part::Stage(Stage::Queue), 3 * SECOND));
        assert_eq!(times.longest(9 * SECOND), (Part::Other, 4 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_is_cut_off_counts_as_far_as_it_came() {
        let times = Arc::new(StageTimes::default());
        let hanging = times.of(during(Part::Load, std::future::pending::<()>()));
        assert!(tokio::time::timeout(4 * SECOND, hanging).await.is_err());
        assert_eq!(times.longest(4 * SECOND), (Part::Load, 4 * SECOND));
    }

    #[tokio::test]
    async fn outside_of_a_request_work_is_just_done() {
        assert_eq!(during(Part::Load, async { 7 }).await, 7);
    }
}
