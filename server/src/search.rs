//! The use case: two-stage search, and reranking alone. Knows no HTTP and no model library.
//!
//! This file owns the words: requests, answers, errors. Pure parts: `validate`, `served` (what a name means),
//! `caller` (who asks), `demand` (of the queue), `candidates` (how many), `ranking`, `fallback` (when and why), `deadlines`. Parts that wait: `searcher` (the two
//! stages), `rerank_only` and `embed_only` (no store), `model_control`, `embed_stage`, `store_stage`, `rerank_stage`, `admission` (how much may wait), `pressure` (whether it is done in time),
//! `lane` (whose turn it is), `breaker` (whether a failing engine is asked), `turns` (scoring batch by batch).

use std::time::Duration;

use rerank_crds::catalog::{InstructionTemplate, Quantization};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::prompt::Reading;
use crate::store::{DocumentId, StoreError};

mod admission;
mod batches;
mod breaker;
mod caller;
pub mod candidates;
mod deadlines;
mod demand;
mod embed_only;
mod embed_stage;
mod fallback;
mod lane;
mod model_control;
mod pressure;
mod ranking;
mod rerank_only;
mod rerank_stage;
mod searcher;
mod served;
mod store_stage;
mod turns;
pub(crate) mod validate;

#[cfg(test)]
mod tests;

pub use caller::{Caller, Client};
pub use model_control::ModelLoad;
pub use searcher::{Searcher, SearcherOptions, SharedSearcher};
pub use served::ServedModels;

/// What 'relevant' means for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstructionChoice {
    /// A template of ours.
    Template(InstructionTemplate),
    /// The caller's words.
    Text(String),
}

/// Which reranker a request asks for; fields left out are the deployed ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RerankChoice {
    /// Model id or alias.
    pub model: Option<String>,
    /// How weights are held.
    pub quantization: Option<Quantization>,
}

/// One search.
#[derive(Clone, Debug, Default)]
pub struct SearchRequest {
    /// Not empty.
    pub query: String,
    /// 1 to 1,000.
    pub k: usize,
    /// Default: the first configured.
    pub collection: Option<String>,
    /// Default: `reranker.enabled`.
    pub use_reranker: Option<bool>,
    /// Override.
    pub reranker: RerankChoice,
    /// Default: the configured one.
    pub instruction: Option<InstructionChoice>,
    /// Filter in Qdrant's own JSON.
    pub filter: Option<Value>,
    /// Results that score less are left out; never applied to vector scores.
    pub score_threshold: Option<f32>,
}

/// Several searches that share everything but the query. `template.query` is ignored.
#[derive(Clone, Debug, Default)]
pub struct BatchSearchRequest {
    /// In order of the answer.
    pub queries: Vec<String>,
    /// What they share.
    pub template: SearchRequest,
}

/// Documents to be scored against a query.
#[derive(Clone, Debug, Default)]
pub struct RerankRequest {
    /// Not empty.
    pub query: String,
    /// 1 to `api.limits.documents`.
    pub documents: Vec<String>,
    /// Override.
    pub reranker: RerankChoice,
    /// Default: the configured one.
    pub instruction: Option<InstructionChoice>,
    /// How much of each document is read.
    pub reading: Reading,
}

/// What an embedder reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbedInput {
    /// Any text.
    Text(String),
    /// A document that the client has tokenized for this model, without the end token.
    Tokens(Vec<u32>),
}

/// As what a text is embedded. Tokens are embedded as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextKind {
    /// With the model's query instruction.
    Query,
    /// Without.
    #[default]
    Document,
}

/// Texts to be embedded.
#[derive(Clone, Debug, Default)]
pub struct EmbedRequest {
    /// 1 to `api.limits.documents`.
    pub inputs: Vec<EmbedInput>,
    /// As what.
    pub kind: TextKind,
    /// The served embedding model or an alias of it; None: that one.
    pub model: Option<String>,
    /// Components of a vector, 1 to the model's; None: all.
    pub dimensions: Option<usize>,
}

