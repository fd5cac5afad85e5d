//! Does what is to be done, one write after the other. I/O: writes.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::RerankDeploymentStatus;
use rerank_crds::rerank_deployment::labels::FIELD_MANAGER;
use serde_json::{Value, json};

use super::actions::Action;
use super::kinds::ChildKind;

/// The cause by which the API server refuses to make anything in a namespace that is being deleted.
const NAMESPACE_ENDS: &str = "NamespaceTerminating";

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

/// Does them in order; the first that fails ends it. A claim that is there and cannot change as is asked serves as it is: the others
/// are written, and why it could not is answered. What changed since it was seen is left to the next look, which its watch asks for.
///
/// # Errors
/// See [`WriteError`].
pub async fn apply(
    client: &Client,
    object: &RerankDeployment,
    actions: Vec<Action>,
) -> Result<Option<WriteError>, WriteError> {
    let namespace = object.namespace().unwrap_or_default();
    let mut unchanged = None;
    for action in actions {
        let kind = action.kind();
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind.resource());
        match write(&api, &namespace, action).await {
            Ok(()) => {}
            Err(error) if code(&error.source) == Some(404) && kind == ChildKind::PodMonitor => {
                tracing::info!(namespace, "The cluster has no PodMonitors any more");
            }
            // Its objects go with it, this one too.
            Err(error) if is_of_a_namespace_that_ends(&error.source) => return Ok(None),
            Err(error) if kind == ChildKind::CacheClaim && is_there_unchangeable(&api, &error).await => {
                unchanged = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(unchanged)
}

async fn write(api: &Api<DynamicObject>, namespace: &str, action: Action) -> Result<(), WriteError> {
    match action {
        Action::Apply { kind, child } => {
            let kind = kind.as_str();
            let name = child["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            // What we want of our own children counts, whoever wrote it last.
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            tracing::info!(kind, name, namespace, "Applying");
            let outcome = api.patch(&name, &parameters, &Patch::Apply(child)).await;
            outcome.map(drop).map_err(|source| WriteError { verb: "apply", kind, name, source })
        }
        Action::TakeAway { kind, name, patch } => {
            let kind = kind.as_str();
            tracing::info!(kind, name, namespace, "Taking away what somebody added");
            let outcome = api.patch(&name, &as_manager(), &Patch::Merge(patch)).await;
            unless_outdated(outcome).map_err(|source| WriteError { verb: "patch", kind, name, source })
        }
        Action::Scale { name, patch } => {
            let kind = ChildKind::Deployment.as_str();
            tracing::info!(kind, name, namespace, "Scaling");
            let outcome = api.patch(&name, &as_manager(), &Patch::Merge(patch)).await;
            unless_outdated(outcome).map_err(|source| WriteError { verb: "scale", kind, name, source })
        }
        Action::Delete { kind, name, uid, resource_version } => {
            let kind = kind.as_str();
            let preconditions = Preconditions { uid: Some(uid), resource_version: Some(resource_version) };
            let parameters = DeleteParams::background().preconditions(preconditions);
            tracing::info!(kind, name, namespace, "Deleting");
            let outcome = api.delete(&name, &parameters).await;
            unless_outdated(outcome).map_err(|source| WriteError { verb: "delete", kind, name, source })
        }
    }
}

fn as_manager() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// It went by itself, or somebody changed it meanwhile: neither is a failure.
fn unless_outdated<T>(outcome: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn is_of_a_namespace_that_ends(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == NAMESPACE_ENDS)
}

/// Whether the API server refuses the change alone, and not the claim.
async fn is_there_unchangeable(api: &Api<DynamicObject>, error: &WriteError) -> bool {
    matches!(code(&error.source), Some(403 | 422)) && matches!(api.get_opt(&error.name).await, Ok(Some(_)))
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
    let written =
        |source| WriteError { verb: "write the status of", kind: "RerankDeployment", name: name.clone(), source };
    let value = |status| serde_json::to_value(status).map_err(|error| written(kube::Error::SerdeError(error)));
    let (old, mut new) = (value(object.status.as_ref())?, value(Some(status))?);
    name_what_goes(&old, &mut new);
    // Refused where the object changed meanwhile.
    let patch = json!({"status": new, "metadata": {"uid": object.uid(), "resourceVersion": object.resource_version()}});
    match api.patch_status(&name, &as_manager(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(true),
        // The object is gone, and with it whatever there was to say; or it changed, and its watch will tell.
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
        Err(source) => Err(written(source)),
    }
}

/// Says in the status whose the object is. Where it changed meanwhile nothing is said; its watch will tell.
///
/// # Errors
/// The write failed.
pub async fn claim(client: &Client, object: &RerankDeployment, operator: &str) -> Result<(), WriteError> {
    let name = object.name_any();
    let api: Api<RerankDeployment> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({"status": {"operator": operator},
        "metadata": {"uid": object.uid(), "resourceVersion": object.resource_version()}});
    let outcome = api.patch_status(&name, &as_manager(), &Patch::Merge(patch)).await;
    unless_outdated(outcome).map_err(|source| WriteError { verb: "claim", kind: "RerankDeployment", name, source })
}

/// Puts null where the old status has a field and the new one has none, at any depth: a merge leaves alone what is not named.
fn name_what_goes(old: &Value, new: &mut Value) {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object_mut()) else { return };
    for (field, before) in old {
        match new.get_mut(field) {
            Some(now) => name_what_goes(before, now),
            None => drop(new.insert(field.clone(), Value::Null)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;

    use super::super::words::describe;
    use super::*;

    /// An API server that gives the same answer to every request of a method and path, and 200 to all others; and what it was asked.
    fn server(
        refusals: &'static [(&'static str, &'static str, u16, &'static str)],
    ) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
            noted.lock().unwrap().push(format!("{method} {path}"));
            let refusal = refusals.iter().find(|(other, end, ..)| *other == method && path.ends_with(end));
            let (code, body) = match refusal {
                Some((_, _, code, body)) => (*code, (*body).to_owned()),
                None => (200, json!({"apiVersion": "v1", "kind": "Any", "metadata": {"name": "docs"}}).to_string()),
            };
            let answer = Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap();
            async move { Ok::<_, tower::BoxError>(answer) }
        });
        (Client::new(service, "search"), asked)
    }

    fn object() -> RerankDeployment {
        let mut object =
            RerankDeployment::new("docs", serde_json::from_value(json!({"reranker": {"model": "a"}})).unwrap());
        object.metadata.namespace = Some("search".to_owned());
        object
    }

    fn apply_all(kinds: &[ChildKind]) -> Vec<Action> {
        let child = json!({"metadata": {"name": "docs"}});
        kinds.iter().map(|kind| Action::Apply { kind: *kind, child: child.clone() }).collect()
    }

    fn deletion() -> Vec<Action> {
        let (name, uid, resource_version) = ("docs".to_owned(), "u".to_owned(), "1".to_owned());
        vec![Action::Delete { kind: ChildKind::NetworkPolicy, name, uid, resource_version }]
    }

    const IMMUTABLE: &str =
        r#"{"status": "Failure", "message": "spec is immutable", "reason": "Invalid", "code": 422}"#;

    #[tokio::test]
    async fn a_claim_that_cannot_change_holds_up_no_other_child_and_is_told() {
        let (client, asked) = server(&[("PATCH", "persistentvolumeclaims/docs", 422, IMMUTABLE)]);
        let actions = apply_all(&[ChildKind::CacheClaim, ChildKind::Deployment]);
        let error = apply(&client, &object(), actions).await.unwrap().unwrap();
        assert_eq!(describe(&error), "failed to apply PersistentVolumeClaim docs: spec is immutable (422 Invalid)");
        assert!(asked.lock().unwrap().iter().any(|request| request.ends_with("deployments/docs")), "{asked:?}");
    }

    #[tokio::test]
    async fn without_its_claim_no_pod_is_made() {
        let absent = r#"{"status": "Failure", "message": "no", "reason": "NotFound", "code": 404}"#;
        let claim = "persistentvolumeclaims/docs";
        let refusals: &[_] = Box::leak(Box::new([("PATCH", claim, 422, IMMUTABLE), ("GET", claim, 404, absent)]));
        let (client, asked) = server(refusals);
        assert!(apply(&client, &object(), apply_all(&[ChildKind::CacheClaim, ChildKind::Deployment])).await.is_err());
        assert!(!asked.lock().unwrap().iter().any(|request| request.ends_with("deployments/docs")), "{asked:?}");
    }

    #[tokio::test]
    async fn a_kind_that_went_and_a_child_that_changed_or_went_are_no_failures() {
        let (client, _) = server(&[("PATCH", "podmonitors/docs", 404, "404 page not found\n")]);
        apply(&client, &object(), apply_all(&[ChildKind::PodMonitor])).await.unwrap();
        let (client, _) = server(&[("PATCH", "services/docs", 404, "404 page not found\n")]);
        apply(&client, &object(), apply_all(&[ChildKind::Service])).await.unwrap_err();
        for answer in [
            r#"{"status": "Failure", "message": "changed", "reason": "Conflict", "code": 409}"#,
            r#"{"status": "Failure", "message": "gone", "reason": "NotFound", "code": 404}"#,
        ] {
            let code = if answer.contains("409") { 409 } else { 404 };
            let refusals = Box::leak(Box::new([("DELETE", "networkpolicies/docs", code, answer)]));
            apply(&server(refusals).0, &object(), deletion()).await.unwrap();
        }
        let forbidden = r#"{"status": "Failure", "message": "no", "reason": "Forbidden", "code": 403}"#;
        let refusals = Box::leak(Box::new([("DELETE", "networkpolicies/docs", 403, forbidden)]));
        apply(&server(refusals).0, &object(), deletion()).await.unwrap_err();
    }

    #[tokio::test]
    async fn in_a_namespace_that_is_being_deleted_nothing_fails() {
        let (client, asked) = server(&[(
            "PATCH",
            "services/docs",
            403,
            r#"{"status": "Failure", "message": "it is being terminated", "reason": "Forbidden", "code": 403,
                "details": {"causes": [{"reason": "NamespaceTerminating"}]}}"#,
        )]);
        apply(&client, &object(), apply_all(&[ChildKind::Service, ChildKind::Deployment])).await.unwrap();
        assert_eq!(asked.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_is_said_no_longer_goes_at_any_depth() {
        let old = json!({"reranker": {"model": "a", "revision": "main", "estimatedMemoryBytes": 7}, "models": [{"name": "a", "x": 1}], "performance": {"pairsPerSecond": 1}});
        let mut new = json!({"reranker": {"model": "b"}, "models": [{"name": "b"}], "replicas": 1});
        name_what_goes(&old, &mut new);
        assert_eq!(
            new,
            json!({"reranker": {"model": "b", "revision": null, "estimatedMemoryBytes": null}, "models": [{"name": "b"}], "replicas": 1, "performance": null})
        );
        let mut first = json!({"replicas": 0});
        name_what_goes(&Value::Null, &mut first);
        assert_eq!(first, json!({"replicas": 0}));
    }
}
