//! The store trait: where documents and their vectors live. Implementations live beside this file and pass one
//! behaviour suite (`tests/tests/stores_behave_alike.rs`). What both share is pure and has its own files: ids
//! ([`identity`]), documents and their text ([`document`]), filters ([`filter`]), and whether a collection fits
//! ([`fit`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rerank_crds::server_config::{Embedding, VectorStore};
use serde_json::{Map, Value};

pub mod document;
pub mod embedded;
pub mod filter;
pub mod fit;
pub mod guarded;
pub mod identity;
pub mod qdrant;

/// Stage 1's question.
#[derive(Clone, Debug)]
pub struct VectorQuery {
    /// Collection, as configured.
    pub collection: String,
    /// Query vector, of length 1.
    pub vector: Vec<f32>,
    /// How many candidates.
    pub limit: usize,
    /// Filter in Qdrant's own JSON (`{"must": [...]}`).
    pub filter: Option<Value>,
}

/// A document's id as the client knows it.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(untagged)]
pub enum DocumentId {
    /// An unsigned integer.
    Number(u64),
    /// A UUID, or any other text, which is kept in the payload and mapped to a `UUIDv5`.
    Text(String),
}

impl DocumentId {
    /// As it stands in files of judgements: a text without quotes.
    pub fn in_judgements(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(formatter, "{number}"),
            Self::Text(text) => write!(formatter, "{text:?}"),
        }
    }
}

/// One answer of stage 1, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// As given when indexed.
    pub id: DocumentId,
    /// Similarity as the store computed it (cosine).
    pub vector_score: f32,
    /// Text at the collection's text field; empty where absent.
    pub text: String,
    /// Payload without what the store keeps for itself.
    pub payload: Map<String, Value>,
}

/// One document to index.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Client's id.
    pub id: DocumentId,
    /// Its vector, of length 1.
    pub vector: Vec<f32>,
    /// Payload, the text at the collection's text field included.
    pub payload: Map<String, Value>,
}

/// What a collection was made for; recorded with it and compared at each opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionSpec {
    /// Length of its vectors.
    pub dimension: usize,
    /// Embedding model that indexed it.
    pub embedding_model: String,
    /// That model's revision, where known.
    pub embedding_revision: Option<String>,
}

impl CollectionSpec {
    /// What the configuration's embedding model needs, whose vectors have this length.
    pub fn for_vectors(embedding: &Embedding, dimension: usize) -> Self {
        Self {
            dimension,
            embedding_model: embedding.model.clone().unwrap_or_default(),
            embedding_revision: embedding.revision.clone(),
        }
    }
}

/// What a collection says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionInfo {
    /// Length of its vectors.
    pub dimension: usize,
    /// Such as `Cosine`.
    pub distance: String,
    /// Documents in it.
    pub documents: u64,
    /// Embedding model recorded when it was indexed, if any.
    pub embedding_model: Option<String>,
    /// That model's revision, if recorded.
    pub embedding_revision: Option<String>,
}

/// Why a store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such collection.
    #[error("collection {collection:?} does not exist in the store")]
    CollectionMissing {
        /// Its name.
        collection: String,
    },
    /// Dimension, distance or recorded embedding model do not fit.
    #[error("collection {collection:?} has {what} {found}, but {expected} is needed")]
    Mismatch {
        /// Its name.
        collection: String,
        /// `dimension`, `distance`, `embedding model`, `vector name`.
        what: &'static str,
        /// Value of the collection.
        found: String,
        /// Value of the configuration.
        expected: String,
    },
    /// The filter is not one of Qdrant's.
    #[error("the filter is not valid: {message}")]
    InvalidFilter {
        /// What is wrong and what is allowed.
        message: String,
    },
    /// A document cannot be kept as it is; nothing of its batch was written.
    #[error("document {id} cannot be indexed: {message}")]
    InvalidDocument {
        /// Its id.
        id: DocumentId,
        /// Which field is wrong and what is allowed.
        message: String,
    },
    /// The store's part of the configuration cannot be used; the same call will fail again.
    #[error("the vector store is not configured correctly: {message}")]
    Configuration {
        /// Which setting is wrong and what is allowed.
        message: String,
    },
    /// The key was refused.
    #[error("the vector store refused the API key")]
    Unauthorized,
    /// The store did not answer in time.
    #[error("the vector store did not answer within its deadline")]
    Timeout,
    /// The store cannot be reached.
    #[error("the vector store cannot be reached: {message}")]
    Unavailable {
        /// The library's words.
        message: String,
    },
    /// It failed too often in a row and is not asked for a while.
    #[error("the vector store failed {} times in a row and is not asked for a while", crate::breaker::FAILURES)]
    Resting {
        /// For how long.
        left: Duration,
    },
    /// Anything else.
    #[error("the vector store failed: {message}")]
    Failed {
        /// The library's words.
        message: String,
    },
}

/// Where documents and their vectors live. Every call obeys the caller's deadline by being dropped.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Nearest documents, best first; equal scores by id.
    async fn search(&self, query: VectorQuery) -> Result<Vec<Candidate>, StoreError>;

    /// What a collection says of itself.
    async fn describe(&self, collection: &str) -> Result<CollectionInfo, StoreError>;

    /// Refuses a collection that does not fit `spec`; warns in the log where no embedding model is recorded.
    async fn check(&self, collection: &str, spec: &CollectionSpec) -> Result<CollectionInfo, StoreError>;

    /// Makes the collection if it is absent (cosine, HNSW) and records `spec` with it; else checks it. A collection
    /// without documents and without a record gets the record.
    async fn ensure_collection(&self, collection: &str, spec: &CollectionSpec) -> Result<(), StoreError>;

    /// Inserts or replaces; durable when it returns.
    async fn upsert(&self, collection: &str, documents: Vec<Document>) -> Result<(), StoreError>;

    /// Which of these ids the collection already has, in the order asked.
    async fn existing(&self, collection: &str, ids: &[DocumentId]) -> Result<Vec<bool>, StoreError>;

    /// Cheap question whether the store answers at all.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Flushes and closes what is open on disk.
    async fn close(&self) -> Result<(), StoreError>;
}

/// Opens the configured store. A Qdrant server is not contacted yet, so the service starts while Qdrant is down; the
/// folder of an embedded store is opened and locked. `timeout` bounds each call to a Qdrant server.
///
/// # Errors
/// [`StoreError::Configuration`] unless exactly one store is configured and its files can be read.
pub async fn open_store(config: &VectorStore, timeout: Duration) -> Result<Arc<dyn Store>, StoreError> {
    match (&config.qdrant, &config.embedded) {
        (Some(qdrant), None) => Ok(Arc::new(qdrant::QdrantStore::connect(qdrant, timeout)?)),
        (None, Some(embedded)) => {
            let embedded = embedded.clone();
            let opened = tokio::task::spawn_blocking(move || embedded::EmbeddedStore::open(&embedded))
                .await
                .map_err(|error| StoreError::Failed { message: format!("opening it did not finish: {error}") })?;
            Ok(Arc::new(opened?))
        }
        (Some(_), Some(_)) | (None, None) => {
            Err(StoreError::Configuration { message: "vectorStore needs exactly one of: qdrant, embedded".to_owned() })
        }
    }
}
