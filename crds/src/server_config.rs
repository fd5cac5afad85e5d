//! `ServerConfig`: the one file between operator and server. Pure.
//!
//! Keys are camelCase and named as in the `RerankDeployment`. Unknown fields are refused, every field has a default
//! that [`ServerConfig::to_yaml`] shows, and secrets never stand in it: it names mounted files.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::catalog::{CustomReranker, EngineKind, InstructionTemplate, Quantization};

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
    /// Log filter and format.
    pub logging: Logging,
}

/// Addresses of the two listeners.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Listen {
    /// The API. Default `0.0.0.0:8000`.
    pub api_address: SocketAddr,
    /// Probes, metrics and read-only model states. Default `0.0.0.0:9090`.
    pub control_address: SocketAddr,
}

/// The embedding model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Embedding {
    /// Model id such as `Qwen/Qwen3-Embedding-0.6B`. Required with `vectorStore`.
    pub model: Option<String>,
    /// Commit or tag of the model's repository.
    pub revision: Option<String>,
    /// Query instruction. Default: the model's own.
    pub instruction: Option<String>,
    /// Default `float16`.
    pub quantization: Quantization,
}

/// The cross-encoder and how it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Reranker {
    /// Default true. False: vector search only; no reranker is ever loaded.
    pub enabled: bool,
    /// Names a reranker and so overrides the selection.
    pub model: Option<String>,
    /// Commit or tag of the model's repository.
    pub revision: Option<String>,
    /// Used only without exact or size match. Default `Qwen/Qwen3-Reranker-0.6B`.
    pub default_model: String,
    /// Default `float16`.
    pub quantization: Quantization,
    /// What 'relevant' means. Default template `general`.
    pub instruction: Instruction,
    /// Pairs in a batch. Default: the catalogue's table.
    pub batch_size: Option<i32>,
    /// Tokens in a batch, which bounds memory. Default: see `catalog::token_budget`.
    pub token_budget: Option<i32>,
    /// Tokens of one prompt; documents are cut to fit. Default 8192.
    pub max_length: i32,
    /// Other models and quantizations that a request may ask for.
    pub allowed_overrides: Vec<AllowedOverride>,
    /// Mappings, batch sizes, prompt and scoring of further rerankers.
    pub custom: Vec<CustomReranker>,
    /// What a failed self-test does. Default `Enforce`.
    pub self_test: SelfTest,
}

/// What 'relevant' means: a template of ours or a text of one's own, not both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Instruction {
    /// general, technical, code or qa. Default general, where `text` is absent.
    pub template: Option<InstructionTemplate>,
    /// A text of one's own.
    pub text: Option<String>,
}

/// A model and quantization that a request may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedOverride {
    /// Model id.
    pub model: String,
    /// Allowed quantizations. Default: the deployed one alone.
    #[serde(default)]
    pub quantizations: Vec<Quantization>,
}

/// What a failed self-test does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SelfTest {
    /// A model that fails known expectations is refused.
    #[default]
    Enforce,
    /// It is used and the failure logged.
    Warn,
    /// Nothing is tested.
    Off,
}

/// How many candidates stage 1 brings: `clamp(k x multiplier, minimum, maximum)`, never fewer than k.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Candidates {
    /// Default 5.
    pub multiplier: i32,
    /// Default 20.
    pub minimum: i32,
    /// Default 200.
    pub maximum: i32,
}

/// When models are loaded, warmed and unloaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Lifecycle {
    /// Default `OnDemand`.
    pub loading: Loading,
    /// What a search does while the reranker loads. Default `Wait`.
    pub while_loading: WhileLoading,
    /// Run the largest batch after each load. Default true.
    pub warm: bool,
    /// Idle time after which models are unloaded; 0 = never. Default 300.
    pub unload_timeout_seconds: i32,
}

/// When models are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loading {
    /// At the first request that needs them; the pod is ready before.
    #[default]
    OnDemand,
    /// At start; the pod is ready after.
    Preload,
}

/// What a search does while the reranker loads. The embedder is always waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhileLoading {
    /// Wait, up to the request's deadline.
    #[default]
    Wait,
    /// Answer in vector order at once.
    Fallback,
}

/// Deadlines, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timeouts {
    /// Whole request. Default 30.
    pub request_seconds: i32,
    /// Stage 1. Default 5.
    pub vector_search_seconds: i32,
    /// Stage 2; past it the answer is the vector order. Default 20.
    pub rerank_seconds: i32,
}

