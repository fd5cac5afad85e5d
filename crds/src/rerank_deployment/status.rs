//! What the operator says of an object. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalog::Quantization;

/// The most models that status holds: sixteen overrides of four quantizations, embedder and reranker are fewer.
pub const MAXIMUM_MODELS: usize = 128;

/// The most characters of a model's name.
pub const MAXIMUM_MODEL_NAME_CHARACTERS: usize = 200;

/// What the operator has found and done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RerankDeploymentStatus {
    /// Generation that this speaks of.
    pub observed_generation: i64,
    /// Accepted, Preflight, Available, ModelReady and Ready.
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// The reranker that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reranker: Option<SelectedReranker>,
    /// Models of the pods, also of those that do not become ready. Of more than 128 those in Standby are left out first.
    #[schemars(length(max = MAXIMUM_MODELS))]
    pub models: Vec<Model>,
    /// What was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub performance: Option<Performance>,
    /// Pods.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// Labels of the pods, for the scale subresource.
    #[schemars(length(max = 1_024))]
    pub selector: String,
    /// Where the service answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Namespace and name of the lease of the operator that looks after the object. Others leave it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub operator: Option<String>,
}

/// Where the service answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// Inside the cluster.
    #[schemars(length(max = 1_024))]
    pub url: String,
}

/// The reranker that was chosen, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelectedReranker {
    /// Model id.
    #[schemars(length(max = 200))]
    pub model: String,
    /// Commit, tag or branch, where one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub revision: Option<String>,
    /// How its weights are held.
    pub quantization: Quantization,
    /// Which engine computes.
    #[schemars(length(max = 64))]
    pub engine: String,
    /// Why this one.
    #[schemars(length(max = 1_024))]
    pub selection_reason: String,
    /// Pairs in a batch.
    pub batch_size: i32,
    /// Tokens in a batch.
    pub token_budget: i32,
    /// Memory of the device that embedder and reranker take at their peak. Left out where the catalogue does not know a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_memory_bytes: Option<i64>,
}

/// One model of the pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Model id.
    #[schemars(length(max = MAXIMUM_MODEL_NAME_CHARACTERS))]
    pub name: String,
    /// How its weights are held.
    pub quantization: Quantization,
    /// The state that most pods have.
    pub state: ModelState,
    /// Pods that have it in this state.
    pub pods: i32,
}

/// What a model is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ModelState {
    /// Not loaded; the next request loads it.
    Standby,
    /// Its weights are read.
    Loading,
    /// It runs its largest batch and its self-test.
    Warming,
    /// It scores.
    Ready,
    /// It gives its memory back.
    Unloading,
    /// Its load failed.
    Failed,
}

/// What was measured on warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Performance {
    /// Pairs a second of the slowest ready pod, with two significant digits.
    pub pairs_per_second: i64,
}
