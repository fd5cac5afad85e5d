//! The part of the configuration that concerns traces. Pure.

use serde::{Deserialize, Serialize};

/// Traces over OTLP: where they go, and of how many requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tracing {
    /// `http://` or `https://`, host and port of an OpenTelemetry collector that speaks OTLP over gRPC (4317). Default: no
    /// traces.
    pub otlp_endpoint: Option<String>,
    /// Of a hundred requests that come without a trace, so many begin one. A request that comes with a trace
    /// (`traceparent`) does as that says. Default 10.
    pub sample_ratio_percent: i32,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio_percent: 10 }
    }
}
