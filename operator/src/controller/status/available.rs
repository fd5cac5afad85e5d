//! Do pods answer, and are they those that are asked for? Pure: reads the Deployment's status.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::conditions::{Reason, Truth};

use super::{Seen, Template, is_of_before};
use crate::controller::pods::Trouble;

/// Counted by pods that are ready, whoever made them: the Deployment's own `Available` is true of one pod that may be missing.
pub(super) fn available(
    object: &RerankDeployment,
    seen: &Seen<'_>,
    accepted: &Trouble,
    preflight: &Trouble,
) -> Trouble {
    // Where nothing could be written it has as many as before.
    let before = seen.deployment.as_ref().and_then(|deployment| deployment.spec.as_ref()?.replicas);
    let is_written = seen.plan.is_ok() && seen.unwritten.is_none();
    let wanted = before.filter(|_| !is_written).unwrap_or(object.spec.replicas);
    let status = seen.deployment.as_ref().and_then(|deployment| deployment.status.as_ref());
    if wanted == 0 {
        let left = status.and_then(|status| status.replicas).filter(|left| *left > 0);
        let words = left.map_or_else(|| "replicas is 0".to_owned(), |left| format!("replicas is 0; {left} pods end"));
        return Trouble::new(Reason::Paused, words);
    }
    let Some(deployment) = &seen.deployment else {
        let by = if accepted.reason.truth() == Truth::True { preflight } else { accepted };
        return Trouble::new(Reason::NotCreated, format!("there are no pods: {}", by.reason.as_str()));
    };
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    // One may be missing: it is replaced, or its node is drained.
    if ready >= (wanted - 1).max(1) {
        let mut words = format!("{} of {wanted} pods are ready", ready.min(wanted));
        if let Some(trouble) = trouble(deployment, seen).filter(|_| ready < wanted) {
            words = format!("{words}; {}: {}", trouble.reason.as_str(), trouble.message);
        }
        return Trouble::new(Reason::Available, words);
    }
    trouble(deployment, seen).unwrap_or_else(|| Trouble::new(Reason::Progressing, "pods start"))
}

/// What keeps pods from being those that are asked for, while others may answer. None: they are.
pub(super) fn rollout(object: &RerankDeployment, seen: &Seen<'_>) -> Option<Trouble> {
    let deployment = seen.deployment.as_ref().filter(|_| object.spec.replicas > 0 && !is_of_before(seen))?;
    let progressing = |words: String| Trouble::new(Reason::Progressing, words);
    if seen.template == Template::Before {
        return Some(progressing("pods are about to be replaced".to_owned()));
    }
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation < deployment.metadata.generation {
        return Some(progressing("the Deployment was changed, and its controller has not looked yet".to_owned()));
    }
    let updated = status.updated_replicas.unwrap_or(0);
    let all = status.replicas.unwrap_or(0).max(object.spec.replicas);
    (updated < all).then(|| {
        let words = || progressing(format!("pods are being replaced: {updated} of {all} are what is asked for"));
        trouble(deployment, seen).unwrap_or_else(words)
    })
}

/// Whatever keeps pods from being made or from becoming ready.
fn trouble(deployment: &Deployment, seen: &Seen<'_>) -> Option<Trouble> {
    let refused = condition(deployment, "ReplicaFailure").filter(|condition| condition.status == "True");
    let refused = refused.map(|refused| Trouble::new(Reason::PodsRefused, refused.message.clone().unwrap_or_default()));
    refused.or_else(|| seen.pods.trouble.clone())
}

fn condition<'a>(deployment: &'a Deployment, name: &str) -> Option<&'a DeploymentCondition> {
    deployment.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == name)
}
