//! Prompts: template, encoding of user text, truncation. Pure but for reading `tokenizer.json`.
//!
//! Template parts are encoded with control tokens live, user text by a tokenizer without added tokens, so that no
//! query, document or instruction can speak as the template. The parts are encoded apart and their ids joined, as the
//! models' own reference code does; a document is cut before the suffix, the query never.

use std::fmt;

use rerank_crds::catalog::{Prompt, Scoring};

mod encoder;
mod template;

pub use encoder::TextEncoder;

use encoder::UserTextEncoder;
use template::BodyTemplate;

/// Longest query and instruction, in tokens; a longer one is refused, never cut.
pub const MAXIMUM_QUERY_TOKENS: usize = 1024;

/// End token of an embedder whose tokenizer does not name another one.
const END_TOKEN: &str = "<|endoftext|>";

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
    /// A document is longer than what is read of it, and the request does not want it cut.
    #[error("document {index} is longer than the {maximum} tokens that can be read of it")]
    DocumentTooLong {
        /// Position in the request.
        index: usize,
        /// Tokens that can be read.
        maximum: usize,
    },
    /// A token id that a user may not send.
    #[error("{token} is no token of an ordinary text: a control token, or not in the vocabulary")]
    ForeignToken {
        /// The id.
        token: u32,
    },
    /// `tokenizer.json` cannot be read or lacks what the template needs.
    #[error("the tokenizer (tokenizer.json) cannot be used: {message}")]
    Tokenizer {
        /// What is wrong.
        message: String,
    },
    /// The prompt's parts or the length do not fit together.
    #[error("{field} cannot be used: {message}")]
    Template {
        /// Name of the setting, such as `prompt.body`.
        field: &'static str,
        /// What is wrong, and what would do.
        message: String,
    },
}

/// How much of each document is read, within the model's length. Default: as much as fits, and longer ones are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Tokens of a document, at most; None: what the model's length leaves.
    pub document_tokens: Option<usize>,
    /// Whether a longer document is refused instead of cut.
    pub refuse_longer: bool,
}

/// Encoded pairs of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedPairs {
    /// Whole prompts, one for each document, in order.
    pub prompts: Vec<Vec<u32>>,
    /// Tokens that all prompts have in common at their start. At least one token of each prompt is not counted.
    pub shared_prefix_tokens: usize,
    /// Whether the document was cut, in order.
    pub truncated: Vec<bool>,
}

/// Makes a reranker's prompts.
pub struct RerankPrompt {
    /// Token that means relevant.
    pub yes_token: u32,
    /// Token that means not relevant.
    pub no_token: u32,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    body: BodyTemplate,
    text: UserTextEncoder,
    /// Tokens that prefix and suffix leave for the body.
    room: usize,
}

impl RerankPrompt {
    /// Encodes the template's fixed parts and finds the two answer tokens. `max_length`: tokens of one prompt.
    pub fn new(
        encoder: TextEncoder,
        prompt: &Prompt,
        scoring: &Scoring,
        max_length: usize,
    ) -> Result<Self, PromptError> {
        let body = BodyTemplate::parse(&prompt.body)?;
        let prefix = encoder.template_ids(&prompt.prefix)?;
        let suffix = encoder.template_ids(&prompt.suffix)?;
        let yes_token = answer_token(&encoder, "scoring.yesToken", &scoring.yes_token)?;
        let no_token = answer_token(&encoder, "scoring.noToken", &scoring.no_token)?;
        if yes_token == no_token {
            return Err(PromptError::Template {
                field: "scoring.noToken",
                message: format!("it is the same token as scoring.yesToken ({yes_token}); name two different tokens"),
            });
        }
        let text = encoder.into_user_text();
        let frame = prefix.len() + suffix.len();
        let smallest = frame + text.encode(&body.render("", "", "")).len() + 1;
        if max_length < smallest {
            return Err(PromptError::Template {
                field: "maxLength",
                message: format!(
                    "the prompt's own text takes {smallest} tokens; allow at least that, not {max_length}"
                ),
            });
        }
        Ok(Self { yes_token, no_token, prefix, suffix, body, text, room: max_length - frame })
    }

    /// Encodes one query with its documents. CPU-bound: call it off the async threads.
    ///
    /// A document's cut keeps the first tokens that fit; its prompt then has exactly `max_length` tokens, or as many as
    /// `reading` leaves.
    pub fn encode(
        &self,
        instruction: &str,
        query: &str,
        documents: &[&str],
        reading: Reading,
    ) -> Result<EncodedPairs, PromptError> {
        let question = self.text.encode(&self.body.render(instruction, query, ""));
        let question_tokens = question.len();
        let maximum = MAXIMUM_QUERY_TOKENS.min(self.room - 1);
        if question_tokens > maximum {
            return Err(PromptError::QueryTooLong { tokens: question_tokens, maximum });
        }
        let room = reading
            .document_tokens
            .map_or(self.room, |document_tokens| self.room.min(question_tokens.saturating_add(document_tokens)));
        let mut pairs = EncodedPairs::default();
        for (index, document) in documents.iter().enumerate() {
            let (body, cut) = self.text.encode_up_to(&self.body.render(instruction, query, document), room);
            if cut && reading.refuse_longer {
                return Err(PromptError::DocumentTooLong { index, maximum: room - question_tokens });
            }
            pairs.prompts.push([self.prefix.as_slice(), body.as_slice(), self.suffix.as_slice()].concat());
            pairs.truncated.push(cut);
        }
        pairs.shared_prefix_tokens = shared_prefix(&[self.prefix.as_slice(), &question].concat(), &pairs.prompts);
        Ok(pairs)
    }

