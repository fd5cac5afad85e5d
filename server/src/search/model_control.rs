//! Loading and unloading by request. Loads are those of any search; nothing that is not configured is ever loaded.

use std::time::Duration;

use tokio::time::timeout_at;

use super::deadlines::Deadlines;
use super::fallback::StageFailure;
use super::rerank_only::unavailable;
use super::searcher::bounded;
use super::{RequestContext, RerankChoice, SearchError, Searcher};
use crate::engine::ModelRole;
use crate::pool::{ModelKey, PoolError, UnloadOutcome, Waiting};

/// How long an answer may wait for memory to come back.
const UNLOAD_LIMIT: Duration = Duration::from_secs(30);

/// What became of a request to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelLoad {
    /// It answers.
    Ready(ModelKey),
    /// It is still loading at the request's deadline, and goes on.
    Loading(ModelKey),
}

impl Searcher {
    /// Loads a model and waits for it as long as the request may take.
    pub async fn load_model(&self, choice: &RerankChoice, context: &RequestContext) -> Result<ModelLoad, SearchError> {
        let key = self.served.any_model(choice)?;
        let deadlines = Deadlines::new(context.arrival, &self.config.timeouts);
        // Half the time: the answer must come before the client's patience ends, whoever sets it.
        let patience = context.arrival + deadlines.request.duration_since(context.arrival) / 2;
        let work = async {
            match timeout_at(patience, self.pool.lease(&key, Waiting::Wait)).await {
                Ok(Ok(_lease)) => Ok(ModelLoad::Ready(key.clone())),
                Ok(Err(error)) => Err(not_loaded(&key, error)),
                Err(_elapsed) => Ok(ModelLoad::Loading(key.clone())),
            }
        };
        bounded(context, deadlines.request, work).await
    }

    /// Unloads a model that no request uses. Answers the bytes that came back, none where it was not loaded.
    pub async fn unload_model(&self, choice: &RerankChoice) -> Result<(ModelKey, Option<u64>), SearchError> {
        let key = self.served.any_model(choice)?;
        match tokio::time::timeout(UNLOAD_LIMIT, self.pool.unload(&key)).await {
            Ok(UnloadOutcome::Unloaded { freed_bytes }) => Ok((key, Some(freed_bytes))),
            Ok(UnloadOutcome::NotLoaded) => Ok((key, None)),
            Ok(UnloadOutcome::InUse) => Err(SearchError::ModelInUse { model: key.model }),
            Err(_elapsed) => Err(SearchError::DeadlineExceeded),
        }
    }
}

fn not_loaded(key: &ModelKey, error: PoolError) -> SearchError {
    match key.role {
        ModelRole::Reranker => unavailable(StageFailure::from(error)),
        ModelRole::Embedder => SearchError::EmbedderUnavailable {
            message: error.to_string(),
            retry_after_seconds: error.retry_after_seconds(),
        },
    }
}
