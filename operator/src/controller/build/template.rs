//! What tells one pod template from another. Pure. Every question of which template is meant is answered by this alone: whether pods
//! will be replaced, whether a pod is of what is asked for now, whether a template is held back.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::ResourceExt;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Annotation of a pod template, and so of its pods: digest of the template as the operator built it. What others add is not in it.
pub const TEMPLATE_DIGEST: &str = "rerank.semantik.dev/template-digest";

/// The digest of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateDigest(String);

impl TemplateDigest {
    /// That of a template which `stamp` has seen.
    pub fn of_template(template: &PodTemplateSpec) -> Option<Self> {
        Some(Self(template.metadata.as_ref()?.annotations.as_ref()?.get(TEMPLATE_DIGEST)?.clone()))
    }

    /// That of a Deployment or ReplicaSet. None: it is of an operator that did not write it.
    pub fn of_deployment(deployment: &Value) -> Option<Self> {
        let digest = &deployment["spec"]["template"]["metadata"]["annotations"][TEMPLATE_DIGEST];
        digest.as_str().map(|digest| Self(digest.to_owned()))
    }

    /// That of the template which a pod was made of.
    pub fn of_pod(pod: &Pod) -> Option<Self> {
        pod.annotations().get(TEMPLATE_DIGEST).map(|digest| Self(digest.clone()))
    }
}

/// Writes its digest into a template.
pub(super) fn stamp(mut template: PodTemplateSpec) -> PodTemplateSpec {
    template.metadata.get_or_insert_default().annotations.get_or_insert_default().remove(TEMPLATE_DIGEST);
    // Maps of these types are sorted, so the same template gives the same text.
    let text = serde_json::to_string(&template).unwrap_or_default();
    let digest = hex::encode(Sha256::digest(text.as_bytes()));
    let annotations = template.metadata.get_or_insert_default().annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_DIGEST.to_owned(), digest);
    template
}
