//! The common beginning of the texts of a request, as every layer knows it.

use crate::shape::Shape;

/// A beginning whose keys and values take more is computed again for each batch.
const MOST_KEPT_BYTES: usize = 64_000_000;

/// Keys and values of a beginning.
#[derive(Debug)]
pub(crate) struct Beginning {
    /// Of which tokens.
    pub(crate) tokens: Vec<u32>,
    /// Of each layer `[tokens, keys | values]`.
    pub(crate) layers: Vec<Vec<f32>>,
}

/// Whether so many tokens are kept from one batch to the next.
pub(crate) fn is_kept(tokens: usize, shape: &Shape) -> bool {
    tokens * 2 * shape.key_width() * shape.layers * size_of::<f32>() <= MOST_KEPT_BYTES
}
