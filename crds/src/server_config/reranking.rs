//! The parts of the configuration that concern models: the embedder, the reranker, how many candidates. Pure.

use serde::{Deserialize, Serialize};

use crate::catalog::{CustomReranker, InstructionTemplate, Quantization};

/// The embedding model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Embedding {
    /// Model id such as `Qwen/Qwen3-Embedding-0.6B`. Required with `vectorStore`.
    pub model: Option<String>,
    /// Commit or tag of the model's repository.
    pub revision: Option<String>,
    /// Query instruction. Default: the model's own.
    pub instruction: Option<String>,
    /// Default `float16`.
    pub quantization: Quantization,
}

/// The cross-encoder and how it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Reranker {
    /// Default true. False: vector search only; no reranker is ever loaded.
    pub enabled: bool,
    /// Names a reranker and so overrides the selection.
    pub model: Option<String>,
    /// Commit or tag of the model's repository.
    pub revision: Option<String>,
    /// Used only without exact or size match. Default `Qwen/Qwen3-Reranker-0.6B`.
    pub default_model: String,
    /// Default `float16`.
    pub quantization: Quantization,
    /// What 'relevant' means. Default template `general`.
    pub instruction: Instruction,
    /// Pairs in a batch. Default: the catalogue's table.
    pub batch_size: Option<i32>,
    /// Tokens in a batch, which bounds memory. Default: see `catalog::token_budget`.
    pub token_budget: Option<i32>,
    /// Tokens of one prompt; documents are cut to fit. Default 8192.
    pub max_length: i32,
    /// Other models and quantizations that a request may ask for.
    pub allowed_overrides: Vec<AllowedOverride>,
    /// Mappings, batch sizes, prompt and scoring of further rerankers.
    pub custom: Vec<CustomReranker>,
    /// What a failed self-test does. Default `Enforce`.
    pub self_test: SelfTest,
}

/// What 'relevant' means: a template of ours or a text of one's own, not both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Instruction {
    /// general, technical, code or qa. Default general, where `text` is absent.
    pub template: Option<InstructionTemplate>,
    /// A text of one's own.
    pub text: Option<String>,
}

/// A model and quantization that a request may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedOverride {
    /// Model id.
    pub model: String,
    /// Commit, tag or branch of the model's repository; of the deployed model it stands in `reranker.revision`.
    #[serde(default)]
    pub revision: Option<String>,
    /// Allowed quantizations. Default: the deployed one alone.
    #[serde(default)]
    pub quantizations: Vec<Quantization>,
}

/// What a failed self-test does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum SelfTest {
    /// A model that fails known expectations is refused.
    #[default]
    Enforce,
    /// It is used and the failure logged.
    Warn,
    /// Nothing is tested.
    #[serde(rename = "Disabled", alias = "Off")]
    // Tools that read YAML 1.1, kubectl among them, take a bare Off for false.
    Off,
}

/// How many candidates stage 1 brings: `clamp(k x multiplier, minimum, maximum)`, never fewer than k.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Candidates {
    /// Default 5.
    pub multiplier: i32,
    /// Default 20.
    pub minimum: i32,
    /// Default 200.
    pub maximum: i32,
}

impl Default for Embedding {
    fn default() -> Self {
        Self { model: None, revision: None, instruction: None, quantization: Quantization::Float16 }
    }
}

impl Default for Reranker {
    fn default() -> Self {
        Self {
            enabled: true,
            model: None,
            revision: None,
            default_model: crate::catalog::DEFAULT_RERANKER.to_owned(),
            quantization: Quantization::Float16,
            instruction: Instruction::default(),
            batch_size: None,
            token_budget: None,
            max_length: 8192,
            allowed_overrides: Vec::new(),
            custom: Vec::new(),
            self_test: SelfTest::Enforce,
        }
    }
}

impl Default for Candidates {
    fn default() -> Self {
        Self { multiplier: 5, minimum: 20, maximum: 200 }
    }
}
