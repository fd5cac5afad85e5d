//! Which prompts go together, and how one request's batches become its answer. Pure.
//!
//! A plan is a list of batches, each a list of positions in the request. Prompts are taken in order of their length, so
//! that equal lengths, which in some engines alone run in one pass, meet in one batch.

use super::EngineError;

/// Bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Prompts, at most.
    pub(super) prompts: usize,
    /// Tokens for which memory is reserved, at most. A prompt above it runs alone.
    pub(super) tokens: usize,
    /// Memory for a prompt is reserved in steps of so many tokens.
    pub(super) reserved_by: usize,
    /// Tokens that are run after a prompt and need memory too.
    pub(super) further: usize,
    /// Whether all prompts must have one length.
    pub(super) equal_lengths: bool,
}

impl Bounds {
    /// Fills batches in order of length for as long as the next prompt fits.
    pub(super) fn plan(self, lengths: &[usize]) -> Vec<Vec<usize>> {
        let mut order: Vec<(usize, usize)> = lengths.iter().copied().enumerate().collect();
        order.sort_by_key(|(_, length)| *length);
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let (mut reserved, mut previous) = (0, 0);
        for (index, length) in order {
            let reserve = (length + self.further).next_multiple_of(self.reserved_by.max(1));
            match batches.last_mut() {
                Some(batch)
                    if batch.len() < self.prompts
                        && reserved + reserve <= self.tokens
                        && (length == previous || !self.equal_lengths) =>
                {
                    batch.push(index);
                    reserved += reserve;
                }
                _ => {
                    batches.push(vec![index]);
                    reserved = reserve;
                }
            }
            previous = length;
        }
        batches
    }
}

/// One request on its way through its batches.
#[derive(Debug)]
pub(super) struct Answers<T> {
    inputs: Vec<Option<Vec<u32>>>,
    answers: Vec<Option<T>>,
}

impl<T> Answers<T> {
    /// To all inputs, of which none is answered yet.
    pub(super) fn to(inputs: Vec<Vec<u32>>) -> Self {
        Self { answers: inputs.iter().map(|_| None).collect(), inputs: inputs.into_iter().map(Some).collect() }
    }

    /// Inputs of a batch.
    pub(super) fn take(&mut self, batch: &[usize]) -> Vec<Vec<u32>> {
        batch.iter().filter_map(|index| self.inputs.get_mut(*index)?.take()).collect()
    }

    /// What came of a batch. An error names its input's place in the request.
    pub(super) fn put(&mut self, batch: &[usize], results: Result<Vec<T>, EngineError>) -> Result<(), EngineError> {
        let results = results.map_err(|error| match error {
            EngineError::NotFinite { index } => {
                EngineError::NotFinite { index: batch.get(index).copied().unwrap_or(index) }
            }
            other => other,
        })?;
        for (index, result) in batch.iter().zip(results) {
            if let Some(answer) = self.answers.get_mut(*index) {
                *answer = Some(result);
            }
        }
        Ok(())
    }

    /// All of them, in the request's order.
    pub(super) fn all(self) -> Result<Vec<T>, EngineError> {
        self.answers.into_iter().collect::<Option<_>>().ok_or_else(|| EngineError::Failed {
            message: "the engine answered fewer inputs than it was given".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds(prompts: usize, tokens: usize, reserved_by: usize) -> Bounds {
        Bounds { prompts, tokens, reserved_by, further: 0, equal_lengths: false }
    }

    #[test]
    fn batches_keep_to_size_and_budget() {
        assert_eq!(bounds(3, 1000, 1).plan(&[10, 10, 10, 10]), [vec![0, 1, 2], vec![3]]);
        assert_eq!(bounds(8, 25, 1).plan(&[10, 10, 10, 10]), [vec![0, 1], vec![2, 3]]);
        assert_eq!(bounds(8, 30, 1).plan(&[30, 10, 20]), [vec![1, 2], vec![0]]);
    }

    #[test]
    fn tokens_count_as_they_are_reserved() {
        assert_eq!(bounds(8, 1024, 512).plan(&[10, 10, 600]), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn a_token_after_the_prompt_counts_too() {
        let bounds = Bounds { further: 1, ..bounds(8, 1024, 512) };
        assert_eq!(bounds.plan(&[511, 511, 512]), [vec![0, 1], vec![2]]);
        assert_eq!(bounds.plan(&[512, 512]), [vec![0], vec![1]]);
    }

    #[test]
    fn a_prompt_above_the_budget_runs_alone() {
        assert_eq!(bounds(8, 10, 1).plan(&[100, 1]), [vec![1], vec![0]]);
    }

    #[test]
    fn equal_lengths_only_share_a_batch_where_asked() {
        let bounds = Bounds { equal_lengths: true, ..bounds(2, 100, 1) };
        assert_eq!(bounds.plan(&[2, 3, 2, 3, 2]), [vec![0, 2], vec![4], vec![1, 3]]);
    }

    #[test]
    fn nothing_needs_no_batch() {
        assert!(bounds(8, 100, 512).plan(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn every_prompt_runs_once_and_no_batch_is_over_its_bounds(
            lengths in proptest::collection::vec(1_usize..2000, 0..60),
            prompts in 1_usize..20, tokens in 1_usize..6000, reserved_by in 1_usize..600, further in 0_usize..2, equal_lengths: bool,
        ) {
            let plan = Bounds { prompts, tokens, reserved_by, further, equal_lengths }.plan(&lengths);
            let mut seen: Vec<usize> = plan.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &plan {
                let reserved: usize =
                    batch.iter().map(|index| (lengths[*index] + further).next_multiple_of(reserved_by)).sum();
                prop_assert!(batch.len() <= prompts && (reserved <= tokens || batch.len() == 1));
                prop_assert!(!equal_lengths || batch.iter().all(|index| lengths[*index] == lengths[batch[0]]));
            }
        }
    }
}
