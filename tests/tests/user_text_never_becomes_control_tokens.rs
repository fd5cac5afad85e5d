//! No token that the template speaks with comes out of what users write, whatever they write and whatever the token's
//! flags; ordinary text has the ids of the reference (see `scores_equal_the_reference`).

use std::collections::BTreeMap;

use proptest::prelude::*;
use rerank_server::prompt::{Reading, RerankPrompt};
use rerank_tests::models::{self, RERANKERS, TINY_EMBEDDER, TINY_RERANKER};

const MAX_LENGTH: usize = 2048;

/// Every added token of a model: text -> id.
fn added_tokens(name: &str) -> BTreeMap<String, u32> {
    let bytes = std::fs::read(models::model(name).join("tokenizer.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let added = file["added_tokens"].as_array().unwrap().iter();
    let id = |token: &serde_json::Value| u32::try_from(token["id"].as_u64().unwrap()).unwrap();
    added.map(|token| (token["content"].as_str().unwrap().to_owned(), id(token))).collect()
}

/// Added tokens outside the template's own positions.
fn forged(prompt: &RerankPrompt, ids: &[u32], added: &BTreeMap<String, u32>) -> Vec<u32> {
    let body = ids.strip_prefix(prompt.prefix_ids()).and_then(|rest| rest.strip_suffix(prompt.suffix_ids()));
    let body = body.expect("the template is whole");
    body.iter().copied().filter(|id| added.values().any(|control| control == id)).collect()
}

#[test]
fn every_added_token_stays_text_in_query_document_and_instruction() {
    for name in RERANKERS {
        let (prompt, added) = (models::rerank_prompt(name, MAX_LENGTH), added_tokens(name));
        assert!(added.len() >= 26, "{name} has Qwen's added tokens");
        for token in added.keys() {
            let alone = prompt.encode(token, token, &[token], Reading::default()).unwrap();
            assert_eq!(forged(&prompt, &alone.prompts[0], &added), [0_u32; 0], "{name}: {token}");
            let within = format!("a{token}b {token}\n{token}{token}.");
            let mixed = prompt.encode(&within, &within, &[&within], Reading::default()).unwrap();
            assert_eq!(forged(&prompt, &mixed.prompts[0], &added), [0_u32; 0], "{name}: {within:?}");
        }
    }
}

#[test]
fn the_embedder_sees_its_end_token_at_the_end_alone() {
    let (prompt, added) = (models::embed_prompt(), added_tokens(TINY_EMBEDDER));
    for token in added.keys() {
        let query = prompt.query(token, token).unwrap();
        let (document, _) = prompt.document(&format!("{token} {token}"));
        for ids in [query, document] {
            let (end, text) = ids.split_last().unwrap();
            assert_eq!(*end, added["<|endoftext|>"]);
            assert!(!text.iter().any(|id| added.values().any(|control| control == id)), "{token}");
        }
    }
}

fn any_mix() -> impl Strategy<Value = String> {
    let tokens: Vec<String> = added_tokens(TINY_RERANKER).into_keys().collect();
    let unit = prop_oneof![
        3 => proptest::sample::select(tokens.clone()),
        1 => (proptest::sample::select(tokens), 1_usize..8).prop_map(|(token, cut)| token[cut.min(token.len() - 1)..].to_owned()),
        2 => "[a-z ]{0,8}",
        1 => Just("\n".to_owned()),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(unit, 0..12).prop_map(|units| units.concat())
}

#[test]
fn a_thousand_mixes_stay_text() {
    let (prompt, added) = (models::rerank_prompt(TINY_RERANKER, MAX_LENGTH), added_tokens(TINY_RERANKER));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(1000));
    let mixes = (any_mix(), any_mix(), any_mix());
    let result = runner.run(&mixes, |(instruction, query, document)| {
        let pairs = prompt.encode(&instruction, &query, &[&document], Reading::default()).unwrap();
        prop_assert_eq!(forged(&prompt, &pairs.prompts[0], &added), [0_u32; 0]);
        Ok(())
    });
    result.unwrap();
}

/// S13 with a real tokenizer: whatever the document's size, the frame is whole and so is the query.
#[test]
fn documents_of_any_size_leave_query_and_suffix_whole() {
    let prompt = models::rerank_prompt(TINY_RERANKER, 512);
    let question =
        models::encoder(TINY_RERANKER).user_text_ids("<Instruct>: i\n<Query>: which hive is strong\n<Document>:");
    for unit in ["word ", "x", "蜂", "\n", "🐝 ", "<|im_end|>"] {
        for characters in [0, 1, 10, 1_000, 100_000, 1_000_000] {
            let document: String = unit.chars().cycle().take(characters).collect();
            let pairs = prompt.encode("i", "which hive is strong", &[&document], Reading::default()).unwrap();
            let ids = &pairs.prompts[0];
            assert!(ids.ends_with(prompt.suffix_ids()), "{characters} of {unit:?}");
            assert!(ids[prompt.prefix_ids().len()..].starts_with(&question), "{characters} of {unit:?}");
            assert_eq!(pairs.truncated[0], ids.len() == 512, "{characters} of {unit:?}");
            assert!(pairs.truncated[0] || characters < 100_000, "{characters} of {unit:?}");
        }
    }
}
