//! Which prompts go together. Pure.
//!
//! A plan is a list of batches, each a list of positions in the request. Prompts are taken in order of their length, so
//! that equal lengths, which alone run in one pass, meet in one batch.

/// Batches of at most `batch_size` prompts that reserve at most `token_budget` tokens, each prompt rounded up to
/// `reserved_by`. A prompt above the budget runs alone.
pub(super) fn of_any_length(
    lengths: &[usize],
    batch_size: usize,
    token_budget: usize,
    reserved_by: usize,
) -> Vec<Vec<usize>> {
    let reserved = |length: usize| length.next_multiple_of(reserved_by.max(1));
    plan(lengths, |batch, next| {
        let tokens: usize = batch.iter().chain([&next]).map(|length| reserved(*length)).sum();
        batch.len() < batch_size && tokens <= token_budget
    })
}

/// The same, with prompts of one length only in each batch.
pub(super) fn of_equal_length(lengths: &[usize], batch_size: usize, token_budget: usize) -> Vec<Vec<usize>> {
    plan(lengths, |batch, next| {
        batch.len() < batch_size && batch.first() == Some(&next) && next * (batch.len() + 1) <= token_budget
    })
}

/// Fills batches in order of length for as long as `joins` lets the next length in. The first always comes in.
fn plan(lengths: &[usize], joins: impl Fn(&[usize], usize) -> bool) -> Vec<Vec<usize>> {
    let mut order: Vec<(usize, usize)> = lengths.iter().copied().enumerate().collect();
    order.sort_by_key(|(_, length)| *length);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut current: Vec<usize> = Vec::new();
    for (index, length) in order {
        match batches.last_mut() {
            Some(batch) if joins(&current, length) => {
                batch.push(index);
                current.push(length);
            }
            _ => {
                batches.push(vec![index]);
                current = vec![length];
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn batches_keep_to_size_and_budget() {
        assert_eq!(of_any_length(&[10, 10, 10, 10], 3, 1000, 1), [vec![0, 1, 2], vec![3]]);
        assert_eq!(of_any_length(&[10, 10, 10, 10], 8, 25, 1), [vec![0, 1], vec![2, 3]]);
        assert_eq!(of_any_length(&[30, 10, 20], 8, 30, 1), [vec![1, 2], vec![0]]);
    }

    #[test]
    fn tokens_count_as_they_are_reserved() {
        assert_eq!(of_any_length(&[10, 10, 600], 8, 1024, 512), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn a_prompt_above_the_budget_runs_alone() {
        assert_eq!(of_any_length(&[100, 1], 8, 10, 1), [vec![1], vec![0]]);
    }

    #[test]
    fn equal_lengths_only_share_a_batch_where_asked() {
        assert_eq!(of_equal_length(&[2, 3, 2, 3, 2], 2, 100), [vec![0, 2], vec![4], vec![1, 3]]);
    }

    #[test]
    fn nothing_needs_no_batch() {
        assert!(of_any_length(&[], 8, 100, 512).is_empty());
    }

    proptest! {
        #[test]
        fn every_prompt_runs_once_and_no_batch_is_over_its_bounds(
            lengths in proptest::collection::vec(1_usize..2000, 0..60),
            size in 1_usize..20, budget in 1_usize..6000, step in 1_usize..600,
        ) {
            for (plan, step) in [(of_any_length(&lengths, size, budget, step), step), (of_equal_length(&lengths, size, budget), 1)] {
                let mut seen: Vec<usize> = plan.iter().flatten().copied().collect();
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
                for batch in &plan {
                    let tokens: usize = batch.iter().map(|index| lengths[*index].next_multiple_of(step)).sum();
                    prop_assert!(batch.len() <= size && (tokens <= budget || batch.len() == 1));
                }
            }
        }
    }
}
