//! One half of the chaos matrix: the store refuses, resets, hangs, is slow, answers garbage, through a fault proxy and the
//! real binary. What is seen stands word for word in `docs/failures.md`; the engine's half is in the server's own tests.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rerank_server::store::DocumentId;
use rerank_tests::fault_proxy::{Fault, FaultProxy};
use rerank_tests::http::{Answer, ServerProcess, StartOptions, root};
use rerank_tests::qdrant_server::{QdrantServer, ServerOptions};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// `timeouts.vectorSearchSeconds`.
const DEADLINE: Duration = Duration::from_secs(1);
/// What this machine may add: a model's batch, another test's.
const SLACK: Duration = Duration::from_secs(2);
/// Within so long a store that answers again must be used again.
const RETURN: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(60);

fn config(proxy: &FaultProxy) -> String {
    let models = root().join("tests").join("models");
    format!(
        "embedding: {{model: tiny-embedder, quantization: float32}}\n\
         reranker: {{model: tiny-reranker, quantization: float32, maxLength: 1024}}\n\
         weights: {{directory: '{}'}}\n\
         timeouts: {{vectorSearchSeconds: {}}}\n\
         lifecycle: {{loading: Preload}}\n\
         vectorStore: {{writable: true, qdrant: {{url: 'http://{}', collections: [{{name: docs}}]}}}}\n",
        models.display(),
        DEADLINE.as_secs(),
        proxy.address()
    )
}

async fn search(server: &ServerProcess) -> (Answer, Duration) {
    let asked = Instant::now();
    let answer = server.get("/search?q=fences&k=1").await.unwrap();
    (answer, asked.elapsed())
}

/// `503 store_unavailable`, or `200`.
fn described(answer: &Answer) -> String {
    match answer.code() {
        code if code.is_empty() => format!("{}", answer.status),
        code => format!("{} `{code}`", answer.status),
    }
}

#[tokio::test]
async fn each_way_in_which_the_store_fails_has_its_answer_and_its_end() {
    let qdrant = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let proxy = FaultProxy::start(qdrant.address()).await.unwrap();
    let server =
        ServerProcess::start(StartOptions { config: config(&proxy), ..StartOptions::default() }).await.unwrap();
    server.wait_ready().await.unwrap();
    let documents = json!({"documents": [{"id": DocumentId::Number(1), "text": "fences keep sheep"}]});
    assert_eq!(server.post("/documents", documents.to_string()).await.unwrap().status, 200);
    let matrix = fs::read_to_string(Path::new(&root()).join("docs/failures.md")).unwrap();

    for (name, fault) in [
        ("refuse", Fault::Refuse),
        ("reset", Fault::Reset),
        ("hang", Fault::Hang),
        ("slow", Fault::Slow(Duration::from_millis(100))),
        ("garbage", Fault::Garbage),
    ] {
        assert_eq!(search(&server).await.0.status, 200, "before {name}");
        proxy.set(fault);
        let (first, took) = search(&server).await;
        assert!(took < DEADLINE + SLACK, "{name}: {took:?}");
        let mut answers = vec![described(&first)];
        if first.status != 200 {
            let begun = Instant::now();
            let resting = loop {
                let (answer, took) = search(&server).await;
                assert!(matches!(answer.status, 503 | 504), "{name}: {answer:?}");
                assert!(took < DEADLINE + SLACK, "{name}: {took:?}");
                if answer.text.contains("not asked for a while") {
                    break answer;
                }
                assert!(begun.elapsed() < LIMIT, "{name}: the breaker does not open");
            };
            assert!(resting.header("retry-after").is_some(), "{resting:?}");
            answers.push(described(&resting));
        }
        let row = format!("| store | {name} | {} |", answers.join(" | "));
        let row = if answers.len() == 1 { format!("{row} - |") } else { row };
        assert!(matrix.lines().any(|line| line.starts_with(&row)), "docs/failures.md has no row {row:?}");

        proxy.set(Fault::None);
        let returned = Instant::now();
        while search(&server).await.0.status != 200 {
            assert!(returned.elapsed() < RETURN, "{name}: not used again");
            sleep(Duration::from_millis(50)).await;
        }
    }

    // Slower than the deadline is as good as not at all.
    proxy.set(Fault::Slow(DEADLINE * 2));
    let (late, took) = search(&server).await;
    assert_eq!((late.status, late.code().as_str()), (504, "store_timeout"), "{late:?}");
    assert!(took < DEADLINE + SLACK, "{took:?}");
    // Reranking alone asks no store.
    let alone = server.post("/v1/rerank", r#"{"query": "q", "documents": ["d"]}"#).await.unwrap();
    assert_eq!(alone.status, 200);
    assert_eq!(server.control("/livez").await.unwrap().status, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
