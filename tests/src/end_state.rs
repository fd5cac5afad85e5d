//! What the operator leaves in a namespace, so that the ends of two runs can be compared: what differs by nature is masked.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_operator::controller::actions::APPLIED_DIGEST;
use rerank_operator::controller::kinds::ChildKind;
use serde_json::{Map, Value, json};

/// Objects by kind and name.
pub type State = BTreeMap<String, Value>;

/// Everything of the children's kinds.
pub async fn children_in(client: &Client, namespace: &str) -> anyhow::Result<State> {
    let mut all = State::new();
    for kind in ChildKind::ALL {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
        for child in api.list(&ListParams::default()).await? {
            all.insert(format!("{} {}", kind.as_str(), child.name_any()), serde_json::to_value(child)?);
        }
    }
    Ok(all)
}

/// The same and the object of that name, masked.
pub async fn of(client: &Client, namespace: &str, name: &str) -> anyhow::Result<State> {
    let mut all = children_in(client, namespace).await?;
    let object = Api::<RerankDeployment>::namespaced(client.clone(), namespace).get(name).await?;
    let owner = object.uid().unwrap_or_default();
    all.insert(format!("RerankDeployment {name}"), serde_json::to_value(object)?);
    for value in all.values_mut() {
        let text = value.to_string().replace(namespace, "NAMESPACE").replace(&owner, "OWNER");
        *value = serde_json::from_str(&text)?;
        mask(value);
    }
    Ok(all)
}

/// Hides what differs between two namespaces, or by the clock. That it is there stays.
fn mask(value: &mut Value) {
    const MASKED: [&str; 10] = [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "lastTransitionTime",
        "time",
        "clusterIP",
        "clusterIPs",
        "nodePort",
        // Of the child as it is applied, with its namespace and the uid of its owner. That it is right is why nothing is written.
        APPLIED_DIGEST,
    ];
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                if MASKED.contains(&name.as_str()) {
                    *value = json!("MASKED");
                } else {
                    mask(value);
                }
                // In the order of their times.
                if let ("managedFields", Value::Array(managers)) = (name.as_str(), value) {
                    managers.sort_by_key(Value::to_string);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// Where two states differ, as JSON pointers with both values.
pub fn differences(expected: &State, found: &State) -> Vec<String> {
    let mut all = Vec::new();
    compare("", &json!(expected), &json!(found), &mut all);
    all
}

fn compare(path: &str, expected: &Value, found: &Value, all: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(left), Value::Object(right)) => {
            let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for name in names {
                let of = |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                compare(&format!("{path}/{name}"), &of(left), &of(right), all);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (at, (left, right)) in left.iter().zip(right).enumerate() {
                compare(&format!("{path}/{at}"), left, right, all);
            }
        }
        (left, right) if left == right => {}
        (left, right) => all.push(format!("{path}: {left} became {right}")),
    }
}
