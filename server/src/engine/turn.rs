//! Whose turn it is: one batch at a time, first come first served, so that requests take turns batch by batch.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::EngineError;

/// Longest wait for the batch under way, and for an engine's threads, when a model is unloaded.
pub(super) const UNLOAD_WAIT: Duration = Duration::from_secs(60);

/// The turn of one engine.
#[derive(Debug)]
pub(super) struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Turn {
    /// Waits for the turn. It is passed on when what comes back is dropped: hold it where the batch really runs.
    pub(super) async fn take(&self, cancel: &CancellationToken) -> Result<OwnedSemaphorePermit, EngineError> {
        let turn = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(EngineError::Cancelled),
            turn = Arc::clone(&self.0).acquire_owned() => turn,
        };
        turn.map_err(|_| EngineError::Failed { message: "the model is unloaded".to_owned() })
    }

    /// Nobody gets it any more. Waits for the batch under way, which may belong to a client who left; should it hang,
    /// the end comes all the same.
    pub(super) async fn end(&self) {
        let last_batch = timeout(UNLOAD_WAIT, self.0.acquire()).await;
        self.0.close();
        drop(last_batch);
    }
}
