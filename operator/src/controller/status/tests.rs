//! What is said in every situation.

use serde_json::{Value, json};

use super::*;
use crate::controller::nodes::{Shortage, UnknownFit};
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
    let ready = i32::from(available == "True");
    serde_json::from_value(json!({"spec": {"replicas": 1, "selector": {}, "template": {}}, "status": {"replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "conditions": [{"type": "Available", "status": available}]}})).unwrap()
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
            template: Template::Wanted,
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
    let seen = Seen {
        fit: too_large(),
        template: Template::HeldBack,
        pods: PodsReport::default(),
        models: ModelView::NoPods,
        ..case.seen()
    };
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
    assert!(message.contains("17.1 GB") && message.contains("16.9 GB"), "{message}");
}

#[test]
fn what_is_unknown_before_a_pod_has_looked_does_not_hold_ready_back() {
    let case = Case::new(Some(deployment("True")));
    for (why, reason) in [
        (UnknownFit::NotReadable, "NodesNotReadable"),
        (UnknownFit::NoMemoryLabel, "MemoryUnknown"),
        (UnknownFit::NoUsableNode { nodes: 3 }, "NoNodeYet"),
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
fn a_load_that_failed_is_why_pods_only_seem_to_start() {
    let mut starting = deployment("True");
    starting.status.as_mut().unwrap().ready_replicas = None;
    let case = Case::new(Some(starting));
    assert_eq!(ready(&Seen { models: models("Loading"), ..case.seen() }), "Ready=False Progressing");
    assert_eq!(ready(&Seen { models: models("Failed"), ..case.seen() }), "Ready=False LoadFailed");
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
    let status = compute(&object, &Seen { models: ModelView::NoPods, ..case.seen() }, &time("2026-01-01T00:00:00Z"));
    assert_eq!(reasons(&status)[4], "Ready=False Paused");
}

#[test]
fn a_measurement_has_two_digits() {
    for (measured, said) in [(0, 0), (7, 7), (42, 42), (987, 980), (1_234, 1_200)] {
        assert_eq!(two_digits(measured), said);
    }
}

/// A rollout: so many pods are asked for, there, of what is asked for now, ready.
fn counts(there: i32, updated: i32, ready: i32, more: &Value) -> Deployment {
    let mut status = json!({"observedGeneration": 2, "replicas": there, "updatedReplicas": updated, "readyReplicas": ready,
        "conditions": [{"type": "Available", "status": "True"}]});
    status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"generation": 2}, "status": status})).unwrap()
}

fn of_replicas(replicas: i32, seen: &Seen<'_>) -> (String, String, Condition) {
    let mut object = object();
    object.spec.replicas = replicas;
    let status = compute(&object, seen, &time("2026-01-01T00:00:00Z"));
    let said = reasons(&status);
    (said[2].clone(), said[4].clone(), status.conditions[2].clone())
}

#[test]
fn a_deployment_that_calls_itself_available_without_a_ready_pod_is_not() {
    let case = Case::new(Some(counts(1, 1, 0, &json!({}))));
    let waiting = |trouble| Seen {
        pods: PodsReport { trouble, ..PodsReport::default() },
        models: ModelView::NoPods,
        ..case.seen()
    };
    for reason in [Reason::Unschedulable, Reason::ImagePullFailed, Reason::Crashing, Reason::Downloading] {
        let (available, ready, condition) = of_replicas(1, &waiting(Some(Trouble::new(reason, "words"))));
        assert_eq!(available, format!("Available=False {}", reason.as_str()));
        assert_eq!((ready, condition.message.as_str()), (format!("Ready=False {}", reason.as_str()), "words"));
    }
    assert_eq!(of_replicas(1, &waiting(None)).1, "Ready=False Progressing");
    let failure = json!({"conditions": [{"type": "Available", "status": "True"},
        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]});
    let refused = Seen { deployment: Some(counts(0, 0, 0, &failure)), ..waiting(None) };
    assert_eq!(of_replicas(1, &refused).1, "Ready=False PodsRefused");
}

#[test]
fn of_several_pods_one_may_be_missing_and_the_message_says_why() {
    let case = Case::new(None);
    let trouble = || Some(Trouble::new(Reason::Unschedulable, "no GPU is left"));
    let seen = |ready| Seen {
        deployment: Some(counts(3, 3, ready, &json!({}))),
        pods: PodsReport { passed: true, trouble: trouble(), ..PodsReport::default() },
        ..case.seen()
    };
    let (available, ready, condition) = of_replicas(3, &seen(2));
    assert_eq!((available.as_str(), ready.as_str()), ("Available=True Available", "Ready=True Ready"));
    assert_eq!(condition.message, "2 of 3 pods are ready; Unschedulable: no GPU is left");
    assert_eq!(of_replicas(3, &seen(1)).0, "Available=False Unschedulable");
    assert_eq!(of_replicas(3, &seen(3)).2.message, "3 of 3 pods are ready");
}

#[test]
fn old_pods_that_answer_make_no_new_generation_ready() {
    let case = Case::new(None);
    // The old one answers, the new one cannot get its image: nothing that it says makes the object ready.
    let stuck = |trouble| Seen {
        deployment: Some(counts(2, 1, 1, &json!({}))),
        pods: PodsReport { trouble, ..PodsReport::default() },
        models: ModelView::NoPods,
        ..case.seen()
    };
    let (available, ready, _) = of_replicas(1, &stuck(Some(Trouble::new(Reason::ImagePullFailed, "no such image"))));
    assert_eq!((available.as_str(), ready.as_str()), ("Available=True Available", "Ready=False ImagePullFailed"));
    assert_eq!(of_replicas(1, &stuck(None)).1, "Ready=False Progressing");
    let behind = Seen { deployment: Some(counts(1, 1, 1, &json!({"observedGeneration": 1}))), ..case.seen() };
    assert_eq!(of_replicas(1, &behind).1, "Ready=False Progressing");
    let before = Seen { template: Template::Before, deployment: Some(counts(1, 1, 1, &json!({}))), ..case.seen() };
    assert_eq!(of_replicas(1, &before).1, "Ready=False Progressing");
    let done = Seen { deployment: Some(counts(1, 1, 1, &json!({}))), ..case.seen() };
    assert_eq!(of_replicas(1, &done).1, "Ready=True Ready");
}

#[test]
fn speed_is_measured_once_for_each_configuration_and_scaling_measures_nothing_anew() {
    let case = Case::new(Some(counts(1, 1, 1, &json!({}))));
    let mut object = object();
    let measured = |object: &RerankDeployment, seen: &Seen<'_>| {
        compute(object, seen, &time("2026-01-01T00:00:00Z")).performance.map(|one| one.pairs_per_second)
    };
    object.status = Some(compute(&object, &case.seen(), &time("2026-01-01T00:00:00Z")));
    let faster = |pairs| ModelView::Seen { models: vec![], failure: None, pairs_per_second: Some(pairs) };
    object.metadata.generation = Some(4);
    object.spec.replicas = 2;
    assert_eq!(measured(&object, &Seen { models: faster(9_000), ..case.seen() }), Some(1_200), "it was scaled");

    let changed = |model: &str| {
        let mut changed = object.clone();
        changed.spec.reranker.model = Some(model.to_owned());
        changed
    };
    let other = changed("Qwen/Qwen3-Reranker-4B");
    let plan = validate(&other.spec).unwrap();
    let seen = Seen { plan: Ok(&plan), models: ModelView::NoPods, ..case.seen() };
    assert_eq!(measured(&other, &Seen { template: Template::Before, ..seen.clone() }), None, "that of the old model");
    assert_eq!(measured(&other, &seen), None);
    assert_eq!(measured(&other, &Seen { models: faster(300), ..seen }), Some(300));
}

