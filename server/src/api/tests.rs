//! Routes as clients meet them, on a service that answers at once, fails as it is told, or never answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use rerank_crds::catalog::Quantization;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::request::{BodyBounds, BodyRoom};
use super::service::{IndexRequest, IndexResponse, Service};
use super::{ApiSettings, ApiState};
use crate::access::KeyRing;
use crate::engine::ModelRole;
use crate::engine::fatal::FatalSignal;
use crate::fakes::model_key;
use crate::metrics::Metrics;
use crate::pool::{ModelKey, ModelState, ModelStatus};
use crate::search::{
    BatchSearchRequest, Caller, EmbedRequest, EmbedResponse, Fallback, FallbackReason, ModelLoad, RankedDocument,
    RequestContext, RerankChoice, RerankRequest, RerankResponse, RerankerName, SearchError, SearchRequest,
    SearchResponse, SearchResult, Timings,
};
use crate::shutdown::Readiness;
use crate::store::DocumentId;

mod errors;
mod exchange;
mod formats;
mod hostile;
mod metrics;
mod openapi;
mod shapes;
mod slow;
mod traces;
mod whole;

/// What the fake does when it is called.
#[derive(Default)]
enum Behaviour {
    /// It answers.
    #[default]
    Answer,
    /// It answers in vector order.
    FallBack(FallbackReason),
    /// It fails.
    Fail(Box<dyn Fn() -> SearchError + Send + Sync>),
    /// It never answers.
    Hang,
    /// It panics with a text of the request.
    Panic,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Behaviour")
    }
}

/// Remembers what it was asked.
#[derive(Debug, Default)]
struct FakeService {
    behaviour: Behaviour,
    searches: Mutex<Vec<SearchRequest>>,
    reranks: Mutex<Vec<RerankRequest>>,
    embedded: Mutex<Vec<EmbedRequest>>,
    indexed: Mutex<Vec<IndexRequest>>,
    tokens: Mutex<Vec<CancellationToken>>,
    callers: Mutex<Vec<Caller>>,
}

impl FakeService {
    async fn behave(&self, query: &str, context: &RequestContext) -> Result<Option<Fallback>, SearchError> {
        self.tokens.lock().unwrap().push(context.cancel.clone());
        self.callers.lock().unwrap().push(context.caller.clone());
        match &self.behaviour {
            Behaviour::Answer => Ok(None),
            Behaviour::FallBack(reason) => Ok(Some(Fallback { reason: *reason, message: "a sentence".to_owned() })),
            Behaviour::Fail(error) => Err(error()),
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Panic => panic!("no way to search for {query}"),
        }
    }
}

fn answer(fallback: Option<Fallback>) -> SearchResponse {
    let used = fallback.is_none();
    SearchResponse {
        results: vec![SearchResult {
            id: DocumentId::Number(7),
            score: if used { 0.97 } else { 0.61 },
            rerank_score: used.then_some(0.97),
            vector_score: 0.61,
            vector_rank: 9,
            rank_change: 8,
            text: "Mars".to_owned(),
            payload: Map::new(),
            truncated: false,
        }],
        num_candidates: 50,
        embedding_time_ms: 3.1,
        search_time_ms: 45.2,
        reranking_time_ms: used.then_some(82.3),
        reranking_used: used,
        reranker: used.then(|| RerankerName { model: "tiny".to_owned(), quantization: Quantization::Float16 }),
        fallback,
        timings: Timings::default(),
    }
}

#[async_trait]
impl Service for FakeService {
    async fn search(&self, request: SearchRequest, context: &RequestContext) -> Result<SearchResponse, SearchError> {
        self.searches.lock().unwrap().push(request.clone());
        Ok(answer(self.behave(&request.query, context).await?))
    }

    async fn search_batch(
        &self,
        request: BatchSearchRequest,
        context: &RequestContext,
    ) -> Result<Vec<Result<SearchResponse, SearchError>>, SearchError> {
        let mut answers = Vec::new();
        for query in &request.queries {
            self.searches.lock().unwrap().push(SearchRequest { query: query.clone(), ..request.template.clone() });
            answers.push(self.behave(query, context).await.map(answer));
        }
        Ok(answers)
    }

    async fn rerank(&self, request: RerankRequest, context: &RequestContext) -> Result<RerankResponse, SearchError> {
        self.behave(&request.query, context).await?;
        let count = request.documents.len();
        self.reranks.lock().unwrap().push(request);
        // Last first, so that order and index differ.
        let results = (0..count).rev().zip([0.9, 0.5, 0.1].into_iter().cycle()).map(|(index, score)| RankedDocument {
            index,
            score,
            log_odds: 0.0,
            truncated: index == 1,
        });
        Ok(RerankResponse {
            results: results.collect(),
            reranker: RerankerName { model: "tiny".to_owned(), quantization: Quantization::Float16 },
            tokens: 42,
            timings: Timings::default(),
        })
    }

