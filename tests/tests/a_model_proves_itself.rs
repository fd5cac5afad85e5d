//! The self-test after a load, through the real server: a model that answers nonsense is found out before anybody gets its
//! scores, whatever made it so.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rerank_tests::breakable::{
    Weights, assert_error, embedded, index, search, search_until_reranked, start, wait_for_log,
};
use rerank_tests::http::LIMIT;
use rerank_tests::models::TINY_RERANKER;
use serde_json::{Value, json};
use tokio::time::sleep;

/// A way to make a model answer nonsense: in its folder, or in the configuration.
type Mistake = (&'static str, fn(&Path), &'static str);

const MISTAKES: [Mistake; 3] = [
    ("a broken template", |_| {}, "    prompt: {prefix: 'Judge.\n', body: '{query} {document}', suffix: 'Answer: '}\n"),
    ("swapped answer tokens", |_| {}, "    scoring: {yesToken: 'no', noToken: 'yes'}\n"),
    ("the tokenizer of another model", renumber_tokens, ""),
];

/// Gives each token but the two answers the id of another.
fn renumber_tokens(folder: &Path) {
    let path = folder.join("tokenizer.json");
    let mut file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let added: Vec<Value> =
        file["added_tokens"].as_array().unwrap().iter().map(|token| token["content"].clone()).collect();
    let vocabulary = file["model"]["vocab"].as_object_mut().unwrap();
    let words: Vec<String> = vocabulary
        .keys()
        .filter(|word| !["yes", "no"].contains(&word.as_str()) && !added.contains(&json!(word)))
        .cloned()
        .collect();
    let mut ids: Vec<Value> = words.iter().map(|word| vocabulary[word].clone()).collect();
    ids.rotate_left(1);
    for (word, id) in words.into_iter().zip(ids) {
        vocabulary.insert(word, id);
    }
    fs::write(&path, file.to_string()).unwrap();
}

fn with_custom(weights: &Weights, store: &str, custom: &str, more: &str) -> String {
    let config = weights.config(store, more);
    if custom.is_empty() {
        return config;
    }
    let reranker = format!("reranker: {{model: {TINY_RERANKER}, quantization: float32, maxLength: 512}}\n");
    assert!(config.contains(&reranker), "{config}");
    let replaced = format!(
        "reranker:\n  model: {TINY_RERANKER}\n  quantization: float32\n  maxLength: 512\n  custom:\n  - model: \
         {TINY_RERANKER}\n{custom}"
    );
    config.replace(&reranker, &replaced)
}

#[tokio::test]
async fn a_reranker_that_answers_nonsense_is_found_out_and_not_used() {
    for (mistake, breaks, custom) in MISTAKES {
        let (weights, store) = (Weights::whole(), tempfile::tempdir().unwrap());
        breaks(&weights.model(TINY_RERANKER));
        let server = start(with_custom(&weights, &embedded(store.path()), custom, "")).await;
        server.wait_ready().await.unwrap();
        assert_eq!(index(&server).await.status, 200, "{mistake}: {}", server.log());
        let answer = search(&server).await;
        let body = answer.json();
        assert_eq!(body["fallback"]["reason"], "self_test_failed", "{mistake}: {answer:?}");
        assert!(body["fallback"]["message"].as_str().unwrap().contains("usual causes"), "{mistake}: {body}");
        let refused = server.post("/v1/rerank", r#"{"query": "q", "documents": ["d"]}"#).await.unwrap();
        assert_error(&refused, 503, "reranker_unavailable");
        assert_eq!(refused.json()["error"]["reason"], "self_test_failed", "{mistake}");
        let models = server.control("/v1/models").await.unwrap().text;
        assert!(models.contains(r#""self_test":{"outcome":"Failed","message":""#), "{mistake}: {models}");
        assert!(models.contains(r#""self_test":{"outcome":"Passed"}"#), "{mistake}: the embedder is whole: {models}");
        let metrics = server.control("/metrics").await.unwrap().text;
        assert!(metrics.contains(r#"rerank_fallbacks_total{reason="self_test_failed"} 1"#), "{mistake}: {metrics}");
    }
}

#[tokio::test]
async fn with_preload_a_reranker_that_answers_nonsense_keeps_the_server_unready() {
    for (mistake, breaks, custom) in MISTAKES {
        let (weights, store) = (Weights::whole(), tempfile::tempdir().unwrap());
        breaks(&weights.model(TINY_RERANKER));
        let preload = "lifecycle: {loading: Preload}\n";
        let server = start(with_custom(&weights, &embedded(store.path()), custom, preload)).await;
        wait_for_log(&server, "failed its self-test", 1).await;
        let readiness = server.control("/readyz").await.unwrap();
        assert_eq!(readiness.status, 503, "{mistake}: {readiness:?}");
        let deadline = Instant::now() + LIMIT;
        while !server.control("/readyz").await.unwrap().text.contains("failed its self-test") {
            assert!(Instant::now() < deadline, "{mistake}: {}", server.log());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn where_it_is_only_to_be_warned_of_nonsense_is_served() {
    let (weights, store) = (Weights::whole(), tempfile::tempdir().unwrap());
    let (_, _, custom) = MISTAKES[1];
    let custom = format!("{custom}  selfTest: Warn\n");
    let server = start(with_custom(&weights, &embedded(store.path()), &custom, "")).await;
    server.wait_ready().await.unwrap();
    assert_eq!(index(&server).await.status, 200);
    search_until_reranked(&server).await;
    wait_for_log(&server, "did not pass its self-test", 1).await;
}

#[tokio::test]
async fn other_weights_than_those_expected_are_found_out_by_their_digest() {
    let (weights, store) = (Weights::whole(), tempfile::tempdir().unwrap());
    let file = weights.model(TINY_RERANKER).join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let server = start(weights.config(&embedded(store.path()), "")).await;
    server.wait_ready().await.unwrap();
    assert_eq!(index(&server).await.status, 200);
    let answer = search(&server).await.json();
    assert_eq!(answer["fallback"]["reason"], "self_test_failed", "{answer}");
    assert!(answer["fallback"]["message"].as_str().unwrap().contains("SHA-256"), "{answer}");
}
