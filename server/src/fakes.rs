//! Stand-ins for tests: an engine, its loader, a model source and a store that answer at once, take as long as they
//! are told, or fail as they are told. The tokenizer is real and byte-level: one token for each byte, so that the fake
//! engine can read the prompts that it is given.
//!
//! Not part of the server: behind `cfg(test)` and the feature `test-support`.

mod engine;
mod source;
mod store;
mod tokenizer;

pub use engine::{EngineControls, EngineFault, FakeLoader, Seen};
pub use source::{FakeSource, model_key};
pub use store::{FakeStore, candidate};
pub use tokenizer::{byte_level_tokenizer_json, text_encoder, text_of};
