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
use super::nodes::{Fit, UnknownFit};
use super::pods::{PodsReport, Trouble};
use super::validate::Plan;

/// What the ready pods say of their models.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ModelView {
    /// There is no ready pod.
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
    /// What its pods say.
    pub pods: PodsReport,
    /// What their models do.
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
    let ready = ready([&accepted, &preflight, &available, &model_ready]);
    let said = [
        (ConditionType::Accepted, accepted.reason.truth(), accepted),
        (ConditionType::Preflight, preflight.reason.truth(), preflight),
        (ConditionType::Available, available.reason.truth(), available),
        (ConditionType::ModelReady, model_ready.reason.truth(), model_ready),
        (ConditionType::Ready, ready.0, ready.1),
    ];
    let conditions = said.map(|(kind, truth, trouble)| condition(object, kind, truth, trouble, now));
    let counts = seen.deployment.as_ref().and_then(|deployment| deployment.status.as_ref());
    let (models, performance) = match &seen.models {
        ModelView::Seen { models, pairs_per_second, .. } => {
            // Measured once for each configuration: a second measurement would only be noise.
            let is_same = old.observed_generation == generation;
            let kept = old.performance.clone().filter(|_| is_same);
            let measured = pairs_per_second.map(|pairs| Performance { pairs_per_second: two_digits(pairs) });
            (models.clone(), kept.or(measured))
        }
        ModelView::NoPods | ModelView::NotReachable => (Vec::new(), old.performance.clone()),
    };
    RerankDeploymentStatus {
        observed_generation: generation,
        conditions: conditions.to_vec(),
        reranker: seen.plan.as_ref().map_or(old.reranker, |plan| selected(plan)),
        models,
        performance,
        replicas: counts.and_then(|counts| counts.replicas).unwrap_or(0),
        ready_replicas: counts.and_then(|counts| counts.ready_replicas).unwrap_or(0),
        selector: names::selector_text(object),
        address: Some(Address { url: address(object) }),
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

fn accepted(seen: &Seen<'_>) -> Trouble {
    match (&seen.plan, &seen.unwritten) {
        (Err(refused), _) => refused.clone(),
        (Ok(_), Some(unwritten)) => unwritten.clone(),
        (Ok(_), None) => Trouble::new(Reason::Accepted, "its children are as it says"),
    }
}

fn preflight(seen: &Seen<'_>, accepted: &Trouble) -> Trouble {
    if accepted.reason == Reason::InvalidSpec {
        return Trouble::new(Reason::NotChecked, "the object is not accepted");
    }
    if let Some(finding) = &seen.pods.finding {
        return finding.clone();
    }
    if seen.pods.passed {
        return Trouble::new(Reason::Passed, "a pod has looked, and found nothing that keeps it from answering");
    }
    match &seen.fit {
        Fit::Fits => Trouble::new(Reason::Fits, "a node can hold it; no pod has looked yet"),
        Fit::TooLarge { needed_bytes, found_bytes, of } => Trouble::new(
            Reason::InsufficientMemory,
            format!(
                "it needs {needed_bytes} bytes of {of}, the largest node has {found_bytes}: name a smaller reranker.model, quantization int8, a smaller \
                 batchSize, or a larger node"
            ),
        ),
        Fit::Unknown(why) => unknown_fit(why),
    }
}

fn unknown_fit(why: &UnknownFit) -> Trouble {
    match why {
        UnknownFit::NotReadable => {
            Trouble::new(Reason::NodesNotReadable, "nodes may not be read; the scheduler will tell")
        }
        UnknownFit::NoNode { resource, count } => {
            Trouble::new(Reason::NoNodeYet, format!("no node that pods may run on has {resource}: {count} now"))
        }
        UnknownFit::Elastic { needed_bytes, found_bytes } => Trouble::new(
            Reason::NoNodeYet,
            format!("it needs {needed_bytes} bytes, the largest node of now has {found_bytes}; others may come"),
        ),
        UnknownFit::NoMemoryLabel => Trouble::new(
            Reason::MemoryUnknown,
            "nodes do not say how much memory their GPUs have (label nvidia.com/gpu.memory); accelerator.gpu.memoryBytes can",
        ),
        UnknownFit::UnknownModel(model) => Trouble::new(
            Reason::MemoryUnknown,
            format!("the catalogue does not know the shape of {model}; the pod will look"),
        ),
        UnknownFit::Claims => Trouble::new(Reason::MemoryUnknown, "claims of devices are judged by the scheduler"),
    }
}

fn available(object: &RerankDeployment, seen: &Seen<'_>, accepted: &Trouble, preflight: &Trouble) -> Trouble {
    let wanted = object.spec.replicas;
    if wanted == 0 {
        return Trouble::new(Reason::Paused, "replicas is 0");
    }
    let Some(deployment) = &seen.deployment else {
        let by = if accepted.reason.truth() == Truth::True { preflight } else { accepted };
        return Trouble::new(Reason::NotCreated, format!("there are no pods: {}", by.reason.as_str()));
    };
    let status = deployment.status.as_ref();
    let condition =
        |name: &str| status.and_then(|status| status.conditions.iter().flatten().find(|one| one.type_ == name));
    if condition("Available").is_some_and(|condition| condition.status == "True") {
        let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
        return Trouble::new(Reason::Available, format!("{ready} of {wanted} pods are ready"));
    }
    if let Some(refused) = condition("ReplicaFailure").filter(|condition| condition.status == "True") {
        return Trouble::new(Reason::PodsRefused, refused.message.clone().unwrap_or_default());
    }
    if let Some(trouble) = &seen.pods.trouble {
        return trouble.clone();
    }
    Trouble::new(Reason::Progressing, "pods start")
}

fn model_ready(seen: &Seen<'_>) -> Trouble {
    let ModelView::Seen { models, failure, .. } = &seen.models else {
        return match seen.models {
            ModelView::NotReachable => {
                Trouble::new(Reason::NotReachable, "no ready pod's control port answers the operator")
            }
            _ => Trouble::new(Reason::NoPods, "no pod is ready"),
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

/// The first that is false holds it back; of what is unknown only the acceptance does.
fn ready(parts: [&Trouble; 4]) -> (Truth, Trouble) {
    let holding = parts.iter().find(|part| part.reason.truth() == Truth::False);
    if let Some(part) = holding {
        return (Truth::False, (*part).clone());
    }
    if parts[0].reason.truth() == Truth::Unknown {
        return (Truth::Unknown, parts[0].clone());
    }
    (Truth::True, Trouble::new(Reason::Ready, "it answers"))
}

fn selected(plan: &Plan) -> Option<SelectedReranker> {
    let selection = plan.selection.as_ref()?;
    let config = &plan.config;
    let served = ServedModel { model: selection.model.clone(), quantization: config.reranker.quantization };
    let estimate =
        plan.footprint.as_ref().ok().and_then(|footprint| i64::try_from(footprint.memory.total_bytes()).ok());
    Some(SelectedReranker {
        model: selection.model.clone(),
        revision: config.reranker.revision.clone(),
        quantization: config.reranker.quantization,
        engine: config.engine.as_str().to_owned(),
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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::validate::validate;

    fn object() -> RerankDeployment {
        let spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}});
        let mut object = RerankDeployment::new("docs", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some("search".to_owned());
        object.metadata.generation = Some(3);
        object
    }

    fn time(text: &str) -> Time {
        serde_json::from_value(json!(text)).unwrap()
    }

    fn deployment(available: &str) -> Deployment {
        serde_json::from_value(json!({"status": {"replicas": 1, "readyReplicas": 1, "conditions": [{"type": "Available", "status": available}]}})).unwrap()
    }

    fn models(state: &str) -> ModelView {
        let model: Model =
            serde_json::from_value(json!({"name": "m", "quantization": "float16", "state": state, "pods": 1})).unwrap();
        ModelView::Seen { models: vec![model], failure: None, pairs_per_second: Some(1_234) }
    }

    struct Case {
        plan: Plan,
        deployment: Option<Deployment>,
    }

    impl Case {
        fn new(deployment: Option<Deployment>) -> Self {
            Self { plan: validate(&object().spec).unwrap(), deployment }
        }

        fn seen(&self) -> Seen<'_> {
            Seen {
                plan: Ok(&self.plan),
                fit: Fit::Fits,
                unwritten: None,
                deployment: self.deployment.clone(),
                pods: PodsReport { passed: true, ..PodsReport::default() },
                models: models("Ready"),
            }
        }
    }

    fn reasons(status: &RerankDeploymentStatus) -> Vec<String> {
        status.conditions.iter().map(|one| format!("{}={} {}", one.type_, one.status, one.reason)).collect()
    }

    fn ready(seen: &Seen<'_>) -> String {
        reasons(&compute(&object(), seen, &time("2026-01-01T00:00:00Z"))).pop().unwrap()
    }

    #[test]
    fn an_object_that_answers_is_ready_and_says_what_it_runs() {
        let case = Case::new(Some(deployment("True")));
        let status = compute(&object(), &case.seen(), &time("2026-01-01T00:00:00Z"));
        assert_eq!(
            reasons(&status),
            [
                "Accepted=True Accepted",
                "Preflight=True Passed",
                "Available=True Available",
                "ModelReady=True Loaded",
                "Ready=True Ready"
            ]
        );
        assert_eq!(status.observed_generation, 3);
        assert_eq!(status.address.unwrap().url, "http://docs.search.svc:8000");
        assert_eq!(status.selector, "app.kubernetes.io/instance=docs,app.kubernetes.io/name=rerank-server");
        let reranker = status.reranker.unwrap();
        assert_eq!(
            (reranker.model.as_str(), reranker.selection_reason.as_str()),
            ("Qwen/Qwen3-Reranker-0.6B", "ExactMatch")
        );
        assert_eq!((reranker.batch_size, reranker.token_budget), (128, 65_536));
        assert!(reranker.estimated_memory_bytes > Some(4_000_000_000));
        assert_eq!(status.performance.unwrap().pairs_per_second, 1_200);
    }

    #[test]
    fn whatever_holds_an_object_back_is_the_reason_of_ready() {
        let case = Case::new(Some(deployment("False")));
        let seen = case.seen();
        assert_eq!(ready(&seen), "Ready=False Progressing");
        let trouble = |reason| Some(Trouble::new(reason, "words"));
        let waiting =
            |reason| Seen { pods: PodsReport { trouble: trouble(reason), ..PodsReport::default() }, ..seen.clone() };
        for reason in [Reason::Unschedulable, Reason::ImagePullFailed, Reason::Downloading, Reason::Crashing] {
            assert_eq!(ready(&waiting(reason)), format!("Ready=False {}", reason.as_str()));
        }
        let found = Seen {
            pods: PodsReport { finding: trouble(Reason::StoreUnreachable), ..PodsReport::default() },
            ..seen.clone()
        };
        assert_eq!(ready(&found), "Ready=False StoreUnreachable");
        let refused = Seen { plan: Err(Trouble::new(Reason::InvalidSpec, "words")), ..seen.clone() };
        assert_eq!(ready(&refused), "Ready=False InvalidSpec");
        let unwritten = Seen { unwritten: trouble(Reason::NameConflict), ..seen };
        assert_eq!(ready(&unwritten), "Ready=False NameConflict");
    }

    #[test]
    fn what_does_not_fit_says_both_numbers_and_that_there_are_no_pods() {
        let case = Case::new(None);
        let fit = Fit::TooLarge { needed_bytes: 9_000, found_bytes: 4_000, of: "GPU memory" };
        let seen = Seen { fit, pods: PodsReport::default(), models: ModelView::NoPods, ..case.seen() };
        let status = compute(&object(), &seen, &time("2026-01-01T00:00:00Z"));
        assert_eq!(
            reasons(&status),
            [
                "Accepted=True Accepted",
                "Preflight=False InsufficientMemory",
                "Available=False NotCreated",
                "ModelReady=False NoPods",
                "Ready=False InsufficientMemory"
            ]
        );
        let message = &status.conditions[1].message;
        assert!(message.contains("9000 bytes") && message.contains("4000"), "{message}");
    }

    #[test]
    fn what_is_unknown_before_a_pod_has_looked_does_not_hold_ready_back() {
        let case = Case::new(Some(deployment("True")));
        for (why, reason) in [
            (UnknownFit::NotReadable, "NodesNotReadable"),
            (UnknownFit::NoMemoryLabel, "MemoryUnknown"),
            (UnknownFit::NoNode { resource: "nvidia.com/gpu".to_owned(), count: 1 }, "NoNodeYet"),
        ] {
            let seen = Seen { fit: Fit::Unknown(why), pods: PodsReport::default(), ..case.seen() };
            let status = compute(&object(), &seen, &time("2026-01-01T00:00:00Z"));
            assert_eq!(reasons(&status)[1], format!("Preflight=Unknown {reason}"));
            assert_eq!(reasons(&status)[4], "Ready=True Ready");
        }
        let unreachable = Seen { models: ModelView::NotReachable, ..case.seen() };
        assert_eq!(ready(&unreachable), "Ready=True Ready");
    }

    #[test]
    fn models_in_standby_are_as_good_as_loaded_and_failed_ones_are_not() {
        let case = Case::new(Some(deployment("True")));
        for (state, expected) in
            [("Standby", "Ready=True Ready"), ("Loading", "Ready=False Loading"), ("Failed", "Ready=False LoadFailed")]
        {
            assert_eq!(ready(&Seen { models: models(state), ..case.seen() }), expected);
        }
    }

    #[test]
    fn the_time_of_a_condition_moves_only_with_its_status_and_nothing_else_moves_at_rest() {
        let case = Case::new(Some(deployment("True")));
        let mut object = object();
        let first = compute(&object, &case.seen(), &time("2026-01-01T00:00:00Z"));
        object.status = Some(first.clone());
        let second = compute(&object, &Seen { models: models("Ready"), ..case.seen() }, &time("2026-01-02T00:00:00Z"));
        assert_eq!(serde_json::to_value(&first).unwrap(), serde_json::to_value(&second).unwrap());
        let down = Case::new(Some(deployment("False")));
        let third = serde_json::to_value(compute(&object, &down.seen(), &time("2026-01-03T00:00:00Z"))).unwrap();
        let since = |kind: usize| -> &Value { &third["conditions"][kind]["lastTransitionTime"] };
        assert_eq!((since(0), since(2)), (&json!("2026-01-01T00:00:00Z"), &json!("2026-01-03T00:00:00Z")));
    }

    #[test]
    fn what_could_not_be_looked_at_keeps_what_was_said_and_says_why() {
        let case = Case::new(Some(deployment("True")));
        let mut object = object();
        let why = Trouble::new(Reason::ReconcileFailed, "pods is forbidden");
        let first = unobserved(&object, &why, &time("2026-01-01T00:00:00Z"));
        assert_eq!(
            reasons(&first),
            [
                "Accepted=Unknown ReconcileFailed",
                "Preflight=Unknown NotChecked",
                "Available=Unknown PodsNotObserved",
                "ModelReady=Unknown ModelsNotObserved",
                "Ready=Unknown ReconcileFailed"
            ]
        );
        object.status = Some(compute(&object, &case.seen(), &time("2026-01-01T00:00:00Z")));
        let later = unobserved(&object, &why, &time("2026-01-02T00:00:00Z"));
        assert_eq!(reasons(&later)[2..4], ["Available=True Available", "ModelReady=True Loaded"]);
        assert_eq!(later.conditions[4].message, "pods is forbidden");
        assert_eq!((later.ready_replicas, later.observed_generation), (1, 3));
    }

    #[test]
    fn a_paused_object_says_so() {
        let mut object = object();
        object.spec.replicas = 0;
        let case = Case::new(Some(deployment("True")));
        let status =
            compute(&object, &Seen { models: ModelView::NoPods, ..case.seen() }, &time("2026-01-01T00:00:00Z"));
        assert_eq!(reasons(&status)[4], "Ready=False Paused");
    }

    #[test]
    fn a_measurement_has_two_digits() {
        for (measured, said) in [(0, 0), (7, 7), (42, 42), (987, 980), (1_234, 1_200)] {
            assert_eq!(two_digits(measured), said);
        }
    }
}
