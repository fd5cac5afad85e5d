//! Puts the parts together: store, models, pool, use case, as the configuration says. I/O: opens the store; models are
//! loaded later. Nothing here decides anything.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rerank_crds::ServerConfig;

use crate::api::service::{IndexRequest, IndexResponse, Service};
use crate::engine::choice::Engines;
use crate::engine::weights::{self, WeightsError};
use crate::engine::{EngineError, EngineLoader, ModelRole};
use crate::hub::HubError;
use crate::index::{IndexTarget, index_documents};
use crate::metrics::Metrics;
use crate::models::{ConfiguredModels, device_kind};
use crate::pool::{ModelKey, ModelPool, ModelSource, ModelStatus, PoolOptions, SourceError, Waiting};
use crate::search::{
    BatchSearchRequest, EmbedRequest, EmbedResponse, ModelLoad, RequestContext, RerankChoice, RerankRequest,
    RerankResponse, SearchError, SearchRequest, SearchResponse, Searcher, SearcherOptions,
};
use crate::store::guarded::GuardedStore;
use crate::store::{CollectionSpec, Store, StoreError, open_store};

/// How long the end may wait for models and the store to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// As [`CLOSE_TIMEOUT`], where the device is lost.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the parts cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// The store cannot be opened.
    #[error("failed to open the vector store")]
    Store(#[source] StoreError),
    /// The client of the hub cannot be made.
    #[error("failed to make a client of the hub")]
    Hub(#[source] HubError),
    /// No engine can be started.
    #[error("failed to start the engine")]
    Engine(#[source] EngineError),
}

/// Everything that answers requests.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The configuration.
    pub config: Arc<ServerConfig>,
    /// The use case.
    pub searcher: Arc<Searcher>,
    /// Loaded models.
    pub pool: Arc<ModelPool>,
    /// What can be loaded.
    pub models: Arc<ConfiguredModels>,
    /// What loads it.
    pub loader: Arc<dyn EngineLoader>,
    /// Where documents live; None for a service that only reranks.
    pub store: Option<Arc<dyn Store>>,
}

/// The engines of this build. `show_progress`: loads draw a bar on a terminal.
pub fn engine_loader(show_progress: bool) -> Result<Arc<dyn EngineLoader>, WiringError> {
    Ok(Arc::new(Engines::new(show_progress).map_err(WiringError::Engine)?))
}

/// What the configuration lets be loaded, planned for the engine's device.
pub fn models(config: &Arc<ServerConfig>, loader: &dyn EngineLoader) -> Result<Arc<ConfiguredModels>, WiringError> {
    let memory = loader.memory().map_err(WiringError::Engine)?;
    ConfiguredModels::new(Arc::clone(config), device_kind(&memory)).map_err(WiringError::Hub)
}

/// Length of the embedding model's vectors, from its folder. None where no embedding model is configured.
pub fn embedding_dimension(models: &ConfiguredModels, keys: &[ModelKey]) -> Result<Option<usize>, WeightsError> {
    let Some(embedder) = keys.iter().find(|key| key.role == ModelRole::Embedder) else { return Ok(None) };
    let directory = models.directory(embedder)?;
    weights::inspect(&directory, ModelRole::Embedder).map(|info| Some(info.config.hidden_size))
}

/// Opens the configured store, where there is one.
pub async fn store(config: &ServerConfig) -> Result<Option<Arc<dyn Store>>, StoreError> {
    match &config.vector_store {
        Some(store) => open_store(store, store_timeout(config)).await.map(Some),
        None => Ok(None),
    }
}

fn store_timeout(config: &ServerConfig) -> Duration {
    Duration::from_secs(u64::try_from(config.timeouts.vector_search_seconds).unwrap_or(1))
}

impl Parts {
    /// Opens the store and connects everything. No model is loaded yet. `show_progress`: see
    /// [`engine_loader`].
    pub async fn open(
        config: Arc<ServerConfig>,
        metrics: Arc<Metrics>,
        show_progress: bool,
    ) -> Result<Self, WiringError> {
        let guard = |store| GuardedStore::new(store, store_timeout(&config)) as Arc<dyn Store>;
        let store = store(&config).await.map_err(WiringError::Store)?.map(guard);
        let loader = engine_loader(show_progress)?;
        let models = models(&config, loader.as_ref())?;
        let pool = ModelPool::new(
            PoolOptions::from_config(&config.lifecycle, config.reranker.self_test),
            Arc::clone(&models) as _,
            Arc::clone(&loader),
            Arc::clone(&metrics),
        );
        let searcher = Arc::new(Searcher::new(SearcherOptions {
            config: Arc::clone(&config),
            store: store.clone(),
            pool: Arc::clone(&pool),
            metrics,
        }));
        Ok(Self { config, searcher, pool, models, loader, store })
    }

    /// The models that are deployed: embedder and reranker, without those that only a request may ask for.
    pub fn deployed_models(&self) -> Vec<ModelKey> {
        let served = self.searcher.served();
        let embedder = served.embedder().filter(|_| self.store.is_some());
        embedder.into_iter().chain(served.deployed_reranker()).cloned().collect()
    }

    /// Unloads models and closes the store, within a bounded time.
    pub async fn close(self) {
        let closing = async {
            self.pool.shutdown().await;
            if let Some(store) = &self.store
                && let Err(error) = store.close().await
            {
                tracing::warn!(error = crate::chain::describe(&error), "Could not close the vector store");
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::warn!(seconds = CLOSE_TIMEOUT.as_secs(), "Models and store were not closed in time");
        }
    }

    /// Closes the store, within a bounded time, and leaves the models: their device answers no call any more.
    pub async fn abandon(self) {
        let Some(store) = &self.store else { return };
        match tokio::time::timeout(ABANDON_TIMEOUT, store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = crate::chain::describe(&error), "Could not close the vector store");
            }
            Err(_) => tracing::warn!(seconds = ABANDON_TIMEOUT.as_secs(), "The vector store was not closed in time"),
        }
    }

    /// Downloads the embedding model where it is missing and a hub is configured.
    pub async fn fetch_embedder(&self) -> Result<(), SourceError> {
        match self.missing_embedder().await {
            Some(embedder) => self.models.fetch(&embedder).await,
            None => Ok(()),
        }
    }

    /// The embedding model, where it is to be downloaded.
    async fn missing_embedder(&self) -> Option<ModelKey> {
        let embedder = self.searcher.served().embedder().cloned()?;
        let (models, key) = (Arc::clone(&self.models), embedder.clone());
        // A check that did not finish is one that found nothing: whatever is wrong is told by who reads the folder next.
        let is_missing = tokio::task::spawn_blocking(move || models.is_missing(&key)).await.unwrap_or(false);
        is_missing.then_some(embedder)
    }

    /// What a collection of the embedding model's vectors must be made for. None where no embedding model is configured.
    pub fn collection_spec(&self) -> Result<Option<CollectionSpec>, WeightsError> {
        let dimension = embedding_dimension(&self.models, &self.searcher.served().keys())?;
        Ok(dimension.map(|dimension| CollectionSpec::for_vectors(&self.config.embedding, dimension)))
    }

    /// As [`Self::collection_spec`], for a request: reads the model's folder off the async threads.
    async fn collection_spec_off_thread(&self) -> Result<CollectionSpec, SearchError> {
        if let Some(embedder) = self.missing_embedder().await {
            // Through the pool: it downloads once for all that ask, pauses after a failure and ends with the process.
            self.pool.lease(&embedder, Waiting::Wait).await.map_err(|error| SearchError::EmbedderUnavailable {
                message: crate::chain::describe(&error),
                retry_after_seconds: error.retry_after_seconds(),
            })?;
        }
        let parts = self.clone();
        let spec = tokio::task::spawn_blocking(move || parts.collection_spec()).await.map_err(|error| {
            SearchError::Internal { message: format!("reading the embedding model's folder failed: {error}") }
        })?;
        spec.map_err(|error| crate::chain::describe(&error))
            .and_then(|spec| spec.ok_or_else(|| "no embedding.model is configured".to_owned()))
            .map_err(|message| SearchError::EmbedderUnavailable { message, retry_after_seconds: 1 })
    }

    fn collection<'a>(
        &'a self,
        asked: Option<&str>,
        context: &RequestContext,
    ) -> Result<&'a rerank_crds::server_config::Collection, SearchError> {
        let collections = self.config.vector_store.as_ref().map_or(&[][..], |store| store.collections());
        let name = context.caller.collection(asked, collections.iter().map(|collection| collection.name.as_str()))?;
        collections.iter().find(|collection| collection.name == name).ok_or(SearchError::NotConfigured)
    }
}

