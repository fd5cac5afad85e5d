//! The fields that concern requests: candidates, lifecycle, deadlines, API, logs, traces. Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server_config::{Loading, WhileLoading};

/// How many candidates the vector search brings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("self.minimum <= self.maximum", "minimum must be at most maximum"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Candidates {
    /// Candidates for each result asked for.
    #[schemars(range(min = 1, max = 100))]
    pub multiplier: i32,
    /// At least so many.
    #[schemars(range(min = 1, max = 1_000))]
    pub minimum: i32,
    /// At most so many. A request for more results is refused while reranking.
    #[schemars(range(min = 1, max = 1_000))]
    pub maximum: i32,
}

/// When models are loaded, warmed and unloaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Lifecycle {
    /// OnDemand: pods are ready with models in Standby, and the first request loads them. Preload: pods are ready once models are loaded and warm.
    pub loading: Loading,
    /// What a search does while the reranker loads: Wait, up to its deadline, or Fallback, vector order at once.
    pub while_loading: WhileLoading,
    /// Run the largest batch after each load.
    pub warm: bool,
    /// Idle time after which embedder and reranker are unloaded; 0 = never.
    #[schemars(range(min = 0, max = 604_800))]
    pub unload_timeout_seconds: i32,
}

/// Deadlines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timeouts {
    /// Of a whole request.
    #[schemars(range(min = 1, max = 3_600))]
    pub request_seconds: i32,
    /// Of the vector search.
    #[schemars(range(min = 1, max = 3_600))]
    pub vector_search_seconds: i32,
    /// Of reranking; past it the answer is the vector order.
    #[schemars(range(min = 1, max = 3_600))]
    pub rerank_seconds: i32,
}

/// Model names and bounds of the API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Api {
    /// Names that clients send for a served model: alias to model id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub model_aliases: BTreeMap<String, String>,
    /// Bounds of one request and of the queue.
    pub limits: Limits,
}

/// Bounds of one request and of the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Documents of one rerank request.
    #[schemars(range(min = 1, max = 10_000))]
    pub documents: i32,
    /// Bytes of one request body.
    #[schemars(range(min = 1_024, max = 268_435_456))]
    pub body_bytes: i64,
    /// Pairs that wait or are being scored.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue_pairs: i32,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Logging {
    /// In the syntax of RUST_LOG, without regular expressions.
    #[schemars(length(min = 1, max = 4_096))]
    pub filter: String,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tracing {
    /// http:// or https://, host and port of an OpenTelemetry collector that speaks OTLP over gRPC (4317). Left out, there are no traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2_048), regex(pattern = r"^https?://.+"))]
    pub otlp_endpoint: Option<String>,
    /// Of a hundred requests that come without a trace, so many begin one.
    #[schemars(range(min = 0, max = 100))]
    pub sample_ratio_percent: i32,
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

impl Default for Limits {
    fn default() -> Self {
        Self { documents: 1_000, body_bytes: 2 * 1024 * 1024, queue_pairs: 10_000 }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self { filter: "info".to_owned() }
    }
}

impl Default for Tracing {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio_percent: 10 }
    }
}
