//! Tells an engine that is busy from one that hangs, by the batch under way: under any load batches end, and in a hanging
//! engine one does not. Judging is pure; the watch asks the pool each second.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::heart::Pulse;
use crate::pool::ModelPool;
use crate::shutdown::Readiness;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the longest allowed batch takes, at least: a busy machine, a page of weights read from a slow disk.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(30);

/// And at most: nobody waits longer for an answer, so meanwhile requests go elsewhere.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);

/// A batch may take so many times what the longest one of late took: the others on the device come and go.
const TIMES_THE_LONGEST: u32 = 3;

/// When a process with a batch under way is ended where none has ended yet: a model without warm-up, or too slow for it.
/// Ending it too early would only begin the same batch anew.
const END_OF_THE_UNKNOWN: Duration = Duration::from_secs(600);

/// What to make of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is idle, or its batch may still take its time.
    Fine,
    /// Its batch takes longer than any may: no requests for now.
    Stalled { running: Duration, patience: Duration },
    /// It has had more than twice the time: it will not end.
    Hung { running: Duration },
}

fn judge(pulse: Pulse, now: Instant) -> Verdict {
    let Some(since) = pulse.running_since else { return Verdict::Fine };
    let running = now.saturating_duration_since(since);
    let (patience, end) = match pulse.longest_of_late.map(|longest| longest * TIMES_THE_LONGEST) {
        Some(allowed) => (allowed.clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE), allowed.max(SHORTEST_PATIENCE) * 2),
        None => (LONGEST_PATIENCE, END_OF_THE_UNKNOWN),
    };
    if running > end {
        Verdict::Hung { running }
    } else if running > patience {
        Verdict::Stalled { running, patience }
    } else {
        Verdict::Fine
    }
}

/// Watches every engine of the pool, for ever: readiness fails while one stalls, and a hung one ends the process.
pub(crate) async fn watch(pool: &ModelPool, readiness: &Readiness) -> Infallible {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = Instant::now();
        let mut stalled = None;
        for (key, pulse) in pool.pulses() {
            match judge(pulse, now) {
                Verdict::Fine => {}
                Verdict::Stalled { running, patience } => {
                    stalled.get_or_insert_with(|| {
                        format!(
                            "the engine of {} has worked on one batch for {} s; none may take longer than {} s",
                            key.model,
                            running.as_secs(),
                            patience.as_secs()
                        )
                    });
                }
                Verdict::Hung { running } => pool.fatal().trip(&format!(
                    "the engine of {} hangs: it has worked on one batch for {} s",
                    key.model,
                    running.as_secs()
                )),
            }
        }
        readiness.stalled(stalled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(running_seconds: Option<u64>, longest_seconds: Option<u64>) -> Verdict {
        let began = Instant::now();
        let now = began + Duration::from_secs(running_seconds.unwrap_or(0));
        let pulse = Pulse {
            running_since: running_seconds.map(|_| began),
            longest_of_late: longest_seconds.map(Duration::from_secs),
        };
        judge(pulse, now)
    }

    #[test]
    fn a_batch_has_thirty_seconds_or_three_times_the_longest_up_to_a_minute() {
        assert_eq!(judged(None, Some(1)), Verdict::Fine, "idle");
        assert_eq!(judged(Some(30), Some(1)), Verdict::Fine);
        assert!(matches!(judged(Some(31), Some(1)), Verdict::Stalled { .. }));
        assert_eq!(judged(Some(45), Some(15)), Verdict::Fine);
        assert!(matches!(judged(Some(46), Some(15)), Verdict::Stalled { .. }));
        for longest in [Some(20), Some(100), None] {
            assert_eq!(judged(Some(60), longest), Verdict::Fine);
            assert!(matches!(judged(Some(61), longest), Verdict::Stalled { .. }), "{longest:?}");
        }
    }

    #[test]
    fn the_process_ends_after_a_minute_or_six_times_the_longest() {
        assert!(matches!(judged(Some(60), Some(1)), Verdict::Stalled { .. }));
        assert!(matches!(judged(Some(61), Some(1)), Verdict::Hung { .. }));
        assert!(matches!(judged(Some(600), Some(100)), Verdict::Stalled { .. }), "slow, but batches end");
        assert!(matches!(judged(Some(601), Some(100)), Verdict::Hung { .. }));
    }

    #[test]
    fn where_no_batch_has_ended_yet_the_process_is_not_ended_for_ten_minutes() {
        assert!(matches!(judged(Some(600), None), Verdict::Stalled { .. }));
        assert!(matches!(judged(Some(601), None), Verdict::Hung { .. }));
    }
}
