//! `GET /v1/models`, on both ports: what is served and in which state, as a list that `OpenAI`'s clients read.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use rerank_crds::catalog::{Quantization, SelectionReason};
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use crate::pool::{ModelState, ModelStatus, SelfTestReport, WarmUp};

/// What is served.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    object: &'static str,
    data: Vec<ModelEntry>,
}

/// One model; each quantization of it has its own state.
#[derive(Debug, Serialize, ToSchema)]
struct ModelEntry {
    id: String,
    object: &'static str,
    /// Seconds since 1970; zero, since weights carry no date. Clients require the field.
    created: u64,
    owned_by: String,
    role: &'static str,
    quantizations: Vec<QuantizationEntry>,
}

/// One way its weights are held.
#[derive(Debug, Serialize, ToSchema)]
struct QuantizationEntry {
    #[schema(value_type = String)]
    quantization: Quantization,
    state: ModelState,
    /// Commit that its weights come from, once they were looked at and where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// Why it is the deployed reranker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    selection_reason: Option<SelectionReason>,
    predicted_memory_bytes: u64,
    /// What came back when it was last unloaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    freed_memory_bytes: Option<u64>,
    /// What the largest batch took after the last load.
    #[serde(skip_serializing_if = "Option::is_none")]
    warm_up: Option<WarmUp>,
    /// What the self-test after the last load came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    self_test: Option<SelfTestReport>,
    /// Why the last load failed; on the control port only.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// Models and their states.
///
/// On the API port: without the reasons of failures, which can name files.
#[utoipa::path(get, path = "/v1/models", tag = "models",
    responses((status = 200, description = "Every model that may be asked for", body = ModelList)))]
pub(super) async fn get(State(state): State<ApiState>) -> Json<ModelList> {
    let without_failures =
        state.service.models().into_iter().map(|status| ModelStatus { failure: None, ..status }).collect();
    Json(list(without_failures))
}

/// Groups states by role and model, in order of their names.
pub(super) fn list(statuses: Vec<ModelStatus>) -> ModelList {
    let mut entries: BTreeMap<(&'static str, String), Vec<QuantizationEntry>> = BTreeMap::new();
    for status in statuses {
        let ModelStatus {
            name,
            role,
            quantization,
            state,
            failure,
            predicted_memory_bytes,
            freed_memory_bytes,
            warm_up,
            self_test,
            revision,
            selection_reason,
        } = status;
        let entry = QuantizationEntry {
            quantization,
            state,
            revision,
            selection_reason,
            predicted_memory_bytes,
            freed_memory_bytes,
            warm_up,
            self_test,
            failure,
        };
        entries.entry((role, name)).or_default().push(entry);
    }
    let data = entries.into_iter().map(|((role, id), quantizations)| ModelEntry {
        object: "model",
        created: 0,
        owned_by: id.split_once('/').map_or("local", |(owner, _)| owner).to_owned(),
        role,
        quantizations,
        id,
    });
    ModelList { object: "list", data: data.collect() }
}
