//! The tokenizer that the library is given: one of single bytes. Pure.
//!
//! Prompts go to the library as ids and only logits are read from it, so that it never needs the model's own tokenizer. Of
//! that it would hold three copies with a trie of all tokens: some 300 MB for Qwen3's vocabulary, and it would decode
//! every prompt to text. Ids that a tokenizer does not know decode to nothing.

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// `tokenizer.json` of a byte-level vocabulary without merges, with the one end token that the library asks for.
pub(super) fn of_single_bytes() -> Value {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let vocabulary: serde_json::Map<String, Value> =
        bytes.iter().enumerate().map(|(id, byte)| (byte.to_string(), json!(id))).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": bytes.len(), "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": [],
        },
    })
}

#[cfg(test)]
mod tests {
    use tokenizers::Tokenizer;

    use super::*;

    #[test]
    fn every_byte_has_an_id_and_unknown_ids_decode_to_nothing() {
        let tokenizer = Tokenizer::from_bytes(of_single_bytes().to_string()).unwrap();
        let text: String = (0..=255_u8).map(char::from).collect();
        let ids = tokenizer.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        assert_eq!(tokenizer.get_vocab_size(true), 257);
        assert_eq!(tokenizer.decode(&[9_693, 151_643], false).unwrap(), "");
    }
}
