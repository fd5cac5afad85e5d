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

/// A batch may always take so long: a busy machine, a page of weights read from a slow disk.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(30);

/// A batch may take so many times what the longest one took: the others on the device come and go.
const TIMES_THE_LONGEST: u32 = 3;

/// How long a batch may take where none has ended yet: a model without warm-up, or too slow for it.
const PATIENCE_WITH_THE_UNKNOWN: Duration = Duration::from_secs(600);

/// What to make of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is idle, or its batch may still take its time.
    Fine,
    /// Its batch takes longer than any may: no requests for now.
    Stalled { running: Duration, patience: Duration },
    /// It has had twice the time: it will not end.
    Hung { running: Duration },
}

fn judge(pulse: Pulse, now: Instant) -> Verdict {
    let Some(since) = pulse.running_since else { return Verdict::Fine };
    let running = now.saturating_duration_since(since);
    let patience = match pulse.longest_done {
        Some(longest) => SHORTEST_PATIENCE.max(longest * TIMES_THE_LONGEST),
        None => PATIENCE_WITH_THE_UNKNOWN,
    };
    if running > patience * 2 {
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
            longest_done: longest_seconds.map(Duration::from_secs),
        };
        judge(pulse, now)
    }

    #[test]
    fn a_batch_has_thirty_seconds_or_three_times_the_longest() {
        assert_eq!(judged(None, Some(1)), Verdict::Fine, "idle");
        assert_eq!(judged(Some(30), Some(1)), Verdict::Fine);
        assert!(matches!(judged(Some(31), Some(1)), Verdict::Stalled { .. }));
        assert_eq!(judged(Some(59), Some(20)), Verdict::Fine);
        assert!(matches!(judged(Some(61), Some(20)), Verdict::Stalled { .. }));
    }

    #[test]
    fn a_hang_is_found_within_a_minute_and_twice_the_longest_that_is_allowed() {
        assert!(matches!(judged(Some(60), Some(1)), Verdict::Stalled { .. }));
        assert!(matches!(judged(Some(61), Some(1)), Verdict::Hung { .. }));
        assert!(matches!(judged(Some(120), Some(20)), Verdict::Stalled { .. }));
        assert!(matches!(judged(Some(121), Some(20)), Verdict::Hung { .. }));
    }

    #[test]
    fn where_no_batch_has_ended_yet_there_is_patience() {
        assert_eq!(judged(Some(600), None), Verdict::Fine);
        assert!(matches!(judged(Some(601), None), Verdict::Stalled { .. }));
        assert!(matches!(judged(Some(1_201), None), Verdict::Hung { .. }));
    }
}
