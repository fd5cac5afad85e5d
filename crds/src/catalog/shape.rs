//! The shape of a decoder model: the numbers that decide how many weights it has. Pure.

use serde::Deserialize;

/// What stands after the last layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputHead {
    /// The embedding table serves as output head too.
    Tied,
    /// A matrix of its own.
    Separate,
    /// None: the model answers hidden states.
    Absent,
}

/// The numbers that decide how many weights a decoder model has and what a token costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModelShape {
    /// Layers.
    pub layers: u64,
    /// Width of the hidden state.
    pub hidden_size: u64,
    /// Width of the feed-forward part.
    pub intermediate_size: u64,
    /// Heads of queries.
    pub attention_heads: u64,
    /// Heads of keys and values.
    pub key_value_heads: u64,
    /// Width of one head.
    pub head_dimension: u64,
    /// Rows of the embedding table.
    pub vocabulary: u64,
    /// Positions that the rotary tables are made for.
    pub maximum_positions: u64,
    /// What stands after the last layer.
    pub output_head: OutputHead,
}

/// A weight matrix: `rows` outputs of `columns` inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) rows: u64,
    pub(crate) columns: u64,
}

impl Matrix {
    pub(crate) fn weights(self) -> u64 {
        self.rows.saturating_mul(self.columns)
    }
}

impl ModelShape {
    /// Width of all query heads.
    pub fn query_width(&self) -> u64 {
        self.attention_heads.saturating_mul(self.head_dimension)
    }

    /// Width of all key heads, which is that of all value heads.
    pub fn key_width(&self) -> u64 {
        self.key_value_heads.saturating_mul(self.head_dimension)
    }

    /// The linear layers of one layer: query, key, value, output, gate, up, down.
    pub(crate) fn layer_matrices(&self) -> [Matrix; 7] {
        let Self { hidden_size, intermediate_size, .. } = *self;
        let matrix = |rows, columns| Matrix { rows, columns };
        [
            matrix(self.query_width(), hidden_size),
            matrix(self.key_width(), hidden_size),
            matrix(self.key_width(), hidden_size),
            matrix(hidden_size, self.query_width()),
            matrix(intermediate_size, hidden_size),
            matrix(intermediate_size, hidden_size),
            matrix(hidden_size, intermediate_size),
        ]
    }

    /// The embedding table; a separate output head has the same shape.
    pub(crate) fn embedding_table(&self) -> Matrix {
        Matrix { rows: self.vocabulary, columns: self.hidden_size }
    }

    /// Weights of all norms: two of the hidden width and two of a head's in each layer, one at the end.
    pub(crate) fn norm_weights(&self) -> u64 {
        let layer = self.hidden_size.saturating_add(self.head_dimension).saturating_mul(2);
        self.layers.saturating_mul(layer).saturating_add(self.hidden_size)
    }

    /// How many weights the model has; a tied output head counts once.
    pub fn parameters(&self) -> u64 {
        let layer = self.layer_matrices().iter().fold(0_u64, |sum, matrix| sum.saturating_add(matrix.weights()));
        let tables = match self.output_head {
            OutputHead::Separate => 2,
            OutputHead::Tied | OutputHead::Absent => 1,
        };
        self.layers
            .saturating_mul(layer)
            .saturating_add(self.embedding_table().weights().saturating_mul(tables))
            .saturating_add(self.norm_weights())
    }
}

/// The fields of a model's `config.json` that its shape and kind are read from. Other fields are ignored, as the file
/// belongs to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ModelConfig {
    /// Classes that can load the weights, such as `Qwen3ForCausalLM`.
    pub architectures: Vec<String>,
    /// Layers.
    pub num_hidden_layers: Option<u64>,
    /// Width of the hidden state.
    pub hidden_size: Option<u64>,
    /// Width of the feed-forward part.
    pub intermediate_size: Option<u64>,
    /// Heads of queries.
    pub num_attention_heads: Option<u64>,
    /// Heads of keys and values. Default: as many as of queries.
    pub num_key_value_heads: Option<u64>,
    /// Width of one head. Default: the hidden width divided by the heads.
    pub head_dim: Option<u64>,
    /// Rows of the embedding table.
    pub vocab_size: Option<u64>,
    /// Positions. Default: 32,768.
    pub max_position_embeddings: Option<u64>,
    /// Whether the embedding table serves as output head. Default false, as mistral.rs reads it.
    pub tie_word_embeddings: Option<bool>,
}