/// Vectors of length one, in order.
#[derive(Clone, Debug)]
pub struct EmbedResponse {
    /// One for each input.
    pub vectors: Vec<Vec<f32>>,
    /// Model id.
    pub model: String,
    /// Tokens read.
    pub tokens: usize,
}

/// What comes with every request.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Fires when the client left.
    pub cancel: CancellationToken,
    /// When the request arrived; deadlines count from here.
    pub arrival: tokio::time::Instant,
    /// Who asks, and what they may search.
    pub caller: Caller,
}

impl RequestContext {
    /// Of the command line: nobody leaves, and nobody else is there.
    pub fn local() -> Self {
        Self {
            cancel: CancellationToken::new(),
            arrival: tokio::time::Instant::now(),
            caller: Caller::unrestricted(Client::Local),
        }
    }
}

/// Which reranker answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RerankerName {
    /// Model id.
    pub model: String,
    /// How weights are held.
    #[schema(value_type = String)]
    pub quantization: Quantization,
}

/// Why a search was answered in vector order: a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackReason {
    /// The reranker does not fit into memory.
    InsufficientMemory,
    /// The reranker is loading and the configuration says not to wait.
    Loading,
    /// The engine or its load failed.
    EngineFailed,
    /// `timeouts.rerankSeconds` ran out.
    Deadline,
    /// The engine failed too often of late.
    BreakerOpen,
    /// `reranker.enabled` is false though the request asked for it.
    Disabled,
    /// The model did not score as its reference does.
    SelfTestFailed,
}

/// Told in the body whenever a search was answered in vector order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fallback {
    /// One of the closed list.
    pub reason: FallbackReason,
    /// A sentence, with the fix where one is known.
    pub message: String,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SearchResult {
    /// As given when indexed.
    pub id: DocumentId,
    /// `rerank_score`, or `vector_score` where the answer is in vector order.
    pub score: f32,
    /// P(yes), 0 to 1; null in vector order.
    pub rerank_score: Option<f32>,
    /// Similarity of stage 1.
    pub vector_score: f32,
    /// Place in the vector order, from 1.
    pub vector_rank: usize,
    /// `vector_rank` less the place in this answer: how far up it came.
    pub rank_change: i64,
    /// Text at the collection's text field.
    pub text: String,
    /// Payload.
    #[schema(value_type = Object)]
    pub payload: Map<String, Value>,
    /// Whether the reranker read only the beginning of the text.
    pub truncated: bool,
}

/// Where the time of one search went, finer than the answer says it. For metrics and `make bench`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Query to vector, waiting for the embedder included.
    pub embed: Duration,
    /// Candidates from the store.
    pub store: Duration,
    /// Prompts to token ids.
    pub tokenize: Duration,
    /// Waiting for the engine.
    pub queue: Duration,
    /// Engine time of the reranker.
    pub score: Duration,
    /// Arrival to answer.
    pub total: Duration,
    /// Batches that the reranker's engine has finished.
    pub batches: usize,
}

/// The answer, in the shape of the API.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SearchResponse {
    /// Best first.
    pub results: Vec<SearchResult>,
    /// Candidates that stage 1 brought.
    pub num_candidates: usize,
    /// Query to vector.
    pub embedding_time_ms: f64,
    /// Candidates from the store.
    pub search_time_ms: f64,
    /// Stage 2, a failed one too; null where it was not begun.
    pub reranking_time_ms: Option<f64>,
    /// Whether the order is the reranker's. False also where stage 1 found nothing to rerank.
    pub reranking_used: bool,
    /// Which reranker; null where none was used.
    pub reranker: Option<RerankerName>,
    /// Why the order is the vector order though the reranker was asked for.
    pub fallback: Option<Fallback>,
    /// Finer times.
    #[serde(skip)]
    #[schema(ignore)]
    pub timings: Timings,
}

