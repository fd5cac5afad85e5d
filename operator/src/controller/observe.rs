//! What is there: the children, the pods and what their servers say. I/O: reads only.

use std::sync::Arc;

use futures::future::{join_all, try_join3};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, TypeMeta};
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
    /// ReplicaSets by the selector. Only read where there is a configuration beside the wanted one.
    pub replica_sets: Vec<ReplicaSet>,
    /// What they say of their models.
    pub models: ModelView,
}

/// Looks. `config_map`: the name of the wanted one; `pod_monitors`: whether the cluster has that kind.
///
/// # Errors
/// The API server does not answer, or forbids it.
pub async fn observe(
    client: &Client,
    object: &RerankDeployment,
    config_map: Option<&str>,
    model_states: &Arc<ModelStates>,
    pod_monitors: bool,
) -> Result<Observed, kube::Error> {
    let namespace = object.namespace().unwrap_or_default();
    let children = async {
        let kinds = ChildKind::ALL.into_iter().filter(|kind| pod_monitors || *kind != ChildKind::PodMonitor);
        let looks = kinds.filter_map(|kind| Some(child(client, &namespace, kind, kind.name(object)?)));
        join_all(looks).await.into_iter().filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()
    };
    let config_maps = config_maps(client, &namespace, object, config_map);
    let pods = async {
        let mut pods = Vec::new();
        let chosen = ListParams::default().labels(&names::selector_text(object));
        each_page(&Api::namespaced(client.clone(), &namespace), chosen, |page| pods.extend(page)).await?;
        Ok(pods)
    };
    let (mut children, config_maps, pods) = try_join3(children, config_maps, pods).await?;
    let is_wanted = |(_, child): &(ChildKind, Value)| child["metadata"]["name"].as_str() == config_map;
    let replica_sets = if config_maps.iter().all(is_wanted) {
        Vec::new()
    } else {
        let api: Api<ReplicaSet> = Api::namespaced(client.clone(), &namespace);
        api.list(&ListParams::default().labels(&names::selector_text(object))).await?.items
    };
    children.extend(config_maps);
    model_states.follow(&(namespace, object.name_any()), &pods);
    let models = model_states.of(&pods).await;
    Ok(Observed { children, pods, replica_sets, models })
}

/// All configurations by the labels of the object's children, and the wanted one whatever labels it has.
async fn config_maps(
    client: &Client,
    namespace: &str,
    object: &RerankDeployment,
    wanted: Option<&str>,
) -> Result<Vec<(ChildKind, Value)>, kube::Error> {
    let kind = ChildKind::ConfigMap;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let found = api.list(&ListParams::default().labels(&names::selector_text(object))).await?.items;
    let is_missing = |name: &&str| found.iter().all(|child| child.metadata.name.as_deref() != Some(name));
    let wanted = match wanted.filter(is_missing) {
        Some(name) => child(client, namespace, kind, name.to_owned()).await?,
        None => None,
    };
    // Entries of lists do not say of what kind they are.
    let types = Some(TypeMeta { api_version: kind.resource().api_version, kind: kind.as_str().to_owned() });
    let found = found.into_iter().map(|child| DynamicObject { types: types.clone(), ..child });
    let found = found.map(|child| serde_json::to_value(child).map(|child| (kind, child)));
    let mut all = found.collect::<Result<Vec<_>, _>>().map_err(kube::Error::SerdeError)?;
    all.extend(wanted);
    Ok(all)
}

/// What all pods of the cluster have of a resource, page by page.
///
/// # Errors
/// As [`observe`].
pub async fn taken(client: &Client, resource: &str) -> Result<Taken, kube::Error> {
    let mut taken = Taken::default();
    each_page(&Api::all(client.clone()), ListParams::default(), |pods| taken.add(&pods, resource)).await?;
    Ok(taken)
}

/// Lists pods, so many at once: an answer is held in memory whole.
async fn each_page(api: &Api<Pod>, chosen: ListParams, mut visit: impl FnMut(Vec<Pod>)) -> Result<(), kube::Error> {
    let mut parameters = chosen.limit(PAGE);
    loop {
        let page = api.list(&parameters).await?;
        visit(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn child(
    client: &Client,
    namespace: &str,
    kind: ChildKind,
    name: String,
) -> Result<Option<(ChildKind, Value)>, kube::Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let found = match api.get_opt(&name).await {
        // Of a kind that is not there any more the API server says so in another way than of an object.
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        found => found?,
    };
    let Some(found) = found else { return Ok(None) };
    let value = serde_json::to_value(found).map_err(kube::Error::SerdeError)?;
    Ok(Some((kind, value)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// An API server that answers every request by its path and query.
    fn server(answer: fn(&str) -> (u16, String)) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let uri = request.uri().to_string();
            let (code, body) = answer(&uri);
            noted.lock().unwrap().push(uri);
            let answer = Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap();
            async move { Ok::<_, tower::BoxError>(answer) }
        });
        (Client::new(service, "search"), asked)
    }

    #[tokio::test]
    async fn a_kind_that_the_cluster_has_no_more_is_a_child_that_is_not_there() {
        let (client, _) = server(|_| (404, "404 page not found\n".to_owned()));
        let found = child(&client, "search", ChildKind::PodMonitor, "docs".to_owned()).await.unwrap();
        assert!(found.is_none());
        let (client, _) = server(|_| (503, "no backend\n".to_owned()));
        child(&client, "search", ChildKind::PodMonitor, "docs".to_owned()).await.unwrap_err();
    }

    #[tokio::test]
    async fn pods_are_read_page_by_page() {
        let (client, asked) = server(|uri| {
            let next = if uri.contains("continue=") { "" } else { "second" };
            let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
            let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"continue": next}, "items": [pod]});
            (200, list.to_string())
        });
        let mut pods = 0;
        let chosen = ListParams::default().labels("a=b");
        each_page(&Api::namespaced(client, "search"), chosen, |page| pods += page.len()).await.unwrap();
        assert_eq!(pods, 2);
        let asked = asked.lock().unwrap();
        assert!(asked.iter().all(|uri| uri.contains("limit=500") && uri.contains("labelSelector=a%3Db")), "{asked:?}");
    }
}