/// A `config.json` that does not say enough, or says nonsense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config.json needs `{field}` as a whole number from 1 to 10^9")]
pub struct IncompleteModelConfig {
    /// The field.
    pub field: &'static str,
}

impl ModelConfig {
    /// The shape of the model, with its output head for a reranker and without for an embedder.
    pub fn shape(&self, with_head: bool) -> Result<ModelShape, IncompleteModelConfig> {
        let hidden_size = require("hidden_size", self.hidden_size)?;
        let attention_heads = require("num_attention_heads", self.num_attention_heads)?;
        let output_head = match (with_head, self.tie_word_embeddings) {
            (false, _) => OutputHead::Absent,
            (true, Some(true)) => OutputHead::Tied,
            (true, _) => OutputHead::Separate,
        };
        Ok(ModelShape {
            layers: require("num_hidden_layers", self.num_hidden_layers)?,
            hidden_size,
            intermediate_size: require("intermediate_size", self.intermediate_size)?,
            attention_heads,
            key_value_heads: require("num_key_value_heads", self.num_key_value_heads.or(Some(attention_heads)))?,
            head_dimension: require("head_dim", self.head_dim.or(Some(hidden_size / attention_heads)))?,
            vocabulary: require("vocab_size", self.vocab_size)?,
            maximum_positions: require(
                "max_position_embeddings",
                self.max_position_embeddings.or(Some(super::models::CONTEXT_LENGTH)),
            )?,
            output_head,
        })
    }
}

fn require(field: &'static str, value: Option<u64>) -> Result<u64, IncompleteModelConfig> {
    value.filter(|value| (1..=1_000_000_000).contains(value)).ok_or(IncompleteModelConfig { field })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::models::{RERANKERS, embedding_model};

    fn config(text: &str) -> ModelConfig {
        serde_json::from_str(text).unwrap()
    }

    const QWEN: &str = r#"{"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 28, "hidden_size": 1024,
        "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151669, "max_position_embeddings": 40960, "tie_word_embeddings": true, "rope_theta": 1000000}"#;

    #[test]
    fn the_shape_of_a_config_file_equals_the_catalogue() {
        assert_eq!(config(QWEN).shape(true).unwrap(), RERANKERS[0].shape);
        assert_eq!(config(QWEN).shape(false).unwrap().output_head, OutputHead::Absent);
    }

    #[test]
    fn optional_fields_have_the_defaults_of_the_format() {
        let shape = config(
            r#"{"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
                "vocab_size": 500}"#,
        )
        .shape(true)
        .unwrap();
        assert_eq!((shape.key_value_heads, shape.head_dimension), (4, 16));
        assert_eq!((shape.maximum_positions, shape.output_head), (32_768, OutputHead::Separate));
    }

    #[test]
    fn a_config_without_numbers_is_refused_by_field() {
        for (text, field) in [
            ("{}", "hidden_size"),
            (r#"{"hidden_size": 0}"#, "hidden_size"),
            (r#"{"hidden_size": 64, "num_attention_heads": 0}"#, "num_attention_heads"),
            (r#"{"hidden_size": 64, "num_attention_heads": 99999999999}"#, "num_attention_heads"),
            (
                r#"{"hidden_size": 2, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 1}"#,
                "head_dim",
            ),
        ] {
            assert_eq!(config(text).shape(true).unwrap_err().field, field, "{text}");
        }
    }

    #[test]
    fn parameters_are_what_the_models_publish() {
        let parameters = RERANKERS.each_ref().map(|model| model.shape.parameters());
        assert_eq!(parameters, [595_776_512, 4_021_784_576, 8_188_548_096]);
        assert!(embedding_model("Qwen/Qwen3-Embedding-8B").unwrap().shape.parameters() < parameters[2]);
    }

    #[test]
    fn the_largest_allowed_numbers_saturate_instead_of_wrapping() {
        let huge = 1_000_000_000;
        let shape = ModelShape {
            layers: huge,
            hidden_size: huge,
            intermediate_size: huge,
            attention_heads: huge,
            key_value_heads: huge,
            head_dimension: huge,
            vocabulary: huge,
            maximum_positions: huge,
            output_head: OutputHead::Separate,
        };
        assert_eq!(shape.parameters(), u64::MAX);
    }
}
