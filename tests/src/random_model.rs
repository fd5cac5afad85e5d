//! Random Qwen3 models of any shape, for measurements that need a model's size and not its answers. I/O: writes a folder
//! that every loader of the family reads: `config.json`, `tokenizer.json`, `model.safetensors` in bfloat16, as Qwen's own.
//!
//! The tokenizer is the tiny pair's with random merges added until the vocabulary is full, so that it takes the memory of
//! a real one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rerank_server::engine::ModelRole;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use crate::models::{self, TINY_RERANKER};

/// Bits of a bfloat16 from 2^-6 to 2^-5: with random sign and mantissa, the weights have Qwen's usual deviation of 0.02.
const MAGNITUDE: u16 = 0x3c80;
const MAGNITUDE_RANDOM_BITS: u16 = 0x807f;
const ONE: u16 = 0x3f80;
/// Characters of a made-up token, at most; real ones have about six.
const TOKEN_CHARACTERS: usize = 10;

/// The numbers that decide a model's size. The output head is tied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub key_value_heads: usize,
    /// Width of one head.
    pub head_dimension: usize,
    /// Tokens, at least the tiny pair's 6,144.
    pub vocabulary: usize,
    /// Positions.
    pub positions: usize,
}

/// Of Qwen3-Reranker-0.6B and Qwen3-Embedding-0.6B.
pub const SHAPE_0_6B: Shape = Shape {
    layers: 28,
    hidden: 1_024,
    intermediate: 3_072,
    heads: 16,
    key_value_heads: 8,
    head_dimension: 128,
    vocabulary: 151_669,
    positions: 40_960,
};

impl Shape {
    /// Tensors without their prefix, with rows and columns; one dimension where there are no columns.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (queries, keys) = (self.heads * self.head_dimension, self.key_value_heads * self.head_dimension);
        let mut tensors = vec![
            ("embed_tokens.weight".to_owned(), vec![self.vocabulary, self.hidden]),
            ("norm.weight".to_owned(), vec![self.hidden]),
        ];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                tensors.push((format!("layers.{layer}.{name}.weight"), shape.to_vec()));
            };
            add("input_layernorm", &[self.hidden]);
            add("post_attention_layernorm", &[self.hidden]);
            add("self_attn.q_norm", &[self.head_dimension]);
            add("self_attn.k_norm", &[self.head_dimension]);
            add("self_attn.q_proj", &[queries, self.hidden]);
            add("self_attn.k_proj", &[keys, self.hidden]);
            add("self_attn.v_proj", &[keys, self.hidden]);
            add("self_attn.o_proj", &[self.hidden, queries]);
            add("mlp.gate_proj", &[self.intermediate, self.hidden]);
            add("mlp.up_proj", &[self.intermediate, self.hidden]);
            add("mlp.down_proj", &[self.hidden, self.intermediate]);
        }
        tensors
    }

    /// Weights in all.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Multiplications for a token in the products of all layers.
    pub fn products_of_a_token(&self) -> usize {
        let (queries, keys) = (self.heads * self.head_dimension, self.key_value_heads * self.head_dimension);
        self.layers * self.hidden * (2 * queries + 2 * keys + 3 * self.intermediate)
    }

    fn config(&self, control: &BTreeMap<String, u32>) -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": control.get("<|endoftext|>"),
            "eos_token_id": control.get("<|im_end|>"),
            "head_dim": self.head_dimension,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.positions,
            "max_window_layers": self.layers,
            "model_type": "qwen3",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value_heads,
            "rms_norm_eps": 1e-6,
            "rope_scaling": null,
            "rope_theta": 1_000_000,
            "sliding_window": null,
            "tie_word_embeddings": true,
            "torch_dtype": "bfloat16",
            "use_cache": true,
            "use_sliding_window": false,
            "vocab_size": self.vocabulary,
        })
    }
}

/// One tensor, made when it is written, so that no model has to fit into memory.
struct RandomTensor {
    shape: Vec<usize>,
    seed: u64,
}

impl View for RandomTensor {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let count: usize = self.shape.iter().product();
        // Norms are 1; everything else is random.
        if self.shape.len() == 1 {
            return Cow::Owned(ONE.to_le_bytes().repeat(count));
        }
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut bytes = Vec::with_capacity(count * 2 + 8);
        while bytes.len() < count * 2 {
            for word in random.u64(..).to_le_bytes().chunks_exact(2) {
                let bits = u16::from_le_bytes([word[0], word[1]]);
                bytes.extend((MAGNITUDE | (bits & MAGNITUDE_RANDOM_BITS)).to_le_bytes());
            }
        }
        bytes.truncate(count * 2);
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * 2
    }
}