fn too_large() -> Fit {
    let cures = vec!["reranker.batchSize: 7".to_owned()];
    Fit::TooLarge(Shortage { needed_bytes: 17_010_000_000, found_bytes: 16_990_000_000, of: "memory", cures })
}

#[test]
fn what_fits_no_node_is_held_back_and_said_whatever_the_pods_of_before_have_found() {
    let mut object = object();
    let before = Case::new(Some(counts(1, 1, 1, &json!({}))));
    object.status = Some(compute(&object, &before.seen(), &time("2026-01-01T00:00:00Z")));
    object.metadata.generation = Some(4);
    object.spec.reranker.model = Some("Qwen/Qwen3-Reranker-8B".to_owned());
    let plan = validate(&object.spec).unwrap();
    let seen = Seen { plan: Ok(&plan), fit: too_large(), template: Template::HeldBack, ..before.seen() };
    let status = compute(&object, &seen, &time("2026-01-02T00:00:00Z"));
    assert_eq!(
        reasons(&status),
        [
            "Accepted=True Accepted",
            "Preflight=False InsufficientMemory",
            "Available=True Available",
            "ModelReady=True Loaded",
            "Ready=False InsufficientMemory"
        ]
    );
    assert!(status.conditions[0].message.contains("until what it asks for fits"), "{:?}", status.conditions[0]);
    let message = "it needs 17.1 GB of memory, the largest node has 16.9 GB; it would fit with reranker.batchSize: 7, or on a \
        larger node; its pods stay what they were";
    assert_eq!(status.conditions[4].message, message);
    assert_eq!(status.reranker, object.status.as_ref().unwrap().reranker, "it is what runs");
    assert_eq!(status.performance, object.status.as_ref().unwrap().performance);

    // The same template, on a node that went: a pod of this very one has looked.
    let gone = Seen { template: Template::Wanted, ..seen };
    assert_eq!(reasons(&compute(&object, &gone, &time("2026-01-02T00:00:00Z")))[1], "Preflight=True Passed");
}

