//! What is to be written so that the live children are the wanted ones. Pure: the same two give the same actions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::labels::{self, GROUP};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::additions::additions;
use super::build::names;
use super::contains::contains;
use super::kinds::ChildKind;

/// Annotation of a child: digest of what was applied last. What is no longer wanted is given up by applying without it, and
/// that it was wanted is known by this alone.
pub const APPLIED_DIGEST: &str = "rerank.semantik.dev/applied-digest";

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Server-side apply of the whole child.
    Apply {
        /// Of what kind.
        kind: ChildKind,
        /// What is applied, with `apiVersion`, `kind` and the digest.
        child: Value,
    },
    /// A merge patch of this very object, as it was seen: what others added goes.
    TakeAway {
        /// Of what kind.
        kind: ChildKind,
        /// Its name.
        name: String,
        /// With uid and version.
        patch: Value,
    },
    /// The number of pods of this very Deployment, as it was seen, and nothing else of it.
    Scale {
        /// Its name.
        name: String,
        /// With uid and version.
        patch: Value,
    },
    /// Deletion of this very object, as it was seen.
    Delete {
        /// Of what kind.
        kind: ChildKind,
        /// Its name.
        name: String,
        /// A younger object of the same name is not meant.
        uid: String,
        /// And neither is one that changed meanwhile.
        resource_version: String,
    },
}

impl Action {
    /// Of what kind of child.
    pub const fn kind(&self) -> ChildKind {
        match self {
            Self::Apply { kind, .. } | Self::TakeAway { kind, .. } | Self::Delete { kind, .. } => *kind,
            Self::Scale { .. } => ChildKind::Deployment,
        }
    }
}

/// Why nothing is written: somebody else has an object of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name} belongs to {owner}; delete or rename one of the two")]
pub struct NameConflict {
    /// Of what kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Who has it.
    pub owner: String,
}

/// The child as it is applied, with its digest. The digest is that of the child without it.
fn marked(mut child: Value) -> Value {
    let digest = hex::encode(Sha256::digest(child.to_string().as_bytes()));
    child["metadata"]["annotations"][APPLIED_DIGEST] = Value::String(digest);
    child
}

/// The writes that lead from the live children to the wanted ones, in order. What is being deleted is waited for.
///
/// # Errors
/// A live child is not ours; then nothing is written at all.
pub fn actions(
    object: &RerankDeployment,
    wanted: &[(ChildKind, Value)],
    live: &[(ChildKind, Value)],
) -> Result<Vec<Action>, NameConflict> {
    let mut all = Vec::new();
    for kind in ChildKind::ALL {
        let wanted = wanted.iter().find(|(other, _)| *other == kind).map(|(_, child)| child);
        let of_kind = live.iter().filter(|(other, _)| *other == kind).map(|(_, child)| child);
        let is_meant =
            |live: &Value| wanted.is_some_and(|wanted| live["metadata"]["name"] == wanted["metadata"]["name"]);
        let (meant, others): (Vec<&Value>, Vec<&Value>) = of_kind.partition(|live| is_meant(live));
        match (wanted, meant.first()) {
            (None, _) => {}
            (Some(child), None) => all.push(Action::Apply { kind, child: marked(child.clone()) }),
            (Some(_), Some(live)) if !is_ours(object, live) => {
                return Err(conflict(kind, live));
            }
            (Some(_), Some(live)) if is_being_deleted(live) => {}
            (Some(child), Some(live)) => {
                let child = marked(child.clone());
                if is_frozen(live, &child) {
                    all.push(delete(kind, live));
                } else if !contains(live, &child) {
                    all.push(Action::Apply { kind, child });
                } else if let Some(patch) = additions(kind, live, &child) {
                    all.push(Action::TakeAway { kind, name: text(&live["metadata"]["name"]), patch });
                }
            }
        }
        // Somebody else's object of a name that we do not want is in nobody's way.
        let given_up = others.into_iter().filter(|live| is_owned(object, live) && !is_being_deleted(live));
        all.extend(given_up.map(|live| delete(kind, live)));
    }
    Ok(all)
}

/// What has the live Deployment, whose template stays what it is, have as many pods as the object asks for.
pub fn scale(object: &RerankDeployment, live: &Value) -> Option<Action> {
    if live["spec"]["replicas"] == object.spec.replicas || is_being_deleted(live) {
        return None;
    }
    let metadata = &live["metadata"];
    let patch = json!({
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "spec": {"replicas": object.spec.replicas},
    });
    Some(Action::Scale { name: text(&metadata["name"]), patch })
}

fn delete(kind: ChildKind, live: &Value) -> Action {
    Action::Delete {
        kind,
        name: text(&live["metadata"]["name"]),
        uid: text(&live["metadata"]["uid"]),
        resource_version: text(&live["metadata"]["resourceVersion"]),
    }
}

/// Whether somebody made it immutable with other contents than are wanted: then only a new one can have them.
fn is_frozen(live: &Value, wanted: &Value) -> bool {
    live["immutable"] == true && live["data"] != wanted["data"]
}

/// Whether a child is on its way out, so that the next look is needed.
pub fn is_being_deleted(child: &Value) -> bool {
    child["metadata"]["deletionTimestamp"].is_string()
}

/// Whether a child is this very object's, and not that of an earlier one of the same name.
pub fn is_owned(object: &RerankDeployment, child: &Value) -> bool {
    controller(child).is_some_and(|owner| Some(owner.uid) == object.uid())
}

/// The same, or it was until somebody took the reference to its owner away.
pub fn is_ours(object: &RerankDeployment, child: &Value) -> bool {
    is_owned(object, child) || has_lost_its_owner(object, child)
}

/// Whether somebody took the reference to its owner away: it has our labels, and was applied by us. It is adopted again where it is
/// wanted, and left alone where it is not.
fn has_lost_its_owner(object: &RerankDeployment, child: &Value) -> bool {
    let metadata = &child["metadata"];
    let was_applied = |entry: &Value| entry["manager"] == labels::FIELD_MANAGER && entry["operation"] == "Apply";
    let labels = names::all_labels(object);
    controller(child).is_none()
        && labels.iter().all(|(label, value)| metadata["labels"][label] == value.as_str())
        && metadata["managedFields"].as_array().into_iter().flatten().any(was_applied)
}

fn controller(child: &Value) -> Option<OwnerReference> {
    let owners: Vec<OwnerReference> = serde_json::from_value(child["metadata"]["ownerReferences"].clone()).ok()?;
    owners.into_iter().find(|owner| owner.controller == Some(true))
}

fn conflict(kind: ChildKind, live: &Value) -> NameConflict {
    let owner = match controller(live) {
        Some(owner) if owner.api_version.starts_with(GROUP) => {
            format!("an earlier {} {} that is being deleted", owner.kind, owner.name)
        }
        Some(owner) => format!("{} {}", owner.kind, owner.name),
        None => "nobody that says so".to_owned(),
    };
    NameConflict { kind: kind.as_str(), name: text(&live["metadata"]["name"]), owner }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
