//! What is to be written so that the live children are the wanted ones. Pure: the same two give the same actions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::labels::GROUP;
use serde_json::Value;
use sha2::{Digest, Sha256};

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
    /// Whether it deletes a child of that kind.
    pub fn deletes(&self, this: ChildKind) -> bool {
        matches!(self, Self::Delete { kind, .. } if *kind == this)
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
    let find = |kind: ChildKind| live.iter().find(|(other, _)| *other == kind).map(|(_, child)| child);
    let mut all = Vec::new();
    for kind in ChildKind::ALL {
        let wanted = wanted.iter().find(|(other, _)| *other == kind).map(|(_, child)| child);
        let Some(live) = find(kind) else {
            all.extend(wanted.map(|child| Action::Apply { kind, child: marked(child.clone()) }));
            continue;
        };
        let is_ours = is_owned(object, live);
        match wanted {
            Some(_) if !is_ours => return Err(conflict(kind, live)),
            // Somebody else's object of that name is in nobody's way where we want none.
            None if !is_ours => {}
            _ if is_being_deleted(live) => {}
            Some(child) => {
                let child = marked(child.clone());
                if !contains(live, &child) {
                    all.push(Action::Apply { kind, child });
                }
            }
            None => all.push(Action::Delete {
                kind,
                name: text(&live["metadata"]["name"]),
                uid: text(&live["metadata"]["uid"]),
                resource_version: text(&live["metadata"]["resourceVersion"]),
            }),
        }
    }
    Ok(all)
}

/// Whether a child is on its way out, so that the next look is needed.
pub fn is_being_deleted(child: &Value) -> bool {
    child["metadata"]["deletionTimestamp"].is_string()
}

/// Whether a child is this very object's, and not that of an earlier one of the same name.
pub fn is_owned(object: &RerankDeployment, child: &Value) -> bool {
    controller(child).is_some_and(|owner| Some(owner.uid) == object.uid())
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