    /// Ids of the fixed part before the body.
    pub fn prefix_ids(&self) -> &[u32] {
        &self.prefix
    }

    /// Ids of the fixed part after the body.
    pub fn suffix_ids(&self) -> &[u32] {
        &self.suffix
    }
}

impl fmt::Debug for RerankPrompt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RerankPrompt")
            .field("yes_token", &self.yes_token)
            .field("no_token", &self.no_token)
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

/// The id of an answer token, which must be one token: its logit is the score.
fn answer_token(encoder: &TextEncoder, field: &'static str, text: &str) -> Result<u32, PromptError> {
    match encoder.template_ids(text)?.as_slice() {
        [id] => Ok(*id),
        ids => Err(PromptError::Template {
            field,
            message: format!("{text:?} is {} tokens for this tokenizer; name a text that is exactly one", ids.len()),
        }),
    }
}

/// Length of the longest start of the question that all prompts share, leaving at least one token of the shortest. What
/// documents happen to have in common does not count, and neither does the question's last token, which the tokenizer may
/// make one with a document's first letters: where a prompt is cut would depend on what it stands beside.
fn shared_prefix(question: &[u32], prompts: &[Vec<u32>]) -> usize {
    let shortest = prompts.iter().map(Vec::len).min().unwrap_or(0);
    let shared = prompts.iter().fold(question.len().saturating_sub(1), |shared, prompt| {
        question.iter().zip(prompt).take(shared).take_while(|(a, b)| a == b).count()
    });
    shared.min(shortest.saturating_sub(1))
}

/// Makes an embedder's inputs: `Instruct: {instruction}\nQuery:{query}` or the document alone, then the end token.
pub struct EmbedPrompt {
    text: UserTextEncoder,
    end_token: u32,
    /// Tokens of one text without the end token.
    room: usize,
}

impl EmbedPrompt {
    /// Finds the end token. `max_length`: tokens of one text, end token included; longer documents are cut.
    pub fn new(encoder: TextEncoder, max_length: usize) -> Result<Self, PromptError> {
        let end_token = encoder.appended_token().or_else(|| encoder.added_token(END_TOKEN)).ok_or_else(|| {
            PromptError::Tokenizer {
                message: format!("it appends no end token of its own and has no added token {END_TOKEN:?}"),
            }
        })?;
        let room = max_length.checked_sub(1).filter(|room| *room > 0).ok_or_else(|| PromptError::Template {
            field: "maxLength",
            message: format!("an embedder needs at least 2 tokens, not {max_length}"),
        })?;
        Ok(Self { text: encoder.into_user_text(), end_token, room })
    }

    /// A query; a too long one is refused.
    pub fn query(&self, instruction: &str, query: &str) -> Result<Vec<u32>, PromptError> {
        let mut ids = self.text.encode(&format!("Instruct: {instruction}\nQuery:{query}"));
        let maximum = MAXIMUM_QUERY_TOKENS.min(self.room);
        if ids.len() > maximum {
            return Err(PromptError::QueryTooLong { tokens: ids.len(), maximum });
        }
        ids.push(self.end_token);
        Ok(ids)
    }

    /// A text that is not to be cut.
    pub fn whole_document(&self, index: usize, text: &str) -> Result<Vec<u32>, PromptError> {
        match self.document(text) {
            (_, true) => Err(PromptError::DocumentTooLong { index, maximum: self.room }),
            (ids, false) => Ok(ids),
        }
    }

    /// A text that its user has tokenized.
    pub fn tokens(&self, index: usize, ids: &[u32]) -> Result<Vec<u32>, PromptError> {
        if let Some(token) = ids.iter().find(|id| !self.text.is_ordinary(**id)) {
            return Err(PromptError::ForeignToken { token: *token });
        }
        if ids.len() > self.room {
            return Err(PromptError::DocumentTooLong { index, maximum: self.room });
        }
        Ok([ids, &[self.end_token]].concat())
    }

    /// A document, cut to fit. Answers its ids and whether it was cut.
    pub fn document(&self, text: &str) -> (Vec<u32>, bool) {
        let (mut ids, cut) = self.text.encode_up_to(text, self.room);
        ids.push(self.end_token);
        (ids, cut)
    }
}

impl fmt::Debug for EmbedPrompt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EmbedPrompt")
            .field("end_token", &self.end_token)
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
