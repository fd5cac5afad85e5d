//! What a client sends and which keys it has never stand in logs above debug level, in metrics, or in the text of a
//! server's error.

use rerank_tests::http::{ServerProcess, StartOptions, tiny_pair, without_models};
use rustix::process::Signal;
use serde_json::json;

const CANARY: &str = "canary7f3a";
const KEY: &str = "key-canary9b1d";

/// Canary text through every route, right and wrong. Answers the bodies of server errors.
async fn send_everything(server: &ServerProcess) -> String {
    let requests = [
        ("/search", json!({"q": CANARY})),
        ("/search", json!({"q": CANARY, "k": 0, "collection": CANARY})),
        ("/search", json!({"q": CANARY, "collection": CANARY})),
        ("/search", json!({"q": CANARY, "rerank_model": CANARY})),
        ("/search", json!({"q": CANARY, "filter": {"must": CANARY}})),
        ("/search", json!({"q": CANARY, "instruction": CANARY})),
        ("/search", json!({"q": [CANARY]})),
        ("/search", json!({CANARY: CANARY})),
        ("/search/batch", json!({"queries": [CANARY, ""]})),
        ("/search/batch", json!({"queries": CANARY})),
        ("/v1/rerank", json!({"query": CANARY, "documents": [CANARY, {"text": CANARY}]})),
        ("/rerank", json!({"query": CANARY, "documents": [], "model": CANARY})),
        ("/rerank", json!({"query": CANARY.repeat(5_000), "documents": [CANARY]})),
        ("/v2/rerank", json!({"query": CANARY, "documents": [CANARY], "model": CANARY})),
        ("/v2/rerank", json!({"query": CANARY, "documents": [CANARY]})),
        ("/rerank", json!({"query": CANARY, "texts": [CANARY], "truncation_direction": CANARY})),
        ("/rerank", json!({"query": CANARY, "texts": [CANARY]})),
        ("/v1/score", json!({"text_1": CANARY, "text_2": [CANARY]})),
        ("/v1/embeddings", json!({"input": CANARY, "encoding_format": CANARY})),
        ("/v1/embeddings", json!({"input": CANARY})),
        ("/v1/models/load", json!({"model": CANARY})),
        ("/documents", json!({"documents": [{"id": CANARY, "text": CANARY, "field": CANARY}]})),
        ("/documents", json!({"documents": [{"id": CANARY, "text": [CANARY]}]})),
        ("/canary7f3a", json!(CANARY)),
    ];
    let mut errors = String::new();
    for (path, body) in requests {
        let answer = server.post(path, body.to_string()).await.unwrap();
        if answer.status >= 500 {
            errors.push_str(&answer.text);
        }
    }
    for path in [
        format!("/search?q={CANARY}"),
        format!("/search?{CANARY}={CANARY}"),
        format!("/search?q={CANARY}&k={CANARY}"),
        format!("/{CANARY}?{CANARY}"),
    ] {
        let answer = server.get_with_key(&path, KEY).await.unwrap();
        if answer.status >= 500 {
            errors.push_str(&answer.text);
        }
    }
    errors
}

async fn check(config: String) -> String {
    let filter = "info".to_owned();
    let server = ServerProcess::start(StartOptions { config, log_filter: Some(filter), ..StartOptions::default() })
        .await
        .unwrap();
    server.wait_ready().await.unwrap();
    let errors = send_everything(&server).await;
    assert!(!errors.contains(CANARY), "{errors}");
    let metrics = server.control("/metrics").await.unwrap().text;
    assert!(!metrics.contains(CANARY), "{metrics}");
    assert!(metrics.contains("rerank_requests_total{route=\"/search\""), "{metrics}");
    server.signal(Signal::INT).unwrap();
    let (_, log) = server.ended().await.unwrap();
    assert!(log.contains("Answered request"), "{log}");
    let leaks: Vec<&str> = log.lines().filter(|line| line.contains(CANARY) || line.contains(KEY)).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    log
}

