//! The real server sends the spans of a search and a rerank to a collector over OTLP; a collector that is away, or never
//! answers, holds up neither answers nor the end of the process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rerank_server::traces::wire::{Any, Span};
use rerank_tests::fault_proxy::{Fault, FaultProxy};
use rerank_tests::http::{ServerProcess, StartOptions, root, tiny_pair, without_models};
use rerank_tests::otlp_collector::OtlpCollector;
use rerank_tests::python;
use rerank_tests::qdrant_server::certificates::Authority;
use rerank_tests::qdrant_server::{QdrantServer, ServerOptions};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

const CANARY: &str = "canary7f3a";
const SEARCH_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const RERANK_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_SPAN: &str = "00f067aa0ba902b7";

fn traced(collector: SocketAddr, percent: u32) -> String {
    format!("tracing: {{otlpEndpoint: 'http://{collector}', sampleRatioPercent: {percent}}}\n")
}

async fn start(config: String) -> ServerProcess {
    // At trace level everything that could be recorded is.
    let log_filter = Some("trace,h2=info,hyper_util=info".to_owned());
    let server = ServerProcess::start(StartOptions { config, log_filter, ..StartOptions::default() }).await.unwrap();
    server.wait_ready().await.unwrap();
    server
}

async fn index(server: &ServerProcess) {
    let documents = ["fences keep sheep", "bread rises slowly", CANARY];
    let documents: Vec<Value> = (1..).zip(documents).map(|(id, text)| json!({"id": id, "text": text})).collect();
    let answer = server.post("/documents", json!({ "documents": documents }).to_string()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
}

async fn end(server: ServerProcess) -> (Duration, String) {
    let signalled = Instant::now();
    server.signal(Signal::INT).unwrap();
    let (status, log) = server.ended().await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    (signalled.elapsed(), log)
}

/// `name < name of the parent`, or the parent's id where it is not among these, sorted.
fn edges(spans: &[&Span]) -> Vec<String> {
    let names: BTreeMap<&[u8], &str> = spans.iter().map(|span| (span.span_id.as_slice(), span.name.as_str())).collect();
    let parent = |span: &Span| {
        names
            .get(span.parent_span_id.as_slice())
            .map_or_else(|| hex::encode(&span.parent_span_id), |name| (*name).to_owned())
    };
    let mut edges: Vec<String> = spans.iter().map(|span| format!("{} < {}", span.name, parent(span))).collect();
    edges.sort();
    edges.dedup();
    edges
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a Any> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

#[tokio::test]
async fn a_search_and_a_rerank_arrive_in_the_traces_of_their_callers_without_any_text() {
    let folder = tempfile::tempdir().unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    // Of the requests without a trace none is traced, so that only those with one arrive.
    let server = start(tiny_pair(folder.path()) + &traced(collector.address(), 0)).await;
    index(&server).await;
    let parent = |trace: &str| format!("00-{trace}-{PARENT_SPAN}-01");
    let headers = [("traceparent", &*parent(SEARCH_TRACE)), ("tracestate", "vendor=1"), ("x-request-id", "order-66")];
    let answer = server.get_with(&format!("/search?q={CANARY}&k=2"), &headers).await.unwrap();
    assert_eq!(answer.json()["reranking_used"], true, "{}", answer.text);
    let body = json!({"query": CANARY, "documents": [CANARY, "bread", "b".repeat(8_000)]});
    let headers = [("traceparent", &*parent(RERANK_TRACE))];
    assert_eq!(server.post_with("/v1/rerank", body.to_string(), &headers).await.unwrap().status, 200);
    let (_, log) = end(server).await;

    let spans = collector.spans().unwrap();
    let of_trace = |trace: &str| spans.iter().filter(|span| hex::encode(&span.trace_id) == trace).collect::<Vec<_>>();
    let (search, rerank) = (of_trace(SEARCH_TRACE), of_trace(RERANK_TRACE));
    assert_eq!(search.len() + rerank.len(), spans.len(), "no other trace was begun");
    assert_eq!(
        edges(&search),
        [
            &*format!("GET /search < {PARENT_SPAN}"),
            "batch < rerank",
            "embed < search",
            "load < search",
            "queue < batch",
            "queue < embed",
            "rerank < search",
            "score < batch",
            "search < GET /search",
            "self_test < load",
            "store < search",
            "tokenize < rerank",
            "warm_up < load",
        ],
        "the embedder was loaded for indexing"
    );
    assert_eq!(
        edges(&rerank),
        [
            &*format!("POST /v1/rerank < {PARENT_SPAN}"),
            "batch < rerank",
            "queue < batch",
            "rerank < POST /v1/rerank",
            "score < batch",
            "tokenize < rerank",
        ]
    );
    let request = search.iter().find(|span| span.kind == 2).unwrap();
    let text = |text: &str| Some(Any::Text(text.to_owned()));
    for (key, value) in [
        ("http.request.method", text("GET")),
        ("http.route", text("/search")),
        ("http.response.status_code", Some(Any::Int(200))),
        ("rerank.request_id", text("order-66")),
    ] {
        assert_eq!(attribute(request, key), value.as_ref(), "{key}");
    }
    assert!(search.iter().all(|span| span.trace_state == "vendor=1"));
    let store = search.iter().find(|span| span.name == "store").unwrap();
    assert_eq!((store.kind, attribute(store, "rerank.candidates")), (3, Some(&Any::Int(3))));

    for message in collector.messages() {
        assert!(!String::from_utf8_lossy(&message).contains(CANARY));
    }
    let traced_lines =
        |trace: &str| log.lines().filter(|line| line.contains(&format!("\"trace_id\":\"{trace}\""))).count();
    assert!(traced_lines(SEARCH_TRACE) > 0 && traced_lines(RERANK_TRACE) > 0, "{log}");
    as_others_read_it(&collector, folder.path(), spans.len()).await;
}

/// What OpenTelemetry's own types for Python make of the messages.
async fn as_others_read_it(collector: &OtlpCollector, folder: &Path, expected: usize) {
    let mut files = Vec::new();
    for (number, message) in collector.messages().iter().enumerate() {
        let file = folder.join(format!("{number}.otlp"));
        std::fs::write(&file, message).unwrap();
        files.push(file.to_str().unwrap().to_owned());
    }
    let arguments: Vec<&str> = files.iter().map(String::as_str).collect();
    let finished = python::run(include_str!("../python/otlp.py"), &arguments).await.unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let exports: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut spans = Vec::new();
    for export in &exports {
        let resource = &export["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["key"], "service.name");
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "rerank-server");
        assert_eq!(resource["scopeSpans"][0]["scope"]["name"], "rerank-server");
        spans.extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().clone());
    }
    assert_eq!(spans.len(), expected);
    let request = spans.iter().find(|span| span["name"] == "GET /search").unwrap();
    assert_eq!(
        (&request["kind"], &request["traceState"]),
        (&json!("SPAN_KIND_SERVER"), &json!("vendor=1")),
        "{request}"
    );
    // Sampled, and the parent is known to be another process's.
    assert_eq!(request["flags"], 0x301, "{request}");
    let time = |field: &str| request[field].as_str().unwrap().parse::<u128>().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    assert!(time("startTimeUnixNano") < time("endTimeUnixNano") && time("endTimeUnixNano") < now, "{request}");
    let status = request["attributes"].as_array().unwrap().iter().find(|a| a["key"] == "http.response.status_code");
    assert_eq!(status.unwrap()["value"]["intValue"], "200", "{request}");
    let store = spans.iter().find(|span| span["name"] == "store").unwrap();
    assert_eq!(store["kind"], "SPAN_KIND_CLIENT", "{store}");
}

#[tokio::test]
async fn spans_are_sent_while_the_server_runs_and_the_share_decides_of_which_requests() {
    let folder = tempfile::tempdir().unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    let server = start(tiny_pair(folder.path()) + &traced(collector.address(), 100)).await;
    for _ in 0..20 {
        server.get("/v1/models").await.unwrap();
    }
    let spans = collector.wait_for_requests(20).await.unwrap();
    let traces: std::collections::BTreeSet<String> = spans.iter().map(|span| hex::encode(&span.trace_id)).collect();
    assert_eq!((spans.len(), traces.len()), (20, 20), "each is a trace of its own");
    end(server).await;

    let collector = OtlpCollector::start().await.unwrap();
    let server = start(tiny_pair(folder.path()) + &traced(collector.address(), 0)).await;
    for _ in 0..20 {
        server.get("/v1/models").await.unwrap();
    }
    let (_, log) = end(server).await;
    assert_eq!(collector.messages().len(), 0);
    assert!(!log.contains("trace_id"), "{log}");
}

#[tokio::test]
async fn a_collector_behind_tls_is_held_to_the_systems_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test CA").unwrap();
    let collector = OtlpCollector::start_with_tls(&authority.certify("localhost").unwrap()).await.unwrap();
    let roots = folder.path().join("roots.pem");
    for (certificate, trusted) in [(Authority::new("another CA").unwrap(), false), (authority, true)] {
        std::fs::write(&roots, certificate.certificate()).unwrap();
        let endpoint = format!("https://localhost:{}", collector.address().port());
        let config = format!("{}tracing: {{otlpEndpoint: '{endpoint}', sampleRatioPercent: 100}}\n", without_models());
        let environment = vec![("SSL_CERT_FILE".to_owned(), roots.to_str().unwrap().to_owned())];
        let options = StartOptions { config, environment, ..StartOptions::default() };
        let server = ServerProcess::start(options).await.unwrap();
        server.get("/v1/models").await.unwrap();
        let (_, log) = end(server).await;
        assert_eq!(collector.spans().unwrap().len(), usize::from(trusted), "{log}");
        assert_eq!(log.contains("takes no spans"), !trusted, "{log}");
    }
}

