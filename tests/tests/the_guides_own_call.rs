//! The call of the reranking guide, as a Python client makes it, against the real server with the tiny pair.

use rerank_tests::http::{ServerProcess, StartOptions, tiny_pair};
use rerank_tests::python;
use serde_json::Value;

const PROGRAM: &str = r#"
import json, sys
import requests

base = sys.argv[1]
documents = [
    {"id": 1, "text": "Venus is often called Earth's twin because of its similar size and proximity."},
    {"id": 2, "text": "Mars, known for its reddish appearance, is often referred to as the Red Planet."},
    {"id": 3, "text": "Jupiter, the largest planet in our solar system, has a prominent red spot."},
]
indexed = requests.post(base + "/documents", json={"documents": documents}, timeout=60)
indexed.raise_for_status()
response = requests.get(base + "/search", params={
    "q": "Which planet is known as the Red Planet?",
    "k": 10,
    "use_reranker": True,
    "rerank_model": "tiny-reranker",
    "rerank_quantization": "int8",
}, timeout=60)
response.raise_for_status()
print(json.dumps(response.json()))
"#;

#[tokio::test]
async fn the_guide_s_own_call_answers() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny_pair(folder.path());
    let server = ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await.unwrap();
    server.wait_ready().await.unwrap();
    let finished = python::run(PROGRAM, &[&format!("http://{}", server.api)]).await.unwrap();
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stderr, server.log());
    let answer: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(answer["reranking_used"], true, "{answer}");
    assert!(answer["search_time_ms"].as_f64().unwrap() > 0.0, "{answer}");
    assert!(answer["reranking_time_ms"].as_f64().unwrap() > 0.0, "{answer}");
    assert_eq!(answer["reranker"]["quantization"], "int8", "{answer}");
    assert_eq!(answer["results"].as_array().unwrap().len(), 3, "{answer}");
}
