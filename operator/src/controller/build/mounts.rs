//! Where things lie in the pod, and the volumes that bring them. Pure.
//!
//! Secrets are mounted optional: that one is absent is a finding of preflight, and not a pod that never starts.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, ImageVolumeSource, PersistentVolumeClaimVolumeSource,
    SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::{ImageVolume, PullPolicy, RerankDeploymentSpec};

use super::names;
use crate::controller::validate::Plan;

/// The folder of the configuration.
const CONFIGURATION: &str = "/etc/rerank";

/// The configuration's file, as the server expects it.
pub const CONFIGURATION_FILE: &str = "/etc/rerank/config.yaml";

/// The key of the ConfigMap.
pub const CONFIGURATION_KEY: &str = "config.yaml";

/// The folder of the weights.
pub const WEIGHTS: &str = "/models";

/// A folder that may be written.
const TEMPORARY: &str = "/tmp";

const SECRETS: &str = "/etc/rerank-secrets";

/// A Secret's place in the pod.
#[derive(Clone, Copy, Debug)]
pub struct SecretMount {
    /// Name of the volume and of the folder.
    name: &'static str,
}

/// Client names and their keys.
pub const API_KEYS: SecretMount = SecretMount { name: "api-keys" };
/// Certificate of the API.
pub const TLS: SecretMount = SecretMount { name: "tls" };
/// Qdrant's API key.
pub const QDRANT_KEY: SecretMount = SecretMount { name: "qdrant-key" };
/// The CA of Qdrant's certificate.
pub const QDRANT_CA: SecretMount = SecretMount { name: "qdrant-ca" };
/// The client certificate for Qdrant.
pub const QDRANT_CLIENT: SecretMount = SecretMount { name: "qdrant-client" };
/// Token of the hub.
pub const HUB_TOKEN: SecretMount = SecretMount { name: "hub-token" };

impl SecretMount {
    /// The folder that it is mounted at.
    pub fn directory(self) -> PathBuf {
        Path::new(SECRETS).join(self.name)
    }

    /// The file of one key.
    pub fn file(self, key: &str) -> PathBuf {
        self.directory().join(key)
    }
}

/// The Secrets that a specification names, with their places. All are read by the server alone.
pub fn secrets(spec: &RerankDeploymentSpec) -> Vec<(SecretMount, String)> {
    let qdrant = spec.vector_store.as_ref().map(|store| &store.qdrant);
    let tls = qdrant.and_then(|qdrant| qdrant.tls.as_ref());
    let named = [
        (API_KEYS, spec.access.api_keys_secret_ref.as_ref().map(|secret| &secret.name)),
        (TLS, spec.access.tls_secret_ref.as_ref().map(|secret| &secret.name)),
        (QDRANT_KEY, qdrant.and_then(|qdrant| qdrant.api_key_secret_ref.as_ref()).map(|secret| &secret.name)),
        (QDRANT_CA, tls.and_then(|tls| tls.ca_secret_ref.as_ref()).map(|secret| &secret.name)),
        (QDRANT_CLIENT, tls.and_then(|tls| tls.client_secret_ref.as_ref()).map(|secret| &secret.name)),
        (HUB_TOKEN, spec.weights.hub.as_ref().and_then(|hub| hub.token_secret_ref.as_ref()).map(|secret| &secret.name)),
    ];
    named.into_iter().filter_map(|(mount, name)| Some((mount, name?.clone()))).collect()
}

/// The pod's volumes, and where its containers see them.
pub fn volumes(object: &RerankDeployment, plan: &Plan) -> (Vec<Volume>, Vec<VolumeMount>) {
    let spec = &object.spec;
    let mut volumes = vec![
        Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::config_map(object, plan),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        weights(object),
        Volume {
            name: "temporary".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity("64Mi".to_owned())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    let is_downloaded = has_hub(spec);
    let mut mounts = vec![
        mount("config", CONFIGURATION, true),
        mount("weights", WEIGHTS, !is_downloaded),
        mount("temporary", TEMPORARY, false),
    ];
    for (place, secret) in secrets(spec) {
        volumes.push(Volume {
            name: place.name.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret),
                optional: Some(true),
                // The group of the pod reads it, nobody else.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
        mounts.push(mount(place.name, &place.directory().to_string_lossy(), true));
    }
    (volumes, mounts)
}

/// Whether models are downloaded: where neither a claim nor an image holds them.
pub fn has_hub(spec: &RerankDeploymentSpec) -> bool {
    spec.weights.persistent_volume_claim.is_none() && spec.weights.image.is_none()
}

/// Whether downloads are kept in a claim of ours.
pub fn has_cache_claim(spec: &RerankDeploymentSpec) -> bool {
    let cache = spec.weights.cache.as_ref();
    has_hub(spec) && cache.is_some_and(|cache| cache.storage_class.is_some() || cache.access_mode.is_some())
}

fn weights(object: &RerankDeployment) -> Volume {
    let weights = &object.spec.weights;
    let claim = |claim_name: String, read_only| {
        Some(PersistentVolumeClaimVolumeSource {
            claim_name,
            read_only: Some(read_only).filter(|read_only| *read_only),
        })
    };
    let volume = Volume { name: "weights".to_owned(), ..Volume::default() };
    if let Some(name) = &weights.persistent_volume_claim {
        return Volume { persistent_volume_claim: claim(name.clone(), true), ..volume };
    }
    if let Some(ImageVolume { reference, pull_policy }) = &weights.image {
        let image = ImageVolumeSource {
            reference: Some(reference.clone()),
            pull_policy: pull_policy.map(|policy| policy_name(policy).to_owned()),
        };
        return Volume { image: Some(image), ..volume };
    }
    if has_cache_claim(&object.spec) {
        return Volume { persistent_volume_claim: claim(names::cache_claim(object), false), ..volume };
    }
    let size = weights.cache.clone().unwrap_or_default().size;
    Volume {
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity(size)), ..EmptyDirVolumeSource::default() }),
        ..volume
    }
}

/// The name of a policy in Kubernetes.
pub fn policy_name(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        // False is not sent.
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}
