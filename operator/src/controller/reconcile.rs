//! One reconcile: observe -> validate -> build -> apply -> status. The driver; every step is somewhere else.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::Api;
use kube::runtime::events::{Event, Recorder};
use kube::{Client, Resource, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::RerankDeploymentStatus;
use rerank_crds::rerank_deployment::conditions::Reason;
use serde_json::Value;

use super::actions::{actions, is_being_deleted, is_owned};
use super::apply::{WriteError, apply, publish};
use super::build::{Replacement, Settings, build, names, pod_template};
use super::events;
use super::kinds::ChildKind;
use super::model_states::ModelStates;
use super::nodes::{Fit, NodeView, fit};
use super::observe::{Observed, observe, taken};
use super::pods::{self, Trouble};
use super::rollout::{Decision, decide};
use super::status::{ModelView, Seen, compute, unobserved};
use super::validate::{Plan, validate};

/// Models come and go without an event, so an object with ready pods is looked at so often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// An object whose child's name belongs to somebody else, which is not watched.
const LOOK_AGAIN_AT_ANOTHERS: Duration = Duration::from_secs(10);

/// Any other, in case that an event was missed.
const LOOK_SELDOM: Duration = Duration::from_secs(300);

/// What is being deleted is waited for.
const LOOK_SOON: Duration = Duration::from_secs(2);

/// Why a reconcile did not end. It is tried again after a pause that grows.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server could not be read.
    #[error("failed to look at the object's children")]
    Observe(#[source] kube::Error),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A child cannot be written as JSON.
    #[error("failed to write a child as JSON")]
    Build(#[source] serde_json::Error),
    /// It took too long.
    #[error("not done within {} s", .0.as_secs())]
    Deadline(Duration),
}

impl ReconcileError {
    /// For metrics and logs: a closed list.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Observe(_) => "observe",
            Self::Write(_) => "write",
            Self::Build(_) => "build",
            Self::Deadline(_) => "deadline",
        }
    }
}

/// What every reconcile needs.
#[derive(Clone)]
pub struct Reconciler {
    /// The API server.
    pub client: Client,
    /// The operator's flags, and what the cluster has.
    pub settings: Settings,
    /// What pods say.
    pub model_states: Arc<ModelStates>,
    /// Tells events; those that repeat become one.
    pub recorder: Recorder,
}

/// What became of the children.
enum Written {
    /// They are as the object says.
    All,
    /// Something forbids it.
    Nothing(Trouble),
    /// The object is not what it was when it was seen. Its watch will tell.
    Outdated,
}

