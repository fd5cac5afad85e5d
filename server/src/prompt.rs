//! Prompts: template, encoding of user text, truncation. Pure but for reading `tokenizer.json`.
//!
//! Template parts are encoded with control tokens live, user text by a tokenizer without added tokens, so that no
//! query, document or instruction can speak as the template.

use std::path::Path;

use rerank_crds::catalog::{Prompt, Scoring};

/// Longest query and instruction, in tokens; a longer one is refused, never cut.
pub const MAXIMUM_QUERY_TOKENS: usize = 1024;

/// Why a prompt cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// Query and instruction together are too long.
    #[error("query and instruction have {tokens} tokens, at most {maximum} are allowed")]
    QueryTooLong {
        /// Tokens counted.
        tokens: usize,
        /// Tokens allowed.
        maximum: usize,
    },
    /// `tokenizer.json` cannot be read or lacks what the template needs.
    #[error("the tokenizer cannot be used: {message}")]
    Tokenizer {
        /// What is wrong.
        message: String,
    },
}

/// Both tokenizers of a model: one with control tokens live, one without any added token.
#[derive(Debug)]
pub struct TextEncoder {}

impl TextEncoder {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self, PromptError> {
        let _ = path;
        Err(PromptError::Tokenizer { message: "to come".to_owned() })
    }
}

/// Encoded pairs of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedPairs {
    /// Whole prompts, one for each document, in order.
    pub prompts: Vec<Vec<u32>>,
    /// Tokens that all prompts have in common at their start.
    pub shared_prefix_tokens: usize,
    /// Whether the document was cut, in order.
    pub truncated: Vec<bool>,
}

/// Makes a reranker's prompts.
#[derive(Debug)]
pub struct RerankPrompt {
    /// Token that means relevant.
    pub yes_token: u32,
    /// Token that means not relevant.
    pub no_token: u32,
}

impl RerankPrompt {
    /// Encodes the template's fixed parts and finds the two answer tokens. `max_length`: tokens of one prompt.
    pub fn new(
        encoder: TextEncoder,
        prompt: &Prompt,
        scoring: &Scoring,
        max_length: usize,
    ) -> Result<Self, PromptError> {
        let _ = (encoder, prompt, scoring, max_length);
        Err(PromptError::Tokenizer { message: "to come".to_owned() })
    }

    /// Encodes one query with its documents. CPU-bound: call it off the async threads.
    pub fn encode(&self, instruction: &str, query: &str, documents: &[&str]) -> Result<EncodedPairs, PromptError> {
        let _ = (instruction, query, documents);
        Ok(EncodedPairs::default())
    }
}

/// Makes an embedder's inputs: `Instruct: {instruction}\nQuery:{query}` or the document alone, then the end token.
#[derive(Debug)]
pub struct EmbedPrompt {}

impl EmbedPrompt {
    /// Finds the end token. `max_length`: tokens of one text, end token included; longer documents are cut.
    pub fn new(encoder: TextEncoder, max_length: usize) -> Result<Self, PromptError> {
        let _ = (encoder, max_length);
        Err(PromptError::Tokenizer { message: "to come".to_owned() })
    }

    /// A query; a too long one is refused.
    pub fn query(&self, instruction: &str, query: &str) -> Result<Vec<u32>, PromptError> {
        let _ = (instruction, query);
        Ok(Vec::new())
    }

    /// A document, cut to fit. Answers its ids and whether it was cut.
    pub fn document(&self, text: &str) -> (Vec<u32>, bool) {
        let _ = text;
        (Vec::new(), false)
    }
}
