//! The forward pass of Qwen3 on a CPU, for what reranking asks of it: many texts with one beginning, read once, and
//! of each the answer at its last token. Arithmetic is float32 throughout, however weights are held, but for products of
//! bfloat16 where they are asked for and the processor has them, and of 8 bits where they are asked for ([`Way`]).
//!
//! # The way of a batch
//!
//! With `T` tokens in a batch (those of the common beginning once, then text behind text, without padding), `H` the
//! width of the residual stream, `Q` and `K` that of all queries and of all keys, `I` that of the feed-forward part:
//!
//! ```text
//! tokens [T]                                                        rows.rs: tiles of at most 1,024 rows
//!   | embedding table
//! states [T, H]                                                     kept for all layers
//!   |   for each layer, for each tile of t rows:                    forward.rs
//!   |     norm                             -> normed [t, H]         elementwise.rs
//!   |     two products of one input        -> inner  [t, Q | K | K] product.rs, linear.rs
//!   |     norm of each head, turn by position, in place             elementwise.rs
//!   |     keys and values of the beginning, and of texts that go on in the next tile, are copied
//!   |     attention, of each text and head: answers replace queries attention.rs
//!   |     product, added to the states
//!   |     norm                             -> normed [t, H]
//!   |     one product                      -> inner  [t, I | I]
//!   |     silu(gate) x up, in place
//!   |     product, added to the states
//!   |   the last layer: keys and values of all rows, all else of the last row of each text only
//! last rows [texts, H]
//!   | final norm                                                    answers.rs
//! two logits each, by two rows of the head; or a vector of length 1
//! ```
//!
//! Memory beside the weights: `states`, one tile and once more the input of a product, the keys and values of the
//! beginning (of one layer; of all layers, up to 64 MB, to be used again by the next batch) and of a text longer than a
//! tile, less than a megabyte a thread for attention, and where weights are held in 16 bits and multiplied in 32 one layer
//! of them in 32. Weights of 8 bits are made while they are read, 32 outputs on each thread at a time.
//!
//! # Guarantees
//! What an answer is does not depend on what else is in the batch, to the last bit: every product adds up in an order
//! that its inner length alone decides (in models wider than 64), a softmax goes from block to block of keys at places
//! that are counted from a text's first token, and texts are cut at places of their own.

mod answers;
mod attention;
mod beginning;
mod elementwise;
mod forward;
mod instructions;
mod linear;
mod matrix;
mod model;
mod pieces;
mod product;
mod rows;
mod shape;
mod weights;

pub use answers::RunError;
pub use instructions::instructions;
pub use linear::Way;
pub use matrix::Holding;
pub use model::{Model, Output};
pub use product::{MOST_INPUTS as MOST_INPUTS_OF_INT8, Rounding, seconds_of_product};
pub use shape::Shape;
pub use weights::LoadError;
