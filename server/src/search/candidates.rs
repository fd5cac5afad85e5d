//! How many candidates stage 1 brings. Pure.

use rerank_crds::server_config::Candidates;

/// `clamp(k x multiplier, minimum, maximum)`, never fewer than `k`. Bounds that contradict each other, or are negative,
/// do no harm.
pub fn how_many(k: usize, bounds: &Candidates) -> usize {
    let whole = |value: i32| usize::try_from(value).unwrap_or(0);
    let (minimum, maximum) = (whole(bounds.minimum), whole(bounds.maximum));
    k.saturating_mul(whole(bounds.multiplier)).max(minimum).min(maximum).max(k)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_times_k_between_twenty_and_two_hundred() {
        let bounds = Candidates::default();
        for (k, expected) in [(1, 20), (4, 20), (5, 25), (10, 50), (40, 200), (100, 200), (200, 200), (1_000, 1_000)] {
            assert_eq!(how_many(k, &bounds), expected, "k = {k}");
        }
    }

    proptest! {
        #[test]
        fn never_fewer_than_k_and_else_within_the_bounds(
            k in 1usize..=1_000, multiplier in 1i32..=100, minimum in 1i32..=10_000, maximum in 1i32..=10_000
        ) {
            let many = how_many(k, &Candidates { multiplier, minimum, maximum });
            prop_assert!(many >= k);
            prop_assert!(many == k || many <= usize::try_from(maximum).unwrap());
            if minimum <= maximum {
                prop_assert!(many >= usize::try_from(minimum).unwrap());
            }
        }

        #[test]
        fn a_larger_k_never_brings_fewer(k in 1usize..1_000, multiplier: i32, minimum: i32, maximum: i32) {
            let bounds = Candidates { multiplier, minimum, maximum };
            prop_assert!(how_many(k, &bounds) <= how_many(k + 1, &bounds));
        }
    }
}
