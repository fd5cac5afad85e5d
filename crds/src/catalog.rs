//! The model catalogue: known models, which reranker belongs to which embedding model, batch sizes, memory. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Used only without exact or size match.
pub const DEFAULT_RERANKER: &str = "Qwen/Qwen3-Reranker-0.6B";

/// How weights are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 4 bytes a weight.
    Float32,
    /// 2 bytes a weight.
    Float16,
    /// 2 bytes a weight, float32's range.
    Bfloat16,
    /// 1 byte a weight of the linear layers.
    Int8,
}

/// Which engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EngineKind {
    /// Packed on CPU where it is built and fits the model, else Mistralrs.
    #[default]
    Auto,
    /// mistral.rs, on GPU or CPU.
    Mistralrs,
    /// Our own forward pass for the Qwen3 family on CPU.
    Packed,
}

/// What 'relevant' means, in words of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstructionTemplate {
    /// Any query and document.
    #[default]
    General,
    /// Technical documents.
    Technical,
    /// Code.
    Code,
    /// Question answering.
    Qa,
}

/// A reranker that a user adds without code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomReranker {
    /// Model id.
    pub model: String,
    /// Embedding models that select it.
    #[serde(default)]
    pub embedding_models: Vec<String>,
    /// Pairs in a batch for each quantization. Default: the catalogue's row of the nearest size.
    #[serde(default)]
    pub batch_sizes: BTreeMap<Quantization, i32>,
    /// Prompt of the model. Default: Qwen3's.
    #[serde(default)]
    pub prompt: Prompt,
    /// Tokens that mean yes and no. Default: `yes` and `no`.
    #[serde(default)]
    pub scoring: Scoring,
}

/// The three parts of a prompt. `{instruction}`, `{query}` and `{document}` are replaced in the body.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Prompt {
    /// Before the body; control tokens are live.
    pub prefix: String,
    /// Ends with `{document}`; control tokens are never live.
    pub body: String,
    /// After the body; control tokens are live.
    pub suffix: String,
}

/// Score = softmax over the logits of the two tokens, the share of `yes`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Scoring {
    /// Text of the token that means relevant. Default `yes`.
    pub yes_token: String,
    /// Text of the token that means not relevant. Default `no`.
    pub no_token: String,
}

impl Default for Prompt {
    fn default() -> Self {
        Self {
            prefix: "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the \
                     Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n"
                .to_owned(),
            body: "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}".to_owned(),
            suffix: "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n".to_owned(),
        }
    }
}

impl Default for Scoring {
    fn default() -> Self {
        Self { yes_token: "yes".to_owned(), no_token: "no".to_owned() }
    }
}
