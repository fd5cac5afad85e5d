//! HTTP: routes, wire types, errors. Each vendor's format is a file of thin wire types over the same use cases. It extracts, calls [`service::Service`] and maps; it decides nothing about ranking.
//!
//! One outer layer ([`exchange`]) gives every request its id, span, metric and error body. `error` alone knows status
//! codes. Sockets are not its business (`crate::http`), so every route is tested by calling the router.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::access::KeyRing;
use crate::engine::fatal::FatalSignal;
use crate::metrics::Metrics;
use crate::shutdown::Readiness;

pub mod control;
mod dialect;
mod documents;
mod embeddings;
pub mod error;
pub mod exchange;
#[cfg(test)]
pub(crate) mod golden;
mod model_control;
mod models;
mod openapi;
pub mod request;
mod rerank;
mod score;
mod search;
pub mod service;
#[cfg(test)]
mod tests;

pub use error::{ApiError, ErrorCode};
use request::BodyBounds;
use service::Service;

/// Every route of the API port with its methods: what metrics name, and what a wrong path is told.
pub(crate) const ROUTES: [(&str, &[&str]); 13] = [
    ("/search", &["GET", "POST"]),
    ("/search/batch", &["POST"]),
    ("/documents", &["POST"]),
    ("/v1/rerank", &["POST"]),
    ("/rerank", &["POST"]),
    ("/v2/rerank", &["POST"]),
    ("/v1/score", &["POST"]),
    ("/score", &["POST"]),
    ("/v1/embeddings", &["POST"]),
    ("/v1/models", &["GET"]),
    ("/v1/models/load", &["POST"]),
    ("/v1/models/unload", &["POST"]),
    ("/openapi.json", &["GET"]),
];

/// Bounds and switches of the API, from the configuration.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// What request bodies may take.
    pub bodies: BodyBounds,
    /// Documents of one request, at most.
    pub documents: usize,
    /// The collections of each client that may not use all of them (`access.clients`), by the client's name.
    pub restricted_clients: BTreeMap<String, Arc<[String]>>,
    /// Whether `POST /documents` exists.
    pub writable: bool,
    /// A request that takes longer is told as a warning; None: none is.
    pub slow_request: Option<Duration>,
    /// Whether models can be loaded and unloaded by request.
    pub model_control: bool,
    /// Also where no keys are configured; where they are, every route asks for one.
    pub model_control_is_open: bool,
}

/// What handlers see. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// The use cases.
    pub service: Arc<dyn Service>,
    /// Bounds and switches.
    pub settings: Arc<ApiSettings>,
    /// Who may call; None: everyone.
    pub keys: Option<Arc<KeyRing>>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the process is ending.
    pub readiness: Readiness,
    /// Tripped when nothing may be answered any more.
    pub fatal: FatalSignal,
}

/// Routes of the API port.
pub fn router(state: ApiState) -> Router {
    let mut router = Router::new()
        .route("/search", get(search::get).post(search::post))
        .route("/search/batch", post(search::batch))
        .route("/v1/rerank", post(rerank::post))
        .route("/rerank", post(rerank::post_either))
        .route("/v2/rerank", post(rerank::cohere::post))
        .route("/v1/score", post(score::post))
        .route("/score", post(score::post))
        .route("/v1/embeddings", post(embeddings::post))
        .route("/v1/models", get(models::get))
        .route("/openapi.json", get(openapi::get));
    if state.settings.model_control {
        router = router
            .route("/v1/models/load", post(model_control::load))
            .route("/v1/models/unload", post(model_control::unload));
    }
    if state.settings.writable {
        router = router.route("/documents", post(documents::post));
    }
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(state.clone(), exchange::handle))
        .with_state(state)
}

/// Stands for every path that is no route: what a client sends there is its own text.
const OTHER: &str = "other";

/// The route's pattern for metrics and logs; [`OTHER`] for whatever else a client sends.
pub(crate) fn route_of(path: &str) -> &'static str {
    ROUTES.iter().find(|(route, _)| *route == path).map_or(OTHER, |(route, _)| route)
}

async fn unknown_route(axum::extract::State(state): axum::extract::State<ApiState>) -> ApiError {
    let existing = ROUTES.iter().map(|(route, _)| *route);
    ApiError::new(ErrorCode::NotFound, "there is no such route")
        .allowed(existing.filter(|route| exists(&state.settings, route)))
}

/// Whether a route of the list exists in this configuration.
fn exists(settings: &ApiSettings, route: &str) -> bool {
    match route {
        "/documents" => settings.writable,
        "/v1/models/load" | "/v1/models/unload" => settings.model_control,
        _ => true,
    }
}

async fn unknown_method(uri: http::Uri) -> ApiError {
    let methods = ROUTES.iter().find(|(route, _)| *route == uri.path()).map_or(&[][..], |(_, methods)| methods);
    ApiError::new(ErrorCode::MethodNotAllowed, "the route does not know this method").allowed(methods.iter().copied())
}
