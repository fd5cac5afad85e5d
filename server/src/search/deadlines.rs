//! Until when each part of a request may take. Pure, but for [`within`], which waits.

use std::future::Future;
use std::time::Duration;

use rerank_crds::server_config::Timeouts;
use tokio::time::Instant;

/// What is left of a request's time when stage 2 must end, so that the vector order can still be answered.
const TIME_TO_ANSWER: Duration = Duration::from_millis(200);

/// Deadlines of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// End of the whole request.
    pub(super) request: Instant,
    vector_search: Duration,
    rerank: Duration,
}

impl Deadlines {
    pub(super) fn new(arrival: Instant, timeouts: &Timeouts) -> Self {
        let seconds = |value: i32| Duration::from_secs(u64::try_from(value).unwrap_or(0));
        Self {
            request: arrival + seconds(timeouts.request_seconds),
            vector_search: seconds(timeouts.vector_search_seconds),
            rerank: seconds(timeouts.rerank_seconds),
        }
    }

    /// End of a store search that begins now.
    pub(super) fn vector_search(&self, now: Instant) -> Instant {
        (now + self.vector_search).min(self.request)
    }

    /// End of a reranking that begins now and can fall back: enough of the request's time is left to answer.
    pub(super) fn rerank_before_fallback(&self, now: Instant) -> Instant {
        let total = self.request.saturating_duration_since(now);
        let to_answer = TIME_TO_ANSWER.min(total / 10);
        (now + self.rerank).min(self.request - to_answer)
    }

    /// End of a reranking that begins now and has nothing to fall back to.
    pub(super) fn rerank(&self, now: Instant) -> Instant {
        (now + self.rerank).min(self.request)
    }
}

/// Work up to a deadline; `None` past it. The clock is asked before the work, so that what became possible only at the
/// deadline is not begun any more.
pub(super) async fn within<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = tokio::time::sleep_until(deadline) => None,
        outcome = work => Some(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_own_time_within_the_requests() {
        let arrival = Instant::now();
        let timeouts = Timeouts { request_seconds: 30, vector_search_seconds: 5, rerank_seconds: 20 };
        let deadlines = Deadlines::new(arrival, &timeouts);
        let after = |seconds: u64| arrival + Duration::from_secs(seconds);
        assert_eq!(deadlines.vector_search(after(1)), after(6));
        assert_eq!(deadlines.vector_search(after(28)), after(30));
        assert_eq!(deadlines.rerank_before_fallback(after(2)), after(22));
        assert_eq!(deadlines.rerank_before_fallback(after(20)), after(30).checked_sub(TIME_TO_ANSWER).unwrap());
        assert_eq!(deadlines.rerank(after(20)), after(30));
        assert_eq!(deadlines.rerank_before_fallback(after(40)), after(30), "a deadline that has passed stays passed");
    }
}
