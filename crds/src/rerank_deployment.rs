//! `RerankDeployment`, what a platform team applies. Pure: types, their schema and its rules.
//!
//! Fields are named as in [`ServerConfig`](crate::server_config::ServerConfig), which the operator renders from them. Whatever can be wrong
//! without looking at the cluster is refused by the schema: every string, list, map and number has bounds, rules that need two fields are
//! CEL with a message that says what is allowed. There is no `namespace` in any reference: an object speaks of its own namespace only.

#![allow(clippy::duplicated_attributes, reason = "columns of one type are no duplicates")]

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

mod accelerator;
mod access;
mod bounds;
pub mod conditions;
mod definition;
pub mod labels;
mod models;
mod pod;
mod reference;
mod scaling;
mod serving;
mod status;
mod store;
mod weights;

pub use accelerator::{Accelerator, Cpu, Gpu, ResourceClaim};
pub use access::{Access, ApiKeysSecret, ClientAccess, EgressPeer, NetworkPolicy, SecretName};
pub use definition::{DefinitionError, MAXIMUM_NAME_CHARACTERS, definition, yaml};
pub use models::{BatchSizes, CustomReranker, Embedding, Instruction, Override, Prompt, Reranker, Scoring};
pub use pod::{PodTemplate, Service, ServiceType};
pub use reference::markdown;
pub use scaling::{Autoscaling, Rollout};
pub use serving::{Api, Candidates, Lifecycle, Limits, Logging, Timeouts, Tracing};
pub use status::{
    Address, MAXIMUM_MODEL_NAME_CHARACTERS, MAXIMUM_MODELS, Model, ModelState, Performance, RerankDeploymentStatus,
    SelectedReranker,
};
pub use store::{Collection, Qdrant, QdrantTls, SecretKey, VectorStore};
pub use weights::{AccessMode, Cache, Hub, ImageVolume, Weights};

/// Two-stage search as a service: embed the query, take candidates from Qdrant, let a cross-encoder read each of them, answer the best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, schemars::JsonSchema)]
#[kube(
    group = "rerank.semantik.dev",
    version = "v1alpha1",
    kind = "RerankDeployment",
    plural = "rerankdeployments",
    shortname = "rrd",
    category = "all",
    namespaced,
    status = "RerankDeploymentStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reranker", type_ = "string", json_path = ".status.reranker.model"),
    printcolumn(name = "Quantization", type_ = "string", json_path = ".status.reranker.quantization"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Answering", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Loaded", type_ = "string", json_path = ".status.conditions[?(@.type==\"ModelReady\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    derive = "PartialEq"
)]
#[schemars(extend("x-kubernetes-validations" = bounds::rules(&[
    ("has(self.embedding.model) || !has(self.vectorStore)", "embedding.model is required with vectorStore: it names the model that indexed the collections"),
    ("has(self.embedding.model) || has(self.reranker.model)", "name embedding.model (and vectorStore) to search, or reranker.model to rerank only"),
    ("self.reranker.enabled || has(self.vectorStore) || has(self.embedding.model)", "with reranker.enabled: false and without embedding.model nothing is left to serve"),
    ("!has(self.weights.cache) || !has(self.weights.cache.accessMode) || self.weights.cache.accessMode != 'ReadWriteOncePod' || (self.replicas <= 1 && !has(self.autoscaling) && self.rollout != 'Surge')", "a cache of accessMode ReadWriteOncePod is mounted by one pod alone: at most 1 replica, no autoscaling, and rollout Auto or Recreate; ReadWriteMany allows more"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RerankDeploymentSpec {
    /// The server's image. Default: the operator's, one for CPU and one for GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = bounds::IMAGE))]
    pub image: Option<String>,
    /// When the image is pulled. Default: as the cluster does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets of this namespace that the image is pulled with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Which engine computes.
    #[serde(default)]
    pub engine: Engine,
    /// The model that indexed the collections and embeds the queries.
    #[serde(default)]
    pub embedding: Embedding,
    /// The cross-encoder and how it is asked.
    #[serde(default)]
    pub reranker: Reranker,
    /// How many candidates the vector search brings: clamp(k x multiplier, minimum, maximum), never fewer than k.
    #[serde(default)]
    pub candidates: Candidates,
    /// When models are loaded, warmed and unloaded.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// Deadlines of a request and of its stages.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Where documents live. Left out, the service is rerank-only: /search answers 404.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_store: Option<VectorStore>,
    /// Where weights come from.
    #[serde(default)]
    pub weights: Weights,
    /// What a pod is scheduled onto. Default: one nvidia.com/gpu.
    #[serde(default)]
    pub accelerator: Accelerator,
    /// Pods. 0 pauses the service. Written by whoever scales: kubectl scale, a HorizontalPodAutoscaler, KEDA.
    #[serde(default = "one_replica")]
    #[schemars(range(min = 0, max = 1_000))]
    pub replicas: i32,
    /// A HorizontalPodAutoscaler on the pairs that wait. Left out, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// How a changed pod replaces the old one.
    #[serde(default)]
    pub rollout: Rollout,
    /// Who may call, and where the pods may connect to.
    #[serde(default)]
    pub access: Access,
    /// Model names and bounds of the API.
    #[serde(default)]
    pub api: Api,
    /// What is logged.
    #[serde(default)]
    pub logging: Logging,
    /// Where traces go.
    #[serde(default)]
    pub tracing: Tracing,
    /// The Service in front of the pods.
    #[serde(default)]
    pub service: Service,
    /// What the operator adds to each pod.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum PullPolicy {
    /// At each start of a container.
    Always,
    /// Where the node lacks it.
    IfNotPresent,
    /// Never: it must be on the node.
    Never,
}

/// Which engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Engine {
    /// Packed on a CPU where it is built and supports the model, else Mistralrs.
    #[default]
    Auto,
    /// mistral.rs: GPU and CPU, every decoder that it loads.
    Mistralrs,
    /// Our own forward pass for the Qwen3 family on a CPU.
    Packed,
}

fn one_replica() -> i32 {
    1
}
