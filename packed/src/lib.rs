//! The forward pass of Qwen3 on a CPU, for what reranking asks of it: many texts with one beginning, read once, and
//! of each the answer at its last token. Arithmetic is float32 throughout, however weights are held.
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
//!   |     one product                      -> inner  [t, Q | K | K] product.rs
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
//! Memory beside the weights: `states`, one tile, the keys and values of the beginning (of one layer; of all layers,
//! up to 64 MB, to be used again by the next batch) and of a text longer than a tile, and where weights are held in
//! 16 bits one layer of them in 32.
//!
//! # Guarantees
//! What an answer is does not depend on what else is in the batch, to the last bit: every product adds up in an order
//! that its inner length alone decides (in models wider than 64), and texts are cut at places of their own.

mod answers;
mod attention;
mod beginning;
mod elementwise;
mod forward;
mod instructions;
mod matrix;
mod model;
mod product;
mod rows;
mod shape;
mod weights;

pub use answers::RunError;
pub use instructions::instructions;
pub use matrix::Holding;
pub use model::{Model, Output};
pub use product::seconds_of_product;
pub use shape::Shape;
pub use weights::LoadError;