#[async_trait]
impl Service for Parts {
    async fn search(&self, request: SearchRequest, context: &RequestContext) -> Result<SearchResponse, SearchError> {
        self.searcher.search(request, context).await
    }

    async fn search_batch(
        &self,
        request: BatchSearchRequest,
        context: &RequestContext,
    ) -> Result<Vec<Result<SearchResponse, SearchError>>, SearchError> {
        self.searcher.search_batch(request, context).await
    }

    async fn rerank(&self, request: RerankRequest, context: &RequestContext) -> Result<RerankResponse, SearchError> {
        self.searcher.rerank(request, context).await
    }

    async fn embed(&self, request: EmbedRequest, context: &RequestContext) -> Result<EmbedResponse, SearchError> {
        self.searcher.embed(request, context).await
    }

    async fn index(&self, request: IndexRequest, context: &RequestContext) -> Result<IndexResponse, SearchError> {
        let store = self.store.as_ref().ok_or(SearchError::NotConfigured)?;
        let collection = self.collection(request.collection.as_deref(), context)?;
        let target = IndexTarget { store: store.as_ref(), collection, spec: self.collection_spec_off_thread() };
        let seconds = u64::try_from(self.config.timeouts.request_seconds).unwrap_or(1);
        let deadline = context.arrival + Duration::from_secs(seconds);
        let work = index_documents(&self.searcher, target, request.documents, context);
        let indexed = tokio::time::timeout_at(deadline, work).await.map_err(|_| SearchError::DeadlineExceeded)??;
        Ok(IndexResponse { collection: collection.name.clone(), indexed })
    }

    async fn load_model(&self, choice: &RerankChoice, context: &RequestContext) -> Result<ModelLoad, SearchError> {
        self.searcher.load_model(choice, context).await
    }

    async fn unload_model(&self, choice: &RerankChoice) -> Result<(ModelKey, Option<u64>), SearchError> {
        self.searcher.unload_model(choice).await
    }

    fn models(&self) -> Vec<ModelStatus> {
        let served = self.searcher.served();
        let mut statuses = self.pool.statuses();
        if let Some(deployed) = served.deployed_reranker() {
            for status in &mut statuses {
                let is_deployed = status.role == "reranker"
                    && status.name == deployed.model
                    && status.quantization == deployed.quantization;
                if is_deployed {
                    status.selection_reason = Some(served.selection().reason);
                }
            }
        }
        statuses
    }
}
