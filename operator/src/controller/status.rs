//! What is said of an object. Pure: the same observations give the same status; a condition's time moves only with its status.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::conditions::{ConditionType, Reason, Truth};
use rerank_crds::rerank_deployment::{
    Address, Model, ModelState, Performance, RerankDeploymentStatus, SelectedReranker,
};
use rerank_crds::server_config::ServedModel;

use super::build::{address, names};
use super::nodes::Fit;
use super::pods::{PodsReport, Trouble};
use super::validate::Plan;

mod available;
mod preflight;

use available::{available, rollout};
use preflight::preflight;

/// What pods say of their models.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ModelView {
    /// There is no ready pod, and none that runs says why.
    #[default]
    NoPods,
    /// None of them answered.
    NotReachable,
    /// Their models, together.
    Seen {
        /// By name and quantization.
        models: Vec<Model>,
        /// Why a load failed, in a pod's words.
        failure: Option<String>,
        /// Of the slowest pod, measured on warm-up.
        pairs_per_second: Option<i64>,
    },
}

/// Which template the live Deployment has, where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Template {
    /// The one that is asked for.
    #[default]
    Wanted,
    /// That of before; the wanted one is written now, or could not be.
    Before,
    /// That of before, and it stays so, with the replicas of now: the wanted one fits no node.
    HeldBack,
}

/// Everything that was seen and done in one reconcile.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// What is to be, where the object is understood.
    pub plan: Result<&'a Plan, Trouble>,
    /// What nodes can hold.
    pub fit: Fit,
    /// Why children were not written.
    pub unwritten: Option<Trouble>,
    /// As it is now.
    pub deployment: Option<Deployment>,
    /// Whose it is.
    pub template: Template,
    /// What pods of the wanted template say; where it is held back or none is known, those of the live one.
    pub pods: PodsReport,
    /// What the models of the same pods do.
    pub models: ModelView,
}

/// The status. `now`: the time of conditions whose status changes.
pub fn compute(object: &RerankDeployment, seen: &Seen<'_>, now: &Time) -> RerankDeploymentStatus {
    let old = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or(0);
    let accepted = accepted(seen);
    let preflight = preflight(seen, &accepted);
    let available = available(object, seen, &accepted, &preflight);
    let model_ready = model_ready(seen);
    let rollout = rollout(object, seen);
    let ready = ready(&accepted, [Some(&preflight), Some(&available), rollout.as_ref(), Some(&model_ready)]);
    let said = [
        (ConditionType::Accepted, accepted.reason.truth(), accepted),
        (ConditionType::Preflight, preflight.reason.truth(), preflight),
        (ConditionType::Available, available.reason.truth(), available),
        (ConditionType::ModelReady, model_ready.reason.truth(), model_ready),
        (ConditionType::Ready, ready.0, ready.1),
    ];
    let conditions = said.map(|(kind, truth, trouble)| condition(object, kind, truth, trouble, now));
    let counts = seen.deployment.as_ref().and_then(|deployment| deployment.status.as_ref());
    let reranker = match &seen.plan {
        Ok(plan) if !is_of_before(seen) => selected(plan),
        // Pods serve what they served.
        _ => old.reranker.clone(),
    };
    // Measured once for each configuration: a second measurement would only be noise.
    let is_same = old.reranker == reranker && (seen.template != Template::Before || is_of_before(seen));
    let kept = old.performance.filter(|_| is_same);
    let (models, performance) = match &seen.models {
        ModelView::Seen { models, pairs_per_second, .. } => {
            let measured = pairs_per_second.map(|pairs| Performance { pairs_per_second: two_digits(pairs) });
            (models.clone(), kept.or(measured))
        }
        ModelView::NoPods | ModelView::NotReachable => (Vec::new(), kept),
    };
    RerankDeploymentStatus {
        observed_generation: generation,
        conditions: conditions.to_vec(),
        reranker,
        models,
        performance,
        replicas: counts.and_then(|counts| counts.replicas).unwrap_or(0),
        ready_replicas: counts.and_then(|counts| counts.ready_replicas).unwrap_or(0),
        selector: names::selector_text(object),
        address: match old.address {
            // Pods serve as they did.
            Some(address) if is_of_before(seen) => Some(address),
            _ => Some(Address { url: address(object) }),
        },
        operator: old.operator,
    }
}

/// The status where nothing could be looked at: what was said of pods and models stays, that it could not be looked at is added.
pub fn unobserved(object: &RerankDeployment, why: &Trouble, now: &Time) -> RerankDeploymentStatus {
    let mut status = object.status.clone().unwrap_or_default();
    let unseen = |reason| Trouble::new(reason, "the operator could not look yet");
    let first = [
        (ConditionType::Accepted, why.clone()),
        (ConditionType::Preflight, unseen(Reason::NotChecked)),
        (ConditionType::Available, unseen(Reason::PodsNotObserved)),
        (ConditionType::ModelReady, unseen(Reason::ModelsNotObserved)),
        (ConditionType::Ready, why.clone()),
    ];
    let conditions = first.map(|(kind, trouble)| {
        let before = status.conditions.iter().find(|condition| condition.type_ == kind.as_str()).cloned();
        match (kind, before) {
            (ConditionType::Preflight | ConditionType::Available | ConditionType::ModelReady, Some(before)) => before,
            _ => condition(object, kind, trouble.reason.truth(), trouble, now),
        }
    });
    status.conditions = conditions.to_vec();
    status.observed_generation = object.metadata.generation.unwrap_or(0);
    status.selector = names::selector_text(object);
    status
}

