//! `config.json`: the numbers that memory and loading need, and the form that engines read. Pure.

use rerank_crds::catalog::{ModelShape, OutputHead};
use serde_json::{Map, Value, json};

use super::WeightsError;
use crate::engine::ModelRole;

/// Decoders that answer with a token, so that they can rerank.
const RERANKERS: [&str; 13] = [
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Qwen2ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "PhiForCausalLM",
    "Phi3ForCausalLM",
    "SmolLM3ForCausalLM",
    "Starcoder2ForCausalLM",
    "Glm4ForCausalLM",
];

/// Base models whose last token's hidden state is the embedding.
const EMBEDDERS: [&str; 2] = ["Qwen3ForCausalLM", "Qwen3Model"];

/// Architectures whose rotary embedding the engine scales as `rope_scaling` says; the others would ignore it.
const SCALED: [&str; 5] =
    ["LlamaForCausalLM", "Phi3ForCausalLM", "SmolLM3ForCausalLM", "MistralForCausalLM", "Glm4ForCausalLM"];

/// What `config.json` says of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// Class name, such as `Qwen3ForCausalLM`.
    pub architecture: String,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Attention heads.
    pub attention_heads: usize,
    /// Heads of keys and values.
    pub key_value_heads: usize,
    /// Width of one head.
    pub head_dimension: usize,
    /// Tokens of the vocabulary.
    pub vocabulary_size: usize,
    /// Whether the output head is the embedding table.
    pub tied_embeddings: bool,
    /// Longest input in tokens.
    pub maximum_positions: usize,
    /// Type of the weights in the files, such as `bfloat16`, where named.
    pub dtype: Option<String>,
}

impl ModelConfig {
    /// Reads the numbers. The error names the field and what it must be.
    pub(super) fn parse(config: &Value, architecture: &str) -> Result<Self, String> {
        let number = |field: &str| -> Result<usize, String> {
            let value = &config[field];
            value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .filter(|number| (1..=1 << 31).contains(number))
                .ok_or_else(|| format!("{field} must be a whole number above 0, not {value}"))
        };
        let number_or = |field: &str, default: usize| {
            if config[field].is_null() { Ok(default) } else { number(field) }
        };
        let attention_heads = number("num_attention_heads")?;
        let hidden_size = number("hidden_size")?;
        let key_value_heads = number_or("num_key_value_heads", attention_heads)?;
        if !attention_heads.is_multiple_of(key_value_heads) {
            return Err(format!(
                "num_attention_heads ({attention_heads}) must be a multiple of num_key_value_heads ({key_value_heads})"
            ));
        }
        Ok(Self {
            architecture: architecture.to_owned(),
            layers: number("num_hidden_layers")?,
            hidden_size,
            intermediate_size: number("intermediate_size")?,
            attention_heads,
            key_value_heads,
            head_dimension: number_or("head_dim", (hidden_size / attention_heads).max(1))?,
            vocabulary_size: number("vocab_size")?,
            // Gemma's files leave the field out and tie.
            tied_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(architecture.starts_with("Gemma")),
            maximum_positions: number("max_position_embeddings")?,
            dtype: config["dtype"].as_str().or(config["torch_dtype"].as_str()).map(str::to_owned),
        })
    }
}

impl ModelConfig {
    /// The numbers that decide its memory, in that role.
    pub fn shape(&self, role: ModelRole) -> ModelShape {
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        ModelShape {
            layers: count(self.layers),
            hidden_size: count(self.hidden_size),
            intermediate_size: count(self.intermediate_size),
            attention_heads: count(self.attention_heads),
            key_value_heads: count(self.key_value_heads),
            head_dimension: count(self.head_dimension),
            vocabulary: count(self.vocabulary_size),
            maximum_positions: count(self.maximum_positions),
            output_head: match (role, self.tied_embeddings) {
                (ModelRole::Embedder, _) => OutputHead::Absent,
                (ModelRole::Reranker, true) => OutputHead::Tied,
                (ModelRole::Reranker, false) => OutputHead::Separate,
            },
        }
    }
}

/// The one architecture of `config.json`.
pub(super) fn architecture(config: &Value) -> Result<String, String> {
    match config["architectures"].as_array().map(Vec::as_slice) {
        Some([Value::String(name)]) => Ok(name.clone()),
        _ => Err(format!(
            "architectures must name one class, such as [\"Qwen3ForCausalLM\"], not {}",
            config["architectures"]
        )),
    }
}

