//! What the schema accepts the operator plans and the server reads, and no value is lost on the way: a thousand random specifications,
//! made from the schema itself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use rerank_crds::rerank_deployment::conditions::Reason;
use rerank_crds::rerank_deployment::labels::CONFIG_DIGEST;
use rerank_crds::{RerankDeployment, ServerConfig};
use rerank_operator::controller::actions::{Action, actions};
use rerank_operator::controller::build::{Replacement, Settings, TemplateDigest, build, names, pod_template};
use rerank_operator::controller::kinds::ChildKind;
use rerank_operator::controller::nodes::Fit;
use rerank_operator::controller::pods::{PodsReport, Trouble};
use rerank_operator::controller::rollout::{Decision, decide};
use rerank_operator::controller::status::{ModelView, Seen, Template, compute};
use rerank_operator::controller::validate::{Plan, Refusal, validate};
use rerank_tests::api_server::ApiServer;
use rerank_tests::http::root;
use rerank_tests::random_specification::properties::{self, Property};
use rerank_tests::random_specification::{bounds, specification, value};
use rerank_tests::schema::Schema;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Specifications that the schema accepts.
const SPECIFICATIONS: u32 = 1_000;

/// Of a hundred random ones the schema accepts at least so many, or the rules are not repaired any more.
const LEAST_ACCEPTED_PERCENT: u32 = 85;

/// Of a hundred accepted ones the operator refuses at most so many, or the rest says too little. Of a third the engine is
/// Packed, which computes on a CPU only.
const MOST_REFUSED_PERCENT: u32 = 40;

/// Specifications in which each property is changed, and those that are shown to Kubernetes.
const FEWER: usize = 300;

/// Pairs of a property that are tried before it counts as one without effect.
const PAIRS: usize = 1_000;

/// Properties that change neither plan nor children, each with its reason.
const WITHOUT_EFFECT: [(&str, &str); 1] =
    [("accelerator.gpu.memoryBytes", "is compared with what the models need, and told in status alone")];

/// Properties whose old value does not bring the old children back, each with its reason.
const WITHOUT_A_WAY_BACK: [(&str, &str); 1] =
    [("rollout", "what was decided for Auto on a GPU stays until the pod's template changes, which is when it counts")];

/// The children as they are kept by an API server.
type Live = BTreeMap<(ChildKind, String), Value>;

/// What a specification becomes.
#[derive(Debug, PartialEq)]
struct Planned {
    plan: Plan,
    children: Vec<(ChildKind, Value)>,
}

impl Planned {
    fn child(&self, kind: ChildKind) -> &Value {
        &self.children.iter().find(|(other, _)| *other == kind).unwrap().1
    }
}

fn object(specification: &Value) -> Value {
    json!({
        "apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeployment",
        "metadata": {"name": "docs", "namespace": "search", "uid": "00000000-0000-0000-0000-000000000001"},
        "spec": specification
    })
}

fn typed(specification: &Value) -> RerankDeployment {
    serde_json::from_value(object(specification)).unwrap()
}

/// Plans and builds as a reconcile does that finds these children, and no GPU that is free.
fn plan(object: &RerankDeployment, live: &Live) -> Result<Planned, Refusal> {
    let plan = validate(&object.spec)?;
    let settings = Settings {
        cpu_image: "rerank-server:cpu".to_owned(),
        gpu_image: "rerank-server:cuda".to_owned(),
        pod_monitors: false,
    };
    let template = TemplateDigest::of_template(&pod_template(object, &plan, &settings));
    let deployment = live.get(&(ChildKind::Deployment, "docs".to_owned()));
    let replacement = match decide(object, plan.device, deployment, template.as_ref()) {
        Decision::Settled(replacement) => replacement,
        Decision::WhereFree(_) => Replacement::InPlace,
    };
    let children = build(object, &plan, replacement, &settings).to_values().unwrap();
    Ok(Planned { plan, children })
}

