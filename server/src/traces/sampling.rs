//! Which traces are kept. Pure.

use opentelemetry::trace::{SpanContext, SpanKind, TraceId};

/// A share of all traces, decided by their ids, so that every service that is told the same share keeps the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// A trace is kept whose id, read as a number of so many bits, is below.
    below: u64,
}

/// The bits of an id that are random by the W3C's rules.
const RANDOM_BITS: u32 = 56;

impl Share {
    /// So many of a hundred. What is out of range counts as its nearest end.
    pub(super) fn of_percent(percent: i32) -> Self {
        let percent = u64::try_from(percent.clamp(0, 100)).unwrap_or(0);
        Self { below: (percent << RANDOM_BITS) / 100 }
    }

    /// Whether the trace of a span is kept. What came with the request decides; without it the share does. What begins
    /// without a request (a load at the start, say) is rare and always kept, unless nothing is.
    pub(super) fn keeps(self, parent: &SpanContext, trace: TraceId, kind: Option<&SpanKind>) -> bool {
        if parent.is_valid() {
            return parent.is_sampled();
        }
        match kind {
            Some(SpanKind::Server) => self.keeps_id(trace),
            _ => self.below > 0,
        }
    }

    fn keeps_id(self, trace: TraceId) -> bool {
        let number = u128::from_be_bytes(trace.to_bytes()) & ((1 << RANDOM_BITS) - 1);
        number < u128::from(self.below)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceState};

    use super::*;

    fn kept_of_ten_thousand(percent: i32) -> usize {
        let share = Share::of_percent(percent);
        let mut random = fastrand::Rng::with_seed(7);
        let ids = std::iter::repeat_with(|| TraceId::from(random.u128(1..))).take(10_000);
        ids.filter(|id| share.keeps(&SpanContext::NONE, *id, Some(&SpanKind::Server))).count()
    }

    #[test]
    fn the_share_is_kept() {
        assert_eq!(kept_of_ten_thousand(0), 0);
        assert_eq!(kept_of_ten_thousand(100), 10_000);
        let kept = kept_of_ten_thousand(10);
        assert!((900..1_100).contains(&kept), "{kept}");
    }

    #[test]
    fn a_parent_decides_whatever_the_share() {
        let parent =
            |flags| SpanContext::new(TraceId::from(1), SpanId::from(1), TraceFlags::new(flags), true, TraceState::NONE);
        for (percent, flags) in [(0, 1), (100, 0)] {
            let kept = Share::of_percent(percent).keeps(&parent(flags), TraceId::from(1), Some(&SpanKind::Server));
            assert_eq!(kept, flags == 1, "{percent} %");
        }
    }

    #[test]
    fn what_begins_without_a_request_is_kept_unless_nothing_is() {
        let kept = |percent| Share::of_percent(percent).keeps(&SpanContext::NONE, TraceId::from(u128::MAX), None);
        assert!(kept(1) && !kept(0));
    }
}
