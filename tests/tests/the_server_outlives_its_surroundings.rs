//! Broken weights and a Qdrant server in trouble, seen by a client of the real server: the documented answer, and service
//! again as soon as the trouble is over. Also what `loading: Preload` tells meanwhile.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rerank_tests::breakable::{
    Weights, assert_error, embedded, index, search, search_until_reranked, start, wait_for_log,
};
use rerank_tests::http::{LIMIT, ServerProcess};
use rerank_tests::models::{TINY_EMBEDDER, TINY_RERANKER};
use rerank_tests::qdrant_server::{QdrantServer, ServerOptions};
use serde_json::json;
use tokio::time::sleep;

/// What the control port says of one model: its state and why its load failed.
async fn state_of(server: &ServerProcess, model: &str) -> (String, String) {
    let models = server.control("/v1/models").await.unwrap().json();
    let entry = models["data"].as_array().unwrap().iter().find(|entry| entry["id"] == model).unwrap();
    let text = |name: &str| entry["quantizations"][0][name].as_str().unwrap_or_default().to_owned();
    (text("state"), text("failure"))
}

/// A way to break a model's folder, and what the operator is told.
type Breakage = (fn(&Path), &'static str);

const BREAKAGES: [Breakage; 5] = [
    (|folder| fs::remove_dir_all(folder).unwrap(), "is not in"),
    (
        |folder| {
            let file = folder.join("model.safetensors");
            let whole = fs::read(&file).unwrap();
            fs::write(file, &whole[..whole.len() / 2]).unwrap();
        },
        "is damaged",
    ),
    (|folder| fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap(), "pickle"),
    (
        |folder| {
            let config = fs::read_to_string(folder.join("config.json")).unwrap();
            fs::write(folder.join("config.json"), config.replace("Qwen3ForCausalLM", "BertForSequenceClassification"))
                .unwrap();
        },
        "BertForSequenceClassification",
    ),
    (|folder| fs::write(folder.join("tokenizer.json"), "{}").unwrap(), "tokenizer.json"),
];

#[tokio::test]
async fn a_reranker_whose_folder_is_broken_leaves_the_vector_order_until_it_is_mended() {
    for (breakage, says) in BREAKAGES {
        let (weights, store) = (Weights::whole(), tempfile::tempdir().unwrap());
        breakage(&weights.model(TINY_RERANKER));
        let server = start(weights.config(&embedded(store.path()), "")).await;
        server.wait_ready().await.unwrap();
        assert_eq!(index(&server).await.status, 200);

        let answer = search(&server).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = answer.json();
        assert_eq!((&body["reranking_used"], &body["fallback"]["reason"]), (&json!(false), &json!("engine_failed")));
        assert_eq!(answer.header("x-rerank-fallback"), Some("engine_failed"));
        assert_eq!(body["results"][0]["id"], 1, "{body}");
        let refused = server.post("/v1/rerank", r#"{"query": "q", "documents": ["d"]}"#).await.unwrap();
        assert_error(&refused, 503, "reranker_unavailable");
        assert_eq!(refused.json()["error"]["reason"], "engine_failed");

        // The reason stands where the operator looks, and not in answers: it names files.
        let (state, failure) = state_of(&server, TINY_RERANKER).await;
        assert_eq!(state, "Failed");
        assert!(failure.contains(says), "{says:?} is not in {failure:?}");
        wait_for_log(&server, says, 1).await;
        let metrics = server.control("/metrics").await.unwrap().text;
        assert!(metrics.contains("rerank_fallbacks_total{reason=\"engine_failed\"} 1"), "{metrics}");
        assert!(!answer.text.contains(weights.path().to_str().unwrap()), "{}", answer.text);

        weights.mend(TINY_RERANKER);
        search_until_reranked(&server).await;
        assert!(!server.log().contains("panicked"), "{}", server.log());
    }
}

#[tokio::test]
async fn without_its_embedder_a_search_is_refused_and_reranking_alone_is_served() {
    let (weights, store) = (Weights::whole(), tempfile::tempdir().unwrap());
    fs::remove_file(weights.model(TINY_EMBEDDER).join("model.safetensors")).unwrap();
    let server = start(weights.config(&embedded(store.path()), "")).await;
    server.wait_ready().await.unwrap();
    wait_for_log(&server, "cannot be loaded as things stand", 1).await;
    assert_error(&search(&server).await, 503, "embedder_unavailable");
    assert_error(&index(&server).await, 503, "embedder_unavailable");
    let reranked = server.post("/v1/rerank", r#"{"query": "q", "documents": ["d"]}"#).await.unwrap();
    assert_eq!(reranked.status, 200, "{reranked:?}");

    weights.mend(TINY_EMBEDDER);
    let deadline = Instant::now() + LIMIT;
    while index(&server).await.status != 200 {
        assert!(Instant::now() < deadline, "{}", server.log());
        sleep(Duration::from_millis(100)).await;
    }
    search_until_reranked(&server).await;
}

#[tokio::test]
async fn a_qdrant_server_in_trouble_has_its_code_and_is_used_again_afterwards() {
    let qdrant = QdrantServer::start(ServerOptions::default()).await.unwrap();
    qdrant.create_collection("small", &[("", 7, "Cosine")]).unwrap();
    let address = qdrant.address();
    let weights = Weights::whole();
    let store = format!("qdrant: {{url: '{}', collections: [{{name: docs}}, {{name: small}}]}}", qdrant.url());
    let server = start(weights.config(&store, "timeouts: {vectorSearchSeconds: 3}\n")).await;
    server.wait_ready().await.unwrap();

    let missing = search(&server).await;
    assert_error(&missing, 503, "store_unavailable");
    assert!(missing.text.contains("docs"), "{missing:?}");
    assert_eq!(index(&server).await.status, 200);
    search_until_reranked(&server).await;

    let other = server.get("/search?q=x&collection=small").await.unwrap();
    assert_error(&other, 503, "store_unavailable");
    assert!(other.text.contains("dimension 7") && other.text.contains("128"), "{other:?}");
    let body = r#"{"collection": "small", "documents": [{"id": 1, "text": "a"}]}"#;
    assert_error(&server.post("/documents", body).await.unwrap(), 503, "store_unavailable");

    qdrant.set_hanging(true);
    let asked = Instant::now();
    assert_error(&search(&server).await, 504, "store_timeout");
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    qdrant.set_hanging(false);
    search_until_reranked(&server).await;

    qdrant.set_api_key(Some("another"));
    assert_error(&search(&server).await, 503, "store_unavailable");
    qdrant.set_api_key(None);
    search_until_reranked(&server).await;

    qdrant.stop().await;
    // An open connection is told to close and may still answer what was under way.
    let deadline = Instant::now() + LIMIT;
    let down = loop {
        let answer = search(&server).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
    };
    assert_error(&down, 503, "store_unavailable");
    let _qdrant =
        QdrantServer::start(ServerOptions { address: Some(address), ..ServerOptions::default() }).await.unwrap();
    assert_eq!(index(&server).await.status, 200, "the new one is empty");
    search_until_reranked(&server).await;
    assert_eq!(server.control("/livez").await.unwrap().status, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test]
async fn with_preload_readiness_comes_after_the_models() {
    let (weights, store) = (Weights::whole(), tempfile::tempdir().unwrap());
    let server = start(weights.config(&embedded(store.path()), "lifecycle: {loading: Preload}\n")).await;
    server.wait_ready().await.unwrap();
    assert_eq!(server.control("/startupz").await.unwrap().status, 200);
    for model in [TINY_EMBEDDER, TINY_RERANKER] {
        assert_eq!(state_of(&server, model).await.0, "Ready");
    }
    wait_for_log(&server, "\"Loaded a model\"", 2).await;
    wait_for_log(&server, "\"Warmed a model\"", 2).await;
    wait_for_log(&server, "\"Selected the reranker\"", 1).await;
    assert_eq!(server.log().matches("\"Loaded a model\"").count(), 2, "{}", server.log());
    let models = server.control("/v1/models").await.unwrap().text;
    assert!(models.contains("\"selection_reason\":\"Explicit"), "{models}");
}

#[tokio::test]
async fn with_preload_a_model_that_cannot_be_loaded_keeps_the_server_unready_and_says_why_until_it_is_mended() {
    let (weights, store) = (Weights::whole(), tempfile::tempdir().unwrap());
    fs::remove_file(weights.model(TINY_RERANKER).join("config.json")).unwrap();
    let server = start(weights.config(&embedded(store.path()), "lifecycle: {loading: Preload}\n")).await;
    let deadline = Instant::now() + LIMIT;
    let told = loop {
        let readiness = server.control("/readyz").await.unwrap();
        assert_eq!(readiness.status, 503, "{readiness:?}");
        if readiness.text.contains("config.json") {
            break readiness;
        }
        assert!(Instant::now() < deadline, "{readiness:?}");
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(told.json()["status"], "starting");
    assert_eq!(server.control("/startupz").await.unwrap().status, 503);
    assert_eq!(server.control("/livez").await.unwrap().status, 200, "a restart would mend nothing");

    weights.mend(TINY_RERANKER);
    server.wait_ready().await.unwrap();
    assert_eq!(state_of(&server, TINY_RERANKER).await.0, "Ready");
}

#[tokio::test]
async fn idle_models_leave_and_the_next_request_brings_them_back() {
    let (weights, store) = (Weights::whole(), tempfile::tempdir().unwrap());
    let server = start(weights.config(&embedded(store.path()), "lifecycle: {unloadTimeoutSeconds: 1}\n")).await;
    server.wait_ready().await.unwrap();
    assert_eq!(index(&server).await.status, 200);
    for _ in 0..2 {
        search_until_reranked(&server).await;
        let deadline = Instant::now() + LIMIT;
        for model in [TINY_EMBEDDER, TINY_RERANKER] {
            while state_of(&server, model).await.0 != "Standby" {
                assert!(Instant::now() < deadline, "{}", server.log());
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
