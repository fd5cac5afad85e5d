//! A store in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::store::{Candidate, CollectionInfo, CollectionSpec, Document, DocumentId, Store, StoreError, VectorQuery};

/// A candidate whose vector score falls with its id: the order of ids is the vector order.
pub fn candidate(id: u16, text: &str) -> Candidate {
    let mut payload = Map::new();
    payload.insert("text".to_owned(), Value::from(text));
    Candidate {
        id: DocumentId::Number(u64::from(id)),
        vector_score: 1.0 - f32::from(id) / 1_000.0,
        text: text.to_owned(),
        payload,
    }
}

/// Answers the candidates that it was given, whatever the query vector; documents that were indexed come by their
/// likeness to it.
#[derive(Debug, Default)]
pub struct FakeStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    collections: BTreeMap<String, Collection>,
    errors: VecDeque<StoreError>,
    delay: Duration,
    searches: usize,
    checks: usize,
    most_at_once: usize,
    running: usize,
    limits: Vec<usize>,
}

#[derive(Debug, Default)]
struct Collection {
    spec: Option<CollectionSpec>,
    fixed: Vec<Candidate>,
    documents: BTreeMap<DocumentId, Document>,
}

impl FakeStore {
    /// An empty store.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a collection answers to every query, best first.
    pub fn set_candidates(&self, collection: &str, candidates: Vec<Candidate>) {
        self.lock().collections.entry(collection.to_owned()).or_default().fixed = candidates;
    }

    /// What a collection says it was made for.
    pub fn set_spec(&self, collection: &str, spec: CollectionSpec) {
        self.lock().collections.entry(collection.to_owned()).or_default().spec = Some(spec);
    }

    /// The next call fails; several are queued.
    pub fn fail(&self, error: StoreError) {
        self.lock().errors.push_back(error);
    }

    /// How long each search takes.
    pub fn set_delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Searches begun.
    pub fn searches(&self) -> usize {
        self.lock().searches
    }

    /// Checks begun.
    pub fn checks(&self) -> usize {
        self.lock().checks
    }

    /// Most searches that ran at the same time.
    pub fn most_at_once(&self) -> usize {
        self.lock().most_at_once
    }

    /// Limit of each search, in order.
    pub fn limits(&self) -> Vec<usize> {
        self.lock().limits.clone()
    }
}

/// Counts a search that runs, also where it is dropped.
struct Running<'a>(&'a FakeStore);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

impl Inner {
    fn take_error(&mut self) -> Result<(), StoreError> {
        self.errors.pop_front().map_or(Ok(()), Err)
    }

    fn collection(&mut self, name: &str) -> Result<&mut Collection, StoreError> {
        self.collections.get_mut(name).ok_or_else(|| StoreError::CollectionMissing { collection: name.to_owned() })
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn search(&self, query: VectorQuery) -> Result<Vec<Candidate>, StoreError> {
        let delay = {
            let mut inner = self.lock();
            inner.searches += 1;
            inner.running += 1;
            inner.most_at_once = inner.most_at_once.max(inner.running);
            inner.limits.push(query.limit);
            inner.delay
        };
        let _running = Running(self);
        tokio::time::sleep(delay).await;
        let mut inner = self.lock();
        inner.take_error()?;
        let collection = inner.collection(&query.collection)?;
        let mut candidates = collection.fixed.clone();
        candidates.extend(collection.documents.values().map(|document| Candidate {
            id: document.id.clone(),
            vector_score: document.vector.iter().zip(&query.vector).map(|(left, right)| left * right).sum(),
            text: document.payload.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
            payload: document.payload.clone(),
        }));
        candidates.sort_by(|left, right| right.vector_score.total_cmp(&left.vector_score));
        candidates.truncate(query.limit);
        Ok(candidates)
    }

    async fn describe(&self, collection: &str) -> Result<CollectionInfo, StoreError> {
        let mut inner = self.lock();
        inner.take_error()?;
        let collection = inner.collection(collection)?;
        let documents = collection.fixed.len() + collection.documents.len();
        Ok(CollectionInfo {
            dimension: collection.spec.as_ref().map_or(super::source::DIMENSION, |spec| spec.dimension),
            distance: "Cosine".to_owned(),
            documents: u64::try_from(documents).unwrap_or(u64::MAX),
            embedding_model: collection.spec.as_ref().map(|spec| spec.embedding_model.clone()),
            embedding_revision: collection.spec.as_ref().and_then(|spec| spec.embedding_revision.clone()),
        })
    }

    async fn check(&self, collection: &str, spec: &CollectionSpec) -> Result<CollectionInfo, StoreError> {
        self.lock().checks += 1;
        let info = self.describe(collection).await?;
        let mismatch = |what, found, expected| {
            Err(StoreError::Mismatch { collection: collection.to_owned(), what, found, expected })
        };
        if info.dimension != spec.dimension {
            return mismatch("dimension", info.dimension.to_string(), spec.dimension.to_string());
        }
        match &info.embedding_model {
            Some(model) if *model != spec.embedding_model => {
                mismatch("embedding model", model.clone(), spec.embedding_model.clone())
            }
            _ => Ok(info),
        }
    }

    async fn ensure_collection(&self, collection: &str, spec: &CollectionSpec) -> Result<(), StoreError> {
        {
            let mut inner = self.lock();
            inner.take_error()?;
            let collection = inner.collections.entry(collection.to_owned()).or_default();
            collection.spec.get_or_insert_with(|| spec.clone());
        }
        self.check(collection, spec).await.map(drop)
    }

    async fn upsert(&self, collection: &str, documents: Vec<Document>) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.take_error()?;
        let collection = inner.collection(collection)?;
        collection.documents.extend(documents.into_iter().map(|document| (document.id.clone(), document)));
        Ok(())
    }

    async fn existing(&self, collection: &str, ids: &[DocumentId]) -> Result<Vec<bool>, StoreError> {
        let mut inner = self.lock();
        inner.take_error()?;
        let collection = inner.collection(collection)?;
        Ok(ids.iter().map(|id| collection.documents.contains_key(id)).collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.lock().take_error()
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
