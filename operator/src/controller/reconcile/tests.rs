//! What is held back, and what is kept for pods that may start again.

use serde_json::json;

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
fn what_is_held_back_keeps_template_and_configuration_and_follows_in_number_alone() {
    let live = children(&object(SMALL, 1));
    let held = |replicas: i32, mut live: Vec<(ChildKind, Value)>| {
        let object = object(LARGE, replicas);
        let mut wanted = children(&object);
        hold_template_back(&object, &mut wanted, &mut live);
        assert_eq!(of(&wanted, ChildKind::ConfigMap), None, "nothing would mount it");
        (of(&wanted, ChildKind::Deployment).cloned(), of(&live, ChildKind::Deployment).cloned())
    };
    let deployment = of(&live, ChildKind::Deployment).unwrap();
    for replicas in [0, 3] {
        let written = held(replicas, live.clone()).0.unwrap();
        assert_eq!(written["spec"]["replicas"], replicas);
        assert_eq!(written["spec"]["template"], deployment["spec"]["template"]);
    }
    assert_eq!(held(1, live.clone()), (None, None), "there is nothing to write, and nothing to delete");
    let mut foreign = live.clone();
    for (_, child) in &mut foreign {
        child["metadata"]["ownerReferences"] = json!([]);
    }
    assert_eq!(held(3, foreign), (None, None), "what is not ours is not written");
    assert_eq!(held(3, Vec::new()), (None, None), "no pod is made");
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
