//! Which models the engine runs, and in which numbers. Pure.

use rerank_crds::catalog::Quantization;
use rerank_packed::{Holding, MOST_INPUTS_OF_INT8, Shape, Way};
use serde_json::Value;

use crate::engine::weights::WeightsInfo;

/// Classes of the family.
const ARCHITECTURES: [&str; 2] = ["Qwen3ForCausalLM", "Qwen3Model"];

/// The model's numbers, and how its weights are to be held and multiplied. The error says what stands against it and what would do.
pub fn supported(info: &WeightsInfo, quantization: Quantization) -> Result<(Shape, Way), String> {
    let shape = shape(info)?;
    let inputs = shape.most_inputs();
    if quantization == Quantization::Int8 && inputs > MOST_INPUTS_OF_INT8 {
        return Err(format!(
            "engine Packed sums up to {MOST_INPUTS_OF_INT8} products of int8, and a layer has {inputs} inputs; allowed: \
             float32, float16, bfloat16"
        ));
    }
    Ok((shape, way(quantization, info.config.dtype.as_deref())))
}

/// In float32, but for bfloat16 on a processor that multiplies such numbers, and for int8. That holds the embedding table in
/// 16 bits, those of the file if it has so many.
fn way(quantization: Quantization, of_the_file: Option<&str>) -> Way {
    match quantization {
        Quantization::Float32 => Way::exact(Holding::Float32),
        Quantization::Float16 => Way::exact(Holding::Float16),
        Quantization::Bfloat16 => Way::bfloat16().unwrap_or_else(|| Way::exact(Holding::Bfloat16)),
        Quantization::Int8 if of_the_file == Some("bfloat16") => Way::int8(Holding::Bfloat16),
        Quantization::Int8 => Way::int8(Holding::Float16),
    }
}

fn shape(info: &WeightsInfo) -> Result<Shape, String> {
    let (config, fields) = (&info.config, &info.engine_config);
    if !ARCHITECTURES.contains(&config.architecture.as_str()) {
        let allowed = ARCHITECTURES.join(", ");
        return Err(format!("engine Packed does not run {}; supported: {allowed}", config.architecture));
    }
    if !fields["sliding_window"].is_null() {
        return Err("engine Packed has no sliding window, which config.json asks for".to_owned());
    }
    match fields["hidden_act"].as_str() {
        None | Some("silu") => {}
        Some(other) => return Err(format!("engine Packed computes hidden_act silu, not {other}")),
    }
    if !config.head_dimension.is_multiple_of(2) {
        return Err(format!("head_dim must be even, not {}", config.head_dimension));
    }
    Ok(Shape {
        layers: config.layers,
        hidden: config.hidden_size,
        intermediate: config.intermediate_size,
        query_heads: config.attention_heads,
        key_value_heads: config.key_value_heads,
        head: config.head_dimension,
        vocabulary: config.vocabulary_size,
        norm_epsilon: number(fields, "rms_norm_eps")?,
        rotary_base: number(fields, "rope_theta")?,
    })
}

fn number(fields: &Value, name: &str) -> Result<f32, String> {
    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with float32")]
    let value = fields[name].as_f64().map(|value| value as f32);
    let value = value.filter(|value| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| format!("{name} must be a number above 0, not {}", fields[name]))
}

#[cfg(test)]
pub(in crate::engine) mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::engine::weights::ModelConfig;

    /// A folder of the family, with other fields.
    pub(in crate::engine) fn info(more: &Value) -> WeightsInfo {
        let mut fields =
            json!({"rms_norm_eps": 1e-6, "rope_theta": 1_000_000, "hidden_act": "silu", "sliding_window": null});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = ModelConfig {
            architecture: more["architecture"].as_str().unwrap_or("Qwen3ForCausalLM").to_owned(),
            layers: 2,
            hidden_size: 128,
            intermediate_size: 256,
            attention_heads: 4,
            key_value_heads: 2,
            head_dimension: 32,
            vocabulary_size: 100,
            tied_embeddings: true,
            maximum_positions: 64,
            dtype: None,
        };
        let (directory, tokenizer) = (PathBuf::new(), PathBuf::new());
        WeightsInfo { directory, tokenizer, files: Vec::new(), bytes: 0, parameters: 0, config, engine_config: fields }
    }

    #[test]
    fn the_numbers_of_the_family_are_taken_over() {
        let (shape, way) = supported(&info(&json!({})), Quantization::Float16).unwrap();
        assert_eq!((shape.layers, shape.hidden, shape.key_value_heads, shape.head), (2, 128, 2, 32));
        assert_eq!((shape.norm_epsilon, shape.rotary_base, way), (1e-6, 1e6, Way::exact(Holding::Float16)));
        assert!(supported(&info(&json!({"architecture": "Qwen3Model"})), Quantization::Float32).is_ok());
    }

    #[test]
    fn what_it_would_compute_otherwise_is_refused_with_words() {
        for (more, words) in [
            (json!({"architecture": "LlamaForCausalLM"}), "does not run LlamaForCausalLM; supported: Qwen3ForCausalLM"),
            (json!({"sliding_window": 4096}), "no sliding window"),
            (json!({"hidden_act": "gelu"}), "hidden_act silu, not gelu"),
            (json!({"rms_norm_eps": "small"}), "rms_norm_eps must be a number above 0, not \"small\""),
            (json!({"rope_theta": 0}), "rope_theta must be"),
        ] {
            let error = supported(&info(&more), Quantization::Float32).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let mut wide = info(&json!({}));
        wide.config.intermediate_size = 70_000;
        assert!(supported(&wide, Quantization::Float32).is_ok());
        let error = supported(&wide, Quantization::Int8).unwrap_err();
        assert!(error.contains("70000 inputs; allowed: float32, float16, bfloat16"), "{error}");
    }

    #[test]
    fn the_embedding_table_beside_int8_keeps_the_16_bits_of_its_file() {
        let mut files = info(&json!({}));
        for (dtype, table) in
            [(None, Holding::Float16), (Some("bfloat16"), Holding::Bfloat16), (Some("float16"), Holding::Float16)]
        {
            files.config.dtype = dtype.map(str::to_owned);
            assert_eq!(supported(&files, Quantization::Int8).unwrap().1, Way::int8(table));
        }
    }
}
