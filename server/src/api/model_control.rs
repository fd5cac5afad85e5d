//! `POST /v1/models/load` and `POST /v1/models/unload`, as far as `access.modelControl` lets them.

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode};
use rerank_crds::catalog::Quantization;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorCode};
use super::exchange::{ActiveRequest, Arrival};
use super::request::{Fields, parse_json};
use super::rerank;
use super::search::quantization;
use crate::pool::ModelKey;
use crate::search::{ModelLoad, RerankChoice};

/// Body of both.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelBody {
    /// A configured model or an alias.
    model: String,
    /// How its weights are held; left out: as configured.
    quantization: Option<String>,
}

impl Fields for ModelBody {
    const FIELDS: &'static [&'static str] = &["model", "quantization"];
}

/// What became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelAnswer {
    model: String,
    #[schema(value_type = String)]
    quantization: Quantization,
    /// Ready, Loading (it goes on), or Standby.
    state: &'static str,
    /// Bytes that came back; left out where nothing was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    freed_memory_bytes: Option<u64>,
}

impl ModelAnswer {
    fn of(key: ModelKey, state: &'static str, freed_memory_bytes: Option<u64>) -> Self {
        Self { model: key.model, quantization: key.quantization, state, freed_memory_bytes }
    }
}

/// Load a model.
///
/// Waits for it for half of `timeouts.requestSeconds`; after that it answers 202 and the load goes on.
#[utoipa::path(post, path = "/v1/models/load", tag = "models",
    request_body(content = ModelBody, example = json!({"model": "tiny-reranker"})),
    responses((status = 200, description = "It answers requests", body = ModelAnswer),
              (status = 202, description = "It is still loading", body = ModelAnswer)))]
pub(super) async fn load(
    State(state): State<ApiState>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ModelAnswer>), ApiError> {
    let choice = read(&state, &headers, body).await?;
    let active = ActiveRequest::begin(arrival);
    let outcome = state.service.load_model(&choice, &active.context).await;
    active.answered();
    Ok(match outcome? {
        ModelLoad::Ready(key) => (StatusCode::OK, Json(ModelAnswer::of(key, "Ready", None))),
        ModelLoad::Loading(key) => (StatusCode::ACCEPTED, Json(ModelAnswer::of(key, "Loading", None))),
    })
}

/// Unload a model that no request uses.
#[utoipa::path(post, path = "/v1/models/unload", tag = "models",
    request_body(content = ModelBody, example = json!({"model": "tiny-reranker"})),
    responses((status = 200, description = "Its memory is back", body = ModelAnswer)))]
pub(super) async fn unload(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ModelAnswer>, ApiError> {
    let choice = read(&state, &headers, body).await?;
    let (key, freed) = state.service.unload_model(&choice).await?;
    Ok(Json(ModelAnswer::of(key, "Standby", freed)))
}

async fn read(state: &ApiState, headers: &HeaderMap, body: Body) -> Result<RerankChoice, ApiError> {
    if !state.settings.model_control_is_open && state.keys.is_none() {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "models are loaded and unloaded by callers with an API key only, and no keys are configured",
        )
        .allowed(["set access.apiKeysFile", "set access.modelControl: Open"]));
    }
    let bytes = rerank::read(state, headers, body).await?;
    let ModelBody { model, quantization: wanted } = parse_json(headers, &bytes)?;
    let quantization = wanted.map(|wanted| quantization(&wanted, "quantization")).transpose()?;
    Ok(RerankChoice { model: Some(model), quantization })
}