/// Refuses architectures that no engine here runs in this role, with the reason.
pub(super) fn check_architecture(architecture: &str, role: ModelRole) -> Result<(), WeightsError> {
    let (name, supported): (_, &[&str]) = match role {
        ModelRole::Reranker => ("a reranker", &RERANKERS),
        ModelRole::Embedder => ("an embedder", &EMBEDDERS),
    };
    if supported.contains(&architecture) {
        return Ok(());
    }
    let why = if architecture.ends_with("ForSequenceClassification") {
        "it scores with a classification head, and rerankers here answer with a token (yes or no); use the model's \
         original decoder"
    } else if architecture.ends_with("ForMaskedLM")
        || architecture.starts_with("Bert")
        || architecture.contains("Roberta")
    {
        "it is an encoder, and models here are decoders"
    } else {
        "it is not known here"
    };
    Err(WeightsError::Architecture {
        architecture: architecture.to_owned(),
        role: name,
        reason: format!("{why}; supported: {}", supported.join(", ")),
    })
}

/// `config.json` in the form that engines read:
/// - `rope_theta` at the top level, also where transformers 5 wrote `rope_parameters`;
/// - no `sliding_window` where `use_sliding_window` is false, since engines look at the window alone;
/// - every field that they require.
///
/// What an engine would ignore without a word, and so compute something else, is refused.
pub(super) fn for_engines(config: &Value, parsed: &ModelConfig) -> Result<Value, String> {
    let Some(fields) = config.as_object() else { return Err("it is no JSON object".to_owned()) };
    let mut fields = fields.clone();
    if fields.get("quantization_config").is_some_and(|value| !value.is_null()) {
        return Err("quantization_config: the weights are quantized already; use the original ones and set \
                    reranker.quantization or embedding.quantization"
            .to_owned());
    }
    set_rope(&mut fields, &parsed.architecture)?;
    if parsed.architecture.starts_with("Qwen") {
        if parsed.architecture.starts_with("Qwen3") && fields.get("attention_bias") == Some(&Value::Bool(true)) {
            return Err("attention_bias must be false: biases would be ignored".to_owned());
        }
        let windowed = fields.get("use_sliding_window") == Some(&Value::Bool(true));
        fields.insert("use_sliding_window".to_owned(), json!(windowed));
        fields.entry("max_window_layers").or_insert(json!(parsed.layers));
        if !windowed {
            fields.insert("sliding_window".to_owned(), Value::Null);
        }
    }
    fields.insert("tie_word_embeddings".to_owned(), json!(parsed.tied_embeddings));
    Ok(Value::Object(fields))
}