/// Writes a random model into a folder, which is made. One that is there already, of the same shape and role, is kept.
pub fn make(folder: &Path, shape: &Shape, role: ModelRole) -> Result<()> {
    let tokenizer = tokenizer(shape.vocabulary)?;
    let config = serde_json::to_string_pretty(&shape.config(&tokenizer.control))?;
    let path = folder.join("config.json");
    // Written last: a folder that has it is whole.
    if fs::read_to_string(&path).is_ok_and(|there| there == config) {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let _ = fs::remove_file(&path);
    fs::write(folder.join("tokenizer.json"), serde_json::to_vec(&tokenizer.json)?)?;
    fs::write(folder.join("tokenizer_config.json"), serde_json::to_vec(&tokenizer.config)?)?;
    let prefix = match role {
        ModelRole::Reranker => "model.",
        ModelRole::Embedder => "",
    };
    let tensors = shape
        .tensors()
        .into_iter()
        .zip(1..)
        .map(|((name, shape), seed)| (format!("{prefix}{name}"), RandomTensor { shape, seed }));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(tensors, Some(metadata), &folder.join("model.safetensors"))?;
    fs::write(&path, config).with_context(|| format!("failed to write {}", path.display()))
}

/// Channels of the residual stream that stand out in every norm before a layer's parts, and what their weight is: as large
/// models have them.
const OUTLIERS: [(usize, f32); 5] = [(7, 20.0), (100, 100.0), (333, 40.0), (512, 70.0), (901, 28.0)];

/// Writes a model beside another that differs from it in the weights of norms alone, in which some channels stand out. One
/// that is there already is kept.
pub fn plant_outliers(from: &Path, to: &Path) -> Result<()> {
    if to.join("config.json").exists() {
        return Ok(());
    }
    fs::create_dir_all(to).with_context(|| format!("failed to make {}", to.display()))?;
    for name in ["tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        fs::copy(from.join(name), to.join(name)).with_context(|| format!("failed to copy {name}"))?;
    }
    let file = fs::File::options().read(true).write(true).open(to.join("model.safetensors"))?;
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0)?;
    let mut header = vec![0; usize::try_from(u64::from_le_bytes(length))?];
    file.read_exact_at(&mut header, 8)?;
    let metadata: Metadata = serde_json::from_slice(&header)?;
    for (name, tensor) in metadata.tensors() {
        if name.ends_with("layernorm.weight") {
            for (channel, weight) in OUTLIERS {
                let at = 8 + header.len() + tensor.data_offsets.0 + 2 * channel;
                file.write_all_at(&bfloat16(weight).to_le_bytes(), u64::try_from(at)?)?;
            }
        }
    }
    fs::copy(from.join("config.json"), to.join("config.json"))?;
    Ok(())
}

/// The upper half of a float32, which is a bfloat16.
fn bfloat16(value: f32) -> u16 {
    u16::try_from(value.to_bits() >> 16).unwrap_or(u16::MAX)
}

/// Where measurements keep their models: below `target`, made once, never committed.
pub fn folder() -> PathBuf {
    crate::http::root().join("target").join("random-models")
}

struct Tokenizer {
    json: Value,
    config: Value,
    control: BTreeMap<String, u32>,
}

/// The tiny pair's tokenizer, grown to `vocabulary` tokens; control tokens keep their place at the end.
fn tokenizer(vocabulary: usize) -> Result<Tokenizer> {
    let source = models::model(TINY_RERANKER);
    let read = |file: &str| -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(source.join(file)).with_context(|| format!("failed to read {file}"))?)?)
    };
    let (mut json, mut config) = (read("tokenizer.json")?, read("tokenizer_config.json")?);
    let control: Vec<Value> = json["added_tokens"].as_array().cloned().unwrap_or_default();
    let mut vocab = json["model"]["vocab"].as_object().cloned().context("the tokenizer has a vocabulary")?;
    let mut merges = json["model"]["merges"].as_array().cloned().context("the tokenizer has merges")?;
    let ordinary = vocabulary.saturating_sub(control.len());
    ensure!(vocab.len() <= ordinary, "the vocabulary has at least {} tokens", vocab.len() + control.len());

    let mut tokens: Vec<String> = vocab.keys().cloned().collect();
    let mut seen: HashSet<String> = tokens.iter().cloned().collect();
    let mut random = fastrand::Rng::with_seed(0);
    while tokens.len() < ordinary {
        let (left, right) = (random.usize(..tokens.len()), random.usize(..tokens.len()));
        let merged = format!("{}{}", tokens[left], tokens[right]);
        if merged.chars().count() <= TOKEN_CHARACTERS && seen.insert(merged.clone()) {
            merges.push(json!([tokens[left], tokens[right]]));
            vocab.insert(merged.clone(), json!(tokens.len()));
            tokens.push(merged);
        }
    }
    json["model"]["vocab"] = Value::Object(vocab);
    json["model"]["merges"] = Value::Array(merges);

    let mut ids = BTreeMap::new();
    let mut decoder = serde_json::Map::new();
    for (token, id) in control.iter().zip(u32::try_from(ordinary)?..) {
        let mut described = token.clone();
        described.as_object_mut().map(|token| token.remove("id"));
        decoder.insert(id.to_string(), described);
        ids.insert(token["content"].as_str().unwrap_or_default().to_owned(), id);
    }
    for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
        token["id"] = json!(ids.get(token["content"].as_str().unwrap_or_default()));
    }
    config["added_tokens_decoder"] = Value::Object(decoder);
    Ok(Tokenizer { json, config, control: ids })
}