/// Does what the operator would, once; says how many writes that took.
fn reconcile(object: &RerankDeployment, live: &mut Live) -> usize {
    let wanted = plan(object, live).unwrap().children;
    let seen: Vec<(ChildKind, Value)> = live.iter().map(|((kind, _), child)| (*kind, child.clone())).collect();
    let actions = actions(object, &wanted, &seen).unwrap();
    let writes = actions.len();
    for action in actions {
        match action {
            // Nobody else writes, so what is applied is what is kept.
            Action::Apply { kind, child } => {
                let name = child["metadata"]["name"].as_str().unwrap().to_owned();
                live.insert((kind, name), child);
            }
            Action::Scale { name, .. } => panic!("{name} is held back by nobody"),
            Action::TakeAway { kind, patch, .. } => panic!("nobody added anything to {kind:?}: {patch}"),
            Action::Delete { kind, name, .. } => drop(live.remove(&(kind, name))),
        }
    }
    writes
}

/// Whether the children of the first are back, to the byte, once the second came and went.
fn check_way_back(first: &RerankDeployment, second: &RerankDeployment) -> Result<(), TestCaseError> {
    let mut live = Live::new();
    reconcile(first, &mut live);
    let before = live.clone();
    reconcile(second, &mut live);
    reconcile(first, &mut live);
    for (name, child) in &before {
        prop_assert_eq!(live.get(name).map(Value::to_string), Some(child.to_string()));
    }
    prop_assert_eq!(live.len(), before.len());
    prop_assert_eq!(reconcile(first, &mut live), 0, "it comes to rest");
    Ok(())
}

/// Whether a path such as `access.clients[0].name` is that of a field. What stands in brackets is a place in a list, or a key of a map,
/// which may hold anything; keys of Kubernetes's own maps follow a dot.
fn is_field(schema: &Value, path: &str) -> bool {
    if path.is_empty() {
        return true;
    }
    let is_inner = |(name, inner): (&String, &Value)| {
        let rest = path.strip_prefix('.').unwrap_or(path).strip_prefix(name.as_str());
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric()) && is_field(inner, rest))
    };
    if schema["items"].is_object() {
        let place = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        return place.is_some_and(|(at, rest)| at.parse::<usize>().is_ok() && is_field(&schema["items"], rest));
    }
    let is_entry = (path.starts_with('[') && path.ends_with(']')) || path.starts_with('.');
    (schema["additionalProperties"].is_object() && is_entry)
        || schema["properties"].as_object().into_iter().flatten().any(is_inner)
}

/// A refusal names fields of the object; they are returned without their places in lists and maps.
fn check_refusal(schema: &Value, refusal: &Refusal) -> Result<Vec<String>, TestCaseError> {
    let violations = match refusal {
        Refusal::Violations(violations) => violations,
        Refusal::Yaml(_) => return Err(TestCaseError::fail(format!("{refusal}"))),
    };
    for violation in violations {
        prop_assert!(!violation.path.is_empty() && is_field(schema, &violation.path), "{}", violation);
        prop_assert!(refusal.to_string().contains(&format!("{}: ", violation.path)), "{}", refusal);
    }
    let field = |path: &str| path.split('[').next().unwrap_or_default().to_owned();
    Ok(violations.iter().map(|violation| field(&violation.path)).collect())
}