    async fn embed(&self, request: EmbedRequest, context: &RequestContext) -> Result<EmbedResponse, SearchError> {
        self.behave("input", context).await?;
        let vectors = vec![vec![0.6, -0.8]; request.inputs.len()];
        self.embedded.lock().unwrap().push(request);
        Ok(EmbedResponse { vectors, model: "tiny-embedder".to_owned(), tokens: 7 })
    }

    async fn index(&self, request: IndexRequest, context: &RequestContext) -> Result<IndexResponse, SearchError> {
        self.behave("documents", context).await?;
        let indexed = request.documents.len();
        let collection = request.collection.clone().unwrap_or_else(|| "docs".to_owned());
        self.indexed.lock().unwrap().push(request);
        Ok(IndexResponse { collection, indexed })
    }

    async fn load_model(&self, choice: &RerankChoice, context: &RequestContext) -> Result<ModelLoad, SearchError> {
        self.behave("load", context).await?;
        let key = model_key(ModelRole::Reranker, choice.model.as_deref().unwrap_or_default(), Quantization::Float16);
        Ok(if key.model == "slow" { ModelLoad::Loading(key) } else { ModelLoad::Ready(key) })
    }

    async fn unload_model(&self, choice: &RerankChoice) -> Result<(ModelKey, Option<u64>), SearchError> {
        let model = choice.model.as_deref().unwrap_or_default();
        match model {
            "busy" => Err(SearchError::ModelInUse { model: model.to_owned() }),
            _ => Ok((model_key(ModelRole::Reranker, model, Quantization::Float16), Some(1_000))),
        }
    }

    fn models(&self) -> Vec<ModelStatus> {
        vec![ModelStatus {
            selection_reason: None,
            name: "Qwen/Qwen3-Reranker-0.6B".to_owned(),
            role: "reranker",
            quantization: Quantization::Float16,
            revision: None,
            state: ModelState::Failed,
            failure: Some("/secret/path is truncated".to_owned()),
            predicted_memory_bytes: 1_200,
            freed_memory_bytes: None,
            warm_up: None,
            self_test: None,
        }]
    }
}

/// A router on a fake service, and what may be looked at afterwards.
struct TestApi {
    router: Router,
    service: Arc<FakeService>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    fatal: FatalSignal,
}

impl TestApi {
    fn new() -> Self {
        Self::with(Behaviour::Answer)
    }

    fn with(behaviour: Behaviour) -> Self {
        Self::build(behaviour, true, None)
    }

    fn failing(error: impl Fn() -> SearchError + Send + Sync + 'static) -> Self {
        Self::with(Behaviour::Fail(Box::new(error)))
    }

    fn build(behaviour: Behaviour, writable: bool, keys: Option<KeyRing>) -> Self {
        let service = Arc::new(FakeService { behaviour, ..FakeService::default() });
        let metrics = Arc::new(Metrics::new());
        let (readiness, fatal) = (Readiness::default(), FatalSignal::default());
        let state = ApiState {
            service: service.clone(),
            settings: Arc::new(ApiSettings {
                bodies: BodyBounds {
                    bytes: 64 * 1024,
                    read_timeout: Duration::from_millis(200),
                    room: BodyRoom::of(128 * 1024),
                },
                documents: 100,
                restricted_clients: [("shop".to_owned(), vec!["faq".to_owned()].into())].into(),
                writable,
                slow_request: None,
                model_control: true,
                model_control_is_open: false,
            }),
            keys: keys.map(Arc::new),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            fatal: fatal.clone(),
        };
        Self { router: super::router(state), service, metrics, readiness, fatal }
    }

    async fn send(&self, request: Request) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        Answer::read(response).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json").body(body.into()).unwrap();
        self.send(request).await
    }
}

/// A response, read whole.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    text: String,
    json: Value,
}

impl Answer {
    async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status: parts.status.as_u16(), headers: parts.headers, text, json }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn error(&self, name: &str) -> &str {
        self.json["error"][name].as_str().unwrap_or_default()
    }

    /// Every error has this shape, whatever the route.
    fn assert_error(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.error("code")), (status, code), "{}", self.text);
        assert!(!self.error("message").is_empty(), "{}", self.text);
        assert_eq!(Some(self.error("request_id")), self.header("x-request-id"), "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.text);
        let keys: Vec<&String> = self.json["error"].as_object().unwrap().keys().collect();
        let known = ["code", "message", "field", "allowed", "reason", "request_id"];
        assert!(keys.iter().all(|key| known.contains(&key.as_str())), "{}", self.text);
    }
}
