//! `ServerConfig`: the one file between operator and server. Pure.
//!
//! Keys are camelCase and named as in the `RerankDeployment`. Unknown fields are refused, every field has a default
//! that [`ServerConfig::to_yaml`] shows, and secrets never stand in it: it names mounted files.
//!
//! Reading has two steps. [`ServerConfig::from_yaml`] says what is no configuration at all: a typo, a wrong type, a name
//! that is not on a list; it stops at the first. [`ServerConfig::validate`] then says everything that cannot be served, all
//! at once. [`ServerConfig::load`] does both. JSON is YAML, so it is read too.

use serde::{Deserialize, Serialize};

use crate::catalog::EngineKind;

mod footprint;
pub mod network;
mod parse;
pub mod reference;
mod reranking;
mod service;
mod serving;
mod store;
mod tracing;
mod validate;
mod violation;

pub use footprint::{EMBEDDER_BATCH_SIZE, EMBEDDER_MAXIMUM_LENGTH, Footprint, UnknownShape};
pub use parse::{ConfigError, FieldError};
pub use reranking::{AllowedOverride, Candidates, Embedding, Instruction, Reranker, SelfTest};
pub use service::{
    Access, Api, ClientAccess, Hub, Lifecycle, Limits, Listen, ListenTls, Loading, LogFormat, Logging, ModelControl,
    Timeouts, Weights, WhileLoading,
};
pub use serving::{NotServed, ServedModel};
pub use store::{Collection, Embedded, Qdrant, QdrantTls, VectorStore};
pub use tracing::Tracing;
pub use violation::{Violation, Violations};

/// The most results that a request may ask for.
pub const MAXIMUM_K: i32 = 1_000;

/// Results of a request that does not say how many.
pub const DEFAULT_K: i32 = 10;

/// Everything the server reads at start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Addresses of the two listeners.
    pub listen: Listen,
    /// Which engine computes; `Auto` lets the server choose.
    pub engine: EngineKind,
    /// The model that indexed the collections. Required with `vectorStore`.
    pub embedding: Embedding,
    /// The cross-encoder.
    pub reranker: Reranker,
    /// How many candidates stage 1 brings.
    pub candidates: Candidates,
    /// When models are loaded, warmed and unloaded.
    pub lifecycle: Lifecycle,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Where documents live. Left out, the service is rerank-only.
    pub vector_store: Option<VectorStore>,
    /// Where weights come from.
    pub weights: Weights,
    /// Who may call.
    pub access: Access,
    /// Model names and bounds of the API.
    pub api: Api,
    /// Log filter and format, and what is a slow request.
    pub logging: Logging,
    /// Where traces go.
    pub tracing: Tracing,
}
