//! A byte-level BPE tokenizer with Qwen's special tokens and the two answer words, and its inverse.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::prompt::{PromptError, TextEncoder};

/// Id of `yes`; bytes are their own ids below 256.
const YES: u32 = 258;
const NO: u32 = 259;
/// Tokens that are more than one byte, from id 256 on.
const WORDS: [&str; 4] = ["ye", "<unused>", "yes", "no"];
/// Control tokens, from id 260 on.
const CONTROL: [&str; 5] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"];

/// The character by which byte-level BPE writes a byte.
fn symbol(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|other| !printable(*other)).count();
    u32::try_from(place).ok().and_then(|place| char::from_u32(256 + place)).expect("256 + 68 is a character")
}

/// A whole `tokenizer.json`.
pub fn byte_level_tokenizer_json() -> String {
    let mut vocabulary = Map::new();
    for byte in u8::MIN..=u8::MAX {
        vocabulary.insert(symbol(byte).to_string(), json!(byte));
    }
    for (id, word) in (256..).zip(WORDS) {
        vocabulary.insert(word.to_owned(), json!(id));
    }
    let added: Vec<Value> = (260..)
        .zip(CONTROL)
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": !content.contains("think"),
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary,
            "merges": [["y", "e"], ["ye", "s"], ["n", "o"]],
        },
    })
    .to_string()
}

/// Writes the tokenizer into a folder of its own and reads it back as a model's folder is read.
pub fn text_encoder() -> Result<TextEncoder, PromptError> {
    let unusable = |error: std::io::Error| PromptError::Tokenizer { message: error.to_string() };
    let folder = tempfile::tempdir().map_err(unusable)?;
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, byte_level_tokenizer_json()).map_err(unusable)?;
    TextEncoder::from_file(Path::new(&path))
}

/// What the tokens spell. Bytes that are no UTF-8 appear as replacement characters.
pub fn text_of(tokens: &[u32]) -> String {
    let mut bytes = Vec::with_capacity(tokens.len());
    for token in tokens {
        if let Ok(byte) = u8::try_from(*token) {
            bytes.push(byte);
            continue;
        }
        let text = match *token {
            256 => "ye",
            YES => "yes",
            NO => "no",
            token => token
                .checked_sub(260)
                .and_then(|place| CONTROL.get(usize::try_from(place).ok()?))
                .copied()
                .unwrap_or("\u{FFFD}"),
        };
        bytes.extend_from_slice(text.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
