//! What requests become and what answers look like.

use rerank_crds::catalog::InstructionTemplate;
use serde_json::json;

use super::*;
use crate::api::service::NewDocument;
use crate::search::{InstructionChoice, RerankChoice};

#[tokio::test]
async fn a_search_answers_in_the_documented_shape() {
    let api = TestApi::new();
    let answer = api.get("/search?q=x").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let mut json = answer.json.clone();
    for result in json["results"].as_array_mut().unwrap() {
        for score in ["score", "rerank_score", "vector_score"] {
            let value = result[score].as_f64().unwrap();
            result[score] = json!((value * 100.0).round() / 100.0);
        }
    }
    assert_eq!(
        json,
        json!({"results": [{"id": 7, "score": 0.97, "rerank_score": 0.97, "vector_score": 0.61, "vector_rank": 9,
                            "rank_change": 8, "text": "Mars", "payload": {}, "truncated": false}],
               "num_candidates": 50, "embedding_time_ms": 3.1, "search_time_ms": 45.2, "reranking_time_ms": 82.3,
               "reranking_used": true, "reranker": {"model": "tiny", "quantization": "float16"}, "fallback": null})
    );
    assert_eq!(answer.header("x-rerank-fallback"), None);
    assert_eq!(answer.header("warning"), None);
}

#[tokio::test]
async fn get_and_post_understand_the_same_fields() {
    let filter = json!({"must": [{"key": "lang", "match": {"value": "en"}}]});
    let expected = SearchRequest {
        query: "red planet & co".to_owned(),
        k: 3,
        collection: Some("docs".to_owned()),
        use_reranker: Some(true),
        reranker: RerankChoice { model: Some("tiny".to_owned()), quantization: Some(Quantization::Int8) },
        instruction: Some(InstructionChoice::Template(InstructionTemplate::Qa)),
        filter: Some(filter.clone()),
        score_threshold: Some(0.5),
    };
    let query = format!(
        "/search?q=red+planet+%26+co&k=3&collection=docs&use_reranker=True&rerank_model=tiny&rerank_quantization=int8\
         &instruction_template=qa&score_threshold=0.5&filter={}",
        percent_encoding::utf8_percent_encode(&filter.to_string(), percent_encoding::NON_ALPHANUMERIC)
    );
    let body = json!({"query": "red planet & co", "k": 3, "collection": "docs", "use_reranker": true,
                      "rerank_model": "tiny", "rerank_quantization": "int8", "instruction_template": "qa",
                      "score_threshold": 0.5, "filter": filter});
    let api = TestApi::new();
    assert_eq!(api.get(&query).await.status, 200);
    assert_eq!(api.post("/search", body.to_string()).await.status, 200);
    let searches = api.service.searches.lock().unwrap();
    for search in searches.iter() {
        assert_eq!(format!("{search:?}"), format!("{expected:?}"));
    }
    assert_eq!(searches.len(), 2);
}

#[tokio::test]
async fn what_is_left_out_is_left_to_the_service() {
    let api = TestApi::new();
    api.get("/search?query=x").await;
    let searches = api.service.searches.lock().unwrap();
    let expected = SearchRequest { query: "x".to_owned(), k: 10, ..SearchRequest::default() };
    assert_eq!(format!("{:?}", searches[0]), format!("{expected:?}"));
}

