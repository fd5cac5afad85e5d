//! From any state the actions lead to the wanted one and then stop: half-made, edited, somebody else's and terminating children.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use proptest::prelude::*;
use rerank_crds::RerankDeployment;
use rerank_operator::controller::actions::{Action, actions};
use rerank_operator::controller::additions::additions;
use rerank_operator::controller::build::{Replacement, Settings, build};
use rerank_operator::controller::contains::contains;
use rerank_operator::controller::kinds::ChildKind;
use rerank_operator::controller::validate::validate;
use serde_json::{Value, json};

fn object() -> RerankDeployment {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hpa.yaml")).unwrap();
    let mut object: RerankDeployment = serde_yaml::from_str(&text).unwrap();
    object.metadata.namespace = Some("search".to_owned());
    object.metadata.uid = Some("ours".to_owned());
    object
}

fn wanted(object: &RerankDeployment) -> Vec<(ChildKind, Value)> {
    let settings = Settings { cpu_image: "cpu".to_owned(), gpu_image: "gpu".to_owned(), pod_monitors: true };
    let plan = validate(&object.spec).unwrap();
    build(object, &plan, Replacement::Surge, &settings).to_values().unwrap()
}

/// What happened to a child before the operator looks.
#[derive(Clone, Copy, Debug)]
enum Past {
    Missing,
    AsWanted,
    Edited,
    AddedTo,
    FieldsLost,
    Terminating,
    SomebodyElses,
    Nobodys,
}

/// An API server that keeps children, with what server-side apply and preconditions do to them.
struct Server {
    live: Vec<(ChildKind, Value)>,
    version: u64,
}

impl Server {
    fn do_all(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.version += 1;
            match action {
                Action::Apply { kind, child } => {
                    let is_it = |other: &Value| other["metadata"]["name"] == child["metadata"]["name"];
                    let at = self.live.iter().position(|(other, live)| *other == kind && is_it(live));
                    let before = at.map(|at| self.live.remove(at).1);
                    if let Some(before) = before.as_ref().filter(|before| before["immutable"] == true) {
                        assert_eq!(before["data"], child["data"], "the API server would refuse it");
                    }
                    let mut after = before.unwrap_or_else(|| json!({"metadata": {"uid": format!("uid-{kind:?}")}}));
                    merge(&mut after, &child);
                    after["metadata"]["resourceVersion"] = json!(self.version.to_string());
                    self.live.push((kind, after));
                }
                Action::TakeAway { kind, name, patch } => {
                    let is_it = |(other, live): &&mut (ChildKind, Value)| {
                        *other == kind && live["metadata"]["name"] == json!(name)
                    };
                    let (_, live) = self.live.iter_mut().find(is_it).expect("only what is there is patched");
                    for field in ["uid", "resourceVersion"] {
                        assert_eq!(live["metadata"][field], patch["metadata"][field]);
                    }
                    patch_by(live, &patch);
                    live["metadata"]["resourceVersion"] = json!(self.version.to_string());
                }
                Action::Scale { name, .. } => panic!("{name} is held back by nobody"),
                Action::Delete { kind, name, uid, resource_version } => {
                    let is_it = |other: &Value| other["metadata"]["name"] == name;
                    let at = self.live.iter().position(|(other, live)| *other == kind && is_it(live));
                    let at = at.expect("only what is there is deleted");
                    let metadata = &self.live[at].1["metadata"];
                    assert_eq!(
                        (&metadata["uid"], &metadata["resourceVersion"]),
                        (&json!(uid), &json!(resource_version))
                    );
                    self.live.remove(at);
                }
            }
        }
        // What was terminating is gone by the next look.
        self.live.retain(|(_, child)| !child["metadata"]["deletionTimestamp"].is_string());
    }
}

fn merge(live: &mut Value, applied: &Value) {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            for (name, value) in applied {
                let live = live.entry(name).or_insert(Value::Null);
                // Selectors are one value.
                if ["selector", "podSelector", "matchLabels"].contains(&name.as_str()) {
                    *live = Value::Null;
                }
                merge(live, value);
            }
        }
        (live, applied) => *live = applied.clone(),
    }
}

/// JSON merge patch (RFC 7396).
fn patch_by(live: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *live = patch.clone();
        return;
    };
    for (name, value) in fields {
        if value.is_null() {
            live.as_object_mut().unwrap().remove(name);
        } else {
            patch_by(&mut live[name], value);
        }
    }
}

/// Adds something that changes who is reached or what a pod may do, chosen by a number.
fn add(child: &mut Value, choice: usize) {
    let additions: [(&str, &str, Value); 8] = [
        ("/spec/selector", "canary", json!("yes")),
        ("/spec/podSelector/matchLabels", "canary", json!("yes")),
        ("/spec", "paused", json!(true)),
        ("/spec/template/spec", "hostNetwork", json!(true)),
        ("/spec/template/spec/securityContext", "runAsUser", json!(0)),
        ("/spec/template/spec/containers/0", "command", json!(["sleep"])),
        ("/spec/template/spec/containers/0/env", "-", json!({"name": "RUST_LOG", "value": "trace"})),
        ("/spec/ports", "-", json!({"name": "back", "port": 1234, "targetPort": 9090})),
    ];
    let found: Vec<_> = additions.into_iter().filter(|(at, ..)| child.pointer(at).is_some()).collect();
    if found.is_empty() {
        return;
    }
    let (at, name, value) = found[choice % found.len()].clone();
    match child.pointer_mut(at).unwrap() {
        Value::Array(items) => items.push(value),
        place => place[name] = value,
    }
}

