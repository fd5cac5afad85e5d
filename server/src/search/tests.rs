//! The use case's behaviour, with a fake engine, a fake store and a clock that stands still until it is awaited.

use std::sync::Arc;
use std::time::Duration;

use rerank_crds::ServerConfig;
use rerank_crds::catalog::Quantization;
use rerank_crds::server_config::{AllowedOverride, Collection, Embedded, VectorStore, WhileLoading};
use tokio::time::Instant;

use super::*;
use crate::fakes::{EngineControls, EngineFault, FakeLoader, FakeSource, FakeStore, candidate};
use crate::metrics::Metrics;
use crate::pool::{ModelPool, ModelSource, PoolOptions};
use crate::store::{Candidate, Store};

mod admission;
mod batch;
mod chaos;
mod embed;
mod fallbacks;
mod health;
mod model_control;
mod rerank;
mod two_stages;

const EMBEDDER: &str = "Qwen/Qwen3-Embedding-0.6B";
const RERANKER: &str = "Qwen/Qwen3-Reranker-0.6B";
const LARGE_RERANKER: &str = "Qwen/Qwen3-Reranker-4B";

fn collection(name: &str) -> Collection {
    Collection { name: name.to_owned(), vector_name: None, text_field: "text".to_owned() }
}

fn config() -> ServerConfig {
    let mut config = ServerConfig::default();
    config.embedding.model = Some(EMBEDDER.to_owned());
    config.reranker.allowed_overrides = vec![AllowedOverride {
        model: LARGE_RERANKER.to_owned(),
        revision: None,
        quantizations: vec![Quantization::Int8],
    }];
    config.vector_store = Some(VectorStore {
        embedded: Some(Embedded { path: "/unused".into(), collections: vec![collection("docs"), collection("faq")] }),
        ..VectorStore::default()
    });
    config.lifecycle.warm = false;
    config.reranker.self_test = rerank_crds::server_config::SelfTest::Off;
    config
}

struct Bench {
    searcher: Searcher,
    pool: Arc<ModelPool>,
    controls: Arc<EngineControls>,
    store: Arc<FakeStore>,
}

fn bench() -> Bench {
    bench_of(config())
}

fn bench_with(change: impl FnOnce(&mut ServerConfig)) -> Bench {
    let mut config = config();
    change(&mut config);
    bench_of(config)
}

fn bench_of(config: ServerConfig) -> Bench {
    let loader = FakeLoader::default();
    let controls = loader.controls();
    let source = FakeSource::new(ServedModels::from_config(&config).keys(), Arc::clone(&controls));
    let metrics = Arc::new(Metrics::default());
    let pool = ModelPool::new(
        PoolOptions::from_config(&config.lifecycle, config.reranker.self_test),
        source as Arc<dyn ModelSource>,
        Arc::new(loader),
        Arc::clone(&metrics),
    );
    let store = FakeStore::new();
    store.set_candidates("docs", documents(&[0.0, 1.0, 2.0, 3.0, 4.0]));
    let has_store = config.vector_store.is_some();
    let searcher = Searcher::new(SearcherOptions {
        config: Arc::new(config),
        store: has_store.then(|| Arc::clone(&store) as Arc<dyn Store>),
        pool: Arc::clone(&pool),
        metrics,
    });
    Bench { searcher, pool, controls, store }
}

/// Documents 1, 2, 3, ... in vector order, with these log-odds.
fn documents(log_odds: &[f32]) -> Vec<Candidate> {
    (1..).zip(log_odds).map(|(id, log_odds)| candidate(id, &format!("document {id} relevance={log_odds}"))).collect()
}

fn context() -> RequestContext {
    RequestContext::local()
}

fn ask(query: &str, k: usize) -> SearchRequest {
    SearchRequest { query: query.to_owned(), k, ..SearchRequest::default() }
}

fn ids(response: &SearchResponse) -> Vec<u64> {
    response
        .results
        .iter()
        .map(|result| match result.id {
            DocumentId::Number(id) => id,
            DocumentId::Text(_) => panic!("fake documents have numbers"),
        })
        .collect()
}

fn fallback_reason(response: &SearchResponse) -> Option<FallbackReason> {
    response.fallback.as_ref().map(|fallback| fallback.reason)
}

impl Bench {
    async fn search(&self, request: SearchRequest) -> Result<SearchResponse, SearchError> {
        self.searcher.search(request, &context()).await
    }

    async fn rerank(&self, request: RerankRequest) -> Result<RerankResponse, SearchError> {
        self.searcher.rerank(request, &context()).await
    }

    /// A plain search that must be answered in reranked order: the service works.
    async fn assert_serves(&self) {
        let response = self.search(ask("plain", 3)).await.unwrap();
        assert!(response.reranking_used, "{:?}", response.fallback);
        assert_eq!(ids(&response), [5, 4, 3]);
    }
}