/// Where documents live: exactly one of `qdrant`, `embedded`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VectorStore {
    /// A Qdrant server over gRPC.
    pub qdrant: Option<Qdrant>,
    /// Qdrant's engine in this process, on disk.
    pub embedded: Option<Embedded>,
    /// Whether documents can be indexed through the API. Default false.
    pub writable: bool,
}

/// A Qdrant server over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Qdrant {
    /// `http://` or `https://`, host and gRPC port (6334).
    pub url: String,
    /// Searchable collections; the first is the default.
    pub collections: Vec<Collection>,
    /// File that holds the API key.
    pub api_key_file: Option<PathBuf>,
    /// TLS files.
    pub tls: QdrantTls,
    /// Allow an API key over plain http. Default false.
    pub allow_insecure: bool,
}

/// TLS files of the connection to Qdrant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct QdrantTls {
    /// PEM file of the CA that signed the server's certificate. Default: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the client key.
    pub key_file: Option<PathBuf>,
}

/// Qdrant's engine in this process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Embedded {
    /// Folder of the collections.
    pub path: PathBuf,
    /// Searchable collections; the first is the default.
    pub collections: Vec<Collection>,
}

/// One searchable collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Collection {
    /// Its name in the store.
    pub name: String,
    /// Named vector. Default: the unnamed one.
    #[serde(default)]
    pub vector_name: Option<String>,
    /// Payload path of the text, dots between keys. Default `text`.
    #[serde(default = "default_text_field")]
    pub text_field: String,
}

/// Where weights come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Weights {
    /// Folder that holds each model under its id (`<directory>/Qwen/Qwen3-Reranker-0.6B`) or a hub cache
    /// (`models--Qwen--Qwen3-Reranker-0.6B/snapshots/...`). Default `/models`.
    pub directory: PathBuf,
}

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Access {
    /// File or folder of API keys: a folder holds one file for each client (a mounted Secret), a file one
    /// `client: key` for each line. Default: no key is asked for.
    pub api_keys_file: Option<PathBuf>,
    /// Who may load and unload models through the API. Default `Authenticated`.
    pub model_control: ModelControl,
}

/// Who may load and unload models through the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelControl {
    /// Callers with an API key.
    #[default]
    Authenticated,
    /// Everyone.
    Open,
    /// Nobody.
    Off,
}

/// Model names and bounds of the API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Api {
    /// Names that clients send for a served model: alias -> model id.
    pub model_aliases: BTreeMap<String, String>,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of one request and of the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Documents of one rerank request. Default 1000.
    pub documents: i32,
    /// Bytes of one request body. Default 2 MiB.
    pub body_bytes: i64,
    /// Pairs waiting or being scored. Default 10000.
    pub queue_pairs: i32,
}

/// Log filter and format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Logging {
    /// `RUST_LOG` syntax. Default `info`.
    pub filter: String,
    /// Default `Json`.
    pub format: LogFormat,
}

/// Log format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

fn default_text_field() -> String {
    "text".to_owned()
}

impl Default for Listen {
    fn default() -> Self {
        Self { api_address: ([0, 0, 0, 0], 8000).into(), control_address: ([0, 0, 0, 0], 9090).into() }
    }
}

impl Default for Embedding {
    fn default() -> Self {
        Self { model: None, revision: None, instruction: None, quantization: Quantization::Float16 }
    }
}

impl Default for Reranker {
    fn default() -> Self {
        Self {
            enabled: true,
            model: None,
            revision: None,
            default_model: crate::catalog::DEFAULT_RERANKER.to_owned(),
            quantization: Quantization::Float16,
            instruction: Instruction::default(),
            batch_size: None,
            token_budget: None,
            max_length: 8192,
            allowed_overrides: Vec::new(),
            custom: Vec::new(),
            self_test: SelfTest::Enforce,
        }
    }
}

impl Default for Candidates {
    fn default() -> Self {
        Self { multiplier: 5, minimum: 20, maximum: 200 }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { loading: Loading::OnDemand, while_loading: WhileLoading::Wait, warm: true, unload_timeout_seconds: 300 }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request_seconds: 30, vector_search_seconds: 5, rerank_seconds: 20 }
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self { directory: PathBuf::from("/models") }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { documents: 1_000, body_bytes: 2 * 1024 * 1024, queue_pairs: 10_000 }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Json }
    }
}

impl VectorStore {
    /// Searchable collections of whichever store is configured; the first is the default.
    pub fn collections(&self) -> &[Collection] {
        match (&self.qdrant, &self.embedded) {
            (Some(qdrant), _) => &qdrant.collections,
            (None, Some(embedded)) => &embedded.collections,
            (None, None) => &[],
        }
    }
}
