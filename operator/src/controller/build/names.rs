//! Names, labels and owner of the children. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::labels;
use sha2::{Digest, Sha256};

use crate::controller::validate::Plan;

/// Hexadecimal digits of a configuration's digest in its ConfigMap's name: as many as fit into 63 characters behind the longest name.
const CONFIG_NAME_DIGITS: usize = 7;

/// The ConfigMap's name. Each configuration has one of its own: pods of before, whenever they start again, read what they were made
/// with.
pub fn config_map(object: &RerankDeployment, plan: &Plan) -> String {
    let digest: String = config_digest(plan).chars().take(CONFIG_NAME_DIGITS).collect();
    format!("{}-config-{digest}", object.name_any())
}

/// Digest of the server's configuration.
pub(super) fn config_digest(plan: &Plan) -> String {
    hex::encode(Sha256::digest(plan.config_yaml.as_bytes()))
}

/// The name of the claim that keeps downloads.
pub fn cache_claim(object: &RerankDeployment) -> String {
    format!("{}-cache", object.name_any())
}

/// Labels that choose the pods. They never change: a Deployment's selector cannot.
pub fn selector(object: &RerankDeployment) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), labels::APPLICATION.to_owned()),
        ("app.kubernetes.io/instance".to_owned(), object.name_any()),
    ])
}

/// Labels of every child.
pub fn all_labels(object: &RerankDeployment) -> BTreeMap<String, String> {
    let mut all = selector(object);
    all.insert("app.kubernetes.io/component".to_owned(), "server".to_owned());
    all.insert("app.kubernetes.io/part-of".to_owned(), "rerank".to_owned());
    all.insert("app.kubernetes.io/managed-by".to_owned(), labels::FIELD_MANAGER.to_owned());
    all
}

/// Metadata of a child: it goes with its owner.
pub fn metadata(object: &RerankDeployment, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: object.namespace(),
        labels: Some(all_labels(object)),
        owner_references: Some(vec![owner(object)]),
        ..ObjectMeta::default()
    }
}

/// The reference of a child to its owner. Deletion of the owner does not wait for the child.
pub fn owner(object: &RerankDeployment) -> OwnerReference {
    OwnerReference {
        api_version: RerankDeployment::api_version(&()).into_owned(),
        kind: RerankDeployment::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    }
}

/// Labels as one text, as the scale subresource has them.
pub fn selector_text(object: &RerankDeployment) -> String {
    selector(object).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