#[test]
fn what_is_not_accepted_comes_before_everything_else_in_its_own_words() {
    let case = Case::new(None);
    let failed = Trouble::new(Reason::ReconcileFailed, "services is forbidden");
    let seen = Seen { unwritten: Some(failed), models: ModelView::NoPods, ..case.seen() };
    let status = compute(&object(), &seen, &time("2026-01-01T00:00:00Z"));
    assert_eq!(reasons(&status)[4], "Ready=Unknown ReconcileFailed");
    assert_eq!(status.conditions[4].message, "services is forbidden");
    let event = crate::controller::events::of_transition(None, &status).unwrap();
    assert_eq!(event.type_, kube::runtime::events::EventType::Warning);
    assert!(event.note.unwrap().contains("services is forbidden"));
}

#[test]
fn an_object_whose_models_cannot_be_asked_is_ready_and_says_that_they_are_not_known() {
    let case = Case::new(Some(deployment("True")));
    let status =
        compute(&object(), &Seen { models: ModelView::NotReachable, ..case.seen() }, &time("2026-01-01T00:00:00Z"));
    assert_eq!(reasons(&status)[3..], ["ModelReady=Unknown NotReachable", "Ready=True Ready"]);
    assert!(status.conditions[4].message.contains("control port"), "{:?}", status.conditions[4]);
}

#[test]
fn where_nothing_could_be_written_it_has_as_many_pods_as_before() {
    let mut paused = object();
    paused.spec.replicas = 0;
    let case = Case::new(Some(deployment("True")));
    let invalid = Trouble::new(Reason::InvalidSpec, "logging.filter");
    let available = |seen: &Seen<'_>| reasons(&compute(&paused, seen, &time("2026-01-01T00:00:00Z")))[2].clone();
    assert_eq!(available(&case.seen()), "Available=False Paused");
    assert_eq!(available(&Seen { plan: Err(invalid.clone()), ..case.seen() }), "Available=True Available");
    assert_eq!(available(&Seen { unwritten: Some(invalid), ..case.seen() }), "Available=True Available");
}
