//! Which change leads to a look at which object, and what follows when a look fails. I/O: watches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::Api;
use kube::core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::controller::{self, Action, Config as ControllerConfig, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::conditions::Reason;
use rerank_crds::rerank_deployment::labels;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::claims::{Claim, Claims};
use super::complaints::Complaints;
use super::failures::Failures;
use super::missed::until_missed;
use super::node_watch::{NodeWatch, paced};
use super::pod_monitors::PodMonitors;
use crate::admin::Admin;
use crate::args::Arguments;
use crate::controller::apply::{claim, publish};
use crate::controller::build::Settings;
use crate::controller::model_states::ModelStates;
use crate::controller::nodes::NodeView;
use crate::controller::pods::Trouble;
use crate::controller::reconcile::{ReconcileError, Reconciler};
use crate::controller::status::unobserved;
use crate::controller::words::describe;
use crate::pauses::WatchPauses;

/// Objects that are worked on at once. Each asks for its nine children together, so two of them keep an API server busy; more only wait
/// for each other, and no more is done in the same time.
const CONCURRENCY: u16 = 2;
/// A reconcile takes no longer: the client's own retries would go on for minutes.
const RECONCILE_DEADLINE: Duration = Duration::from_secs(30);
/// Events of one object that come together are one.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// An object that was claimed is looked at by then, should its event be lost.
const CLAIMED: Duration = Duration::from_secs(5);
/// To tell that a reconcile took too long takes no longer itself.
const TELLING_DEADLINE: Duration = Duration::from_secs(5);

/// An object as the API server has it: one that this operator cannot read must not hide the others.
pub(super) type Declared = DeserializeGuard<RerankDeployment>;

/// Of a child whose it is is all that is asked, and all of them whole would be much memory.
type Metadata<K> = PartialObjectMeta<K>;

/// What every reconcile has at hand.
struct Context {
    reconciler: Reconciler,
    nodes: Option<NodeWatch>,
    pod_monitors: PodMonitors,
    admin: Admin,
    failures: Mutex<Failures>,
    claims: Mutex<Claims>,
}

impl Context {
    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reconciler(&self) -> Reconciler {
        let mut reconciler = self.reconciler.clone();
        reconciler.settings.pod_monitors = self.pod_monitors.are_known();
        reconciler
    }

    fn nodes(&self) -> Arc<NodeView> {
        self.nodes.as_ref().map_or_else(|| Arc::new(NodeView::NotReadable), NodeWatch::view)
    }
}

/// Watches and reconciles until a watch is seen to have missed something. `identity`: who says so in events.
///
/// # Errors
/// No client can be made, or the controller ended by itself.
pub(super) async fn work(client: Client, arguments: &Arguments, identity: &str, admin: &Admin) -> anyhow::Result<()> {
    let (mut nodes, node_changes) = if arguments.watch_namespace.is_some() {
        (None, stream::pending().boxed())
    } else {
        let (nodes, changes) = NodeWatch::start(client.clone(), arguments.elastic_nodes);
        (Some(nodes), paced(changes).boxed())
    };
    let (pod_monitors, kind_changes) = PodMonitors::start(client.clone());
    if let Some(nodes) = &mut nodes {
        nodes.settle().await;
    }
    let (model_states, said) = ModelStates::new().context("failed to make a client for pods")?;
    let model_states = Arc::new(model_states);
    let reporter = Reporter { controller: labels::FIELD_MANAGER.to_owned(), instance: Some(identity.to_owned()) };
    let context = Arc::new(Context {
        reconciler: Reconciler {
            client: client.clone(),
            settings: Settings {
                cpu_image: arguments.cpu_image.clone(),
                gpu_image: arguments.gpu_image.clone(),
                // Each reconcile has it as it is then.
                pod_monitors: false,
            },
            model_states: Arc::clone(&model_states),
            recorder: Recorder::new(client.clone(), reporter),
            look_seldom: arguments.resync(),
        },
        nodes,
        pod_monitors,
        admin: admin.clone(),
        failures: Mutex::default(),
        claims: Mutex::new(Claims::new(arguments.lease_namespace(), &arguments.lease_name)),
    });
    let forgetting = Arc::clone(&context);
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={}", labels::FIELD_MANAGER));
    let pods = watcher::Config::default().labels(&format!("app.kubernetes.io/name={}", labels::APPLICATION));
    let controller = Controller::new(watched::<Declared>(&client, arguments), watcher::Config::default());
    let store = controller.store();
    let metrics = Arc::clone(&admin.metrics);
    // Where there are none, no look tells so.
    metrics.watched(0);
    let mut complaints = Complaints::default();
    let known = controller.store();
    let working = controller
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .trigger_backoff(WatchPauses::default())
        .watches(watched::<Metadata<Deployment>>(&client, arguments), ours.clone(), |child| object_of(&child))
        .watches(watched::<Metadata<Service>>(&client, arguments), ours.clone(), |child| object_of(&child))
        .watches(watched::<Metadata<ConfigMap>>(&client, arguments), ours.clone(), |child| object_of(&child))
        .watches(watched::<Metadata<ServiceAccount>>(&client, arguments), ours.clone(), |child| object_of(&child))
        .watches(watched::<Metadata<PersistentVolumeClaim>>(&client, arguments), ours.clone(), |child| {
            object_of(&child)
        })
        .watches(watched::<Metadata<NetworkPolicy>>(&client, arguments), ours.clone(), |child| object_of(&child))
        .watches(watched::<Metadata<PodDisruptionBudget>>(&client, arguments), ours.clone(), |child| object_of(&child))
        .watches(watched::<Metadata<HorizontalPodAutoscaler>>(&client, arguments), ours, |child| object_of(&child))
        .watches(watched::<Metadata<Pod>>(&client, arguments), pods, |pod| object_of(&pod))
        .reconcile_all_on(stream::select(node_changes, kind_changes))
        .reconcile_on(said.map(|(namespace, name)| ObjectRef::new(&name).within(&namespace)))
        .run(reconcile, pause_after, context)
        .for_each(move |outcome| {
            metrics.watched(store.state().len());
            match outcome {
                Err(controller::Error::QueueError(error)) => complaints.about(&describe(&error)),
                Err(controller::Error::ObjectNotFound(gone)) => {
                    forgetting.failures().forget(gone.namespace.as_deref(), &gone.name);
                    forgetting.claims().forget(gone.namespace.as_deref(), &gone.name);
                    let name = (gone.namespace.unwrap_or_default(), gone.name);
                    forgetting.reconciler.model_states.forget(&name);
                }
                // A reconcile that failed was logged where the pause was chosen.
                _ => {}
            }
            futures::future::ready(())
        });
    let objects = watched(&client, arguments);
    tokio::select! {
        never = model_states.keep_asking() => match never {},
        () = working => bail!("the controller ended by itself"),
        () = until_missed(&objects, &known, arguments.resync()) => Ok(()),
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

/// The object of a pod or of another child, by its labels: somebody may take the reference to its owner away.
fn object_of(child: &impl ResourceExt) -> Option<ObjectRef<Declared>> {
    let name = child.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(name).within(&child.namespace()?))
}

async fn reconcile(declared: Arc<Declared>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if let Some(rest) = context.failures().rest(declared.meta(), Instant::now()) {
        return Ok(Action::requeue(rest));
    }
    let begun = Instant::now();
    let outcome = attempt(look(Arc::clone(&declared), Arc::clone(&context))).await;
    if let Err(error @ (ReconcileError::Deadline(_) | ReconcileError::Panic(_))) = &outcome {
        // Whatever else failed has told it already.
        tell(&context, &declared, error).await;
    }
    let category = outcome.as_ref().err().map(ReconcileError::category);
    context.admin.metrics.reconciled(begun.elapsed().as_secs_f64(), category);
    let action = outcome?;
    context.failures().forget(declared.namespace().as_deref(), &declared.name_any());
    Ok(action)
}

async fn look(declared: Arc<Declared>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    match &declared.0 {
        Ok(object) => look_at(object, &context).await.map(Action::requeue),
        Err(unreadable) => {
            context.reconciler.leave_alone(&declared.object_ref(&()), &unreadable.error).await;
            Ok(Action::await_change())
        }
    }
}

async fn look_at(object: &RerankDeployment, context: &Context) -> Result<Duration, ReconcileError> {
    let whose = context.claims().of(object, Instant::now());
    match whose {
        Claim::Ours => context.reconciler().reconcile(object, &context.nodes()).await,
        Claim::Take => {
            let ours = context.claims().ours().to_owned();
            if object.status.as_ref().is_none_or(|status| status.conditions.is_empty()) {
                // The first that is said of it claims it too. Of two that do so at once the API server takes one.
                let mut object = object.clone();
                object.status.get_or_insert_default().operator = Some(ours);
                return context.reconciler().reconcile(&object, &context.nodes()).await;
            }
            claim(&context.reconciler.client, object, &ours).await?;
            // The write asks for the next look.
            Ok(CLAIMED)
        }
        Claim::Leave { rest, tell } => {
            if let Some(operator) = tell {
                context.reconciler.leave_to(object, &operator).await;
            }
            Ok(rest)
        }
    }
}

/// In a task of its own, so that a fault of one object ends neither the process nor the work on others. Dropped, it ends the task.
async fn attempt<T>(work: impl Future<Output = Result<T, ReconcileError>> + Send + 'static) -> Result<T, ReconcileError>
where
    T: Send + 'static,
{
    let mut task = JoinSet::new();
    task.spawn(work);
    match timeout(RECONCILE_DEADLINE, task.join_next()).await {
        Ok(Some(Ok(outcome))) => outcome,
        Ok(Some(Err(ended))) => Err(ReconcileError::Panic(words_of(ended))),
        Ok(None) | Err(_) => Err(ReconcileError::Deadline(RECONCILE_DEADLINE)),
    }
}

fn words_of(ended: tokio::task::JoinError) -> String {
    let Ok(panic) = ended.try_into_panic() else { return "its task was ended".to_owned() };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it said nothing".to_owned())
}

async fn tell(context: &Context, declared: &Declared, error: &ReconcileError) {
    let Ok(object) = &declared.0 else { return };
    let why = Trouble::new(Reason::ReconcileFailed, describe(error));
    let status = unobserved(object, &why, &Time(jiff::Timestamp::now()));
    if let Ok(Err(error)) = timeout(TELLING_DEADLINE, publish(&context.reconciler.client, object, &status)).await {
        tracing::warn!(name = object.name_any(), error = describe(&error), "A status could not be written");
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the controller hands it over")]
fn pause_after(declared: Arc<Declared>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let pause = context.failures().failed(declared.meta(), Instant::now());
    tracing::warn!(
        name = declared.name_any(),
        namespace = declared.namespace(),
        error = describe(error),
        pause_seconds = pause.as_secs(),
        "A reconcile failed"
    );
    Action::requeue(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_in_one_look_is_an_error_of_that_object() {
        let outcome: Result<(), _> = attempt(async { panic!("index out of bounds") }).await;
        let error = outcome.unwrap_err();
        assert_eq!(
            (error.category(), error.to_string()),
            ("panic", "a fault of the operator: index out of bounds".to_owned())
        );
        assert_eq!(attempt(async { Ok(7) }).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_is_given_up_and_ends() {
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let hanging = async move {
            let _alive = alive;
            std::future::pending::<Result<(), ReconcileError>>().await
        };
        assert_eq!(attempt(hanging).await.unwrap_err().category(), "deadline");
        assert!(ended.await.is_err(), "its task is gone");
    }

    #[test]
    fn a_child_is_its_objects_by_its_labels_even_without_an_owner() {
        let child: Service =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "x", "namespace": "search",
            "labels": {"app.kubernetes.io/instance": "docs"}}}))
            .unwrap();
        assert_eq!(object_of(&child), Some(ObjectRef::new("docs").within("search")));
        assert_eq!(object_of(&Service::default()), None);
    }
}
