//! What is there: the children, the pods and what their servers say. I/O: reads only.

use std::sync::Arc;

use futures::future::{join_all, try_join};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use rerank_crds::RerankDeployment;
use serde_json::Value;

use super::build::names;
use super::kinds::ChildKind;
use super::model_states::ModelStates;
use super::rollout::Taken;
use super::status::ModelView;

/// Pods that are read at once.
const PAGE: u32 = 500;

/// As it was seen.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Objects of the children's kinds and names, whoever has them.
    pub children: Vec<(ChildKind, Value)>,
    /// Pods by the selector.
    pub pods: Vec<Pod>,
    /// What the ready ones say of their models.
    pub models: ModelView,
}

/// Looks. `pod_monitors`: whether the cluster has that kind.
///
/// # Errors
/// The API server does not answer, or forbids it.
pub async fn observe(
    client: &Client,
    object: &RerankDeployment,
    model_states: &Arc<ModelStates>,
    pod_monitors: bool,
) -> Result<Observed, kube::Error> {
    let namespace = object.namespace().unwrap_or_default();
    let children = async {
        let kinds = ChildKind::ALL.into_iter().filter(|kind| pod_monitors || *kind != ChildKind::PodMonitor);
        let looks = kinds.map(|kind| child(client, &namespace, kind, object));
        join_all(looks).await.into_iter().filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()
    };
    let pods = async {
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        Ok(api.list(&ListParams::default().labels(&names::selector_text(object))).await?.items)
    };
    let (children, pods) = try_join(children, pods).await?;
    let models = model_states.of(&pods).await;
    Ok(Observed { children, pods, models })
}

/// What all pods of the cluster have of a resource, page by page.
///
/// # Errors
/// As [`observe`].
pub async fn taken(client: &Client, resource: &str) -> Result<Taken, kube::Error> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut taken = Taken::default();
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await?;
        taken.add(&page.items, resource);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(taken),
        }
    }
}

async fn child(
    client: &Client,
    namespace: &str,
    kind: ChildKind,
    object: &RerankDeployment,
) -> Result<Option<(ChildKind, Value)>, kube::Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let Some(found) = api.get_opt(&kind.name(object)).await? else { return Ok(None) };
    let value = serde_json::to_value(found).map_err(kube::Error::SerdeError)?;
    Ok(Some((kind, value)))
}
