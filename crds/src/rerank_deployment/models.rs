//! The fields that concern models. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalog::{DEFAULT_RERANKER, InstructionTemplate, Quantization};
use crate::server_config::SelfTest;

/// The model that indexed the collections and embeds the queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Embedding {
    /// Model id such as Qwen/Qwen3-Embedding-0.6B. Required with vectorStore.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = super::bounds::MODEL_ID))]
    pub model: Option<String>,
    /// Commit, tag or branch of the model's repository. Default: main.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = super::bounds::REVISION))]
    pub revision: Option<String>,
    /// Query instruction. Default: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4_096))]
    pub instruction: Option<String>,
    /// How its weights are held.
    pub quantization: Quantization,
}

/// The cross-encoder and how it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("!has(self.tokenBudget) || self.tokenBudget >= self.maxLength", "tokenBudget must be at least maxLength, or a prompt would not fit"),
    ("!has(self.revision) || has(self.model)", "revision belongs to a named model; set model as well"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Reranker {
    /// False: vector search only; no reranker is ever loaded.
    pub enabled: bool,
    /// Names a reranker and so overrides the selection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = super::bounds::MODEL_ID))]
    pub model: Option<String>,
    /// Commit, tag or branch of the model's repository. Default: main.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = super::bounds::REVISION))]
    pub revision: Option<String>,
    /// Used only where no reranker matches the embedding model exactly or by size.
    #[schemars(length(min = 1, max = 200), regex(pattern = super::bounds::MODEL_ID))]
    pub default_model: String,
    /// How its weights are held.
    pub quantization: Quantization,
    /// What 'relevant' means.
    pub instruction: Instruction,
    /// Pairs in a batch. Default: the catalogue's table.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub batch_size: Option<i32>,
    /// Tokens in a batch, which bounds memory. Default: batchSize x 512, at least maxLength, on a GPU; maxLength on a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 128, max = 4_194_304))]
    pub token_budget: Option<i32>,
    /// Tokens of one prompt; documents are cut to fit.
    #[schemars(range(min = 128, max = 32_768))]
    pub max_length: i32,
    /// Other models and quantizations that a request may ask for. Preflight counts the largest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub allowed_overrides: Vec<Override>,
    /// Mappings, batch sizes, prompt and scoring of further rerankers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub custom: Vec<CustomReranker>,
    /// What a model does that fails known expectations: Enforce refuses it, Warn logs it, Disabled tests nothing.
    pub self_test: SelfTest,
}

/// What 'relevant' means: a template of ours or a text of one's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("!(has(self.template) && has(self.text))", "name one of template and text"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Instruction {
    /// general, technical, code or qa. Default: general, where there is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<InstructionTemplate>,
    /// A text of one's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4_096))]
    pub text: Option<String>,
}

/// A model and quantizations that a request may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Override {
    /// Model id.
    #[schemars(length(min = 1, max = 200), regex(pattern = super::bounds::MODEL_ID))]
    pub model: String,
    /// Commit, tag or branch of the model's repository. Default: main; of the deployed model it stands in reranker.revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = super::bounds::REVISION))]
    pub revision: Option<String>,
    /// Allowed quantizations. Default: the deployed one alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub quantizations: Vec<Quantization>,
}

/// A reranker that is added without code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomReranker {
    /// Model id.
    #[schemars(length(min = 1, max = 200), regex(pattern = super::bounds::MODEL_ID))]
    pub model: String,
    /// Embedding models that select it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 200), regex(pattern = super::bounds::MODEL_ID)))]
    pub embedding_models: Vec<String>,
    /// Pairs in a batch for each quantization. Default: the catalogue's row of the nearest size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_sizes: Option<BatchSizes>,
    /// Its prompt. Default: Qwen3's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    /// Tokens that mean yes and no. Default: yes and no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scoring: Option<Scoring>,
}

/// Pairs in a batch for each quantization.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BatchSizes {
    /// With 4 bytes a weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub float32: Option<i32>,
    /// With 2 bytes a weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub float16: Option<i32>,
    /// With 2 bytes a weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub bfloat16: Option<i32>,
    /// With 1 byte a weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub int8: Option<i32>,
}

/// The three parts of a prompt. {instruction}, {query} and {document} are replaced in the body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("self.body.endsWith('{document}')", "body must end with {document}, so that a document is cut and nothing else"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prompt {
    /// Before the body; control tokens are live.
    #[schemars(length(max = 16_384))]
    pub prefix: String,
    /// Ends with {document}; control tokens are never live.
    #[schemars(length(min = 1, max = 16_384))]
    pub body: String,
    /// After the body; control tokens are live.
    #[schemars(length(max = 16_384))]
    pub suffix: String,
}

/// Tokens that mean yes and no: the score is the share of yes in a softmax over both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("self.yesToken != self.noToken", "yesToken and noToken must differ"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scoring {
    /// The token that means relevant.
    #[schemars(length(min = 1, max = 64))]
    pub yes_token: String,
    /// The token that means not relevant.
    #[schemars(length(min = 1, max = 64))]
    pub no_token: String,
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
            default_model: DEFAULT_RERANKER.to_owned(),
            quantization: Quantization::Float16,
            instruction: Instruction::default(),
            batch_size: None,
            token_budget: None,
            max_length: 8_192,
            allowed_overrides: Vec::new(),
            custom: Vec::new(),
            self_test: SelfTest::Enforce,
        }
    }
}
