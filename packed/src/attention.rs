//! Attention of one tile: queries of texts look at keys, and their answers take their place.
//!
//! Queries of a text see the keys of the common beginning, those of the text in earlier tiles, and those in this tile
//! up to themselves. These lie in up to three places and are read where they lie; the answers take the place of the
//! queries. As for other products ([`crate::product`]) there are two ways: by kernels of our own, panel by panel
//! ([`panels`]), and by the crate `gemm` ([`portable`]).

use crate::product::Kernel;
use crate::shape::Shape;

mod panels;
mod portable;

/// Keys and values of tokens that follow each other, of all heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// The first key.
    pub(crate) keys: *const f32,
    /// The first value.
    pub(crate) values: *const f32,
    /// How far apart tokens are.
    pub(crate) stride: usize,
    /// How many tokens.
    pub(crate) tokens: usize,
}

/// Queries that follow each other, of all heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queries {
    /// The first, which the answer replaces.
    pub(crate) at: *mut f32,
    /// How far apart tokens are.
    pub(crate) stride: usize,
    /// How many tokens.
    pub(crate) tokens: usize,
}

/// Queries of one text and what they see: the last token of the last place is seen by the last query alone, the one
/// before it by the last two, and so on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) queries: Queries,
    pub(crate) seen: [Option<Seen>; 3],
}

/// Answers all of them, on the threads of the pool that it is called in. Queries have been divided by the root of a
/// head's width already.
///
/// # Safety
/// All places hold as many tokens as they say, each with all heads; no query lies in two of `works` nor in a key or a
/// value; and nobody else reads or writes any of them meanwhile.
#[expect(unsafe_code, reason = "places lie beside each other in one buffer; slices cannot say that they are apart")]
pub(crate) unsafe fn attend(works: &[Work], shape: &Shape, kernel: Option<Kernel>) {
    // Safety: as the caller promises.
    unsafe {
        match kernel {
            Some(kernel) => panels::attend(works, shape, kernel),
            None => portable::attend(works, shape),
        }
    }
}
