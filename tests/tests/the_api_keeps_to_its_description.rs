//! The served `OpenAPI` document against the real server with the tiny pair: its examples are answered, and whatever
//! schemathesis makes of it meets no server error and no answer that is not described.

use rerank_tests::http::{ServerProcess, StartOptions, tiny_pair};
use rerank_tests::python;
use serde_json::{Value, json};
use tempfile::TempDir;

const FUZZ: &str = include_str!("../python/fuzz.py");
const KEY: &str = "a-secret-of-the-test";
/// Requests that the description must bring about; it makes over a thousand.
const LEAST_CASES: u64 = 500;

async fn start(folder: &TempDir, access: &str) -> ServerProcess {
    let config = format!("{}{access}", tiny_pair(&folder.path().join("store")));
    let server = ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await.unwrap();
    server.wait_ready().await.unwrap();
    server
}

#[tokio::test]
async fn every_example_of_the_description_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder, "access: {modelControl: Open}\n").await;
    let document = server.get("/openapi.json").await.unwrap().json();
    let paths = document["paths"].as_object().unwrap();
    // First what later ones search in.
    let mut routes: Vec<&String> = paths.keys().collect();
    routes.sort_by_key(|route| *route != "/documents");
    let mut tried = 0;
    for route in routes {
        let example = &paths[route]["post"]["requestBody"]["content"]["application/json"]["example"];
        if !example.is_null() {
            let answer = server.post(route, example.to_string()).await.unwrap();
            assert_eq!(answer.status, 200, "{route} {example}: {answer:?}");
            tried += 1;
        }
    }
    assert_eq!(tried, 11);
}

#[tokio::test]
async fn no_request_that_the_description_brings_about_meets_a_server_error_or_an_answer_that_is_not_described() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, format!("test: {KEY}\n")).unwrap();
    let server = start(&folder, &format!("access: {{apiKeysFile: '{}'}}\n", keys.display())).await;
    let base = format!("http://{}", server.api);
    let document = json!({"documents": [{"id": 1, "text": "A document to find."}]}).to_string();
    let indexed = reqwest::Client::new()
        .post(format!("{base}/documents"))
        .bearer_auth(KEY)
        .header("content-type", "application/json")
        .body(document);
    assert_eq!(indexed.send().await.unwrap().status().as_u16(), 200);

    let finished = python::run(FUZZ, &[&base, KEY]).await.unwrap();
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    let summary = finished.stdout.lines().find(|line| line.contains("generated")).expect("a summary");
    println!("{}", summary.trim());
    let cases: u64 = summary.split_whitespace().next().unwrap().parse().unwrap();
    assert!(cases >= LEAST_CASES, "{summary}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_ne!(server.control("/v1/models").await.unwrap().json(), Value::Null);
}
