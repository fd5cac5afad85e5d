//! The field's own Python clients against the real server with the tiny pair: Cohere's SDK in both versions, `LangChain`,
//! `LlamaIndex`, `OpenAI`'s SDK, and plain requests in the shapes of text-embeddings-inference, Jina and vLLM.

use rerank_tests::http::{ServerProcess, StartOptions, tiny_pair};
use rerank_tests::python;
use serde_json::Value;

const PROGRAM: &str = include_str!("../python/clients.py");
const KEY: &str = "a-secret-of-the-test";
/// What the fence's document must get; the others get less.
const BEST: u64 = 1;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[tokio::test]
async fn every_client_gets_the_same_order_and_scores() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, format!("test: {KEY}\n")).unwrap();
    let config = format!(
        "{}access: {{apiKeysFile: '{}'}}\n\
         api: {{modelAliases: {{rerank-v3.5: tiny-reranker, text-embedding-3-small: tiny-embedder}}}}\n",
        tiny_pair(&folder.path().join("store")),
        keys.display()
    );
    let server = ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await.unwrap();
    server.wait_ready().await.unwrap();
    let finished = python::run(PROGRAM, &[&format!("http://{}", server.api), KEY]).await.unwrap();
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stderr, server.log());
    let said: Value = serde_json::from_str(&finished.stdout).unwrap();

    // vLLM's scores come in the order given; the others' must be these, best first.
    let given = numbers(&said["vllm_score"]["scores"]);
    assert_eq!(given.len(), 3);
    let mut best_first = given.clone();
    best_first.sort_by(|a, b| b.total_cmp(a));
    for (client, kept) in [
        ("cohere_v2", 2),
        ("cohere_v1", 3),
        ("langchain", 2),
        ("llama_index_cohere", 2),
        ("llama_index_tei", 2),
        ("text_embeddings_inference", 3),
        ("jina", 2),
    ] {
        let (order, scores) = (&said[client]["order"], numbers(&said[client]["scores"]));
        assert_eq!(order[0], BEST, "{client}: {said}");
        assert_eq!(scores.len(), kept, "{client}: {said}");
        for (place, score) in scores.iter().enumerate() {
            let at = usize::try_from(order[place].as_u64().unwrap()).unwrap();
            assert!((score - best_first[place]).abs() < 1e-6 && (score - given[at]).abs() < 1e-6, "{client}: {said}");
        }
    }

    let v2 = &said["cohere_v2"];
    assert_eq!(v2["search_units"], 1.0);
    assert_eq!(
        (&v2["unknown_model"][0], &v2["no_documents"][0], &v2["wrong_key"][0]),
        (&404.into(), &422.into(), &401.into())
    );
    assert!(v2["unknown_model"][1].as_str().unwrap().contains("tiny-reranker"), "{v2}");
    assert!(said["cohere_v1"]["first"].as_str().unwrap().contains("fence"), "{said}");
    assert_eq!(said["jina"]["documents"], serde_json::json!([false, false]));

    let openai = &said["openai_embeddings"];
    assert!(openai["largest_difference"].as_f64().unwrap() < 1e-7, "{openai}");
    assert!((openai["length"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{openai}");
    assert_eq!(openai["short"][0], 8);
    assert!((openai["short"][1].as_f64().unwrap() - 1.0).abs() < 1e-5, "{openai}");
    assert!(openai["tokens"].as_u64().unwrap() > 2, "{openai}");
    assert!(openai["unknown_model"].as_str().unwrap().contains("tiny-embedder"), "{openai}");
    assert_eq!(openai["models"], serde_json::json!(["tiny-embedder", "tiny-reranker"]));
}
