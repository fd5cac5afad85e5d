//! Inputs that no client should send: each is answered with its documented code, in the error shape, and the next
//! normal request is answered right.

use serde_json::json;

use super::*;

/// Path, body, status, code (empty where it is accepted), field.
type Case = (&'static str, String, u16, &'static str, &'static str);

fn query_strings() -> Vec<(String, u16, &'static str, &'static str)> {
    let owned = |text: &str| text.to_owned();
    vec![
        (owned(""), 400, "malformed", "q"),
        (owned("k=1"), 400, "malformed", "q"),
        (owned("q="), 422, "out_of_range", "q"),
        (owned("q=%20%09%0a"), 422, "out_of_range", "q"),
        (owned("q=%00"), 200, "", ""),
        (owned("q=%ff%fe"), 400, "malformed", "q"),
        (owned("q=%ed%a0%80"), 400, "malformed", "q"),
        (owned("%ff=x"), 400, "malformed", ""),
        (owned("q=%zz"), 200, "", ""),
        (owned("q=x&q=y"), 400, "malformed", "q"),
        (owned("q=x&query=y"), 400, "malformed", "query"),
        (owned("q=x&k=0"), 422, "out_of_range", "k"),
        (owned("q=x&k=-1"), 422, "out_of_range", "k"),
        (owned("q=x&k=1001"), 422, "out_of_range", "k"),
        (owned("q=x&k=1000000000"), 422, "out_of_range", "k"),
        (owned("q=x&k=9223372036854775808"), 400, "malformed", "k"),
        (owned("q=x&k=ten"), 400, "malformed", "k"),
        (owned("q=x&k="), 400, "malformed", "k"),
        (owned("q=x&k=1.5"), 400, "malformed", "k"),
        (owned("q=x&top_k=3"), 400, "unknown_field", "top_k"),
        (owned("q=x&Q=y"), 400, "unknown_field", "Q"),
        (owned("q=x&use_reranker=maybe"), 400, "malformed", "use_reranker"),
        (owned("q=x&use_reranker="), 400, "malformed", "use_reranker"),
        (owned("q=x&rerank_quantization=int4"), 422, "out_of_range", "rerank_quantization"),
        (owned("q=x&rerank_quantization=INT8"), 422, "out_of_range", "rerank_quantization"),
        (owned("q=x&instruction_template=poetry"), 422, "out_of_range", "instruction_template"),
        (owned("q=x&instruction=a&instruction_template=qa"), 422, "out_of_range", "instruction"),
        (owned("q=x&instruction=%20"), 422, "out_of_range", "instruction"),
        (owned("q=x&filter=%7B"), 400, "malformed", "filter"),
        (owned("q=x&filter=1"), 400, "invalid_filter", "filter"),
        (owned("q=x&filter=[]"), 400, "invalid_filter", "filter"),
        (owned("q=x&score_threshold=NaN"), 422, "out_of_range", "score_threshold"),
        (owned("q=x&score_threshold=inf"), 422, "out_of_range", "score_threshold"),
        (owned("q=x&score_threshold=-0.1"), 422, "out_of_range", "score_threshold"),
        (owned("q=x&score_threshold=high"), 400, "malformed", "score_threshold"),
        (owned("q=%3C%7Cim_start%7C%3Esystem"), 200, "", ""),
        (owned("q=%E2%80%AE%D7%90%D7%91"), 200, "", ""),
        (format!("q={}", "x".repeat(60_000)), 200, "", ""),
        (format!("q=x&{}=1", "y".repeat(5_000)), 400, "unknown_field", ""),
    ]
}

fn bodies() -> Vec<Case> {
    let owned = |text: &str| text.to_owned();
    let nested = format!(r#"{{"q": "x", "filter": {}1{}}}"#, r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
    let many = json!({"query": "x", "documents": vec!["a"; 101]}).to_string();
    vec![
        ("/search", owned(""), 400, "malformed", ""),
        ("/search", owned("   "), 400, "malformed", ""),
        ("/search", owned("{"), 400, "malformed", ""),
        ("/search", owned("null"), 400, "malformed", ""),
        ("/search", owned("[]"), 400, "malformed", ""),
        ("/search", owned("\"x\""), 400, "malformed", ""),
        ("/search", owned("{} {}"), 400, "malformed", ""),
        ("/search", owned("{\"q\": \"x\",}"), 400, "malformed", ""),
        ("/search", owned("{\"q\": \"x\u{0}\"}"), 400, "malformed", ""),
        ("/search", owned(r#"{"q": "x\u0000y"}"#), 200, "", ""),
        ("/search", owned(r#"{"q": "\ud800"}"#), 400, "malformed", ""),
        ("/search", owned(r#"{"q": "\udc00 x"}"#), 400, "malformed", ""),
        ("/search", owned(r#"{"q": "\ud83d\ude00"}"#), 200, "", ""),
        ("/search", owned(r#"{"q": ""}"#), 422, "out_of_range", "q"),
        ("/search", owned(r#"{"q": null}"#), 400, "malformed", "q"),
        ("/search", owned(r#"{"q": 1}"#), 400, "malformed", "q"),
        ("/search", owned(r#"{"q": ["x"]}"#), 400, "malformed", "q"),
        ("/search", owned(r#"{"q": "x", "q": "y"}"#), 400, "malformed", ""),
        ("/search", owned(r#"{"q": "x", "k": 0}"#), 422, "out_of_range", "k"),
        ("/search", owned(r#"{"q": "x", "k": -1}"#), 422, "out_of_range", "k"),
        ("/search", owned(r#"{"q": "x", "k": 1e9}"#), 400, "malformed", "k"),
        ("/search", owned(r#"{"q": "x", "k": 1000000000}"#), 422, "out_of_range", "k"),
        ("/search", owned(r#"{"q": "x", "k": 1.5}"#), 400, "malformed", "k"),
        ("/search", owned(r#"{"q": "x", "k": "5"}"#), 400, "malformed", "k"),
        ("/search", owned(r#"{"q": "x", "k": 99999999999999999999}"#), 400, "malformed", "k"),
        ("/search", owned(r#"{"q": "x", "use_reranker": "true"}"#), 400, "malformed", "use_reranker"),
        ("/search", owned(r#"{"q": "x", "filter": "{}"}"#), 400, "invalid_filter", "filter"),
        ("/search", owned(r#"{"q": "x", "score_threshold": 1e400}"#), 400, "malformed", ""),
        ("/search", owned(r#"{"q": "x", "score_threshold": 2}"#), 422, "out_of_range", "score_threshold"),
        ("/search", owned(r#"{"q": "x", "score_threshold": NaN}"#), 400, "malformed", ""),
        ("/search", owned(r#"{"q": "x", "limit": 3}"#), 400, "unknown_field", "limit"),
        ("/search", nested, 400, "malformed", ""),
        ("/search", format!(r#"{{"q": "{}"}}"#, "y".repeat(60_000)), 200, "", ""),
        ("/search/batch", owned("{}"), 400, "malformed", ""),
        ("/search/batch", owned(r#"{"queries": []}"#), 422, "out_of_range", "queries"),
        ("/search/batch", owned(r#"{"queries": "x"}"#), 400, "malformed", "queries"),
        ("/search/batch", owned(r#"{"queries": ["x", 2]}"#), 400, "malformed", "queries[1]"),
        ("/search/batch", json!({"queries": vec!["x"; 101]}).to_string(), 413, "too_large", "queries"),
        ("/search/batch", owned(r#"{"queries": ["x"], "q": "y"}"#), 400, "unknown_field", "q"),
        ("/v1/rerank", owned("{}"), 400, "malformed", ""),
        ("/v1/rerank", owned(r#"{"query": "x"}"#), 400, "malformed", ""),
        ("/v1/rerank", owned(r#"{"query": "x", "documents": []}"#), 422, "out_of_range", "documents"),
        ("/v1/rerank", owned(r#"{"query": " ", "documents": ["a"]}"#), 422, "out_of_range", "query"),
        ("/v1/rerank", owned(r#"{"query": "x", "documents": "a"}"#), 400, "malformed", "documents"),
        ("/v1/rerank", owned(r#"{"query": "x", "documents": ["a", 1]}"#), 400, "malformed", "documents[1]"),
        ("/v1/rerank", owned(r#"{"query": "x", "documents": [{}]}"#), 400, "malformed", "documents[0]"),
        (
            "/v1/rerank",
            owned(r#"{"query": "x", "documents": [{"text": null}]}"#),
            400,
            "malformed",
            "documents[0].text",
        ),
        ("/v1/rerank", owned(r#"{"query": "x", "documents": ["a"], "top_n": 0}"#), 422, "out_of_range", "top_n"),
        ("/v1/rerank", owned(r#"{"query": "x", "documents": ["a"], "top_n": -3}"#), 422, "out_of_range", "top_n"),
        ("/v1/rerank", owned(r#"{"query": "x", "documents": [""]}"#), 200, "", ""),
        ("/v1/rerank", owned(r#"{"query": "x", "documents": ["a", "a"]}"#), 200, "", ""),
        ("/v1/rerank", many, 413, "too_large", "documents"),
        ("/rerank", owned(r#"{"query": "x", "texts": ["a"]}"#), 200, "", ""),
        ("/rerank", owned(r#"{"query": "x", "documents": ["a"], "texts": ["b"]}"#), 422, "out_of_range", "texts"),
        ("/documents", owned(r#"{"documents": []}"#), 422, "out_of_range", "documents"),
        ("/documents", owned(r#"{"documents": [1]}"#), 400, "malformed", "documents[0]"),
        ("/documents", owned(r#"{"documents": [{"text": "a"}]}"#), 400, "malformed", "documents[0].id"),
        ("/documents", owned(r#"{"documents": [{"id": -1, "text": "a"}]}"#), 400, "malformed", "documents[0].id"),
        ("/documents", owned(r#"{"documents": [{"id": "", "text": "a"}]}"#), 400, "malformed", "documents[0].id"),
        ("/documents", owned(r#"{"documents": [{"id": 1.5, "text": "a"}]}"#), 400, "malformed", "documents[0].id"),
        ("/documents", owned(r#"{"documents": [{"id": 1}]}"#), 400, "malformed", "documents[0].text"),
        ("/documents", owned(r#"{"documents": [{"id": 1, "text": 2}]}"#), 400, "malformed", "documents[0].text"),
        ("/documents", owned(r#"{"docs": []}"#), 400, "unknown_field", "docs"),
        (
            "/documents",
            owned(r#"{"documents": [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}]}"#),
            422,
            "out_of_range",
            "documents[1].id",
        ),
        ("/search", owned(r#"[null, "x", 1, null, null, null, null, null, null, null, null]"#), 400, "malformed", ""),
        ("/search", owned("[]"), 400, "malformed", ""),
        ("/search", owned(r#""x""#), 400, "malformed", ""),
    ]
}

fn check(answer: &Answer, what: &str, status: u16, code: &str, field: &str) {
    if status == 200 {
        assert_eq!(answer.status, 200, "{what}: {}", answer.text);
        return;
    }
    assert_eq!((answer.status, answer.error("code")), (status, code), "{what}: {}", answer.text);
    answer.assert_error(status, code);
    if !field.is_empty() {
        assert_eq!(answer.error("field"), field, "{what}: {}", answer.text);
    }
    assert!(answer.text.len() < 4_000, "{what}: the error has {} bytes", answer.text.len());
}

async fn assert_served(api: &TestApi) {
    assert_eq!(api.get("/search?q=normal").await.status, 200);
}

#[tokio::test]
async fn hostile_query_strings_have_documented_answers() {
    let api = TestApi::new();
    for (query, status, code, field) in query_strings() {
        let answer = api.get(&format!("/search?{query}")).await;
        let what: String = query.chars().take(80).collect();
        check(&answer, &what, status, code, field);
        assert_served(&api).await;
    }
}

#[tokio::test]
async fn hostile_bodies_have_documented_answers() {
    let api = TestApi::new();
    for (path, body, status, code, field) in bodies() {
        let what: String = format!("{path} {body}").chars().take(80).collect();
        let answer = api.post(path, body).await;
        check(&answer, &what, status, code, field);
        assert_served(&api).await;
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_have_documented_answers() {
    let api = TestApi::new();
    for bytes in
        [vec![0xff_u8; 100], vec![0; 100], b"{\"q\": \"\xff\"}".to_vec(), b"\xef\xbb\xbf{\"q\": \"x\"}".to_vec()]
    {
        api.post("/search", bytes).await.assert_error(400, "malformed");
    }
    assert_served(&api).await;
}

#[test]
fn there_are_at_least_sixty_hostile_inputs() {
    assert!(query_strings().len() + bodies().len() >= 60);
}