#[tokio::test]
async fn qdrant_is_told_the_trace_that_its_call_belongs_to() {
    let qdrant = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    let models = root().join("tests").join("models");
    let config = format!(
        "embedding: {{model: tiny-embedder, quantization: float32}}\n\
         reranker: {{enabled: false}}\n\
         weights: {{directory: '{}'}}\n\
         vectorStore: {{writable: true, qdrant: {{url: '{}', collections: [{{name: docs}}]}}}}\n",
        models.display(),
        qdrant.url()
    );
    let server = start(config + &traced(collector.address(), 0)).await;
    index(&server).await;
    let headers = [("traceparent", &*format!("00-{SEARCH_TRACE}-{PARENT_SPAN}-01")), ("tracestate", "vendor=1")];
    assert_eq!(server.get_with("/search?q=fences", &headers).await.unwrap().status, 200);
    let told = qdrant.last_trace();
    let spans = collector.wait_for_requests(1).await.unwrap();
    let store = spans.iter().find(|span| span.name == "store").unwrap();
    let expected = format!("00-{SEARCH_TRACE}-{}-01", hex::encode(&store.span_id));
    assert_eq!(told, Some((expected, "vendor=1".to_owned())));
    end(server).await;
}

#[tokio::test]
async fn a_collector_that_hangs_or_is_away_holds_up_nothing_and_is_told_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    for fault in [Fault::Refuse, Fault::Hang] {
        let proxy = FaultProxy::start(collector.address()).await.unwrap();
        proxy.set(fault);
        let server = start(tiny_pair(folder.path()) + &traced(proxy.address(), 100)).await;
        let begun = Instant::now();
        // For longer than one call to the collector may take, and more spans than wait at most.
        while begun.elapsed() < Duration::from_secs(12) {
            let asked = Instant::now();
            for answer in futures::future::join_all((0..200).map(|_| server.get("/v1/models"))).await {
                assert_eq!(answer.unwrap().status, 200);
            }
            assert!(asked.elapsed() < Duration::from_secs(5), "{fault:?}: {:?}", asked.elapsed());
        }
        let (took, log) = end(server).await;
        assert!(took < Duration::from_secs(6), "{fault:?}: the end took {took:?}");
        let warnings: Vec<&str> =
            log.lines().filter(|line| line.contains("\"level\":\"WARN\"") && line.contains("collector")).collect();
        let during: Vec<_> = warnings.iter().filter(|line| line.contains("takes no spans")).collect();
        assert_eq!(during.len(), 1, "{fault:?}: {warnings:#?}");
        assert!(warnings.len() <= 2, "{fault:?}: {warnings:#?}");
    }
    assert_eq!(collector.messages().len(), 0);
}

#[tokio::test]
async fn a_collector_that_comes_back_gets_what_waited() {
    let folder = tempfile::tempdir().unwrap();
    let collector = OtlpCollector::start().await.unwrap();
    let proxy = FaultProxy::start(collector.address()).await.unwrap();
    proxy.set(Fault::Refuse);
    let server = start(tiny_pair(folder.path()) + &traced(proxy.address(), 100)).await;
    server.get("/v1/models").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !server.log().contains("takes no spans") {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.set(Fault::None);
    collector.wait_for_requests(1).await.unwrap();
    let (_, log) = end(server).await;
    assert!(log.contains("takes spans again") && log.contains("\"lost_spans\":0"), "{log}");
}