fn set_rope(fields: &mut Map<String, Value>, architecture: &str) -> Result<(), String> {
    let parameters = match fields.remove("rope_parameters") {
        None | Some(Value::Null) => None,
        Some(Value::Object(parameters)) => Some(parameters),
        Some(other) => return Err(format!("rope_parameters must be an object, not {other}")),
    };
    if let Some(parameters) = parameters {
        let theta = parameters.get("rope_theta").or(fields.get("rope_theta")).cloned().unwrap_or(Value::Null);
        fields.insert("rope_theta".to_owned(), theta);
        let scaling: Map<String, Value> = parameters.into_iter().filter(|(name, _)| name != "rope_theta").collect();
        if fields.get("rope_scaling").is_none_or(Value::is_null) {
            fields.insert("rope_scaling".to_owned(), Value::Object(scaling));
        }
    }
    let scaling = fields.get("rope_scaling").unwrap_or(&Value::Null);
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default").to_owned();
    if kind == "default" {
        fields.insert("rope_scaling".to_owned(), Value::Null);
    } else if !SCALED.contains(&architecture) {
        return Err(format!(
            "rope_scaling of type {kind:?} would be ignored for {architecture}; remove it and keep to the original length"
        ));
    }
    match fields.get("rope_theta").and_then(Value::as_f64) {
        Some(theta) if theta.is_finite() && theta > 0.0 => Ok(()),
        _ => Err("rope_theta, or rope_parameters.rope_theta, must be a number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qwen3() -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
            "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151_669,
            "tie_word_embeddings": true, "max_position_embeddings": 40960, "rope_theta": 1_000_000,
            "torch_dtype": "bfloat16", "sliding_window": 4096, "use_sliding_window": false, "attention_bias": false,
        })
    }

    fn normalised(config: &Value) -> Result<Value, String> {
        let architecture = architecture(config)?;
        for_engines(config, &ModelConfig::parse(config, &architecture)?)
    }

    #[test]
    fn the_numbers_of_a_real_config_are_read() {
        let config = ModelConfig::parse(&qwen3(), "Qwen3ForCausalLM").unwrap();
        assert_eq!((config.layers, config.hidden_size, config.key_value_heads), (28, 1024, 8));
        assert_eq!((config.head_dimension, config.vocabulary_size, config.tied_embeddings), (128, 151_669, true));
        assert_eq!(config.dtype.as_deref(), Some("bfloat16"));
    }

    #[test]
    fn rope_parameters_become_rope_theta() {
        let mut config = qwen3();
        config.as_object_mut().unwrap().remove("rope_theta");
        config["rope_parameters"] = json!({"rope_theta": 5000.0, "rope_type": "default"});
        let engine = normalised(&config).unwrap();
        assert_eq!(engine["rope_theta"], 5000.0);
        assert!(engine.get("rope_parameters").is_none() && engine["rope_scaling"].is_null());
        config.as_object_mut().unwrap().remove("rope_parameters");
        assert!(normalised(&config).unwrap_err().contains("rope_parameters.rope_theta"));
    }

    #[test]
    fn a_scaling_that_would_be_ignored_is_refused() {
        let mut config = qwen3();
        config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0});
        assert!(normalised(&config).unwrap_err().contains("\"yarn\" would be ignored"));
        config["architectures"] = json!(["LlamaForCausalLM"]);
        assert_eq!(normalised(&config).unwrap()["rope_scaling"]["factor"], 4.0);
    }

    #[test]
    fn an_unused_sliding_window_is_removed() {
        let engine = normalised(&qwen3()).unwrap();
        assert!(engine["sliding_window"].is_null());
        assert_eq!((&engine["use_sliding_window"], &engine["max_window_layers"]), (&json!(false), &json!(28)));
        let mut windowed = qwen3();
        windowed["use_sliding_window"] = json!(true);
        assert_eq!(normalised(&windowed).unwrap()["sliding_window"], 4096);
    }

    #[test]
    fn impossible_numbers_are_refused_by_name() {
        for (field, value) in [
            ("hidden_size", json!(0)),
            ("vocab_size", json!("many")),
            ("num_hidden_layers", json!(-1)),
            ("head_dim", json!(1.5)),
            ("num_key_value_heads", json!(3)),
            ("max_position_embeddings", Value::Null),
        ] {
            let mut config = qwen3();
            config[field] = value;
            let error = normalised(&config).unwrap_err();
            assert!(error.contains(field), "{field}: {error}");
        }
        let mut config = qwen3();
        config["quantization_config"] = json!({"quant_method": "gptq"});
        assert!(normalised(&config).unwrap_err().contains("quantized already"));
        config = qwen3();
        config["attention_bias"] = json!(true);
        assert!(normalised(&config).unwrap_err().contains("attention_bias"));
        for architectures in [json!(null), json!([]), json!("Qwen3ForCausalLM"), json!([1]), json!(["a", "b"])] {
            config["architectures"] = architectures;
            assert!(normalised(&config).unwrap_err().contains("must name one class"));
        }
        assert!(architecture(&json!([])).is_err() && architecture(&json!(7)).is_err());
    }

    #[test]
    fn architectures_are_refused_with_a_reason_and_the_supported_ones() {
        let refusal = |name, role| check_architecture(name, role).unwrap_err().to_string();
        let error = refusal("Qwen3ForSequenceClassification", ModelRole::Reranker);
        assert!(error.contains("a reranker: it scores with a classification head"), "{error}");
        assert!(error.contains("supported: Qwen3ForCausalLM, "), "{error}");
        assert!(refusal("XLMRobertaForSequenceClassification", ModelRole::Reranker).contains("classification head"));
        assert!(refusal("BertModel", ModelRole::Embedder).contains("it is an encoder"));
        assert!(refusal("LlamaForCausalLM", ModelRole::Embedder).contains("an embedder: it is not known here"));
        assert!(check_architecture("Qwen3ForCausalLM", ModelRole::Embedder).is_ok());
    }
}
