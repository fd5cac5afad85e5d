//! Stage 1: candidates from the store. Waits for it, within its own deadline.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::time::Instant;

use super::deadlines::{Deadlines, within};
use super::{SearchError, Searcher};
use crate::store::{Candidate, CollectionSpec, StoreError, VectorQuery};

impl Searcher {
    /// The nearest documents, best first. A collection is checked against the embedding model before its first use and
    /// again after each error, so a store that is down when the server starts does no harm.
    pub(super) async fn candidates(
        &self,
        collection: &str,
        vector: Vec<f32>,
        limit: usize,
        filter: Option<Value>,
        deadlines: &Deadlines,
    ) -> Result<Vec<Candidate>, SearchError> {
        let store = self.store.as_ref().ok_or(SearchError::NotConfigured)?;
        let checked = self.checked.get(collection);
        let deadline = deadlines.vector_search(Instant::now());
        let work = async {
            if !checked.is_some_and(|checked| checked.load(Ordering::Acquire)) {
                let spec = CollectionSpec::for_vectors(&self.config.embedding, vector.len());
                store.check(collection, &spec).await?;
                mark(checked, true);
            }
            store.search(VectorQuery { collection: collection.to_owned(), vector, limit, filter }).await
        };
        match within(deadline, work).await {
            Some(Ok(mut candidates)) => {
                candidates.truncate(limit);
                if !candidates.is_empty() && candidates.iter().all(|candidate| candidate.text.is_empty()) {
                    tracing::warn!(
                        collection,
                        "No candidate has a text, there is nothing to rerank by; check the collection's textField"
                    );
                }
                Ok(candidates)
            }
            Some(Err(error)) => {
                // A filter that is not valid says nothing about the collection.
                if !matches!(error, StoreError::InvalidFilter { .. }) {
                    mark(checked, false);
                }
                Err(SearchError::Store(error))
            }
            None => {
                mark(checked, false);
                if deadline < deadlines.request {
                    Err(SearchError::Store(StoreError::Timeout))
                } else {
                    Err(SearchError::DeadlineExceeded)
                }
            }
        }
    }
}

fn mark(checked: Option<&AtomicBool>, value: bool) {
    if let Some(checked) = checked {
        checked.store(value, Ordering::Release);
    }
}
