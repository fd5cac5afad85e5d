//! The fields that say who may call, and where the pods may connect to. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server_config::ModelControl;

/// Who may call, and where the pods may connect to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("!has(self.clients) || has(self.apiKeysSecretRef)", "clients needs apiKeysSecretRef: without keys no client has a name"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Access {
    /// Secret of this namespace: client name to API key. Left out, no key is asked for. What changes in it counts without a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys_secret_ref: Option<ApiKeysSecret>,
    /// Clients that may use some collections only; every other client may use all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub clients: Vec<ClientAccess>,
    /// Who may load and unload models through the API: Authenticated callers, everyone (Open), nobody (Disabled).
    pub model_control: ModelControl,
    /// What may reach the pods and what they may reach.
    pub network_policy: NetworkPolicy,
    /// Secret of type kubernetes.io/tls that the API is served with. Left out, plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_secret_ref: Option<SecretName>,
}

/// A Secret of API keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeysSecret {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = super::bounds::OBJECT_NAME))]
    pub name: String,
}

/// A Secret of this namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretName {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = super::bounds::OBJECT_NAME))]
    pub name: String,
}

/// What one client may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientAccess {
    /// Name of the client: its key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Collections that it may search and index; the first is its default. None: it may only rerank and embed.
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub collections: Vec<String>,
}

/// A NetworkPolicy of the pods: in only to the API and control ports; out only to DNS and to the ports of Qdrant, of the hub and of the collector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkPolicy {
    /// False: there is none.
    pub enabled: bool,
    /// Where those ports may be reached. Left out, anywhere: a policy cannot name hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub egress_peers: Vec<EgressPeer>,
}

/// A range of addresses, or pods of this namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("has(self.cidr) != has(self.podLabels)", "name one of cidr and podLabels"),
    ("!has(self.cidr) || (isCIDR(self.cidr) && cidr(self.cidr) == cidr(self.cidr).masked())", "cidr must be the first address of a range and its length, such as 10.0.0.0/8"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressPeer {
    /// Addresses, such as 10.0.0.0/8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub cidr: Option<String>,
    /// Labels of pods of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_labels: Option<std::collections::BTreeMap<String, String>>,
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self { enabled: true, egress_peers: Vec::new() }
    }
}
