//! The model catalogue: known models, which reranker belongs to which embedding model, batch sizes, memory. Pure.
//!
//! Nothing here reads a file or a device. The server hands in the numbers of a model's `config.json` and the bytes that
//! are free; the operator hands in a specification; both get the same answers.
//!
//! Units: GB = 10^9 bytes, and every amount of memory is a count of bytes in `u64`. Sums saturate instead of wrapping, so
//! that absurd inputs give an absurdly large need and never a small one.

pub mod batch;
pub mod custom;
pub mod execution;
pub mod instruction;
pub mod memory;
pub mod model_id;
pub mod models;
pub mod names;
pub mod recommend;
pub mod selection;
pub mod shape;
pub mod size;

pub use batch::{BatchRow, batch_size, token_budget};
pub use custom::{ClassificationHead, CustomReranker, FieldProblem, Prompt, Scoring, refuse_classification_head};
pub use execution::{DeviceKind, EngineKind, Quantization};
pub use instruction::InstructionTemplate;
pub use memory::{MemoryEstimate, Workload, estimate_memory, packed_batch_tokens, weights_bytes};
pub use model_id::{InvalidModelId, check_model_id, check_revision};
pub use models::{
    CONTEXT_LENGTH, DEFAULT_RERANKER, EMBEDDING_MODELS, EmbeddingModel, QUERY_INSTRUCTION, RERANKERS, RerankerModel,
    SMALLEST_DIMENSION, embedding_model, reranker_model,
};
pub use names::UnknownName;
pub use recommend::{PrecisionWish, Recommendation, recommend};
pub use selection::{Selection, SelectionReason, select_reranker};
pub use shape::{IncompleteModelConfig, ModelConfig, ModelShape, OutputHead};
pub use size::parse_size;