/// One scored document.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedDocument {
    /// Position in the request.
    pub index: usize,
    /// P(yes).
    pub score: f32,
    /// Logit of yes less logit of no.
    pub log_odds: f32,
    /// Whether the reranker read only its beginning.
    pub truncated: bool,
}

/// Documents, best first; equal scores in the order given.
#[derive(Clone, Debug)]
pub struct RerankResponse {
    /// Best first.
    pub results: Vec<RankedDocument>,
    /// Which reranker.
    pub reranker: RerankerName,
    /// Tokens read.
    pub tokens: usize,
    /// Where the time went.
    pub timings: Timings,
}

/// Why there is no answer. Knows no HTTP; `api::error` maps it.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A value is out of its range: 422.
    #[error("{message}")]
    OutOfRange {
        /// Field of the request.
        field: &'static str,
        /// What is wrong.
        message: String,
        /// What is allowed.
        allowed: String,
    },
    /// Too many documents: 413.
    #[error("{message}")]
    TooLarge {
        /// Field of the request.
        field: &'static str,
        /// What is wrong.
        message: String,
        /// What is allowed.
        allowed: String,
    },
    /// The model or quantization is not served: 404.
    #[error("model {model:?} is not served here")]
    UnknownModel {
        /// Field of the request.
        field: &'static str,
        /// As asked.
        model: String,
        /// What is served, such as `Qwen/Qwen3-Reranker-0.6B (float16)`.
        served: Vec<String>,
    },
    /// The collection is not configured: 404.
    #[error("collection {collection:?} is not served here")]
    UnknownCollection {
        /// As asked.
        collection: String,
        /// What is served.
        served: Vec<String>,
    },
    /// A restricted client asks for a collection that is not its own, or that does not exist: 403.
    #[error("this client may not use that collection")]
    ForbiddenCollection {
        /// What it may search.
        own: Vec<String>,
    },
    /// No vector store is configured: 404 `search_not_configured`.
    #[error("this service has no vector store, it only reranks documents that come with the request")]
    NotConfigured,
    /// The store failed.
    #[error("failed to use the vector store")]
    Store(#[source] StoreError),
    /// The embedder cannot run: 503 `embedder_unavailable`.
    #[error("the embedding model cannot run: {message}")]
    EmbedderUnavailable {
        /// Why.
        message: String,
        /// When to come back.
        retry_after_seconds: u64,
    },
    /// The reranker cannot run and there is no vector order: 503 `reranker_unavailable`.
    #[error("the reranker cannot run: {message}")]
    RerankerUnavailable {
        /// One of the closed list.
        reason: FallbackReason,
        /// Why.
        message: String,
        /// When to come back.
        retry_after_seconds: u64,
    },
    /// The client has its share of the queue: 429.
    #[error("this client has its share of the queue already; come back after `Retry-After`, or send fewer at a time")]
    TooManyRequests {
        /// When to come back.
        retry_after_seconds: u64,
    },
    /// More waits than `api.limits.queuePairs` or `.queueBytes` allow, or than is done in time: 503 `overloaded`.
    #[error("too much is waiting for this to be done in time; come back after `Retry-After`")]
    Overloaded {
        /// When to come back.
        retry_after_seconds: u64,
    },
    /// `timeouts.requestSeconds` ran out: 504.
    #[error("the request's deadline passed (timeouts.requestSeconds); ask for fewer candidates or documents")]
    DeadlineExceeded,
    /// The client left.
    #[error("the client left")]
    Cancelled,
    /// The model cannot be unloaded while requests use it or wait for it: 409.
    #[error("{model} is in use; try again when its requests are answered")]
    ModelInUse {
        /// Model id.
        model: String,
    },
    /// A fault of ours: 500; the log has the chain.
    #[error("{message}")]
    Internal {
        /// For the log.
        message: String,
    },
}
