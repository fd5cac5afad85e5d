//! From logits to an order, and how far results moved. Pure.

use crate::engine::{EngineError, PairLogits};

/// One scored document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scored {
    /// Position in the order given.
    pub(super) index: usize,
    /// P(yes), 0 to 1.
    pub(super) score: f32,
    /// Logit of yes less logit of no.
    pub(super) log_odds: f32,
}

/// Scores in the order given. A value that is no finite number is an error, never a score; so is a missing one.
pub(super) fn scores(logits: &[PairLogits], expected: usize) -> Result<Vec<Scored>, EngineError> {
    if logits.len() != expected {
        let message = format!("{expected} pairs were given, {} came back", logits.len());
        return Err(EngineError::Failed { message });
    }
    logits
        .iter()
        .enumerate()
        .map(|(index, pair)| {
            let scored = Scored { index, score: pair.score(), log_odds: pair.log_odds() };
            let finite = pair.yes.is_finite() && pair.no.is_finite() && scored.log_odds.is_finite();
            if finite && scored.score.is_finite() { Ok(scored) } else { Err(EngineError::NotFinite { index }) }
        })
        .collect()
}

/// Best first; equal scores keep the order given.
pub(super) fn rank(mut scored: Vec<Scored>) -> Vec<Scored> {
    scored.sort_by(|left, right| right.score.total_cmp(&left.score));
    scored
}

/// How far up a result came: its place before less its place now, both from 1.
pub(super) fn rank_change(rank_before: usize, rank_now: usize) -> i64 {
    let whole = |rank: usize| i64::try_from(rank).unwrap_or(i64::MAX);
    whole(rank_before).saturating_sub(whole(rank_now))
}

/// How many places results moved, on average; `None` without results.
pub(super) fn mean_change(changes: impl ExactSizeIterator<Item = i64>) -> Option<f64> {
    let count = u32::try_from(changes.len()).ok().filter(|count| *count > 0)?;
    let places: f64 = changes.map(|change| f64::from(u32::try_from(change.unsigned_abs()).unwrap_or(u32::MAX))).sum();
    Some(places / f64::from(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn logits(log_odds: &[f32]) -> Vec<PairLogits> {
        log_odds.iter().map(|yes| PairLogits { yes: *yes, no: 0.0 }).collect()
    }

    fn order(log_odds: &[f32]) -> Vec<usize> {
        let scored = scores(&logits(log_odds), log_odds.len()).unwrap();
        rank(scored).iter().map(|scored| scored.index).collect()
    }

    #[test]
    fn the_best_comes_first_and_equal_scores_keep_their_order() {
        assert_eq!(order(&[0.0, 2.0, 0.0, 3.0, 2.0]), [3, 1, 4, 0, 2]);
    }

    #[test]
    fn scores_that_saturate_are_equal() {
        assert_eq!(order(&[100.0, 200.0, 50.0]), [0, 1, 2]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_an_error_that_names_the_pair() {
        let infinite = PairLogits { yes: f32::INFINITY, no: 0.0 };
        let overflowing = PairLogits { yes: f32::MAX, no: -f32::MAX };
        for bad in [PairLogits { yes: f32::NAN, no: 0.0 }, infinite, overflowing] {
            let pairs = [PairLogits { yes: 1.0, no: 0.0 }, bad];
            let refused = scores(&pairs, 2).unwrap_err();
            assert!(matches!(refused, EngineError::NotFinite { index: 1 }), "{bad:?}: {refused}");
        }
    }

    #[test]
    fn an_answer_of_another_length_is_an_error() {
        assert!(matches!(scores(&logits(&[1.0]), 2), Err(EngineError::Failed { .. })));
    }

    #[test]
    fn a_result_that_came_from_place_nine_to_place_one_moved_eight_up() {
        assert_eq!(rank_change(9, 1), 8);
        assert_eq!(rank_change(1, 3), -2);
        assert_eq!(mean_change([8, -2, 0, 0].into_iter()), Some(2.5));
        assert_eq!(mean_change(std::iter::empty()), None);
    }

    proptest! {
        #[test]
        fn an_order_holds_every_document_once_and_scores_never_rise(
            log_odds in proptest::collection::vec(-30.0f32..30.0, 0..60)
        ) {
            let ranked = rank(scores(&logits(&log_odds), log_odds.len()).unwrap());
            let in_order = ranked.windows(2).all(|pair| match pair {
                [left, right] => (right.score, left.index) < (left.score, right.index),
                _ => false,
            });
            prop_assert!(in_order);
            prop_assert_eq!(ranked.len(), log_odds.len());
            prop_assert!(ranked.iter().all(|scored| (0.0..=1.0).contains(&scored.score)));
        }
    }
}
