//! Ids, keys, panics, clients that leave, metrics, draining.

use super::*;
use crate::http::PeerAddress;
use crate::search::{Caller, Client};

pub(super) fn keys(text: &str) -> KeyRing {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, text).unwrap();
    KeyRing::load(&path).unwrap()
}

#[tokio::test]
async fn a_sane_request_id_comes_back_and_any_other_is_replaced() {
    let api = TestApi::new();
    let with_id = |id: &str| Request::get("/search?q=x").header("x-request-id", id).body(Body::empty()).unwrap();
    assert_eq!(api.send(with_id("order-66")).await.header("x-request-id"), Some("order-66"));
    let replaced = api.send(with_id("a b")).await;
    assert!(uuid::Uuid::parse_str(replaced.header("x-request-id").unwrap()).is_ok());
}

#[tokio::test]
async fn the_service_hears_who_asks_and_what_they_may_search() {
    let api = TestApi::build(Behaviour::Answer, true, Some(keys("shop: secret-1\nblog: secret-2\n")));
    for key in ["secret-1", "secret-2"] {
        let request = Request::get("/search?q=x").header("authorization", format!("Bearer {key}"));
        assert_eq!(api.send(request.body(Body::empty()).unwrap()).await.status, 200);
    }
    let callers = api.service.callers.lock().unwrap().clone();
    let shop = Caller { client: Client::Key("shop".into()), collections: Some(vec!["faq".to_owned()].into()) };
    assert_eq!(callers, [shop, Caller::unrestricted(Client::Key("blog".into()))]);

    let api = TestApi::new();
    let mut request = Request::get("/search?q=x").body(Body::empty()).unwrap();
    request.extensions_mut().insert(PeerAddress("10.0.0.7:4711".parse().unwrap()));
    assert_eq!(api.send(request).await.status, 200);
    let callers = api.service.callers.lock().unwrap().clone();
    assert_eq!(callers, [Caller::unrestricted(Client::Address("10.0.0.7".parse().unwrap()))]);
}

