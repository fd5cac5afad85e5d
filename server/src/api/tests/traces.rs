//! A request's spans, as they are recorded: names, parents, attributes, and no text of the client.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tracing_subscriber::layer::SubscriberExt;

use super::whole::{EMBEDDER, LogLines, RERANKER, WholeApi};
use super::*;
use crate::telemetry::{LogOptions, lines_to, spans_to};
use crate::traces::testing::{Recorded, recorder};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const CANARY: &str = "canary7f3a";

/// Records spans and log lines as a server does whose filter lets everything through.
fn observed(percent: i32) -> (Recorded, LogLines, tracing::subscriber::DefaultGuard) {
    let (recorder, recorded) = recorder(percent);
    let lines = LogLines::default();
    let options = LogOptions {
        filter: "trace".to_owned(),
        setting: "logging.filter",
        format: rerank_crds::server_config::LogFormat::Json,
    };
    let log = lines_to(lines.clone(), &options).unwrap();
    let subscriber = tracing_subscriber::registry().with(log).with(spans_to(recorder));
    (recorded, lines, tracing::subscriber::set_default(subscriber))
}

fn get(path: &str, headers: &[(&str, &str)]) -> Request {
    let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_search_is_one_trace_from_the_request_to_the_score() {
    let api = WholeApi::new(None, |_| ());
    api.controls.set_batch_pairs(3);
    let (mut recorded, lines, _observing) = observed(0);
    let headers = [("traceparent", PARENT), ("tracestate", "vendor=1"), ("x-request-id", "order-66")];
    assert_eq!(api.send(get(&format!("/search?q={CANARY}&k=2"), &headers)).await.status, 200);

    let spans = recorded.all();
    let mut edges: Vec<String> = spans.iter().map(|span| format!("{} < {}", span.name, span.parent_name)).collect();
    edges.sort();
    assert_eq!(
        edges,
        [
            "GET /search < 00f067aa0ba902b7",
            "batch < rerank",
            "batch < rerank",
            "embed < search",
            "load < embed",
            "load < search",
            "queue < batch",
            "queue < batch",
            "queue < embed",
            "rerank < search",
            "score < batch",
            "score < batch",
            "search < GET /search",
            "store < search",
            "tokenize < rerank",
        ]
    );
    assert!(spans.iter().all(|span| span.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736" && span.state == "vendor=1"));
    let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let request = of("GET /search");
    assert_eq!(request.kind, "Server");
    for (key, value) in [
        ("http.request.method", json!("GET")),
        ("http.route", json!("/search")),
        ("url.path", json!("/search")),
        ("http.response.status_code", json!(200)),
        ("rerank.request_id", json!("order-66")),
    ] {
        assert_eq!(request.attributes.get(key), Some(&value), "{key}: {request:#?}");
    }
    assert!(!request.is_error && !request.attributes.contains_key("error.type"));
    assert_eq!(of("store").kind, "Client");
    assert_eq!(of("store").attributes["rerank.candidates"], json!(5));
    assert_eq!(of("store").attributes["db.collection.name"], json!("docs"));
    assert_eq!(of("rerank").attributes["rerank.model"], json!(RERANKER));
    assert_eq!(of("rerank").attributes["rerank.documents"], json!(5));
    assert_eq!(of("embed").attributes["rerank.model"], json!(EMBEDDER));
    let pairs: i64 = spans
        .iter()
        .filter(|span| span.name == "batch")
        .map(|span| span.attributes["rerank.pairs"].as_i64().unwrap())
        .sum();
    assert_eq!(pairs, 5);
    assert!(spans.iter().all(|span| span.start <= span.end && span.start >= request.start), "{spans:#?}");
    let within = |inner: &str, outer: &str| of(inner).end <= of(outer).end;
    assert!(within("store", "search") && within("search", "GET /search") && within("score", "rerank"), "{spans:#?}");

    let answered = lines.with_message("Answered request").remove(0);
    assert_eq!(answered["span"]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736", "{answered}");
    assert_eq!(answered["span"]["request_id"], "order-66", "{answered}");
    // A line from the midst of a stage has the request's span, not that of the stage.
    for line in lines.all() {
        let span = line["span"]["name"].as_str();
        assert!(span.is_none_or(|name| name == "request"), "{line}");
    }
}

#[tokio::test]
async fn no_text_of_a_client_stands_in_any_span_whatever_goes_wrong() {
    let api = WholeApi::new(None, |_| ());
    let (mut recorded, _, _observing) = observed(100);
    let requests = [
        ("/search", json!({"q": CANARY, "k": 2})),
        ("/search", json!({"q": CANARY, "collection": CANARY})),
        ("/search", json!({"q": CANARY, "rerank_model": CANARY})),
        ("/search", json!({"q": CANARY, "filter": {CANARY: CANARY}})),
        ("/search/batch", json!({"queries": [CANARY, CANARY, ""]})),
        ("/v1/rerank", json!({"query": CANARY, "documents": [CANARY, "b"]})),
        ("/v1/rerank", json!({"query": CANARY.repeat(5_000), "documents": [CANARY]})),
        ("/v1/score", json!({"text_1": CANARY, "text_2": [CANARY]})),
        ("/v1/embeddings", json!({"input": [CANARY], "model": CANARY})),
        ("/v1/embeddings", json!({"input": [CANARY]})),
        ("/documents", json!({"documents": [{"id": CANARY, "text": CANARY}]})),
        ("/canary7f3a", json!(CANARY)),
    ];
    for fault in [None, Some(crate::fakes::EngineFault::Panic), Some(crate::fakes::EngineFault::Failed)] {
        for (path, body) in &requests {
            if let Some(fault) = fault {
                api.controls.fail_score(fault);
            }
            api.post(path, body).await;
        }
    }
    api.send(get(&format!("/{CANARY}?{CANARY}"), &[("authorization", CANARY), ("user-agent", CANARY)])).await;
    let spans = recorded.all();
    assert!(spans.len() > 100, "{}", spans.len());
    let leaks: Vec<_> = spans.iter().filter(|span| format!("{span:?}").contains(CANARY)).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");

    let known = crate::traces::testing::documented();
    for span in &spans {
        let name = if span.kind == "Server" { "{method} {route}" } else { span.name.as_str() };
        let attributes: &BTreeSet<&str> = known.get(name).unwrap_or_else(|| panic!("{name} is not documented"));
        let unknown: Vec<_> = span.attributes.keys().filter(|key| !attributes.contains(key.as_str())).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?} are not documented");
    }
}

#[tokio::test]
async fn every_documented_span_and_attribute_occurs() {
    let api = WholeApi::new(None, |config| {
        config.lifecycle.warm = true;
        config.reranker.self_test = rerank_crds::server_config::SelfTest::Warn;
    });
    let (mut recorded, _, _observing) = observed(100);
    api.warm().await;
    api.controls.fail_score(crate::fakes::EngineFault::Failed);
    api.get("/search?q=x&k=2").await;
    api.get("/search?q=x&k=0").await;
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for span in recorded.all() {
        let name = if span.kind == "Server" { "{method} {route}".to_owned() } else { span.name };
        seen.entry(name).or_default().extend(span.attributes.into_keys());
    }
    let documented = crate::traces::testing::documented();
    let documented: BTreeMap<String, BTreeSet<String>> = documented
        .into_iter()
        .map(|(name, attributes)| (name.to_owned(), attributes.into_iter().map(str::to_owned).collect()))
        .collect();
    assert_eq!(seen, documented);
}

#[tokio::test]
async fn a_fallback_stands_on_query_and_request_and_a_failure_is_an_error() {
    let api = WholeApi::new(None, |_| ());
    api.warm().await;
    let (mut recorded, _, _observing) = observed(100);
    api.controls.fail_score(crate::fakes::EngineFault::Failed);
    api.get("/search?q=x&k=2").await;
    let spans = recorded.all();
    let reason = |name: &str| {
        let span = spans.iter().find(|span| span.name == name).unwrap();
        (span.is_error, span.attributes.get("rerank.fallback.reason").cloned())
    };
    assert_eq!(reason("GET /search"), (false, Some(json!("engine_failed"))), "it was answered");
    assert_eq!(reason("search"), (false, Some(json!("engine_failed"))));
    assert_eq!(reason("rerank"), (true, None));
    assert_eq!(reason("score"), (true, None));

    api.controls.fail_score(crate::fakes::EngineFault::Failed);
    api.post("/v1/rerank", &json!({"query": "q", "documents": ["a"]})).await;
    let spans = recorded.all();
    let request = spans.iter().find(|span| span.kind == "Server").unwrap();
    assert!(request.is_error);
    assert_eq!(request.attributes["error.type"], json!("reranker_unavailable"));
    assert_eq!(request.attributes["rerank.fallback.reason"], json!("engine_failed"));
    assert_eq!(request.attributes["http.response.status_code"], json!(503));
}

#[tokio::test]
async fn a_batch_has_a_search_for_each_query_under_one_request() {
    let api = WholeApi::new(None, |_| ());
    api.warm().await;
    let (mut recorded, _, _observing) = observed(100);
    api.post("/search/batch", &json!({"queries": ["a", "b", "c"], "k": 2})).await;
    let spans = recorded.all();
    let count =
        |name: &str, parent: &str| spans.iter().filter(|span| span.name == name && span.parent_name == parent).count();
    assert_eq!(count("search", "POST /search/batch"), 3);
    assert_eq!(count("embed", "POST /search/batch"), 1);
    assert_eq!((count("store", "search"), count("rerank", "search"), count("score", "batch")), (3, 3, 3));
}

#[tokio::test]
async fn the_share_decides_for_requests_without_a_trace_and_the_parent_for_the_others() {
    let api = WholeApi::new(None, |_| ());
    api.warm().await;
    let unsampled = PARENT.replace("-01", "-00");
    for (percent, parent, expected) in [
        (0, None, false),
        (100, None, true),
        (0, Some(PARENT), true),
        (100, Some(unsampled.as_str()), false),
        (100, Some("nonsense"), true),
    ] {
        let (mut recorded, lines, _observing) = observed(percent);
        let headers: Vec<(&str, &str)> = parent.map(|parent| ("traceparent", parent)).into_iter().collect();
        api.send(get("/search?q=x&k=2", &headers)).await;
        assert_eq!(!recorded.all().is_empty(), expected, "{percent} % {parent:?}");
        let answered = lines.with_message("Answered request").remove(0);
        assert_eq!(answered["span"]["trace_id"].is_string(), expected, "{answered}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_its_spans() {
    let api = WholeApi::new(None, |_| ());
    api.warm().await;
    api.store.set_delay(Duration::from_secs(3_600));
    let (mut recorded, _, _observing) = observed(100);
    assert!(tokio::time::timeout(Duration::from_secs(1), api.get("/search?q=x&k=2")).await.is_err());
    let spans = recorded.all();
    let request = spans.iter().find(|span| span.kind == "Server").unwrap();
    assert_eq!(request.attributes["http.response.status_code"], json!(499));
    assert_eq!(request.attributes["error.type"], json!("client_closed_request"));
    assert!(spans.iter().any(|span| span.name == "store"));
}
