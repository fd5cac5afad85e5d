//! The table of known models. Pure.

use super::batch::BatchRow;
use super::shape::{ModelShape, OutputHead};

/// Used only without exact or size match.
pub const DEFAULT_RERANKER: &str = "Qwen/Qwen3-Reranker-0.6B";

/// Query instruction of the embedding models in the catalogue, as their model cards give it.
pub const QUERY_INSTRUCTION: &str = "Given a web search query, retrieve relevant passages that answer the query";

/// Tokens of context of every model in the catalogue.
pub const CONTEXT_LENGTH: u64 = 32_768;

/// The smallest dimension that an embedding of the catalogue may be cut to.
pub const SMALLEST_DIMENSION: u32 = 32;

/// A reranker of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RerankerModel {
    /// Model id.
    pub id: &'static str,
    /// The embedding model of the same size, which selects it.
    pub embedding_model: &'static str,
    /// The size in its name.
    pub nominal_parameters: u64,
    /// Weights in float16 as the guide states them, in bytes.
    pub nominal_float16_bytes: u64,
    /// Weights in int8 as the guide states them, in bytes. [`super::weights_bytes`] says what they really take.
    pub nominal_int8_bytes: u64,
    /// Pairs in a batch.
    pub batch: BatchRow,
    /// What its memory is computed from.
    pub shape: ModelShape,
}

/// An embedding model of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingModel {
    /// Model id.
    pub id: &'static str,
    /// The size in its name.
    pub nominal_parameters: u64,
    /// Length of a whole vector.
    pub dimension: u32,
    /// The smallest length that a vector may be cut to.
    pub smallest_dimension: u32,
    /// Tokens of context.
    pub context_length: u64,
    /// What is put before a query; documents have none.
    pub query_instruction: &'static str,
    /// What its memory is computed from.
    pub shape: ModelShape,
}

/// Every known reranker, the smallest first.
pub static RERANKERS: [RerankerModel; 3] = [
    RerankerModel {
        id: DEFAULT_RERANKER,
        embedding_model: "Qwen/Qwen3-Embedding-0.6B",
        nominal_parameters: 600_000_000,
        nominal_float16_bytes: 1_200_000_000,
        nominal_int8_bytes: 600_000_000,
        batch: BatchRow { float32: 64, float16: 128, int8: 256 },
        shape: ModelShape { output_head: OutputHead::Tied, ..SHAPE_0_6B },
    },
    RerankerModel {
        id: "Qwen/Qwen3-Reranker-4B",
        embedding_model: "Qwen/Qwen3-Embedding-4B",
        nominal_parameters: 4_000_000_000,
        nominal_float16_bytes: 8_000_000_000,
        nominal_int8_bytes: 4_000_000_000,
        batch: BatchRow { float32: 16, float16: 32, int8: 64 },
        shape: ModelShape { output_head: OutputHead::Tied, ..SHAPE_4B },
    },
    RerankerModel {
        id: "Qwen/Qwen3-Reranker-8B",
        embedding_model: "Qwen/Qwen3-Embedding-8B",
        nominal_parameters: 8_000_000_000,
        nominal_float16_bytes: 16_000_000_000,
        nominal_int8_bytes: 8_000_000_000,
        batch: BatchRow { float32: 8, float16: 16, int8: 32 },
        shape: ModelShape { output_head: OutputHead::Separate, ..SHAPE_8B },
    },
];

/// Every known embedding model, the smallest first.
pub static EMBEDDING_MODELS: [EmbeddingModel; 3] = [
    EmbeddingModel {
        id: "Qwen/Qwen3-Embedding-0.6B",
        nominal_parameters: 600_000_000,
        dimension: 1_024,
        smallest_dimension: SMALLEST_DIMENSION,
        context_length: CONTEXT_LENGTH,
        query_instruction: QUERY_INSTRUCTION,
        shape: SHAPE_0_6B,
    },
    EmbeddingModel {
        id: "Qwen/Qwen3-Embedding-4B",
        nominal_parameters: 4_000_000_000,
        dimension: 2_560,
        smallest_dimension: SMALLEST_DIMENSION,
        context_length: CONTEXT_LENGTH,
        query_instruction: QUERY_INSTRUCTION,
        shape: SHAPE_4B,
    },
    EmbeddingModel {
        id: "Qwen/Qwen3-Embedding-8B",
        nominal_parameters: 8_000_000_000,
        dimension: 4_096,
        smallest_dimension: SMALLEST_DIMENSION,
        context_length: CONTEXT_LENGTH,
        query_instruction: QUERY_INSTRUCTION,
        shape: SHAPE_8B,
    },
];

/// Qwen3 0.6B without an output head.
const SHAPE_0_6B: ModelShape = ModelShape {
    layers: 28,
    hidden_size: 1_024,
    intermediate_size: 3_072,
    attention_heads: 16,
    key_value_heads: 8,
    head_dimension: 128,
    vocabulary: 151_669,
    maximum_positions: 40_960,
    output_head: OutputHead::Absent,
};

/// Qwen3 4B without an output head.
const SHAPE_4B: ModelShape =
    ModelShape { layers: 36, hidden_size: 2_560, intermediate_size: 9_728, attention_heads: 32, ..SHAPE_0_6B };

/// Qwen3 8B without an output head.
const SHAPE_8B: ModelShape = ModelShape { hidden_size: 4_096, intermediate_size: 12_288, ..SHAPE_4B };

/// The reranker of that id.
pub fn reranker_model(id: &str) -> Option<&'static RerankerModel> {
    RERANKERS.iter().find(|model| model.id == id)
}

/// The embedding model of that id.
pub fn embedding_model(id: &str) -> Option<&'static EmbeddingModel> {
    EMBEDDING_MODELS.iter().find(|model| model.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{check_model_id, parse_size};

    #[test]
    fn every_model_is_found_by_its_id_and_its_name_states_its_size() {
        for model in &RERANKERS {
            assert_eq!(reranker_model(model.id), Some(model));
            assert_eq!(parse_size(model.id), Some(model.nominal_parameters));
            assert_eq!(check_model_id(model.id), Ok(()));
            let embedding = embedding_model(model.embedding_model).unwrap();
            assert_eq!(embedding.nominal_parameters, model.nominal_parameters);
        }
        assert_eq!(reranker_model("Qwen/Qwen3-Embedding-4B"), None);
        assert_eq!(embedding_model("Qwen/Qwen3-Reranker-4B"), None);
        assert!(reranker_model(DEFAULT_RERANKER).is_some());
    }

    #[test]
    fn an_embedding_is_as_long_as_the_hidden_state() {
        for model in &EMBEDDING_MODELS {
            assert_eq!(u64::from(model.dimension), model.shape.hidden_size);
            assert!(model.smallest_dimension < model.dimension);
        }
    }
}
