//! Text to token ids: one tokenizer with control tokens live, for the template, and one without any added token, for
//! what users write. Reads `tokenizer.json`; pure otherwise.
//!
//! `encode_special_tokens` of the tokenizers library is not enough: it skips tokens flagged special only, and Qwen3
//! flags `<think>` and `<tool_call>` as not special. So the second tokenizer is built from an edited file that has no
//! added token at all, neither in its list nor in the model's vocabulary.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::PromptError;

/// A long text is encoded in pieces of about so many bytes, until enough tokens are there.
const PIECE_BYTES: usize = 16 * 1024;

/// Word patterns for which the place between a letter and a space that a letter follows always ends a word. No branch
/// of them matches a space after a letter, the branch that ends there is a greedy run of letters, and none looks back:
/// so the two sides are encoded the same apart and together. Qwen2 and Qwen3, then Llama 3.
const CUTTABLE_PATTERNS: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// Both tokenizers of a model: one with control tokens live, one without any added token.
pub struct TextEncoder {
    template: Tokenizer,
    pub(super) user_text: UserTextEncoder,
}

impl TextEncoder {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self, PromptError> {
        let bytes = std::fs::read(path).map_err(|error| PromptError::Tokenizer {
            message: format!("failed to read {}: {error}", path.display()),
        })?;
        Self::from_json(&bytes)
    }

    /// Parses the content of a `tokenizer.json`. Byte-pair vocabularies that can spell every byte are supported:
    /// byte-level ones (Qwen, Llama 3) and those with byte fallback (Llama 2, Gemma).
    pub fn from_json(bytes: &[u8]) -> Result<Self, PromptError> {
        let mut file: Value =
            serde_json::from_slice(bytes).map_err(|error| unusable(format!("it is no valid JSON: {error}")))?;
        let Some(fields) = file.as_object_mut() else {
            return Err(unusable("it is no JSON object".to_owned()));
        };
        // Both would change ids behind our back: cutting and padding are the prompt's business.
        fields.insert("truncation".to_owned(), Value::Null);
        fields.insert("padding".to_owned(), Value::Null);
        let template = build(&file)?;
        let user_text = UserTextEncoder::from_json(file)?;
        Ok(Self { template, user_text })
    }

    /// Ids of a text of the template; control tokens are live.
    pub(super) fn template_ids(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let encoding = self.template.encode_fast(text, false).map_err(|error| unusable(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The token that the tokenizer's own post-processing appends to a text, if it is one and nothing stands before.
    pub(super) fn appended_token(&self) -> Option<u32> {
        let plain = self.template.encode_fast("a", false).ok()?;
        let processed = self.template.encode_fast("a", true).ok()?;
        match processed.get_ids().strip_prefix(plain.get_ids())? {
            [end] => Some(*end),
            _ => None,
        }
    }

    /// Id of an added token.
    pub(super) fn added_token(&self, content: &str) -> Option<u32> {
        self.template.get_added_tokens_decoder().iter().find(|(_, token)| token.content == content).map(|(id, _)| *id)
    }

    /// Ids of a user's text.
    pub fn user_text_ids(&self, text: &str) -> Vec<u32> {
        self.user_text.encode(text)
    }

    /// Keeps the tokenizer of user text alone; the other is as large and no longer needed.
    pub(super) fn into_user_text(self) -> UserTextEncoder {
        self.user_text
    }
}

impl fmt::Debug for TextEncoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TextEncoder").finish_non_exhaustive()
    }
}

/// Encodes what users write; no added token ever comes out.
pub(super) struct UserTextEncoder {
    tokenizer: Tokenizer,
    control_ids: HashSet<u32>,
    /// Whether a long text may be encoded in pieces.
    cuttable: bool,
}

impl UserTextEncoder {
    fn from_json(mut file: Value) -> Result<Self, PromptError> {
        let cuttable = is_cuttable(&file);
        let added = take_added_tokens(&mut file)?;
        let model = file.get_mut("model").and_then(Value::as_object_mut);
        let model = model.ok_or_else(|| unusable("model is missing".to_owned()))?;
        let kind = model.get("type").and_then(Value::as_str).unwrap_or("BPE").to_owned();
        let spells_bytes = model.get("byte_fallback") == Some(&Value::Bool(true));
        model.insert("dropout".to_owned(), Value::Null);
        let unknown = model.get("unk_token").and_then(Value::as_str).map(str::to_owned);
        let names: HashSet<&str> =
            added.iter().map(|(_, name)| name.as_str()).filter(|name| Some(*name) != unknown.as_deref()).collect();
        remove_words(model, &names);
        let knows_unknown =
            unknown.as_ref().is_some_and(|word| model.get("vocab").and_then(|vocab| vocab.get(word)).is_some());
        if !knows_unknown {
            model.insert("unk_token".to_owned(), Value::Null);
        }
        if kind != "BPE" || !(spells_bytes || is_byte_level(&file)) {
            return Err(unusable(format!(
                "its model is of type {kind:?}; supported: BPE, byte-level or with byte_fallback"
            )));
        }
        let control_ids = added.iter().filter(|(_, name)| Some(name) != unknown.as_ref()).map(|(id, _)| *id).collect();
        Ok(Self { tokenizer: build(&file)?, control_ids, cuttable })
    }

