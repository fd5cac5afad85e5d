//! The Deployment: how many pods, and how a changed pod replaces the old one. Pure.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use rerank_crds::RerankDeployment;

use super::{Settings, names, pod};
use crate::controller::validate::Plan;

/// How a changed pod replaces the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// The new pod first: no gap, but what the pod computes on is needed twice for a while.
    Surge,
    /// The old pod first, one after the other: a gap where there is only one.
    InPlace,
}

/// What a rollout may take beyond the start of one pod, in seconds.
const ROLLOUT_MARGIN_SECONDS: i32 = 600;

/// Old ReplicaSets that are kept, to go back to.
const HISTORY: i32 = 3;

pub(super) fn deployment(
    object: &RerankDeployment,
    plan: &Plan,
    replacement: Replacement,
    settings: &Settings,
) -> Deployment {
    let (surge, unavailable) = match replacement {
        Replacement::Surge => (1, 0),
        Replacement::InPlace => (0, 1),
    };
    Deployment {
        metadata: names::metadata(object, object.name_any()),
        spec: Some(DeploymentSpec {
            replicas: Some(object.spec.replicas),
            revision_history_limit: Some(HISTORY),
            progress_deadline_seconds: Some(pod::start_seconds(plan).saturating_add(ROLLOUT_MARGIN_SECONDS)),
            selector: LabelSelector { match_labels: Some(names::selector(object)), ..LabelSelector::default() },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(surge)),
                    max_unavailable: Some(IntOrString::Int(unavailable)),
                }),
            }),
            template: pod::template(object, plan, settings),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}