/// The server's own code reads what the operator wrote, and fills nothing in.
fn check_configuration(planned: &Planned) -> Result<(), TestCaseError> {
    let text = planned.child(ChildKind::ConfigMap)["data"]["config.yaml"].as_str().unwrap();
    let read = ServerConfig::load(text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
    prop_assert_eq!(&read, &planned.plan.config);
    let written: Value = serde_yaml::from_str(text).unwrap();
    prop_assert_eq!(written, serde_json::to_value(&read).unwrap(), "a default was taken in reading");
    Ok(())
}

fn check_children(object: &RerankDeployment, planned: &Planned) -> Result<(), TestCaseError> {
    for (kind, child) in &planned.children {
        let metadata = &child["metadata"];
        let owner = json!([{
            "apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeployment", "name": "docs",
            "uid": object.metadata.uid, "controller": true, "blockOwnerDeletion": false
        }]);
        prop_assert_eq!(&metadata["ownerReferences"], &owner);
        prop_assert_eq!(&metadata["namespace"], "search");
        let name = kind.name(object).unwrap_or_else(|| names::config_map(object, &planned.plan));
        prop_assert_eq!(&metadata["name"], &name);
    }
    let config = planned.child(ChildKind::ConfigMap)["data"]["config.yaml"].as_str().unwrap();
    let template = &planned.child(ChildKind::Deployment)["spec"]["template"];
    let digest = hex::encode(Sha256::digest(config.as_bytes()));
    prop_assert_eq!(template["metadata"]["annotations"][CONFIG_DIGEST].as_str(), Some(digest.as_str()));
    for (name, value) in planned.child(ChildKind::Deployment)["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        prop_assert_eq!(&template["metadata"]["labels"][name], value, "the pods are not those of the Deployment");
    }
    check_secrets(&template["spec"])
}

/// Secrets are mounted, by the server itself read, and nowhere else: no variable holds one, no command line either.
fn check_secrets(pod: &Value) -> Result<(), TestCaseError> {
    let containers = ["initContainers", "containers"].iter().filter_map(|kind| pod[kind].as_array()).flatten();
    for container in containers {
        prop_assert!(container["envFrom"].is_null(), "{}", container);
        for variable in container["env"].as_array().into_iter().flatten() {
            let is_known = ["HOME", "HTTP_PROXY", "HTTPS_PROXY"].iter().any(|name| variable["name"] == *name);
            prop_assert!(is_known && variable["valueFrom"].is_null(), "{}", variable);
        }
        let arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let paths: Vec<&str> = arguments.filter(|argument| argument.starts_with('/')).collect();
        prop_assert!(paths.iter().all(|path| ["/etc/rerank/config.yaml", "/dev/termination-log"].contains(path)));
    }
    let mounted = pod["volumes"].as_array().into_iter().flatten().filter(|volume| !volume["secret"].is_null());
    for secret in mounted.map(|volume| &volume["secret"]) {
        let words: BTreeSet<&str> = secret.as_object().unwrap().keys().map(String::as_str).collect();
        prop_assert_eq!(words, BTreeSet::from(["defaultMode", "optional", "secretName"]));
    }
    Ok(())
}

fn percent(part: u32, whole: u32) -> u32 {
    part * 100 / whole
}

fn seeded(seed: u64) -> TestRunner {
    TestRunner::new(Config {
        cases: SPECIFICATIONS,
        max_global_rejects: SPECIFICATIONS * (100 - LEAST_ACCEPTED_PERCENT) / LEAST_ACCEPTED_PERCENT,
        max_shrink_iters: 4_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    })
}

#[test]
fn what_the_schema_accepts_is_planned_and_read_by_the_server_or_a_field_is_named() {
    let schema = Schema::of_the_definition().unwrap();
    let (rejected, refused) = (Cell::new(0), Cell::new(0));
    let reasons = RefCell::new(BTreeMap::<String, u32>::new());
    let earlier: RefCell<Option<RerankDeployment>> = RefCell::default();
    let outcome = seeded(1).run(&specification(schema.specification()), |specification| {
        if let Err(error) = schema.check(&object(&specification)) {
            rejected.set(rejected.get() + 1);
            return Err(TestCaseError::reject(error.to_string()));
        }
        let object = typed(&specification);
        let kept = schema.with_defaults(&json!({"spec": specification}))["spec"].clone();
        prop_assert_eq!(&typed(&kept), &object, "the schema has other defaults than the types");
        let planned = match plan(&object, &Live::new()) {
            Ok(planned) => planned,
            Err(refusal) => {
                refused.set(refused.get() + 1);
                for path in check_refusal(schema.specification(), &refusal)? {
                    *reasons.borrow_mut().entry(path).or_default() += 1;
                }
                return Ok(());
            }
        };
        check_configuration(&planned)?;
        check_children(&object, &planned)?;
        prop_assert_eq!(&plan(&object, &Live::new()).unwrap(), &planned, "built twice, it differs");
        if let Some(other) = earlier.replace(Some(object.clone())) {
            check_way_back(&object, &other)?;
        }
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, specification)) => panic!("{reason}\n{specification}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
    let (rejected, refused) = (rejected.get(), refused.get());
    println!(
        "the schema accepts {}% of {}; the operator refuses {}% of {SPECIFICATIONS}: {:#?}",
        percent(SPECIFICATIONS, SPECIFICATIONS + rejected),
        SPECIFICATIONS + rejected,
        percent(refused, SPECIFICATIONS),
        reasons.borrow()
    );
    assert!(percent(refused, SPECIFICATIONS) <= MOST_REFUSED_PERCENT, "{refused}: {:#?}", reasons.borrow());
    assert!(refused > 0, "no refusal was looked at");
}

/// Values that a property may have instead: others of its own, and texts of the same specification, which a name may refer to.
fn others(property: &Property<'_>, specification: &Value, runner: &mut TestRunner) -> Vec<Value> {
    let values = value(property.schema, &property.path);
    let mut found: Vec<Value> = std::iter::repeat_with(|| values.new_tree(runner).unwrap().current()).take(4).collect();
    if property.schema["type"] == "string" {
        texts(specification, &mut found);
    }
    found
}

fn texts(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::String(_) => found.push(value.clone()),
        Value::Array(items) => items.iter().for_each(|inner| texts(inner, found)),
        Value::Object(fields) => fields.values().for_each(|inner| texts(inner, found)),
        _ => {}
    }
}

/// The specification without what stands at a place, or where that may not be missing, without what is around it.
fn without(specification: &Value, place: &str) -> Vec<Value> {
    let ends = place.match_indices('/').skip(1).map(|(end, _)| end).chain([place.len()]);
    let remove = |end: usize| {
        let mut shorter = specification.clone();
        let (parent, name) = place[..end].rsplit_once('/')?;
        shorter.pointer_mut(parent)?.as_object_mut()?.remove(name)?;
        Some(shorter)
    };
    ends.filter_map(remove).collect()
}

/// Specifications that differ from this one in a property alone.
fn changed(property: &Property<'_>, specification: &Value, runner: &mut TestRunner) -> Vec<Value> {
    let mut found = Vec::new();
    for place in properties::places(specification, property.path.steps()) {
        if property.schema["type"] == "object" && property.schema["properties"].is_null() {
            // It has no value but to be there.
            found.extend(without(specification, &place));
        }
        for other in others(property, specification, runner) {
            let mut changed = specification.clone();
            *changed.pointer_mut(&place).unwrap() = other;
            found.push(changed);
        }
    }
    found.retain(|changed| changed != specification);
    found
}

#[test]
fn no_value_of_a_specification_is_lost_on_the_way_to_plan_and_children() {
    let schema = Schema::of_the_definition().unwrap();
    let mut runner = seeded(2);
    let random = specification(schema.specification());
    let accepted = |specification: &Value| {
        schema.check(&object(specification)).ok()?;
        let object = typed(specification);
        Some((plan(&object, &Live::new()).ok()?, object))
    };
    let mut pool = Vec::new();
    while pool.len() < FEWER {
        let specification = random.new_tree(&mut runner).unwrap().current();
        pool.extend(accepted(&specification).map(|(planned, object)| (specification, planned, object)));
    }
    let (mut lost, mut untried, mut not_restored) = (BTreeSet::new(), Vec::new(), Vec::new());
    let leaves = properties::leaves(schema.specification());
    for leaf in &leaves {
        let (mut pairs, mut counts) = (0, false);
        'pool: for (specification, planned, object) in &pool {
            for changed in changed(leaf, specification, &mut runner) {
                let Some((other, other_object)) = accepted(&changed) else { continue };
                pairs += 1;
                let has_way_back = WITHOUT_A_WAY_BACK.iter().all(|(path, _)| *path != leaf.path.to_string());
                if has_way_back && let Err(error) = check_way_back(object, &other_object) {
                    not_restored.push(format!("{}: {error}", leaf.path));
                }
                counts = other != *planned;
                if counts || pairs == PAIRS {
                    break 'pool;
                }
            }
        }
        if pairs == 0 {
            untried.push(leaf.path.to_string());
        } else if !counts {
            lost.insert(leaf.path.to_string());
        }
    }
    println!("{} leaf properties, {} without effect", leaves.len(), lost.len());
    assert!(untried.is_empty(), "no pair of specifications differs in {untried:?}");
    assert!(not_restored.is_empty(), "{not_restored:#?}");
    assert!(leaves.len() > 100, "{}", leaves.len());
    assert_eq!(lost, WITHOUT_EFFECT.map(|(path, _)| path.to_owned()).into(), "left: what has no effect");
}

