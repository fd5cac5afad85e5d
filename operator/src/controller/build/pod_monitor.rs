//! The PodMonitor: has a Prometheus operator scrape each pod's control port. Pure.
//!
//! Its kind belongs to somebody else's definition, so it is written as JSON.

use kube::ResourceExt;
use rerank_crds::RerankDeployment;
use serde_json::{Value, json};

use super::names;

/// The group and version of the kind.
pub const GROUP_VERSION: &str = "monitoring.coreos.com/v1";
/// The kind.
pub const KIND: &str = "PodMonitor";

pub(super) fn pod_monitor(object: &RerankDeployment) -> Value {
    json!({
        "apiVersion": GROUP_VERSION,
        "kind": KIND,
        "metadata": names::metadata(object, object.name_any()),
        "spec": {
            "selector": {"matchLabels": names::selector(object)},
            "podMetricsEndpoints": [{"port": "control", "path": "/metrics"}],
        },
    })
}