/// When to look again.
pub type Next = Duration;

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reconciler").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Reconciler {
    /// One reconcile. Status is published whatever happens before it.
    ///
    /// # Errors
    /// See [`ReconcileError`].
    pub async fn reconcile(&self, object: &RerankDeployment, nodes: &NodeView) -> Result<Next, ReconcileError> {
        if object.metadata.deletion_timestamp.is_some() {
            // Its children go by their owner references.
            return Ok(LOOK_SELDOM);
        }
        let observed = match observe(&self.client, object, &self.model_states, self.settings.pod_monitors).await {
            Ok(observed) => observed,
            Err(error) => {
                let error = ReconcileError::Observe(error);
                let why = Trouble::new(Reason::ReconcileFailed, describe(&error));
                self.say(object, &unobserved(object, &why, &now())).await?;
                return Err(error);
            }
        };
        let plan = validate(&object.spec);
        let fit =
            plan.as_ref().map_or(Fit::Unknown(super::nodes::UnknownFit::NotReadable), |plan| fit(object, plan, nodes));
        let written = match &plan {
            Ok(plan) => self.write(object, plan, &fit, &observed, nodes).await,
            Err(_) => Ok(Written::All),
        };
        let unwritten = match &written {
            Ok(Written::All) => None,
            Ok(Written::Nothing(trouble)) => Some(trouble.clone()),
            Ok(Written::Outdated) => return Ok(LOOK_SOON),
            Err(error) => Some(Trouble::new(Reason::ReconcileFailed, describe(error))),
        };
        let deployment = own_deployment(object, &observed.children);
        let seen = Seen {
            plan: plan.as_ref().map_err(|refusal| Trouble::new(Reason::InvalidSpec, refusal.to_string())),
            fit,
            unwritten,
            deployment: deployment.and_then(|child| serde_json::from_value(child.clone()).ok()),
            pods: pods::read(&observed.pods),
            models: observed.models.clone(),
        };
        self.say(object, &compute(object, &seen, &now())).await?;
        Ok(next(&observed, &written?))
    }

    /// Tells that an object cannot be read. Its children stay as they are.
    pub async fn leave_alone(&self, object: &ObjectReference, error: &str) {
        tracing::error!(name = object.name, namespace = object.namespace, error, "An object cannot be read");
        self.tell(object, &events::of_unreadable(error)).await;
    }

    /// Writes what differs.
    async fn write(
        &self,
        object: &RerankDeployment,
        plan: &Plan,
        fit: &Fit,
        observed: &Observed,
        nodes: &NodeView,
    ) -> Result<Written, ReconcileError> {
        let replacement = self.replacement(object, plan, observed, nodes).await?;
        let children = build(object, plan, replacement, &self.settings);
        let mut wanted = children.to_values().map_err(ReconcileError::Build)?;
        let mut live = observed.children.clone();
        if matches!(fit, Fit::TooLarge { .. }) {
            // A new pod would stay Pending without a word, and an old one that serves would be given up for it.
            for children in [&mut wanted, &mut live] {
                children.retain(|(kind, _)| *kind != ChildKind::Deployment);
            }
        }
        match actions(object, &wanted, &live) {
            Ok(actions) if actions.is_empty() => Ok(Written::All),
            Ok(_) if !self.is_current(object).await? => Ok(Written::Outdated),
            Ok(mut actions) => {
                // Pods that mount the claim keep it, and no new pod could mount one that is marked for deletion; a later look gives it up.
                actions.retain(|action| {
                    !(action.deletes(ChildKind::CacheClaim) && pods::mount(&observed.pods, &names::cache_claim(object)))
                });
                apply(&self.client, object, actions).await?;
                Ok(Written::All)
            }
            Err(conflict) => Ok(Written::Nothing(Trouble::new(Reason::NameConflict, conflict.to_string()))),
        }
    }

    /// Whether nobody changed or deleted the object since it was seen. An older view would undo what was made of a newer one: it would
    /// scale down, and delete a claim with its downloads.
    async fn is_current(&self, object: &RerankDeployment) -> Result<bool, ReconcileError> {
        let api: Api<RerankDeployment> = Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let found = api.get_metadata_opt(&object.name_any()).await.map_err(ReconcileError::Observe)?;
        Ok(found.is_some_and(|found| {
            let (found, seen) = (&found.metadata, &object.metadata);
            found.uid == seen.uid && found.generation == seen.generation && found.deletion_timestamp.is_none()
        }))
    }

    /// How a changed pod replaces the old one. Reads pods of the whole cluster where that depends on a free GPU.
    async fn replacement(
        &self,
        object: &RerankDeployment,
        plan: &Plan,
        observed: &Observed,
        nodes: &NodeView,
    ) -> Result<Replacement, ReconcileError> {
        let template =
            serde_json::to_value(pod_template(object, plan, &self.settings)).map_err(ReconcileError::Build)?;
        match decide(object, plan.device, own_deployment(object, &observed.children), &template) {
            Decision::Settled(replacement) => Ok(replacement),
            Decision::WhereFree(_) if *nodes == NodeView::NotReadable => Ok(Replacement::InPlace),
            Decision::WhereFree(gpu) => {
                let taken = taken(&self.client, &gpu.resource_name).await.map_err(ReconcileError::Observe)?;
                let is_free = taken.leave(gpu, object, nodes);
                tracing::info!(
                    name = object.name_any(),
                    namespace = object.namespace(),
                    is_free,
                    "Looked for a free GPU"
                );
                Ok(if is_free { Replacement::Surge } else { Replacement::InPlace })
            }
        }
    }

    /// Publishes a status, and the event of its turn.
    async fn say(&self, object: &RerankDeployment, status: &RerankDeploymentStatus) -> Result<(), WriteError> {
        if publish(&self.client, object, status).await?
            && let Some(event) = events::of_transition(object.status.as_ref(), status)
        {
            self.tell(&object.object_ref(&()), &event).await;
        }
        Ok(())
    }

    /// An event is a courtesy: that it could not be told holds nothing up.
    async fn tell(&self, object: &ObjectReference, event: &Event) {
        if let Err(error) = self.recorder.publish(event, object).await {
            tracing::warn!(
                name = object.name,
                reason = event.reason,
                error = describe(&error),
                "An event was not taken"
            );
        }
    }
}

fn now() -> Time {
    Time(jiff::Timestamp::now())
}

/// Models come and go without an event, and what is being deleted goes soon.
fn next(observed: &Observed, written: &Written) -> Next {
    if matches!(written, Written::Nothing(_)) {
        // Whoever has the name is not watched.
        LOOK_AGAIN_AT_ANOTHERS
    } else if observed.children.iter().any(|(_, child)| is_being_deleted(child)) {
        LOOK_SOON
    } else if observed.models == ModelView::NoPods {
        LOOK_SELDOM
    } else {
        LOOK_AGAIN
    }
}

fn own_deployment<'a>(object: &RerankDeployment, children: &'a [(ChildKind, Value)]) -> Option<&'a Value> {
    let (_, child) = children.iter().find(|(kind, _)| *kind == ChildKind::Deployment)?;
    is_owned(object, child).then_some(child)
}

/// An error with its causes.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}