#[test]
fn every_bound_of_the_schema_allows_its_last_value_and_refuses_the_next() {
    let schema = Schema::of_the_definition().unwrap();
    let specification = schema.specification();
    let (mut allowed, mut refused, mut wrong) = (0, 0, Vec::new());
    for Property { path, schema: part } in properties::all(specification) {
        let with = |value: Value| {
            let specification = properties::around(specification, path.steps(), value);
            let place = properties::places(&specification, path.steps()).remove(0);
            (schema.refused_values(&object(&specification)), format!("/spec{place}"))
        };
        let (found, _) = with(properties::shortest(part));
        if !found.is_empty() {
            wrong.push(format!("{path}: the shortest value is refused: {found:?}"));
        }
        for case in bounds::within(part) {
            allowed += 1;
            let (found, _) = with(case.value);
            if !found.is_empty() {
                wrong.push(format!("{path}: what {} allows is refused: {found:?}", case.keyword));
            }
        }
        for case in bounds::beyond(part) {
            refused += 1;
            let (found, place) = with(case.value);
            if !found.iter().any(|refused| refused.place == place && refused.keyword == case.keyword) {
                wrong.push(format!("{path}: what is beyond {} is not refused by it: {found:?}", case.keyword));
            }
        }
    }
    println!("{allowed} values at a bound are allowed, {refused} beyond one are refused");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(allowed > 300 && refused > 600, "{allowed} {refused}");
}

