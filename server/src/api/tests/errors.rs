//! Every row of the error table, through the routes.

use super::*;
use crate::search::FallbackReason;
use crate::store::StoreError;

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn every_failure_of_the_service_has_its_code_on_every_route() {
    type Case = (fn() -> SearchError, u16, &'static str, Option<u64>);
    let cases: [Case; 19] = [
        (
            || SearchError::OutOfRange {
                field: "k",
                message: "k is 500".to_owned(),
                allowed: "1 to 200 while reranking".to_owned(),
            },
            422,
            "out_of_range",
            None,
        ),
        (
            || SearchError::TooLarge {
                field: "documents",
                message: "too many".to_owned(),
                allowed: "1 to 10".to_owned(),
            },
            413,
            "too_large",
            None,
        ),
        (
            || SearchError::UnknownModel {
                field: "rerank_model",
                model: "x".to_owned(),
                served: vec!["tiny (float16)".to_owned()],
            },
            404,
            "unknown_model",
            None,
        ),
        (
            || SearchError::UnknownCollection { collection: "x".to_owned(), served: vec!["docs".to_owned()] },
            404,
            "unknown_collection",
            None,
        ),
        (|| SearchError::NotConfigured, 404, "search_not_configured", None),
        (
            || SearchError::Store(StoreError::InvalidFilter { message: "must is no list".to_owned() }),
            400,
            "invalid_filter",
            None,
        ),
        (
            || SearchError::Store(StoreError::CollectionMissing { collection: "docs".to_owned() }),
            503,
            "store_unavailable",
            Some(5),
        ),
        (
            || {
                SearchError::Store(StoreError::Mismatch {
                    collection: "docs".to_owned(),
                    what: "dimension",
                    found: "3".to_owned(),
                    expected: "4".to_owned(),
                })
            },
            503,
            "store_unavailable",
            Some(5),
        ),
        (|| SearchError::Store(StoreError::Unauthorized), 503, "store_unavailable", Some(5)),
        (
            || SearchError::Store(StoreError::Unavailable { message: "canary refused".to_owned() }),
            503,
            "store_unavailable",
            Some(5),
        ),
        (|| SearchError::Store(StoreError::Timeout), 504, "store_timeout", None),
        (|| SearchError::Store(StoreError::Failed { message: "canary".to_owned() }), 502, "store_failed", None),
        (
            || SearchError::EmbedderUnavailable { message: "canary".to_owned(), retry_after_seconds: 7 },
            503,
            "embedder_unavailable",
            Some(7),
        ),
        (
            || SearchError::RerankerUnavailable {
                reason: FallbackReason::InsufficientMemory,
                message: "canary".to_owned(),
                retry_after_seconds: 9,
            },
            503,
            "reranker_unavailable",
            Some(9),
        ),
        (|| SearchError::Overloaded { retry_after_seconds: 2 }, 503, "overloaded", Some(2)),
        (|| SearchError::TooManyRequests { retry_after_seconds: 1 }, 429, "too_many_requests", Some(1)),
        (|| SearchError::ForbiddenCollection { own: vec!["faq".to_owned()] }, 403, "forbidden", None),
        (|| SearchError::DeadlineExceeded, 504, "deadline_exceeded", None),
        (|| SearchError::Internal { message: "canary".to_owned() }, 500, "internal", None),
    ];
    for (error, status, code, retry_after) in cases {
        let api = TestApi::failing(error);
        let answers = [
            api.get("/search?q=x").await,
            api.post("/search", r#"{"q": "x"}"#).await,
            api.post("/v1/rerank", r#"{"query": "x", "documents": ["a"]}"#).await,
            api.post("/rerank", r#"{"query": "x", "documents": ["a"]}"#).await,
            api.post("/documents", r#"{"documents": [{"id": 1, "text": "a"}]}"#).await,
        ];
        for answer in answers {
            answer.assert_error(status, code);
            let expected = retry_after.map(|seconds| seconds.to_string());
            assert_eq!(answer.header("retry-after").map(str::to_owned), expected, "{code}");
            if status >= 500 {
                assert!(!answer.text.contains("canary"), "{}", answer.text);
            }
        }
        // In a batch each query has its own answer.
        let batch = api.post("/search/batch", r#"{"queries": ["x", "y"]}"#).await;
        assert_eq!(batch.status, 200);
        for item in batch.json["responses"].as_array().unwrap() {
            assert_eq!(item["error"]["code"], code);
            assert_eq!(Some(item["error"]["request_id"].as_str().unwrap()), batch.header("x-request-id"));
        }
        assert!(status < 500 || !batch.text.contains("canary"));
    }
}

#[tokio::test]
async fn what_would_do_is_listed() {
    let api = TestApi::failing(|| SearchError::UnknownModel {
        field: "rerank_model",
        model: "gpt".to_owned(),
        served: vec!["tiny (float16)".to_owned(), "tiny (int8)".to_owned()],
    });
    let answer = api.get("/search?q=x&rerank_model=gpt").await;
    answer.assert_error(404, "unknown_model");
    assert_eq!(answer.error("field"), "rerank_model");
    assert_eq!(answer.json["error"]["allowed"], serde_json::json!(["tiny (float16)", "tiny (int8)"]));
    assert!(answer.error("message").contains("gpt"));
}

#[tokio::test]
async fn a_reranker_that_cannot_run_says_why_from_the_closed_list() {
    let api = TestApi::failing(|| SearchError::RerankerUnavailable {
        reason: FallbackReason::Loading,
        message: "m".to_owned(),
        retry_after_seconds: 1,
    });
    let answer = api.post("/v1/rerank", r#"{"query": "x", "documents": ["a"]}"#).await;
    answer.assert_error(503, "reranker_unavailable");
    assert_eq!(answer.error("reason"), "loading");
}

#[tokio::test]
async fn unknown_routes_and_methods_say_what_exists() {
    let api = TestApi::new();
    let answer = api.get("/serach?q=x").await;
    answer.assert_error(404, "not_found");
    assert!(answer.json["error"]["allowed"].as_array().unwrap().contains(&"/search".into()));

    let request = Request::delete("/search").body(Body::empty()).unwrap();
    let answer = api.send(request).await;
    answer.assert_error(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET, POST"));
    api.get("/v1/rerank").await.assert_error(405, "method_not_allowed");
}

#[tokio::test]
async fn documents_can_be_sent_only_where_the_store_is_writable() {
    let body = r#"{"documents": [{"id": 1, "text": "a"}]}"#;
    assert_eq!(TestApi::build(Behaviour::Answer, true, None).post("/documents", body).await.status, 200);
    let answer = TestApi::build(Behaviour::Answer, false, None).post("/documents", body).await;
    answer.assert_error(404, "not_found");
    assert!(!answer.json["error"]["allowed"].as_array().unwrap().contains(&"/documents".into()));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_it_says_so_or_not() {
    let api = TestApi::new();
    let large = format!(r#"{{"q": "{}"}}"#, "x".repeat(70_000));
    let announced = Request::post("/search")
        .header(CONTENT_TYPE, "application/json")
        .header("content-length", large.len())
        .body(Body::from(large.clone()))
        .unwrap();
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>(large.clone())]);
    let streamed =
        Request::post("/search").header(CONTENT_TYPE, "application/json").body(Body::from_stream(chunks)).unwrap();
    for request in [announced, streamed] {
        let answer = api.send(request).await;
        answer.assert_error(413, "too_large");
        assert_eq!(answer.json["error"]["allowed"], serde_json::json!(["at most 65536 bytes"]));
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert!(api.service.searches.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn bodies_that_arrive_share_a_room_and_what_finds_none_left_is_told_to_come_back() {
    let api = TestApi::new();
    let unfinished = || {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
        let stream = futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let request = Request::post("/v1/rerank").body(Body::from_stream(Box::pin(stream))).unwrap();
        (sender, tokio::spawn(api.router.clone().oneshot(request)))
    };
    // The room is 128 KiB, one body at most 64 KiB.
    let (first, first_answer) = unfinished();
    let (second, second_answer) = unfinished();
    for sender in [&first, &second] {
        sender.send(Ok(vec![b' '; 60 * 1024])).await.unwrap();
        // The channel holds one piece: when it takes another, the one before was read.
        sender.send(Ok(vec![b' '; 1024])).await.unwrap();
    }
    let refused = api.post("/v1/rerank", vec![b' '; 20 * 1024]).await;
    refused.assert_error(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop((first, second));
    for answer in [first_answer, second_answer] {
        answer.await.unwrap().unwrap();
    }
    api.post("/v1/rerank", vec![b' '; 20 * 1024]).await.assert_error(400, "malformed");
}

#[tokio::test]
async fn a_body_in_many_small_pieces_takes_no_more_room_than_in_one() {
    let api = TestApi::new();
    // A thousand pieces, where the room is 128 KiB.
    let pieces = futures::stream::iter((0..1_000).map(|_| Ok::<_, std::io::Error>(" ")));
    api.post("/v1/rerank", Body::from_stream(pieces)).await.assert_error(400, "malformed");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let api = TestApi::new();
    let endless = Body::from_stream(futures::stream::pending::<Result<String, std::io::Error>>());
    let answer = api.post("/search", endless).await;
    answer.assert_error(408, "request_timeout");
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_malformed() {
    let api = TestApi::new();
    let chunks = futures::stream::iter([Ok("{".to_owned()), Err(std::io::Error::other("reset"))]);
    api.post("/search", Body::from_stream(chunks)).await.assert_error(400, "malformed");
}

#[tokio::test]
async fn only_json_is_read() {
    let api = TestApi::new();
    for (content_type, status) in [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/vnd.api+json", 200),
        ("application/x-www-form-urlencoded", 415),
        ("text/plain", 415),
        ("text/json", 415),
        ("", 415),
    ] {
        let request = Request::post("/search").header(CONTENT_TYPE, content_type).body(Body::from(r#"{"q": "x"}"#));
        let answer = api.send(request.unwrap()).await;
        assert_eq!(answer.status, status, "{content_type}");
        if status == 415 {
            answer.assert_error(415, "unsupported_media_type");
        }
    }
    let request = Request::post("/search").body(Body::from(r#"{"q": "x"}"#)).unwrap();
    assert_eq!(api.send(request).await.status, 200);
}

#[tokio::test]
async fn more_than_64_headers_are_refused() {
    let api = TestApi::new();
    let with_headers = |count: usize| {
        let mut request = Request::get("/search?q=x");
        for index in 0..count {
            request = request.header(format!("x-{index}"), "v");
        }
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(api.send(with_headers(64)).await.status, 200);
    api.send(with_headers(65)).await.assert_error(431, "headers_too_large");
}

#[tokio::test]
async fn a_collection_that_does_not_fit_is_told_with_both_values() {
    let api = TestApi::failing(|| {
        SearchError::Store(StoreError::Mismatch {
            collection: "docs".to_owned(),
            what: "dimension",
            found: "1024".to_owned(),
            expected: "2560".to_owned(),
        })
    });
    let answer = api.get("/search?q=x").await;
    answer.assert_error(503, "store_unavailable");
    for told in ["docs", "dimension", "1024", "2560", "index it again"] {
        assert!(answer.text.contains(told), "{told:?} is not in {}", answer.text);
    }
}

#[tokio::test]
async fn a_client_that_left_is_counted_as_499() {
    let api = TestApi::with(Behaviour::Hang);
    let left = tokio::time::timeout(std::time::Duration::from_millis(50), api.get("/search?q=x")).await;
    assert!(left.is_err(), "the service of this test never answers");
    let text = api.metrics.encode();
    assert!(text.contains(r#"rerank_errors_total{error="client_closed_request"} 1"#), "{text}");
}