/// Changes a leaf, chosen by a number.
fn edit(value: &mut Value, choice: usize) {
    let mut pointers = Vec::new();
    leaves(value, String::new(), &mut pointers);
    pointers.retain(|pointer| !pointer.contains("ownerReferences") && !pointer.ends_with("/name"));
    let pointer = &pointers[choice % pointers.len()];
    *value.pointer_mut(pointer).unwrap() = json!("edited");
}

fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            leaves(value, format!("{path}/{}", name.replace('~', "~0").replace('/', "~1")), found);
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| leaves(value, format!("{path}/{at}"), found));
        }
        _ => found.push(path),
    }
}

fn start(object: &RerankDeployment, pasts: &[(Past, usize)]) -> Server {
    let mut server = Server { live: Vec::new(), version: 0 };
    server.do_all(actions(object, &wanted(object), &[]).unwrap());
    for (at, (past, choice)) in pasts.iter().enumerate() {
        let kind = ChildKind::ALL[at];
        let Some(place) = server.live.iter().position(|(other, _)| *other == kind) else { continue };
        let child = &mut server.live[place].1;
        match past {
            Past::AsWanted => {}
            Past::Missing => drop(server.live.remove(place)),
            Past::Edited => edit(child, *choice),
            Past::AddedTo => add(child, *choice),
            Past::FieldsLost => {
                let kept = ["apiVersion", "kind", "metadata"];
                child.as_object_mut().unwrap().retain(|name, _| kept.contains(&name.as_str()));
            }
            Past::Terminating => child["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            Past::SomebodyElses => child["metadata"]["ownerReferences"][0]["uid"] = json!("another"),
            Past::Nobodys => child["metadata"]["ownerReferences"] = json!([]),
        }
    }
    server
}

fn pasts() -> impl Strategy<Value = Vec<(Past, usize)>> {
    let past = prop::sample::select(vec![
        Past::Missing,
        Past::Missing,
        Past::AsWanted,
        Past::AsWanted,
        Past::Edited,
        Past::Edited,
        Past::AddedTo,
        Past::AddedTo,
        Past::FieldsLost,
        Past::Terminating,
        Past::SomebodyElses,
        Past::Nobodys,
    ]);
    prop::collection::vec((past, any::<usize>()), ChildKind::ALL.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// The figure of R8: at most five reconciles to rest, then no action at all.
    #[test]
    fn from_any_state_at_most_five_reconciles_lead_to_rest(pasts in pasts()) {
        let object = object();
        let wanted = wanted(&object);
        let mut server = start(&object, &pasts);
        let before = server.live.clone();
        let mut rounds = 0;
        loop {
            match actions(&object, &wanted, &server.live) {
                Err(_) => {
                    let is_foreign = pasts.iter().any(|(past, _)| matches!(past, Past::SomebodyElses | Past::Nobodys));
                    prop_assert!(is_foreign, "{pasts:?}");
                    prop_assert_eq!(&server.live, &before, "nothing is written beside somebody else's object");
                    return Ok(());
                }
                Ok(actions) if actions.is_empty() && rounds > 0 => break,
                Ok(actions) => server.do_all(actions),
            }
            rounds += 1;
            prop_assert!(rounds <= 5, "{pasts:?}");
        }
        prop_assert!(actions(&object, &wanted, &server.live).unwrap().is_empty());
        for (kind, child) in &wanted {
            let live = server.live.iter().find(|(other, _)| other == kind).map(|(_, child)| child);
            prop_assert!(live.is_some_and(|live| contains(live, child)), "{kind:?} {pasts:?}");
            prop_assert_eq!(live.and_then(|live| additions(*kind, live, child)), None);
        }
    }
}

#[test]
fn what_is_not_wanted_any_more_is_deleted_as_it_was_seen_and_a_change_and_its_return_change_nothing() {
    let object = object();
    let first = wanted(&object);
    let mut server = start(&object, &[]);
    let rested = server.live.clone();
    let mut changed = object.clone();
    changed.spec.autoscaling = None;
    changed.spec.weights.cache = None;
    changed.spec.candidates.multiplier = 9;
    let deletions: Vec<ChildKind> = actions(&changed, &wanted(&changed), &server.live)
        .unwrap()
        .into_iter()
        .filter_map(|action| match action {
            Action::Delete { kind, .. } => Some(kind),
            Action::Apply { .. } | Action::TakeAway { .. } | Action::Scale { .. } => None,
        })
        .collect();
    assert_eq!(deletions, [ChildKind::ConfigMap, ChildKind::CacheClaim, ChildKind::Autoscaler]);
    server.do_all(actions(&changed, &wanted(&changed), &server.live).unwrap());
    server.do_all(actions(&object, &first, &server.live).unwrap());
    let plain = |live: &[(ChildKind, Value)]| {
        let mut live = live.to_vec();
        live.sort_by_key(|(kind, _)| *kind);
        for (_, child) in &mut live {
            child["metadata"]["resourceVersion"] = Value::Null;
        }
        live
    };
    assert_eq!(plain(&server.live), plain(&rested));
}

#[test]
fn a_foreign_object_where_none_is_wanted_is_left_alone() {
    let mut object = object();
    object.spec.autoscaling = None;
    let theirs = json!({"metadata": {"name": "docs-scaled", "uid": "x", "ownerReferences": []}});
    let actions = actions(&object, &wanted(&object), &[(ChildKind::Autoscaler, theirs)]).unwrap();
    assert!(actions.iter().all(|action| matches!(action, Action::Apply { .. })));
}
