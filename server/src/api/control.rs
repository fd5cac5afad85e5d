//! The control port: probes, metrics, and the states of models with their failures. Open to whoever reaches it, so it
//! tells nothing of requests and takes no orders.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;

use super::models;
use super::service::Service;
use crate::metrics::{self, Metrics};
use crate::shutdown::{Phase, Readiness};

/// What the control port shows.
#[derive(Clone, Debug)]
pub struct ControlState {
    /// None until stores are open: probes answer before.
    pub service: Arc<std::sync::OnceLock<Arc<dyn Service>>>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Where the process stands.
    pub readiness: Readiness,
}

/// Routes of the control port.
pub fn router(state: ControlState) -> Router {
    Router::new()
        .route("/startupz", get(startup))
        .route("/readyz", get(ready))
        .route("/livez", get(live))
        .route("/metrics", get(metrics_text))
        .route("/v1/models", get(model_states))
        .with_state(state)
}

fn answer(status: StatusCode, state: &str, reason: Option<&str>) -> Response {
    let body = match reason {
        Some(reason) => json!({"status": state, "reason": reason}),
        None => json!({"status": state}),
    };
    (status, Json(body)).into_response()
}

/// Started; with `lifecycle.loading: Preload`, models are loaded and warm.
async fn startup(State(state): State<ControlState>) -> Response {
    match state.readiness.phase() {
        Phase::Starting { detail } => answer(StatusCode::SERVICE_UNAVAILABLE, "starting", Some(&detail)),
        Phase::Ready | Phase::Stalled { .. } | Phase::Failed { .. } | Phase::Draining => {
            answer(StatusCode::OK, "started", None)
        }
    }
}

/// Accepting requests, with engines whose batches end.
async fn ready(State(state): State<ControlState>) -> Response {
    match state.readiness.phase() {
        Phase::Starting { detail } => answer(StatusCode::SERVICE_UNAVAILABLE, "starting", Some(&detail)),
        Phase::Ready => answer(StatusCode::OK, "ready", None),
        Phase::Stalled { detail } => answer(StatusCode::SERVICE_UNAVAILABLE, "stalled", Some(&detail)),
        Phase::Failed { detail } => answer(StatusCode::SERVICE_UNAVAILABLE, "failed", Some(&detail)),
        Phase::Draining => answer(StatusCode::SERVICE_UNAVAILABLE, "draining", Some("the process is shutting down")),
    }
}

/// The process answers. It fails on nothing that a restart would not mend.
async fn live(State(state): State<ControlState>) -> Response {
    match state.readiness.phase() {
        Phase::Failed { detail } => answer(StatusCode::SERVICE_UNAVAILABLE, "failed", Some(&detail)),
        Phase::Starting { .. } | Phase::Ready | Phase::Stalled { .. } | Phase::Draining => {
            answer(StatusCode::OK, "alive", None)
        }
    }
}

async fn metrics_text(State(state): State<ControlState>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], state.metrics.encode()).into_response()
}

async fn model_states(State(state): State<ControlState>) -> Response {
    let statuses = state.service.get().map(|service| service.models()).unwrap_or_default();
    Json(models::list(statuses)).into_response()
}
