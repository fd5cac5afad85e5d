//! The fields that say where weights come from. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where weights come from: a hub, a claim or an image. Left out, the hub, into a cache that goes with the pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("(has(self.hub) ? 1 : 0) + (has(self.persistentVolumeClaim) ? 1 : 0) + (has(self.image) ? 1 : 0) <= 1", "name one of hub, persistentVolumeClaim and image"),
    ("!has(self.cache) || !(has(self.persistentVolumeClaim) || has(self.image))", "cache belongs to hub; a claim or an image holds the weights already"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Weights {
    /// A hub that models are downloaded from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<Hub>,
    /// Name of a claim of this namespace that holds the weights. Mounted read-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = super::bounds::OBJECT_NAME))]
    pub persistent_volume_claim: Option<String>,
    /// An image that holds the weights, mounted as a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageVolume>,
    /// Where downloads are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Refuse models whose exact content is not known beforehand: each needs a commit as its revision, or a manifest of digests.
    pub require_pinned: bool,
}

/// A hub of models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hub {
    /// Where it is.
    #[schemars(length(min = 8, max = 2_048), regex(pattern = r"^https?://.+"))]
    pub endpoint: String,
    /// Key of a Secret that holds a token of an account that may read the models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<super::SecretKey>,
    /// http:// or https:// address of a proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 2_048), regex(pattern = r"^https?://.+"))]
    pub proxy: Option<String>,
}

/// An image that holds the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageVolume {
    /// Its reference, best with a digest.
    #[schemars(length(min = 1, max = 512), regex(pattern = super::bounds::IMAGE))]
    pub reference: String,
    /// When it is pulled. Default: as the cluster does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<super::PullPolicy>,
}

/// Where downloads are kept. Without storageClass in a volume that goes with the pod, with it in a claim that stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("!has(self.accessMode) || has(self.storageClass)", "accessMode needs storageClass; '' names the cluster's default"),
    ("!has(self.storageClass) || !has(oldSelf.storageClass) || (self.storageClass == oldSelf.storageClass && (has(self.accessMode) ? self.accessMode : 'ReadWriteOnce') == (has(oldSelf.accessMode) ? oldSelf.accessMode : 'ReadWriteOnce'))", "storageClass and accessMode of a claim cannot change: leave cache out until the claim NAME-cache is gone, then name it anew, or make an object of another name"),
    ("!has(self.storageClass) || !has(oldSelf.storageClass) || quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0", "size of a claim may only grow: leave cache out until the claim NAME-cache is gone, then name it anew, or make an object of another name"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cache {
    /// At most so much, as a Kubernetes quantity. At least 16Mi. That of a claim may grow where its class allows it.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$"))]
    pub size: String,
    /// Storage class of the claim; empty text names the cluster's default. Left out, there is no claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = super::bounds::OBJECT_NAME_OR_NONE))]
    pub storage_class: Option<String>,
    /// Access mode of the claim. Default: ReadWriteOnce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
}

/// Who may mount a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    /// Pods of one node.
    ReadWriteOnce,
    /// Pods of any node.
    ReadWriteMany,
    /// One pod.
    ReadWriteOncePod,
}

impl Default for Hub {
    fn default() -> Self {
        Self { endpoint: "https://huggingface.co".to_owned(), token_secret_ref: None, proxy: None }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { size: "50Gi".to_owned(), storage_class: None, access_mode: None }
    }
}
