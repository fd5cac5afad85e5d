//! The fields that say what a pod is scheduled onto. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a pod is scheduled onto: a GPU by its resource name, a claim of a device (DRA), or CPUs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("(has(self.gpu) ? 1 : 0) + (has(self.cpu) ? 1 : 0) + (has(self.resourceClaims) ? 1 : 0) == 1", "name one of gpu, cpu and resourceClaims"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Accelerator {
    /// An extended resource: a whole GPU, a MIG slice, a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// No GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Claims of devices by DRA (resource.k8s.io/v1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub resource_claims: Option<Vec<ResourceClaim>>,
}

/// An extended resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Gpu {
    /// Its name, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb.
    #[schemars(
        length(min = 3, max = 253),
        regex(
            pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
        )
    )]
    pub resource_name: String,
    /// How many. Above 1, layers are spread over them.
    #[schemars(range(min = 1, max = 16))]
    pub count: i32,
    /// Memory of one, in bytes, where no node label tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_000_000_000, max = 1_000_000_000_000_i64))]
    pub memory_bytes: Option<i64>,
}

/// No GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cpu {}

/// A claim of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("has(self.resourceClaimName) != has(self.resourceClaimTemplateName)", "name one of resourceClaimName and resourceClaimTemplateName"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceClaim {
    /// Its name in the pod.
    #[schemars(length(min = 1, max = 63), regex(pattern = super::bounds::LABEL))]
    pub name: String,
    /// A claim of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = super::bounds::OBJECT_NAME))]
    pub resource_claim_name: Option<String>,
    /// A template of this namespace that makes a claim for each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = super::bounds::OBJECT_NAME))]
    pub resource_claim_template_name: Option<String>,
}

impl Default for Accelerator {
    fn default() -> Self {
        Self { gpu: Some(Gpu::default()), cpu: None, resource_claims: None }
    }
}

impl Default for Gpu {
    fn default() -> Self {
        Self { resource_name: "nvidia.com/gpu".to_owned(), count: 1, memory_bytes: None }
    }
}
