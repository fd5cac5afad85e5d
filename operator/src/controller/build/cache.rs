//! The claim that keeps downloads. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::{AccessMode, Cache};

use super::{mounts, names};

pub(super) fn claim(object: &RerankDeployment) -> Option<PersistentVolumeClaim> {
    let Cache { size, storage_class, access_mode } =
        object.spec.weights.cache.clone().filter(|_| mounts::has_cache_claim(&object.spec))?;
    let mode = match access_mode.unwrap_or(AccessMode::ReadWriteOnce) {
        AccessMode::ReadWriteOnce => "ReadWriteOnce",
        AccessMode::ReadWriteMany => "ReadWriteMany",
        AccessMode::ReadWriteOncePod => "ReadWriteOncePod",
    };
    Some(PersistentVolumeClaim {
        metadata: names::metadata(object, names::cache_claim(object)),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![mode.to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
                ..VolumeResourceRequirements::default()
            }),
            // An empty name is one: no class. Left out, the cluster's default.
            storage_class_name: storage_class.filter(|class| !class.is_empty()),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}