    /// Whether an id stands for a piece of ordinary text.
    pub(super) fn is_ordinary(&self, id: u32) -> bool {
        !self.control_ids.contains(&id) && self.tokenizer.id_to_token(id).is_some()
    }

    /// All ids of a text.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_up_to(text, usize::MAX).0
    }

    /// The first `limit` ids of a text, and whether there are more. The ids are those of the whole text: it is encoded
    /// in pieces only where that provably changes nothing. Time grows with the text, up to the cut if there are spaces.
    pub(super) fn encode_up_to(&self, text: &str, limit: usize) -> (Vec<u32>, bool) {
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() && ids.len() <= limit {
            let (piece, after) = rest.split_at(if self.cuttable { end_of_piece(rest) } else { rest.len() });
            let encoding = self.tokenizer.encode_fast(piece, false).expect(
                "a byte-pair vocabulary without an unknown token, or with it in the vocabulary, encodes any text",
            );
            // The vocabulary holds none of them any more; this keeps the promise should a library find a way.
            ids.extend(encoding.get_ids().iter().filter(|id| !self.control_ids.contains(id)));
            rest = after;
        }
        let cut = ids.len() > limit;
        ids.truncate(limit);
        (ids, cut)
    }
}

/// Length of the next piece: the first place past [`PIECE_BYTES`] where a word surely ends, or everything.
fn end_of_piece(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_end = |window: &[u8]| matches!(window, [letter, b' ', next] if letter.is_ascii_alphabetic() && next.is_ascii_alphabetic());
    let from = PIECE_BYTES.min(bytes.len());
    let end = bytes.get(from..).and_then(|tail| tail.windows(3).position(is_end));
    end.map_or(bytes.len(), |at| from + at + 1)
}

fn build(file: &Value) -> Result<Tokenizer, PromptError> {
    serde_json::from_value(file.clone()).map_err(|error| unusable(error.to_string()))
}

/// Removes the added tokens and the post-processing that could insert them; answers their ids and texts.
fn take_added_tokens(file: &mut Value) -> Result<Vec<(u32, String)>, PromptError> {
    #[derive(serde::Deserialize)]
    struct AddedToken {
        id: u32,
        content: String,
    }
    let Some(fields) = file.as_object_mut() else { return Ok(Vec::new()) };
    fields.insert("post_processor".to_owned(), Value::Null);
    let listed = fields.insert("added_tokens".to_owned(), json!([])).unwrap_or(json!([]));
    let listed: Vec<AddedToken> =
        serde_json::from_value(listed).map_err(|error| unusable(format!("added_tokens cannot be read: {error}")))?;
    Ok(listed.into_iter().map(|token| (token.id, token.content)).collect())
}

/// Removes words from a byte-pair vocabulary, with the merges that need or make them.
fn remove_words(model: &mut serde_json::Map<String, Value>, words: &HashSet<&str>) {
    let Some(vocabulary) = model.get_mut("vocab").and_then(Value::as_object_mut) else { return };
    let before = vocabulary.len();
    vocabulary.retain(|word, _| !words.contains(word.as_str()));
    if vocabulary.len() == before {
        return;
    }
    if let Some(merges) = model.get_mut("merges").and_then(Value::as_array_mut) {
        merges.retain(|merge| {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ').unwrap_or((pair, "")),
                Value::Array(pair) => {
                    let side = |at: usize| pair.get(at).and_then(Value::as_str).unwrap_or("");
                    (side(0), side(1))
                }
                _ => return true,
            };
            let made = format!("{left}{right}");
            ![left, right, made.as_str()].iter().any(|word| words.contains(word))
        });
    }
}

/// The pre-tokenizers of a file, a sequence of them laid flat.
fn pre_tokenizers(file: &Value) -> Vec<&Value> {
    match file.get("pre_tokenizer") {
        None | Some(Value::Null) => Vec::new(),
        Some(one) => match one.get("pretokenizers").and_then(Value::as_array) {
            Some(several) => several.iter().collect(),
            None => vec![one],
        },
    }
}

fn is_byte_level(file: &Value) -> bool {
    pre_tokenizers(file).iter().any(|step| step["type"] == "ByteLevel") || file["normalizer"]["type"] == "ByteLevel"
}

/// Whether the words of a text do not depend on what stands before or behind the places of [`end_of_piece`]: no
/// normaliser or NFC (a space composes with nothing), a known word pattern, no space put in front.
fn is_cuttable(file: &Value) -> bool {
    let normalizer = &file["normalizer"];
    let composes = normalizer.is_null() || normalizer["type"] == "NFC";
    let bytes_only = |step: &Value| step["type"] == "ByteLevel" && step["add_prefix_space"] == false;
    composes
        && match pre_tokenizers(file).as_slice() {
            [split, bytes] => {
                split["type"] == "Split"
                    && split["behavior"] == "Isolated"
                    && split["invert"] != true
                    && split["pattern"]["Regex"].as_str().is_some_and(|regex| CUTTABLE_PATTERNS.contains(&regex))
                    && bytes_only(bytes)
                    && bytes["use_regex"] == false
            }
            // GPT-2's pattern, which has the same property.
            [bytes] => bytes_only(bytes) && bytes["use_regex"] != false,
            _ => false,
        }
}

fn unusable(message: String) -> PromptError {
    PromptError::Tokenizer { message }
}

#[cfg(test)]
impl UserTextEncoder {
    /// Ids of the whole text in one piece, to compare with.
    pub(super) fn tokenizer_ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
    }
}