#[tokio::test]
async fn queries_and_documents_stay_out_of_logs_and_metrics_when_everything_fails() {
    let log = check(without_models()).await;
    assert!(log.contains("Request failed"), "{log}");
}

#[tokio::test]
async fn queries_and_documents_stay_out_of_logs_and_metrics_when_searches_succeed() {
    let folder = tempfile::tempdir().unwrap();
    check(tiny_pair(folder.path())).await;
}

#[tokio::test]
async fn at_debug_level_the_canary_would_be_seen() {
    let server = ServerProcess::start(StartOptions {
        config: without_models(),
        log_filter: Some("debug".to_owned()),
        ..StartOptions::default()
    })
    .await
    .unwrap();
    server.get(&format!("/search?q=x&k={CANARY}")).await.unwrap();
    server.signal(Signal::INT).unwrap();
    let (_, log) = server.ended().await.unwrap();
    assert!(log.contains(CANARY), "the test above could not fail: {log}");
}

#[tokio::test]
async fn keys_are_asked_for_and_never_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shop"), format!("{KEY}\n")).unwrap();
    let config = format!("{}access: {{apiKeysFile: '{}'}}\n", without_models(), folder.path().display());
    let server =
        ServerProcess::start(StartOptions { config, log_filter: Some("trace".to_owned()), ..StartOptions::default() })
            .await
            .unwrap();
    let refused = server.get("/v1/models").await.unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"));
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    assert_eq!(server.get_with_key("/v1/models", "wrong").await.unwrap().status, 401);
    assert_eq!(server.get_with_key("/v1/models", KEY).await.unwrap().status, 200);
    assert_eq!(server.control("/v1/models").await.unwrap().status, 200);
    let metrics = server.control("/metrics").await.unwrap().text;
    server.signal(Signal::INT).unwrap();
    let (_, log) = server.ended().await.unwrap();
    assert!(log.contains("\"client\":\"shop\""), "{log}");
    assert!(!log.contains(KEY) && !metrics.contains(KEY));
}

#[tokio::test]
async fn a_restricted_client_never_learns_what_other_collections_there_are_or_hold() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "shop: shop-key\nops: ops-key\n").unwrap();
    let config = tiny_pair(folder.path()).replace("[{name: corpus}]", "[{name: corpus}, {name: shop}]")
        + &format!("access: {{apiKeysFile: '{}', clients: [{{name: shop, collections: [shop]}}]}}\n", keys.display());
    let server = ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await.unwrap();
    server.wait_ready().await.unwrap();
    let index = |collection: &'static str, text: &'static str, key: &'static str| {
        let body = serde_json::json!({"collection": collection, "documents": [{"id": 1, "text": text}]}).to_string();
        server.post_with_key("/documents", body, key)
    };
    assert_eq!(index("corpus", "canary-of-another-client", "ops-key").await.unwrap().status, 200);
    assert_eq!(index("shop", "garden fences", "shop-key").await.unwrap().status, 200);

    let mut refusals = Vec::new();
    for collection in ["corpus", "no-such-collection"] {
        let answer = server.get_with_key(&format!("/search?q=x&collection={collection}"), "shop-key").await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{answer:?}");
        let mut body = answer.json();
        body["error"]["request_id"].take();
        refusals.push(body);
    }
    assert_eq!(refusals[0], refusals[1], "one that exists is refused as one that does not");
    assert_eq!(refusals[0]["error"]["allowed"], serde_json::json!(["shop"]));
    assert_eq!(index("corpus", "planted", "shop-key").await.unwrap().status, 403);

    for path in ["/search?q=x", "/v1/models", "/openapi.json"] {
        let answer = server.get_with_key(path, "shop-key").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.text.contains("corpus") && !answer.text.contains("canary-of"), "{path}: {}", answer.text);
    }
    let everything = server.get_with_key("/search?q=x&collection=corpus", "ops-key").await.unwrap();
    assert!(everything.text.contains("canary-of-another-client") && !everything.text.contains("planted"));
}