/// A condition; its time moves only where its status does.
fn condition(object: &RerankDeployment, kind: ConditionType, truth: Truth, trouble: Trouble, now: &Time) -> Condition {
    let all = object.status.iter().flat_map(|status| &status.conditions);
    let since = all
        .filter(|condition| condition.type_ == kind.as_str() && condition.status == truth.as_str())
        .map(|condition| &condition.last_transition_time)
        .next();
    Condition {
        type_: kind.as_str().to_owned(),
        status: truth.as_str().to_owned(),
        reason: trouble.reason.as_str().to_owned(),
        message: trouble.message,
        observed_generation: object.metadata.generation,
        last_transition_time: since.unwrap_or(now).clone(),
    }
}

/// Whether pods are and stay of what was asked for before.
fn is_of_before(seen: &Seen<'_>) -> bool {
    let is_kept = match seen.template {
        Template::Wanted => false,
        Template::Before => seen.unwritten.is_some(),
        Template::HeldBack => true,
    };
    is_kept && seen.deployment.is_some()
}

fn accepted(seen: &Seen<'_>) -> Trouble {
    let said = match (&seen.plan, &seen.unwritten) {
        (Err(refused), _) => return refused.clone(),
        (Ok(_), Some(unwritten)) => return unwritten.clone(),
        (Ok(_), None) if seen.template != Template::HeldBack => "its children are as it says",
        (Ok(_), None) if seen.deployment.is_some() => {
            "its children are as it says, but its pods stay what they were until what it asks for fits"
        }
        (Ok(_), None) => "its children are as it says, but there are no pods until what it asks for fits",
    };
    Trouble::new(Reason::Accepted, said)
}

fn model_ready(seen: &Seen<'_>) -> Trouble {
    let ModelView::Seen { models, failure, .. } = &seen.models else {
        return match seen.models {
            ModelView::NotReachable => {
                Trouble::new(Reason::NotReachable, "no ready pod's control port answers the operator")
            }
            _ => Trouble::new(Reason::NoPods, "no pod of what is asked for is ready"),
        };
    };
    let any = |states: &[ModelState]| models.iter().find(|model| states.contains(&model.state));
    if let Some(failed) = any(&[ModelState::Failed]) {
        let words = failure.clone().unwrap_or_else(|| "its load failed".to_owned());
        return Trouble::new(Reason::LoadFailed, format!("{}: {words}", failed.name));
    }
    if let Some(loading) = any(&[ModelState::Loading, ModelState::Warming]) {
        return Trouble::new(Reason::Loading, format!("{} is being loaded", loading.name));
    }
    match any(&[ModelState::Ready]) {
        Some(_) => Trouble::new(Reason::Loaded, "models are loaded"),
        None => Trouble::new(Reason::Standby, "the first request loads what it needs"),
    }
}

/// What is not accepted holds it back before all else, then the first that is false; a load that failed is why pods only seem to start.
/// What else is unknown does not.
fn ready(accepted: &Trouble, parts: [Option<&Trouble>; 4]) -> (Truth, Trouble) {
    if accepted.reason.truth() != Truth::True {
        return (accepted.reason.truth(), accepted.clone());
    }
    let parts = parts.into_iter().flatten();
    if let Some(part) = parts.clone().find(|part| part.reason.truth() == Truth::False) {
        let why = parts.clone().find(|other| part.reason == Reason::Progressing && other.reason == Reason::LoadFailed);
        return (Truth::False, why.unwrap_or(part).clone());
    }
    let not_seen = parts.clone().find(|part| part.reason == Reason::NotReachable);
    let words = not_seen.map_or_else(
        || "it answers".to_owned(),
        |part| format!("it answers; what its models do is not known: {}", part.message),
    );
    (Truth::True, Trouble::new(Reason::Ready, words))
}

fn selected(plan: &Plan) -> Option<SelectedReranker> {
    let selection = plan.selection.as_ref()?;
    let config = &plan.config;
    let served = ServedModel { model: selection.model.clone(), quantization: config.reranker.quantization };
    // Of a model that the catalogue does not know, the server decides when it has read its configuration.
    let engine = match &plan.footprint {
        Ok(_) => config.engine.for_the_catalogue(plan.device),
        Err(_) => config.engine,
    };
    let estimate =
        plan.footprint.as_ref().ok().and_then(|footprint| i64::try_from(footprint.memory.total_bytes()).ok());
    Some(SelectedReranker {
        model: selection.model.clone(),
        revision: config.reranker.revision.clone(),
        quantization: config.reranker.quantization,
        engine: engine.as_str().to_owned(),
        selection_reason: selection.reason.as_str().to_owned(),
        batch_size: config.batch_size(&served),
        token_budget: config.token_budget(&served, plan.device),
        estimated_memory_bytes: estimate,
    })
}

/// A measured number with its first two digits: the rest is noise, and would change with each pod.
fn two_digits(number: i64) -> i64 {
    let scale = 10_i64.pow(number.max(1).ilog10().saturating_sub(1));
    number / scale * scale
}

#[cfg(test)]
mod tests;
