//! What is held back, and what is kept for pods that may start again.

use serde_json::json;

use super::super::actions::Action;
use super::super::nodes::Shortage;
use super::*;

fn object(model: &str, replicas: i32) -> RerankDeployment {
    let spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "reranker": {"model": model}, "replicas": replicas});
    let mut object = RerankDeployment::new("docs", serde_json::from_value(spec).unwrap());
    object.metadata.namespace = Some("search".to_owned());
    object.metadata.uid = Some("ours".to_owned());
    object
}

fn children(object: &RerankDeployment) -> Vec<(ChildKind, Value)> {
    let plan = validate(&object.spec).unwrap();
    build(object, &plan, Replacement::InPlace, &Settings::default()).to_values().unwrap()
}

fn wanted(object: &RerankDeployment) -> Wanted {
    Wanted::of(object, &validate(&object.spec).unwrap(), &Settings::default())
}

fn of(children: &[(ChildKind, Value)], kind: ChildKind) -> Option<&Value> {
    children.iter().find(|(other, _)| *other == kind).map(|(_, child)| child)
}

const SMALL: &str = "Qwen/Qwen3-Reranker-0.6B";
const LARGE: &str = "Qwen/Qwen3-Reranker-8B";

fn too_large() -> Fit {
    Fit::TooLarge(Shortage { needed_bytes: 2, found_bytes: 1, of: "memory", cures: vec![] })
}

#[test]
fn only_a_template_that_is_not_there_yet_is_held_back() {
    let (before, after) = (object(SMALL, 1), object(LARGE, 1));
    let live = children(&before);
    let live = of(&live, ChildKind::Deployment);
    assert_eq!(template_state(Some(&wanted(&after)), live, &too_large()), Template::HeldBack);
    assert_eq!(template_state(Some(&wanted(&after)), None, &too_large()), Template::HeldBack);
    assert_eq!(template_state(Some(&wanted(&before)), live, &too_large()), Template::Wanted, "its node went");
    assert_eq!(template_state(Some(&wanted(&after)), live, &Fit::Fits), Template::Before);
    assert_eq!(template_state(Some(&wanted(&after)), None, &Fit::Fits), Template::Wanted);
    assert_eq!(template_state(None, live, &Fit::Fits), Template::Wanted);
}

#[test]
fn what_is_held_back_keeps_template_configuration_and_ways_and_follows_in_number_alone() {
    let live = children(&object(SMALL, 1));
    let held = |live: &[(ChildKind, Value)]| {
        let object = object(LARGE, 3);
        let (mut wanted, mut live) = (children(&object), live.to_vec());
        hold_template_back(&object, &mut wanted, &mut live);
        assert_eq!(of(&wanted, ChildKind::ConfigMap), None, "nothing would mount it");
        let written = actions(&object, &wanted, &live);
        written.map(|all| all.iter().map(Action::kind).collect::<Vec<_>>())
    };
    let looked_after = held(&live).unwrap();
    for kind in [ChildKind::Deployment, ChildKind::NetworkPolicy] {
        assert!(!looked_after.contains(&kind), "{kind:?} stays: {looked_after:?}");
    }
    let lost: Vec<_> = live.iter().filter(|(kind, _)| *kind != ChildKind::Service).cloned().collect();
    assert!(held(&lost).unwrap().contains(&ChildKind::Service), "the others are looked after");

    let deployment = of(&live, ChildKind::Deployment).unwrap();
    assert_eq!(scale(&object(LARGE, 1), deployment), None);
    let Some(Action::Scale { patch, .. }) = scale(&object(LARGE, 3), deployment) else { panic!("scaled") };
    assert_eq!(patch["spec"], json!({"replicas": 3}), "nothing else of it");

    let mut foreign = live.clone();
    for (_, child) in &mut foreign {
        child["metadata"]["ownerReferences"] = json!([]);
    }
    assert!(held(&foreign).is_err(), "it is told of");
    let made = held(&[]).unwrap();
    assert!(!made.contains(&ChildKind::Deployment) && made.contains(&ChildKind::NetworkPolicy), "no pod is made");
}

#[test]
fn pods_of_before_may_go_where_they_went_until_the_last_one_is_gone() {
    let to = |url: &str| {
        let spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"},
            "vectorStore": {"qdrant": {"url": url, "collections": [{"name": "docs"}]}}});
        let mut object = object(SMALL, 1);
        object.spec = serde_json::from_value(spec).unwrap();
        children(&object)
    };
    let policy =
        |children: &[(ChildKind, Value)]| of(children, ChildKind::NetworkPolicy).unwrap()["spec"]["egress"].to_string();
    let (before, after) = (to("http://qdrant:6334"), to("http://qdrant:7334"));
    let mut both = after.clone();
    keep_ways_of_before(&mut both, &before);
    assert!(policy(&both).contains("6334") && policy(&both).contains("7334"), "{}", policy(&both));
    // As it is seen at the next look: it does not grow.
    let mut again = after.clone();
    keep_ways_of_before(&mut again, &both);
    assert_eq!(policy(&again), policy(&both));
    let mut same = before.clone();
    keep_ways_of_before(&mut same, &before);
    assert_eq!(same, before);
}

#[test]
fn a_configuration_goes_when_nothing_mounts_it_and_the_wanted_one_never() {
    let (before, after) = (children(&object(SMALL, 1)), children(&object(LARGE, 1)));
    let (old, new) = (of(&before, ChildKind::ConfigMap).unwrap(), of(&after, ChildKind::ConfigMap).unwrap());
    assert_ne!(old["metadata"]["name"], new["metadata"]["name"]);
    let by = |deployment: &[(ChildKind, Value)]| {
        Mounted::by(&[], &[], of(deployment, ChildKind::Deployment).and_then(typed).as_ref())
    };
    let is_kept = |child, mounted: &Mounted| is_needed_by_others(ChildKind::ConfigMap, child, &after, mounted);
    assert!(is_kept(old, &by(&before)), "the Deployment is of before");
    assert!(!is_kept(old, &by(&after)), "nothing mounts it any more");
    assert!(!is_kept(new, &by(&after)), "it is compared with what it is to be");
}

#[test]
fn an_api_server_that_drops_volumes_from_images_is_found_out() {
    let spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "weights": {"image": {"reference": "registry/models:1"}}});
    let mut with_image = object(SMALL, 1);
    with_image.spec = serde_json::from_value(spec).unwrap();
    let live = children(&with_image);
    let mut live = of(&live, ChildKind::Deployment).unwrap().clone();
    assert!(!lacks_image_volume(&with_image, Some(&live)) && !lacks_image_volume(&with_image, None));
    let volumes = live["spec"]["template"]["spec"]["volumes"].as_array_mut().unwrap();
    let models = volumes.iter_mut().find(|volume| !volume["image"].is_null()).unwrap();
    *models = json!({"name": models["name"], "emptyDir": {}});
    assert!(lacks_image_volume(&with_image, Some(&live)));
    assert!(!lacks_image_volume(&object(SMALL, 1), Some(&live)), "it asks for none");
}