/// What the operator says where nothing was seen but the object, and the schema has to say of it.
fn refused_in_status(schema: &Schema, specification: &Value, plan: Result<&Plan, Trouble>) -> Vec<String> {
    let nothing = (PodsReport::default(), ModelView::NoPods);
    let (fit, template) = (Fit::Fits, Template::Wanted);
    let seen = Seen { plan, fit, unwritten: None, deployment: None, template, pods: nothing.0, models: nothing.1 };
    let now = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut whole = object(specification);
    whole["status"] = serde_json::to_value(compute(&typed(specification), &seen, &now)).unwrap();
    schema.refused_values(&whole).into_iter().map(|refused| format!("{}: {}", refused.place, refused.message)).collect()
}

#[test]
fn what_is_said_of_a_specification_fits_into_its_status() {
    let schema = Schema::of_the_definition().unwrap();
    let mut runner = seeded(3);
    let random = specification(schema.specification());
    let mut wrong = BTreeSet::new();
    for _ in 0..FEWER {
        let specification = random.new_tree(&mut runner).unwrap().current();
        if schema.check(&object(&specification)).is_err() {
            continue;
        }
        let plan = validate(&typed(&specification).spec);
        let said = plan.as_ref().map_err(|refusal| Trouble::new(Reason::InvalidSpec, refusal.to_string()));
        wrong.extend(refused_in_status(&schema, &specification, said));
        // Of many collections, say, that no client may use.
        let much = Trouble::new(Reason::InvalidSpec, "words ".repeat(1_000));
        wrong.extend(refused_in_status(&schema, &specification, Err(much)));
    }
    let shortened: Vec<String> = wrong.iter().map(|refused| refused.chars().take(200).collect()).collect();
    assert!(wrong.is_empty(), "{} of these: {:#?}", wrong.len(), shortened.first());
}

#[tokio::test]
async fn kubernetes_accepts_what_the_schema_accepts_offline() {
    let schema = Schema::of_the_definition().unwrap();
    let mut runner = seeded(4);
    let random = specification(schema.specification());
    let mut objects = Vec::new();
    while objects.len() < FEWER {
        let mut object = object(&random.new_tree(&mut runner).unwrap().current());
        object["metadata"] = json!({"name": format!("docs-{}", objects.len()), "namespace": "default"});
        objects.extend(schema.check(&object).is_ok().then(|| object.to_string()));
    }
    let server = ApiServer::start().await.unwrap();
    let path = root().join("crds/rerankdeployments.yaml");
    let applied = server.kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()]).await.unwrap();
    assert_eq!(applied.code, Some(0), "{applied:?}");
    server.as_administrator().established("rerankdeployments.rerank.semantik.dev").await;
    let arguments = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
    let created = server.kubectl_with_input(&arguments, &objects.join("\n")).await.unwrap();
    let refused: Vec<&str> = created.stderr.lines().take(5).collect();
    assert_eq!((created.code, created.stdout.lines().count()), (Some(0), FEWER), "{refused:#?}");
}
