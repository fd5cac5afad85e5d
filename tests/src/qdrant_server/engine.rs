//! The collections of the test server: one shard of Qdrant's engine each, in a temporary folder.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use qdrant_edge::{Distance, EdgeConfig, EdgeShard, EdgeVectorParams, OperationError};
use tempfile::TempDir;
use tonic::Status;

#[derive(Debug)]
pub(super) struct Engine {
    // Before the folder, so that shards are closed before their files are deleted.
    shards: Mutex<HashMap<String, Arc<EdgeShard>>>,
    folder: TempDir,
}

impl Engine {
    pub(super) fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("failed to make a folder")?;
        Ok(Self { shards: Mutex::default(), folder })
    }

    pub(super) fn create(&self, name: &str, vectors: HashMap<String, EdgeVectorParams>) -> Result<(), Status> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if shards.contains_key(name) {
            return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
        }
        let folder = self.folder.path().join(shards.len().to_string());
        fs::create_dir(&folder).map_err(|error| Status::internal(error.to_string()))?;
        let config = EdgeConfig { vectors, ..EdgeConfig::default() };
        let shard = EdgeShard::new(&folder, config).map_err(|error| status(&error))?;
        shards.insert(name.to_owned(), Arc::new(shard));
        Ok(())
    }

    pub(super) fn shard(&self, name: &str) -> Result<Arc<EdgeShard>, Status> {
        self.shards
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("Not found: Collection `{name}` doesn't exist!")))
    }
}

pub(super) fn vector_params(size: u64, distance: &str) -> Result<EdgeVectorParams, Status> {
    let distance = match distance {
        "Cosine" => Distance::Cosine,
        "Dot" => Distance::Dot,
        "Euclid" => Distance::Euclid,
        "Manhattan" => Distance::Manhattan,
        other => return Err(Status::invalid_argument(format!("Wrong input: unknown distance {other}"))),
    };
    let size = usize::try_from(size).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(EdgeVectorParams::builder(size, distance).build())
}

/// Runs the engine off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

/// As Qdrant answers the engine's errors.
pub(super) fn status(error: &OperationError) -> Status {
    match error {
        OperationError::ServiceError { .. } | OperationError::InconsistentStorage { .. } => {
            Status::internal(error.to_string())
        }
        other => Status::invalid_argument(format!("Wrong input: {other}")),
    }
}