#[tokio::test]
async fn nothing_is_answered_once_the_device_is_lost_not_even_what_is_under_way() {
    let api = TestApi::with(Behaviour::Hang);
    let lose = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        api.fatal.trip("CUDA_ERROR_LAUNCH_FAILED at 0xcanary");
    };
    let (under_way, ()) = tokio::join!(api.get("/search?q=x"), lose);
    under_way.assert_error(503, "engine_lost");
    assert!(under_way.header("retry-after").is_some());
    assert!(!under_way.text.contains("canary"));

    let api = TestApi::new();
    api.fatal.trip("lost");
    for path in ["/search?q=x", "/v1/models", "/openapi.json"] {
        api.get(path).await.assert_error(503, "engine_lost");
    }
    assert_eq!(api.service.searches.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn every_route_asks_for_a_key_where_keys_are_configured() {
    let api = TestApi::build(Behaviour::Answer, true, Some(keys("shop: secret-1\nblog: secret-2\n")));
    for path in ["/search?q=x", "/v1/models", "/nowhere"] {
        let answer = api.get(path).await;
        answer.assert_error(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    for (header, status) in
        [("Bearer secret-1", 200), ("bearer secret-2", 200), ("Bearer secret-3", 401), ("Basic secret-1", 401)]
    {
        let request = Request::get("/search?q=x").header("authorization", header).body(Body::empty()).unwrap();
        assert_eq!(api.send(request).await.status, status, "{header}");
    }
    let request = Request::get("/search?q=x")
        .header("authorization", "Bearer secret-1")
        .header("authorization", "Bearer secret-2")
        .body(Body::empty());
    api.send(request.unwrap()).await.assert_error(401, "unauthorized");
    assert_eq!(api.service.searches.lock().unwrap().len(), 2);
    assert!(api.metrics.encode().contains("rerank_refusals_total{reason=\"unauthorized\"} 6"));
}

#[tokio::test]
async fn a_panic_is_a_500_without_its_text_and_the_next_request_is_served() {
    let api = TestApi::with(Behaviour::Panic);
    for _ in 0..2 {
        let answer = api.get("/search?q=canary").await;
        answer.assert_error(500, "internal");
        assert!(!answer.text.contains("canary"));
    }
    assert_eq!(api.get("/v1/models").await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let api = TestApi::with(Behaviour::Hang);
    let request = api.get("/search?q=x");
    let left = tokio::time::timeout(std::time::Duration::from_millis(50), request).await;
    assert!(left.is_err());
    let tokens = api.service.tokens.lock().unwrap();
    assert_eq!(tokens.len(), 1);
    assert!(tokens.iter().all(CancellationToken::is_cancelled));
}

#[tokio::test]
async fn a_request_that_was_answered_is_not_cancelled() {
    let api = TestApi::new();
    api.get("/search?q=x").await;
    assert!(!api.service.tokens.lock().unwrap().iter().any(CancellationToken::is_cancelled));
}

#[tokio::test]
async fn requests_are_counted_by_route_and_class_and_errors_by_code_never_by_path() {
    let api = TestApi::new();
    api.get("/search?q=canary").await;
    api.get("/search?q=").await;
    api.get("/canary").await;
    api.post("/search/batch", r#"{"queries": ["canary"]}"#).await;
    let text = api.metrics.encode();
    for line in [
        "rerank_requests_total{route=\"/search\",code=\"2xx\"} 1",
        "rerank_requests_total{route=\"/search\",code=\"4xx\"} 1",
        "rerank_requests_total{route=\"other\",code=\"4xx\"} 1",
        "rerank_requests_total{route=\"/search/batch\",code=\"2xx\"} 1",
        "rerank_errors_total{error=\"out_of_range\"} 1",
        "rerank_errors_total{error=\"not_found\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("canary"));
}

#[tokio::test]
async fn while_draining_answers_ask_the_client_to_go_elsewhere() {
    let api = TestApi::new();
    assert_eq!(api.get("/search?q=x").await.header("connection"), None);
    api.readiness.drain();
    let answer = api.get("/search?q=x").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
}

#[tokio::test]
async fn the_control_port_tells_the_phase() {
    let readiness = Readiness::default();
    let state = crate::api::control::ControlState {
        service: Arc::default(),
        metrics: Arc::new(Metrics::new()),
        readiness: readiness.clone(),
    };
    let router = crate::api::control::router(state.clone());
    let statuses = async || {
        let mut statuses = Vec::new();
        for path in ["/startupz", "/readyz", "/livez"] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            statuses.push(Answer::read(router.clone().oneshot(request).await.unwrap()).await);
        }
        statuses
    };
    readiness.starting("loading tiny");
    let starting = statuses().await;
    assert_eq!(starting.iter().map(|answer| answer.status).collect::<Vec<_>>(), [503, 503, 200]);
    assert_eq!(starting[1].json, serde_json::json!({"status": "starting", "reason": "loading tiny"}));
    readiness.ready();
    assert_eq!(statuses().await.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 200]);
    readiness.drain();
    let draining = statuses().await;
    assert_eq!(draining.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 503, 200]);
    assert_eq!(draining[1].json["status"], "draining");

    let models = |router: Router| async move {
        let request = Request::get("/v1/models").body(Body::empty()).unwrap();
        Answer::read(router.oneshot(request).await.unwrap()).await
    };
    assert_eq!(models(router.clone()).await.json["data"], serde_json::json!([]));
    state.service.set(Arc::new(FakeService::default())).unwrap();
    let quantization = &models(router.clone()).await.json["data"][0]["quantizations"][0];
    assert_eq!(quantization["state"], "Failed");
    assert_eq!(quantization["failure"], "/secret/path is truncated");

    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let metrics = Answer::read(router.oneshot(request).await.unwrap()).await;
    assert_eq!(metrics.header("content-type"), Some(crate::metrics::CONTENT_TYPE));
    assert!(metrics.text.ends_with("# EOF\n"));
}
