//! The numbers of a model. Pure.

/// What decides how a model is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Layers, at least 1.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Heads of queries; a multiple of `key_value_heads`.
    pub query_heads: usize,
    /// Heads of keys and of values.
    pub key_value_heads: usize,
    /// Width of one head; even.
    pub head: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Added to the mean square under the root of a norm.
    pub norm_epsilon: f32,
    /// Base of the rotary frequencies.
    pub rotary_base: f32,
}

impl Shape {
    /// Inputs of the widest linear layer.
    pub fn most_inputs(&self) -> usize {
        self.hidden.max(self.intermediate).max(self.query_width())
    }

    /// Width of all queries of a token.
    pub(crate) fn query_width(&self) -> usize {
        self.query_heads * self.head
    }

    /// Width of all keys of a token, and of all values.
    pub(crate) fn key_width(&self) -> usize {
        self.key_value_heads * self.head
    }

    /// Width of queries, keys and values side by side.
    pub(crate) fn attention_width(&self) -> usize {
        self.query_width() + 2 * self.key_width()
    }

    /// Query heads that share a head of keys and values.
    pub(crate) fn group(&self) -> usize {
        self.query_heads / self.key_value_heads
    }
}
