//! Every vendor's format: what its requests become, what its answers look like, and which codes it tells.

use std::fmt::Write as _;

use serde_json::json;

use super::*;
use crate::api::golden;
use crate::prompt::Reading;
use crate::search::{EmbedInput, TextKind};

fn near(value: &Value, expected: f64) -> bool {
    (value.as_f64().unwrap() - expected).abs() < 1e-6
}

#[tokio::test]
async fn cohere_s_second_version_answers_as_its_clients_expect() {
    let api = TestApi::new();
    let body = json!({"model": "rerank-v3.5", "query": "x", "documents": ["a", "b", "c"], "top_n": 2,
                      "max_tokens_per_doc": 100, "priority": 0});
    let answer = api.post("/v2/rerank", body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(Some(answer.json["id"].as_str().unwrap()), answer.header("x-request-id"));
    let results = answer.json["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    assert_eq!(results[0].as_object().unwrap().len(), 2);
    assert!(results[0]["index"] == 2 && near(&results[0]["relevance_score"], 0.9), "{}", answer.text);
    assert_eq!(
        answer.json["meta"],
        json!({"api_version": {"version": "2"}, "billed_units": {"search_units": 1},
               "tokens": {"input_tokens": 42, "output_tokens": 0},
               "warnings": ["only the beginning was read of documents 1"]})
    );
    let reranks = api.service.reranks.lock().unwrap();
    assert_eq!(reranks[0].reranker.model.as_deref(), Some("rerank-v3.5"));
    assert_eq!(reranks[0].reading, Reading { document_tokens: Some(100), refuse_longer: false });
}

#[tokio::test]
async fn texts_are_answered_as_text_embeddings_inference_does() {
    let api = TestApi::new();
    let answer = api.post("/rerank", r#"{"query": "x", "texts": ["a", "b"], "return_text": true}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let ranks = answer.json.as_array().unwrap();
    assert_eq!((&ranks[0]["index"], &ranks[0]["text"]), (&json!(1), &json!("b")));
    assert!(near(&ranks[0]["score"], 0.9), "{}", answer.text);
    for header in ["x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time", "x-compute-time"] {
        answer.header(header).unwrap().parse::<u64>().unwrap();
    }
    assert_eq!(answer.header("x-compute-tokens"), Some("42"));

    let raw =
        json!({"query": "x", "texts": ["a"], "raw_scores": true, "truncate": false, "truncation_direction": "Right"});
    let answer = api.post("/rerank", raw.to_string()).await;
    assert_eq!(answer.json, json!([{"index": 0, "score": 0.0}]), "the log-odds, without text");
    let reranks = api.service.reranks.lock().unwrap();
    assert_eq!((reranks[0].reading.refuse_longer, reranks[1].reading.refuse_longer), (false, true));
}

#[tokio::test]
async fn scores_come_in_the_order_given_for_one_query_or_many() {
    let api = TestApi::new();
    for path in ["/v1/score", "/score"] {
        let answer = api.post(path, r#"{"model": "tiny", "text_1": "x", "text_2": ["a", "b"]}"#).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!((&answer.json["object"], &answer.json["model"]), (&json!("list"), &json!("tiny")));
        let data = answer.json["data"].as_array().unwrap();
        assert!(data[0]["index"] == 0 && data[0]["object"] == "score" && near(&data[0]["score"], 0.5));
        assert!(data[1]["index"] == 1 && near(&data[1]["score"], 0.9));
        assert!(answer.json["created"].as_u64().unwrap() > 1_700_000_000);
    }
    let many = json!({"queries": ["x", "y", "x"], "documents": ["a", "b", "c"]});
    let answer = api.post("/v1/score", many.to_string()).await;
    assert_eq!(answer.json["data"].as_array().unwrap().len(), 3);
    assert_eq!(answer.json["usage"]["total_tokens"], 84, "of both queries");
    {
        let reranks = api.service.reranks.lock().unwrap();
        let asked: Vec<_> =
            reranks[2..].iter().map(|request| (request.query.as_str(), request.documents.join(""))).collect();
        assert_eq!(asked, [("x", "ac".to_owned()), ("y", "b".to_owned())]);
    }

    let odd = api.post("/v1/score", r#"{"text_1": ["x", "y"], "text_2": ["a", "b", "c"]}"#).await;
    assert_eq!((odd.status, odd.error("param")), (400, "text_1"), "{}", odd.text);
}

#[tokio::test]
async fn embeddings_are_answered_as_openai_s_clients_read_them() {
    let api = TestApi::new();
    let answer = api.post("/v1/embeddings", r#"{"model": "tiny-embedder", "input": "a"}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!((&answer.json["object"], &answer.json["model"]), (&json!("list"), &json!("tiny-embedder")));
    assert_eq!(answer.json["usage"], json!({"prompt_tokens": 7, "total_tokens": 7}));
    let entry = &answer.json["data"][0];
    assert_eq!((&entry["object"], &entry["index"]), (&json!("embedding"), &json!(0)));
    assert!(near(&entry["embedding"][1], -0.8), "{}", answer.text);

    let base64 = json!({"input": ["a", "b"], "encoding_format": "base64", "dimensions": 2, "input_type": "query"});
    let answer = api.post("/v1/embeddings", base64.to_string()).await;
    assert_eq!(answer.json["data"][1]["embedding"], "mpkZP83MTL8=", "0.6 and -0.8 as float32");
    for tokens in ["[1, 2]", "[[1, 2], [3]]"] {
        let answer = api.post("/v1/embeddings", format!("{{\"input\": {tokens}}}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let asked = api.service.embedded.lock().unwrap();
    assert_eq!((asked[0].kind, asked[1].kind, asked[1].dimensions), (TextKind::Document, TextKind::Query, Some(2)));
    assert_eq!(asked[2].inputs, [EmbedInput::Tokens(vec![1, 2])]);
    assert_eq!(asked[3].inputs, [EmbedInput::Tokens(vec![1, 2]), EmbedInput::Tokens(vec![3])]);
}

/// One format: its name, its route, and a request for it with texts.
struct Format {
    name: &'static str,
    route: &'static str,
    request: fn(&[&str]) -> Value,
    /// Where an error's sentence stands.
    sentence: &'static str,
}

const FORMATS: [Format; 5] = [
    Format {
        name: "`documents` on `/v1/rerank`, `/rerank`",
        route: "/rerank",
        request: |texts| json!({"query": "q", "documents": texts}),
        sentence: "/error/message",
    },
    Format {
        name: "`/v2/rerank`",
        route: "/v2/rerank",
        request: |texts| json!({"query": "q", "documents": texts, "model": "m"}),
        sentence: "/message",
    },
    Format {
        name: "`texts` on `/rerank`",
        route: "/rerank",
        request: |texts| json!({"query": "q", "texts": texts}),
        sentence: "/error",
    },
    Format {
        name: "`/v1/score`, `/score`",
        route: "/v1/score",
        request: |texts| json!({"text_1": "q", "text_2": texts, "model": "m"}),
        sentence: "/error/message",
    },
    Format {
        name: "`/v1/embeddings`",
        route: "/v1/embeddings",
        request: |texts| json!({"input": texts, "model": "m"}),
        sentence: "/error/message",
    },
];

/// What a service does in a case of the table, and what the client sends.
type Case = (&'static str, fn() -> TestApi, fn(&Format) -> Value);

fn unknown_field(format: &Format) -> Value {
    let mut request = (format.request)(&["a"]);
    request["user"] = json!("someone");
    request
}

const CASES: [Case; 13] = [
    ("no documents", TestApi::new, |format| (format.request)(&[])),
    ("more documents than `api.limits.documents`", TestApi::new, |format| (format.request)(&["a"; 101])),
    ("an empty text", TestApi::new, |format| (format.request)(&[""])),
    ("a field that the format does not have", TestApi::new, unknown_field),
    ("a field of a wrong type", TestApi::new, |format| {
        let mut request = (format.request)(&["a"]);
        for field in ["documents", "texts", "text_2", "input"] {
            if request.get(field).is_some() {
                request[field] = json!(7);
            }
        }
        request
    }),
    (
        "a text longer than can be read, and not to be cut",
        || {
            TestApi::failing(|| SearchError::TooLarge {
                field: "documents",
                message: "document 0 is longer".to_owned(),
                allowed: "at most 9 tokens".to_owned(),
            })
        },
        |format| (format.request)(&["a"]),
    ),
    (
        "a model that is not served",
        || {
            TestApi::failing(|| SearchError::UnknownModel {
                field: "model",
                model: "m".to_owned(),
                served: vec!["tiny".to_owned()],
            })
        },
        |format| (format.request)(&["a"]),
    ),
    (
        "no key, where keys are configured",
        || TestApi::build(Behaviour::Answer, true, Some(super::exchange::keys("client: key\n"))),
        |format| (format.request)(&["a"]),
    ),
    (
        "too much work is waiting",
        || TestApi::failing(|| SearchError::Overloaded { retry_after_seconds: 1 }),
        |format| (format.request)(&["a"]),
    ),
    (
        "the client has its share of the queue",
        || TestApi::failing(|| SearchError::TooManyRequests { retry_after_seconds: 1 }),
        |format| (format.request)(&["a"]),
    ),
    (
        "the model cannot run",
        || {
            TestApi::failing(|| SearchError::RerankerUnavailable {
                reason: FallbackReason::EngineFailed,
                message: "m".to_owned(),
                retry_after_seconds: 1,
            })
        },
        |format| (format.request)(&["a"]),
    ),
    ("the deadline passed", || TestApi::failing(|| SearchError::DeadlineExceeded), |format| (format.request)(&["a"])),
    (
        "a fault of the server",
        || TestApi::failing(|| SearchError::Internal { message: "m".to_owned() }),
        |format| (format.request)(&["a"]),
    ),
];

#[tokio::test]
async fn the_documented_table_of_formats_is_what_the_routes_answer() {
    let mut table = String::from("| case |");
    for Format { name, .. } in &FORMATS {
        write!(table, " {name} |").unwrap();
    }
    table.push_str("\n|---|---|---|---|---|---|\n");
    for (case, api, request) in CASES {
        write!(table, "| {case} |").unwrap();
        for format in &FORMATS {
            let answer = api().post(format.route, request(format).to_string()).await;
            // Before the body is read, `/rerank` does not know which of its formats is meant.
            let sentence = [format.sentence, "/error/message"];
            let sentence = sentence.iter().find_map(|path| answer.json.pointer(path)?.as_str()).unwrap_or_default();
            assert_eq!(answer.status >= 400, !sentence.is_empty(), "{case}: {}", answer.text);
            assert_eq!(answer.header("content-type"), Some("application/json"), "{case}: {}", answer.text);
            assert_eq!(answer.header("retry-after").is_some(), matches!(answer.status, 429 | 503), "{case}");
            let kind = answer.json["error_type"].as_str().map(|kind| format!(" `{kind}`")).unwrap_or_default();
            write!(table, " {}{kind} |", answer.status).unwrap();
        }
        table.push('\n');
    }
    let text = include_str!("formats.md").replace("{table}", &table);
    golden::assert_current("docs/formats.md", &text);
}

#[tokio::test]
async fn an_error_says_in_its_sentence_what_is_allowed_and_names_the_field_of_the_format() {
    let api = TestApi::new();
    let cohere = api.post("/v2/rerank", r#"{"query": "q", "documents": ["a"], "top_n": 0}"#).await;
    assert_eq!(cohere.json["message"], "top_n is 0 (allowed: at least 1)");
    let tei = api.post("/rerank", r#"{"query": "q", "texts": []}"#).await;
    assert_eq!(tei.json, json!({"error": "texts is empty (allowed: 1 to 100)", "error_type": "Empty"}));
    let score = api.post("/score", r#"{"text_1": " ", "text_2": "a"}"#).await;
    let expected = json!({"error": {"message": "text_1 is empty (allowed: text that is not white space alone)",
                                    "type": "invalid_request_error", "param": "text_1", "code": "out_of_range"}});
    assert_eq!(score.json, expected);
    let left = api.post("/rerank", r#"{"query": "q", "texts": ["a"], "truncation_direction": "Left"}"#).await;
    assert_eq!((left.status, left.json["error_type"].as_str()), (422, Some("Validation")), "{}", left.text);
}
