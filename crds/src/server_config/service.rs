//! The parts of the configuration that concern the service itself: listeners, lifecycle, deadlines, weights, access,
//! bounds, logs. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Addresses of the two listeners.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Listen {
    /// The API. Default `0.0.0.0:8000`.
    pub api_address: SocketAddr,
    /// Certificate and key of the API. Default: plain HTTP.
    pub tls: Option<ListenTls>,
    /// Probes, metrics and read-only model states. Default `0.0.0.0:9090`.
    pub control_address: SocketAddr,
}

/// What the API speaks TLS with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenTls {
    /// PEM file of the certificate, those that vouch for it behind it.
    pub certificate_file: PathBuf,
    /// PEM file of its key.
    pub key_file: PathBuf,
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
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Loading {
    /// At the first request that needs them; the pod is ready before.
    #[default]
    OnDemand,
    /// At start; the pod is ready after.
    Preload,
}

/// What a search does while the reranker loads. The embedder is always waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
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

/// Where weights come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Weights {
    /// Folder that holds each model under its id (`<directory>/Qwen/Qwen3-Reranker-0.6B`) or a hub cache
    /// (`models--Qwen--Qwen3-Reranker-0.6B/snapshots/...`). Default `/models`.
    pub directory: PathBuf,
    /// Hub that models are downloaded from which `directory` lacks. Default: none, the server connects to no hub.
    pub hub: Option<Hub>,
    /// Refuse models whose exact content is not known beforehand: each needs a commit as its revision, or a folder with
    /// a manifest of digests. Default false.
    pub require_pinned: bool,
}

/// A hub of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hub {
    /// Where it is. Default `https://huggingface.co`.
    pub endpoint: String,
    /// File that holds a token of an account that may read the models. Default: none.
    pub token_file: Option<PathBuf>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { endpoint: "https://huggingface.co".to_owned(), token_file: None }
    }
}

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Access {
    /// File or folder of API keys: a folder holds one file for each client (a mounted Secret), a file one
    /// `client: key` for each line. Default: no key is asked for.
    pub api_keys_file: Option<PathBuf>,
    /// Clients that may use some collections only; every other client may use all of them.
    pub clients: Vec<ClientAccess>,
    /// Who may load and unload models through the API. Default `Authenticated`.
    pub model_control: ModelControl,
}

/// What one client may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientAccess {
    /// Name of the client in `apiKeysFile`.
    pub name: String,
    /// Collections that it may search and index; the first that is served is its default. Empty: it may only rerank and
    /// embed.
    pub collections: Vec<String>,
}

impl Access {
    /// The collections of each client that may not use all of them.
    pub fn collections_by_client(&self) -> BTreeMap<String, Arc<[String]>> {
        self.clients.iter().map(|client| (client.name.clone(), client.collections.clone().into())).collect()
    }
}

/// Who may load and unload models through the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum ModelControl {
    /// Callers with an API key.
    #[default]
    Authenticated,
    /// Everyone.
    Open,
    /// Nobody.
    #[serde(rename = "Disabled", alias = "Off")]
    // Tools that read YAML 1.1, kubectl among them, take a bare Off for false.
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
    /// Memory of the texts and tokens that wait or are being scored. Default 128 MiB.
    pub queue_bytes: i64,
}

/// Log filter and format, and what is a slow request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Logging {
    /// `RUST_LOG` syntax. Default `info`.
    pub filter: String,
    /// Default `Json`.
    pub format: LogFormat,
    /// A request that takes longer is told as a warning that names the stage which took most; 0 = never. Default 5000.
    pub slow_request_milliseconds: i32,
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

impl Default for Listen {
    fn default() -> Self {
        Self { api_address: ([0, 0, 0, 0], 8000).into(), tls: None, control_address: ([0, 0, 0, 0], 9090).into() }
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
        Self { directory: PathBuf::from("/models"), hub: None, require_pinned: false }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { documents: 1_000, body_bytes: 2 * 1024 * 1024, queue_pairs: 10_000, queue_bytes: 128 * 1024 * 1024 }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Json, slow_request_milliseconds: 5_000 }
    }
}
