//! What a request asks of the queue: pairs, tokens and memory. Pure.
//!
//! Before a text is tokenized its tokens are bounded by its bytes: every token of a byte-level vocabulary stands for at least
//! one. Memory is that of the texts and of the token ids that are made of them; once those are there, the texts are gone.

use std::iter::Sum;
use std::ops::AddAssign;

/// Bytes of a token's id.
const ID_BYTES: usize = size_of::<u32>();

/// What one request, or all together, ask of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Prompts of the reranker, or texts to be embedded.
    pub(crate) pairs: usize,
    /// Tokens in them, at most.
    pub(crate) tokens: usize,
    /// Memory that they hold, at most.
    pub(crate) bytes: usize,
}

impl Demand {
    /// Texts that are there. `shared_bytes` stand in the prompt of each of them: template, instruction, query.
    pub(super) fn of_texts(
        shared_bytes: usize,
        text_bytes: impl Iterator<Item = usize>,
        maximum_tokens: usize,
    ) -> Self {
        let of_one = |bytes: usize| {
            let tokens = bytes.saturating_add(shared_bytes).min(maximum_tokens);
            Self { pairs: 1, tokens, bytes: bytes.saturating_add(tokens.saturating_mul(ID_BYTES)) }
        };
        text_bytes.map(of_one).sum()
    }

    /// Candidates that the store has not brought yet.
    pub(super) fn of_unknown_texts(pairs: usize, maximum_tokens: usize) -> Self {
        let tokens = pairs.saturating_mul(maximum_tokens);
        Self { pairs, tokens, bytes: tokens.saturating_mul(ID_BYTES) }
    }

    /// Prompts that are made.
    pub(super) fn of_prompts(pairs: usize, tokens: usize) -> Self {
        Self { pairs, tokens, bytes: tokens.saturating_mul(ID_BYTES) }
    }

    /// Whether it asks for nothing at all.
    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Takes out what was put in as `before`, and puts in `now`.
    pub(super) fn replace(&mut self, before: Self, now: Self) {
        self.pairs = self.pairs.saturating_sub(before.pairs);
        self.tokens = self.tokens.saturating_sub(before.tokens);
        self.bytes = self.bytes.saturating_sub(before.bytes);
        *self += now;
    }
}

impl Sum for Demand {
    fn sum<I: Iterator<Item = Self>>(demands: I) -> Self {
        demands.fold(Self::default(), |mut sum, demand| {
            sum += demand;
            sum
        })
    }
}

impl AddAssign for Demand {
    fn add_assign(&mut self, other: Self) {
        self.pairs = self.pairs.saturating_add(other.pairs);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_at_most_as_many_tokens_as_bytes_and_no_more_than_are_read() {
        let demand = Demand::of_texts(100, [50, 10_000].into_iter(), 1_000);
        assert_eq!(demand, Demand { pairs: 2, tokens: 150 + 1_000, bytes: 50 + 10_000 + 4 * 1_150 });
        assert_eq!(Demand::of_unknown_texts(3, 1_000), Demand { pairs: 3, tokens: 3_000, bytes: 12_000 });
        assert_eq!(Demand::of_prompts(2, 70), Demand { pairs: 2, tokens: 70, bytes: 280 });
    }

    #[test]
    fn what_is_put_in_is_taken_out_again() {
        let mut all = Demand::of_prompts(5, 50);
        let one = Demand::of_texts(0, [10].into_iter(), 100);
        all += one;
        all.replace(one, Demand::of_prompts(1, 3));
        all.replace(Demand::of_prompts(1, 3), Demand::default());
        assert_eq!(all, Demand::of_prompts(5, 50));
    }
}
