//! Which change leads to a look at which object, and what follows when a look fails. I/O: watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::controller::{self, Action, Config as ControllerConfig, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::labels;
use tokio::time::{Instant, timeout};

use super::node_watch::NodeWatch;
use crate::admin::Admin;
use crate::args::Arguments;
use crate::controller::build::{Settings, pod_monitor};
use crate::controller::model_states::ModelStates;
use crate::controller::nodes::NodeView;
use crate::controller::reconcile::{ReconcileError, Reconciler, describe};
use crate::pauses::{WatchPauses, after_failures};

/// Objects that are worked on at once. Each asks for its nine children together, so a few of them keep an API server busy; more only wait
/// for each other.
const CONCURRENCY: u16 = 4;
/// A reconcile takes no longer: the client's own retries would go on for minutes.
const RECONCILE_DEADLINE: Duration = Duration::from_secs(30);
/// Events of one object that come together are one.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// The same complaint about a watch is logged so often.
const SAME_COMPLAINT: Duration = Duration::from_secs(60);

/// An object as the API server has it: one that this operator cannot read must not hide the others.
pub(super) type Declared = DeserializeGuard<RerankDeployment>;

/// What every reconcile has at hand.
struct Context {
    reconciler: Reconciler,
    nodes: Option<NodeWatch>,
    elastic_nodes: bool,
    admin: Admin,
    failures: Mutex<HashMap<ObjectRef<Declared>, u32>>,
}

/// Watches and reconciles until it is dropped. `identity`: who says so in events.
///
/// # Errors
/// Nodes cannot be read, or the controller ended by itself.
pub(super) async fn work(client: Client, arguments: &Arguments, identity: &str, admin: &Admin) -> anyhow::Result<()> {
    let (nodes, node_changes) = if arguments.watch_namespace.is_some() {
        (None, futures::stream::pending().boxed())
    } else {
        let (nodes, changes) = NodeWatch::start(client.clone()).await?;
        (Some(nodes), changes.boxed())
    };
    let reporter = Reporter { controller: labels::FIELD_MANAGER.to_owned(), instance: Some(identity.to_owned()) };
    let context = Arc::new(Context {
        reconciler: Reconciler {
            client: client.clone(),
            settings: Settings {
                cpu_image: arguments.cpu_image.clone(),
                gpu_image: arguments.gpu_image.clone(),
                pod_monitors: has_pod_monitors(&client).await?,
            },
            model_states: Arc::new(ModelStates::new().context("failed to make a client for pods")?),
            recorder: Recorder::new(client.clone(), reporter),
        },
        nodes,
        elastic_nodes: arguments.elastic_nodes,
        admin: admin.clone(),
        failures: Mutex::default(),
    });
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={}", labels::FIELD_MANAGER));
    let pods = watcher::Config::default().labels(&format!("app.kubernetes.io/name={}", labels::APPLICATION));
    let controller = Controller::new(watched::<Declared>(&client, arguments), watcher::Config::default());
    let store = controller.store();
    let metrics = Arc::clone(&admin.metrics);
    let mut complaints = Complaints::default();
    controller
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .trigger_backoff(WatchPauses::default())
        .owns(watched::<Deployment>(&client, arguments), ours.clone())
        .owns(watched::<Service>(&client, arguments), ours.clone())
        .owns(watched::<ConfigMap>(&client, arguments), ours.clone())
        .owns(watched::<ServiceAccount>(&client, arguments), ours.clone())
        .owns(watched::<PersistentVolumeClaim>(&client, arguments), ours.clone())
        .owns(watched::<NetworkPolicy>(&client, arguments), ours.clone())
        .owns(watched::<PodDisruptionBudget>(&client, arguments), ours.clone())
        .owns(watched::<HorizontalPodAutoscaler>(&client, arguments), ours)
        .watches(watched::<Pod>(&client, arguments), pods, |pod| owner_of(&pod))
        .reconcile_all_on(node_changes)
        .run(reconcile, pause_after, context)
        .for_each(move |outcome| {
            metrics.watched(store.state().len());
            // A reconcile that failed was logged where the pause was chosen; of one whose object is gone there is nothing to say.
            if let Err(controller::Error::QueueError(error)) = outcome {
                complaints.about(&describe(&error));
            }
            futures::future::ready(())
        })
        .await;
    bail!("the controller ended by itself")
}

/// Whether the cluster has the kind now. One that comes later is seen at the next start.
async fn has_pod_monitors(client: &Client) -> anyhow::Result<bool> {
    match client.list_api_group_resources(pod_monitor::GROUP_VERSION).await {
        Ok(kinds) => Ok(kinds.resources.iter().any(|resource| resource.kind == pod_monitor::KIND)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).context("failed to look which kinds the cluster has"),
    }
}

pub(super) fn watched<K>(client: &Client, arguments: &Arguments) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match &arguments.watch_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The object of a pod, by its labels.
fn owner_of(pod: &Pod) -> Option<ObjectRef<Declared>> {
    let name = pod.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

async fn reconcile(declared: Arc<Declared>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let begun = Instant::now();
    let work = async {
        match &declared.0 {
            Ok(object) => {
                let nodes = context.nodes.as_ref();
                let view = nodes.map_or(NodeView::NotReadable, |nodes| nodes.view(context.elastic_nodes));
                context.reconciler.reconcile(object, &view).await.map(Action::requeue)
            }
            Err(unreadable) => {
                context.reconciler.leave_alone(&declared.object_ref(&()), &unreadable.error).await;
                Ok(Action::await_change())
            }
        }
    };
    let outcome = timeout(RECONCILE_DEADLINE, work).await.unwrap_or(Err(ReconcileError::Deadline(RECONCILE_DEADLINE)));
    let category = outcome.as_ref().err().map(ReconcileError::category);
    context.admin.metrics.reconciled(begun.elapsed().as_secs_f64(), category);
    let action = outcome?;
    context.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&ObjectRef::from_obj(&*declared));
    Ok(action)
}

#[expect(clippy::needless_pass_by_value, reason = "the controller hands it over")]
fn pause_after(declared: Arc<Declared>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let failures = {
        let mut all = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = all.entry(ObjectRef::from_obj(&*declared)).or_default();
        *failures = failures.saturating_add(1);
        *failures
    };
    let pause = after_failures(failures);
    tracing::warn!(
        name = declared.name_any(),
        namespace = declared.namespace(),
        error = describe(error),
        pause_seconds = pause.as_secs(),
        "A reconcile failed"
    );
    Action::requeue(pause)
}

/// Warnings about watches, each at most once a minute: a right that is missing fails every second.
#[derive(Debug, Default)]
struct Complaints(HashMap<String, Instant>);

impl Complaints {
    fn about(&mut self, error: &str) {
        let now = Instant::now();
        self.0.retain(|_, last| now.duration_since(*last) < SAME_COMPLAINT);
        if !self.0.contains_key(error) {
            self.0.insert(error.to_owned(), now);
            tracing::warn!(error, "A watch failed; it is tried again");
        }
    }
}
