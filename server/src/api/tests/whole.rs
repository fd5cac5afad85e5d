//! The API over the real use case, with a fake engine and a fake store, and what can be seen from outside: log lines and
//! spans.

use std::io::Write;

use rerank_crds::ServerConfig;
use rerank_crds::catalog::DeviceKind;
use rerank_crds::server_config::{Collection, Embedded, SelfTest, VectorStore};
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::engine::EngineLoader;
use crate::fakes::{EngineControls, FakeLoader, FakeSource, FakeStore, candidate};
use crate::models::ConfiguredModels;
use crate::pool::{ModelPool, PoolOptions};
use crate::search::{Searcher, SearcherOptions, ServedModels};
use crate::wiring::Parts;

pub(super) const EMBEDDER: &str = "Qwen/Qwen3-Embedding-0.6B";
pub(super) const RERANKER: &str = "Qwen/Qwen3-Reranker-0.6B";

/// A whole server but for its sockets. Its store has five documents, whose reranked order is the vector order reversed.
pub(super) struct WholeApi {
    pub(super) router: Router,
    pub(super) controls: Arc<EngineControls>,
    pub(super) store: Arc<FakeStore>,
    pub(super) pool: Arc<ModelPool>,
    pub(super) metrics: Arc<Metrics>,
}

impl WholeApi {
    pub(super) fn new(slow_request: Option<Duration>, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = ServerConfig::default();
        config.embedding.model = Some(EMBEDDER.to_owned());
        config.reranker.self_test = SelfTest::Off;
        config.lifecycle.warm = false;
        let docs = Collection { name: "docs".to_owned(), vector_name: None, text_field: "text".to_owned() };
        config.vector_store = Some(VectorStore {
            embedded: Some(Embedded { path: "/unused".into(), collections: vec![docs] }),
            ..VectorStore::default()
        });
        change(&mut config);
        let config = Arc::new(config);
        let loader = FakeLoader::default();
        let controls = loader.controls();
        let loader: Arc<dyn EngineLoader> = Arc::new(loader);
        let metrics = Arc::new(Metrics::new());
        let pool = ModelPool::new(
            PoolOptions::from_config(&config.lifecycle, config.reranker.self_test),
            FakeSource::new(ServedModels::from_config(&config).keys(), Arc::clone(&controls)),
            Arc::clone(&loader),
            Arc::clone(&metrics),
        );
        let store = FakeStore::new();
        let documents = (1..=5).map(|id| candidate(id, &format!("document relevance={}", id - 1)));
        store.set_candidates("docs", documents.collect());
        let searcher = Arc::new(Searcher::new(SearcherOptions {
            config: Arc::clone(&config),
            store: Some(Arc::clone(&store) as _),
            pool: Arc::clone(&pool),
            metrics: Arc::clone(&metrics),
        }));
        let models = ConfiguredModels::new(Arc::clone(&config), DeviceKind::Cpu);
        let documents = usize::try_from(config.api.limits.documents).unwrap();
        let parts = Parts {
            config,
            searcher,
            pool: Arc::clone(&pool),
            models: models.unwrap(),
            loader,
            store: Some(Arc::clone(&store) as _),
        };
        let settings = ApiSettings {
            bodies: BodyBounds {
                bytes: 1024 * 1024,
                read_timeout: Duration::from_secs(1),
                room: BodyRoom::of(64 * 1024 * 1024),
            },
            documents,
            restricted_clients: std::collections::BTreeMap::new(),
            writable: true,
            slow_request,
            model_control: true,
            model_control_is_open: true,
        };
        let router = crate::api::router(ApiState {
            service: Arc::new(parts),
            settings: Arc::new(settings),
            keys: None,
            metrics: Arc::clone(&metrics),
            readiness: Readiness::default(),
            fatal: FatalSignal::default(),
        });
        Self { router, controls, store, pool, metrics }
    }

    pub(super) async fn send(&self, request: Request) -> Answer {
        Answer::read(self.router.clone().oneshot(request).await.unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// Loads both models, so that what follows takes no time but its own.
    pub(super) async fn warm(&self) {
        assert_eq!(self.get("/search?q=plain&k=3").await.status, 200);
    }
}

/// Log lines, as they would stand on standard error.
#[derive(Clone, Default)]
pub(super) struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    pub(super) fn all(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(super) fn with_message(&self, message: &str) -> Vec<Value> {
        self.all().into_iter().filter(|line| line["message"] == message).collect()
    }
}

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
