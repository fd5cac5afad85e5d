//! Does what is to be done, one write after the other. I/O: writes.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::RerankDeploymentStatus;
use rerank_crds::rerank_deployment::labels::FIELD_MANAGER;
use serde_json::json;

use super::actions::Action;

/// Which write failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} {kind} {name}")]
pub struct WriteError {
    verb: &'static str,
    kind: &'static str,
    name: String,
    #[source]
    source: kube::Error,
}

/// Does them in order; the first that fails ends it.
///
/// # Errors
/// See [`WriteError`].
pub async fn apply(client: &Client, object: &RerankDeployment, actions: Vec<Action>) -> Result<(), WriteError> {
    let namespace = object.namespace().unwrap_or_default();
    for action in actions {
        match action {
            Action::Apply { kind, child } => {
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind.resource());
                let name = kind.name(object);
                // What we want of our own children counts, whoever wrote it last.
                let parameters = PatchParams::apply(FIELD_MANAGER).force();
                tracing::info!(kind = kind.as_str(), name, namespace, "Applying");
                let outcome = api.patch(&name, &parameters, &Patch::Apply(child)).await;
                outcome.map_err(|source| WriteError { verb: "apply", kind: kind.as_str(), name, source })?;
            }
            Action::Delete { kind, name, uid, resource_version } => {
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind.resource());
                let preconditions = Preconditions { uid: Some(uid), resource_version: Some(resource_version) };
                let parameters = DeleteParams::background().preconditions(preconditions);
                tracing::info!(kind = kind.as_str(), name, namespace, "Deleting");
                match api.delete(&name, &parameters).await {
                    Ok(_) => {}
                    // It went by itself.
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(source) => return Err(WriteError { verb: "delete", kind: kind.as_str(), name, source }),
                }
            }
        }
    }
    Ok(())
}

/// Writes the status where it differs. Answers whether it did.
///
/// # Errors
/// The write failed.
pub async fn publish(
    client: &Client,
    object: &RerankDeployment,
    status: &RerankDeploymentStatus,
) -> Result<bool, WriteError> {
    if object.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let name = object.name_any();
    let api: Api<RerankDeployment> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    // Replaced as a whole: it is ours alone, and what is left out is meant to go. Refused where the object changed meanwhile.
    let mut whole =
        serde_json::to_value(status).map_err(|source| write_error(&name, kube::Error::SerdeError(source)))?;
    for (field, value) in null_of_old(object, &whole) {
        whole[field] = value;
    }
    let patch =
        json!({"status": whole, "metadata": {"uid": object.uid(), "resourceVersion": object.resource_version()}});
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_status(&name, &parameters, &Patch::Merge(patch)).await {
        Ok(_) => Ok(true),
        // The object is gone, and with it whatever there was to say; or it changed, and its watch will tell.
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
        Err(source) => Err(write_error(&name, source)),
    }
}

/// Fields that the old status has and the new one lacks, as null: a merge leaves alone what is not named.
fn null_of_old(object: &RerankDeployment, new: &serde_json::Value) -> Vec<(String, serde_json::Value)> {
    let old = serde_json::to_value(&object.status).unwrap_or_default();
    let fields = old.as_object().into_iter().flatten().map(|(field, _)| field.clone());
    fields.filter(|field| new.get(field).is_none()).map(|field| (field, serde_json::Value::Null)).collect()
}

fn write_error(name: &str, source: kube::Error) -> WriteError {
    WriteError { verb: "write the status of", kind: "RerankDeployment", name: name.to_owned(), source }
}