#[tokio::test]
async fn a_fallback_stands_in_body_and_headers() {
    let api = TestApi::with(Behaviour::FallBack(FallbackReason::Loading));
    let answers = [api.get("/search?q=x").await, api.post("/search/batch", r#"{"queries": ["x"]}"#).await];
    for answer in answers {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-rerank-fallback"), Some("loading"));
        assert_eq!(answer.header("warning"), Some("199 rerank-server \"vector order: loading\""));
    }
    let answer = api.get("/search?q=x").await;
    assert_eq!(answer.json["fallback"], json!({"reason": "loading", "message": "a sentence"}));
    assert_eq!(answer.json["reranking_used"], false);
    assert_eq!(answer.json["results"][0]["rerank_score"], Value::Null);
}

#[tokio::test]
async fn a_batch_answers_each_query_in_order() {
    let api = TestApi::new();
    let answer = api.post("/search/batch", r#"{"queries": ["a", "b", "c"], "k": 2}"#).await;
    assert_eq!(answer.json["responses"].as_array().unwrap().len(), 3);
    let searches = api.service.searches.lock().unwrap();
    let asked: Vec<(&str, usize)> = searches.iter().map(|search| (search.query.as_str(), search.k)).collect();
    assert_eq!(asked, [("a", 2), ("b", 2), ("c", 2)]);
}

#[tokio::test]
async fn a_rerank_answers_as_its_clients_expect() {
    let api = TestApi::new();
    let body = json!({"model": "tiny", "query": "x", "documents": ["a", {"text": "b", "title": "t"}, "c"], "top_n": 2,
                      "user": "someone"});
    for path in ["/v1/rerank", "/rerank"] {
        let answer = api.post(path, body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json["model"], "tiny");
        assert_eq!(answer.json["usage"], json!({"prompt_tokens": 42, "total_tokens": 42}));
        assert_eq!(Some(answer.json["id"].as_str().unwrap()), answer.header("x-request-id"));
        let results = answer.json["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        assert_eq!(results[0]["index"], 2);
        assert_eq!(results[0]["document"], json!({"text": "c"}));
        assert!((results[0]["relevance_score"].as_f64().unwrap() - 0.9).abs() < 1e-6);
        assert_eq!(results[0].get("truncated"), None);
        assert_eq!(results[1]["truncated"], true);
    }
    let reranks = api.service.reranks.lock().unwrap();
    assert_eq!(reranks[0].documents, ["a", "b", "c"]);
    assert_eq!(reranks[0].reranker.model.as_deref(), Some("tiny"));
}

#[tokio::test]
async fn documents_stay_out_of_the_answer_where_that_is_wanted() {
    let api = TestApi::new();
    let body = r#"{"query": "x", "documents": ["a"], "return_documents": false, "instruction": "judge", "top_n": 99}"#;
    let answer = api.post("/v1/rerank", body).await;
    assert_eq!(answer.json["results"][0].get("document"), None);
    let reranks = api.service.reranks.lock().unwrap();
    assert_eq!(reranks[0].instruction, Some(InstructionChoice::Text("judge".to_owned())));
}

#[tokio::test]
async fn documents_carry_any_payload() {
    let api = TestApi::new();
    let body = json!({"collection": "docs", "documents": [{"id": "a-1", "text": "Mars", "lang": "en", "n": [1]},
                                                         {"id": 2, "text": "Venus"}]});
    let answer = api.post("/documents", body.to_string()).await;
    assert_eq!(answer.json, json!({"collection": "docs", "indexed": 2}), "{}", answer.text);
    let indexed = api.service.indexed.lock().unwrap();
    let payload = json!({"lang": "en", "n": [1]}).as_object().cloned().unwrap();
    assert_eq!(
        indexed[0].documents[0],
        NewDocument { id: DocumentId::Text("a-1".to_owned()), text: "Mars".to_owned(), payload }
    );
    assert_eq!(indexed[0].documents[1].id, DocumentId::Number(2));
}

#[tokio::test]
async fn models_are_listed_as_openai_s_clients_read_them_without_reasons_of_failures() {
    let answer = TestApi::new().get("/v1/models").await;
    assert_eq!(
        answer.json,
        json!({"object": "list", "data": [{"id": "Qwen/Qwen3-Reranker-0.6B", "object": "model", "created": 0,
               "owned_by": "Qwen", "role": "reranker", "quantizations": [
                   {"quantization": "float16", "state": "Failed", "predicted_memory_bytes": 1200}]}]})
    );
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_by_callers_with_a_key() {
    let keys = || Some(super::exchange::keys("ops: secret\n"));
    let api = TestApi::build(Behaviour::Answer, true, keys());
    let ask = async |path: &str, model: &str| {
        let body = json!({"model": model, "quantization": "float16"}).to_string();
        let request = Request::post(path).header("authorization", "Bearer secret").body(body.into()).unwrap();
        api.send(request).await
    };
    let loaded = ask("/v1/models/load", "tiny").await;
    assert_eq!(loaded.status, 200, "{}", loaded.text);
    assert_eq!(loaded.json, json!({"model": "tiny", "quantization": "float16", "state": "Ready"}));
    let slow = ask("/v1/models/load", "slow").await;
    assert_eq!((slow.status, slow.json["state"].as_str()), (202, Some("Loading")));
    let unloaded = ask("/v1/models/unload", "tiny").await;
    assert_eq!(unloaded.json["state"], "Standby");
    assert_eq!(unloaded.json["freed_memory_bytes"], 1_000);
    ask("/v1/models/unload", "busy").await.assert_error(409, "model_in_use");

    let open = TestApi::new();
    for path in ["/v1/models/load", "/v1/models/unload"] {
        let refused = open.post(path, r#"{"model": "tiny"}"#).await;
        refused.assert_error(403, "forbidden");
        assert!(refused.text.contains("access.apiKeysFile"), "{}", refused.text);
        let unknown = Request::post(path).header("authorization", "Bearer secret").body(r#"{"name": "x"}"#.into());
        api.send(unknown.unwrap()).await.assert_error(400, "unknown_field");
    }
}
