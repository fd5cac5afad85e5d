//! One reconcile: observe -> validate -> build -> apply -> status. The driver; every step is somewhere else.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::Api;
use kube::runtime::events::{Event, Recorder};
use kube::{Client, Resource, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::RerankDeploymentStatus;
use rerank_crds::rerank_deployment::conditions::Reason;
use serde_json::Value;

use super::actions::{actions, is_being_deleted, is_ours, scale};
use super::apply::{WriteError, apply, publish};
use super::build::{Replacement, Settings, TemplateDigest, build, names, pod_template};
use super::contains::contains;
use super::events;
use super::kinds::ChildKind;
use super::model_states::ModelStates;
use super::nodes::{Fit, NodeView, UnknownFit, fit};
use super::observe::{Observed, observe, taken};
use super::pods::{self, Mounted, Trouble};
use super::rollout::{Decision, decide};
use super::status::{Seen, Template, compute, unobserved};
use super::validate::{Plan, Refusal, validate};
pub use super::words::describe;

/// An object whose child's name belongs to somebody else, which is not watched.
const LOOK_AGAIN_AT_ANOTHERS: Duration = Duration::from_secs(10);

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
    /// This program is wrong.
    #[error("a fault of the operator: {0}")]
    Panic(String),
}

impl ReconcileError {
    /// For metrics and logs: a closed list.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Observe(_) => "observe",
            Self::Write(_) => "write",
            Self::Build(_) => "build",
            Self::Deadline(_) => "deadline",
            Self::Panic(_) => "panic",
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
    /// An object at rest is looked at again after so long, in case that an event was missed.
    pub look_seldom: Duration,
}

/// What became of the children.
enum Written {
    /// They are as the object says.
    All,
    /// So they are, but for the pods' template and configuration, which stay those of before: the new ones fit no node.
    AllButTemplate,
    /// So they are, but for one that the API server does not let be so. The next look tries it again.
    AllBut(Trouble),
    /// There is no plan: they stay as they are, in the number that is asked for now.
    NoPlan,
    /// One of their names is somebody else's, so they stay as they are.
    NameTaken(Trouble),
    /// The object is not what it was when it was seen. Its watch will tell.
    Outdated,
}

/// That the API server drops a field, about which it says nothing.
const NO_IMAGE_VOLUMES: &str = "the API server takes weights.image away: volumes from images need Kubernetes 1.35, or its feature gate \
                                ImageVolume; weights.persistentVolumeClaim and weights.hub need neither";

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
            return Ok(self.look_seldom);
        }
        let plan = validate(&object.spec);
        let wanted = plan.as_ref().ok().map(|plan| Wanted::of(object, plan, &self.settings));
        let config_map = wanted.as_ref().map(|wanted| wanted.config_map.as_str());
        let looking = observe(&self.client, object, config_map, &self.model_states, self.settings.pod_monitors);
        let observed = match looking.await {
            Ok(observed) => observed,
            Err(error) => {
                let error = ReconcileError::Observe(error);
                let why = Trouble::new(Reason::ReconcileFailed, describe(&error));
                self.say(object, &unobserved(object, &why, &now())).await?;
                return Err(error);
            }
        };
        let fit = plan.as_ref().map_or(Fit::Unknown(UnknownFit::NotReadable), |plan| fit(object, plan, nodes));
        let live = own_deployment(object, &observed.children);
        let template = template_state(wanted.as_ref(), live, &fit);
        let written = match (&plan, &wanted) {
            (Ok(plan), Some(wanted)) => self.write(object, plan, wanted, template, &observed, nodes).await,
            _ => self.write_without_plan(object, live).await,
        };
        let unwritten = match &written {
            Ok(Written::All | Written::AllButTemplate | Written::NoPlan) => None,
            Ok(Written::NameTaken(trouble) | Written::AllBut(trouble)) => Some(trouble.clone()),
            Ok(Written::Outdated) => return Ok(LOOK_SOON),
            Err(error) => Some(Trouble::new(Reason::ReconcileFailed, describe(error))),
        };
        // Those that are asked for speak; where they cannot be, those that stay.
        let speaking = match (&wanted, template) {
            (Some(wanted), Template::Wanted | Template::Before) => wanted.template.clone(),
            (None, _) | (_, Template::HeldBack) => live.and_then(TemplateDigest::of_deployment),
        };
        let speaking = pods::of_template(&observed.pods, speaking.as_ref());
        let models = if speaking.len() == observed.pods.len() {
            observed.models.clone()
        } else {
            self.model_states.of(&speaking).await
        };
        let next = written.as_ref().map_or(self.look_seldom, |written| self.next(&observed, written));
        let seen = Seen {
            plan: plan.as_ref().map_err(invalid),
            fit,
            unwritten,
            deployment: live.and_then(typed),
            template,
            pods: pods::read(&speaking),
            models,
        };
        self.say(object, &compute(object, &seen, &now())).await?;
        written?;
        Ok(next)
    }

    /// Tells that an object cannot be read. Its children stay as they are.
    pub async fn leave_alone(&self, object: &ObjectReference, error: &str) {
        tracing::error!(name = object.name, namespace = object.namespace, error, "An object cannot be read");
        self.tell(object, &events::of_unreadable(error)).await;
    }

    /// Tells that another operator looks after an object.
    pub async fn leave_to(&self, object: &RerankDeployment, operator: &str) {
        let (name, namespace) = (object.name_any(), object.namespace());
        tracing::warn!(name, namespace, operator, "An object is another operator's");
        self.tell(&object.object_ref(&()), &events::of_another_operator(operator)).await;
    }

    /// Writes what differs.
    async fn write(
        &self,
        object: &RerankDeployment,
        plan: &Plan,
        meant: &Wanted,
        template: Template,
        observed: &Observed,
        nodes: &NodeView,
    ) -> Result<Written, ReconcileError> {
        let found = own_deployment(object, &observed.children);
        let is_held_back = template == Template::HeldBack;
        let replacement = if is_held_back {
            // Nothing is replaced.
            Replacement::InPlace
        } else {
            self.replacement(object, plan, meant, observed, nodes).await?
        };
        let children = build(object, plan, replacement, &self.settings);
        let mut wanted = children.to_values().map_err(ReconcileError::Build)?;
        let mut live = observed.children.clone();
        if is_held_back {
            hold_template_back(object, &mut wanted, &mut live);
        } else if pods::has_of_before(&observed.pods, meant.template.as_ref()) {
            keep_ways_of_before(&mut wanted, &live);
        }
        let mounted = Mounted::by(&observed.pods, &observed.replica_sets, found.and_then(typed).as_ref());
        live.retain(|(kind, child)| !is_needed_by_others(*kind, child, &wanted, &mounted));
        let mut actions = match actions(object, &wanted, &live) {
            Ok(actions) => actions,
            Err(conflict) => {
                return Ok(Written::NameTaken(Trouble::new(Reason::NameConflict, conflict.to_string())));
            }
        };
        if is_held_back {
            actions.extend(found.and_then(|found| scale(object, found)));
        }
        let failed = |words: String| Written::AllBut(Trouble::new(Reason::ReconcileFailed, words));
        if !actions.is_empty() {
            if !self.is_current(object).await? {
                return Ok(Written::Outdated);
            }
            if let Some(error) = apply(&self.client, object, actions).await? {
                return Ok(failed(describe(&error)));
            }
        }
        if template == Template::Wanted && lacks_image_volume(object, found) {
            // It was tried again, in case that the API server is another one now.
            return Ok(failed(NO_IMAGE_VOLUMES.to_owned()));
        }
        Ok(if is_held_back { Written::AllButTemplate } else { Written::All })
    }

    /// What an object asks for that is not understood is not known, but for how many pods.
    async fn write_without_plan(
        &self,
        object: &RerankDeployment,
        live: Option<&Value>,
    ) -> Result<Written, ReconcileError> {
        if let Some(action) = live.and_then(|live| scale(object, live)) {
            if !self.is_current(object).await? {
                return Ok(Written::Outdated);
            }
            apply(&self.client, object, vec![action]).await?;
        }
        Ok(Written::NoPlan)
    }

    /// When to look again. What is being deleted goes soon.
    fn next(&self, observed: &Observed, written: &Written) -> Next {
        if matches!(written, Written::NameTaken(_)) {
            // Whoever has the name is not watched.
            LOOK_AGAIN_AT_ANOTHERS.min(self.look_seldom)
        } else if observed.children.iter().any(|(_, child)| is_being_deleted(child)) {
            LOOK_SOON
        } else {
            self.look_seldom
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
        wanted: &Wanted,
        observed: &Observed,
        nodes: &NodeView,
    ) -> Result<Replacement, ReconcileError> {
        let live = own_deployment(object, &observed.children);
        match decide(object, plan.device, live, wanted.template.as_ref()) {
            Decision::Settled(replacement) => Ok(replacement),
            Decision::WhereFree(_) if !matches!(nodes, NodeView::Seen { .. }) => Ok(Replacement::InPlace),
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

/// What the pods are to be made of.
struct Wanted {
    template: Option<TemplateDigest>,
    config_map: String,
}

impl Wanted {
    fn of(object: &RerankDeployment, plan: &Plan, settings: &Settings) -> Self {
        let template = pod_template(object, plan, settings);
        Self { template: TemplateDigest::of_template(&template), config_map: names::config_map(object, plan) }
    }
}

/// Which template the live Deployment has. One that fits no node is held back, unless it is there already.
fn template_state(wanted: Option<&Wanted>, live: Option<&Value>, fit: &Fit) -> Template {
    let Some(wanted) = wanted else { return Template::Wanted };
    if live.is_some_and(|live| TemplateDigest::of_deployment(live) == wanted.template) {
        return Template::Wanted;
    }
    match (fit, live) {
        (Fit::TooLarge(_), _) => Template::HeldBack,
        (Fit::Fits | Fit::Unknown(_), Some(_)) => Template::Before,
        (Fit::Fits | Fit::Unknown(_), None) => Template::Wanted,
    }
}

/// A new pod would stay Pending without a word, and an old one that serves would be given up for it. So the Deployment, where there is
/// one, stays what it is, and so does what leads from its pods to others; the new configuration, which nothing mounts, is not written.
fn hold_template_back(
    object: &RerankDeployment,
    wanted: &mut Vec<(ChildKind, Value)>,
    live: &mut Vec<(ChildKind, Value)>,
) {
    // Of somebody else's Deployment of that name it is told.
    let is_foreign =
        own_deployment(object, live).is_none() && live.iter().any(|(kind, _)| *kind == ChildKind::Deployment);
    let has_pods = own_deployment(object, live).is_some();
    let is_held = |kind: ChildKind| match kind {
        ChildKind::ConfigMap => true,
        ChildKind::Deployment => !is_foreign,
        ChildKind::NetworkPolicy => has_pods,
        _ => false,
    };
    wanted.retain(|(kind, _)| !is_held(*kind));
    // The configurations that are there are still looked through for those that nothing mounts.
    live.retain(|(kind, _)| *kind == ChildKind::ConfigMap || !is_held(*kind));
}

/// Pods of before need what they needed: as long as there are any, the NetworkPolicy lets them go there too.
fn keep_ways_of_before(wanted: &mut [(ChildKind, Value)], live: &[(ChildKind, Value)]) {
    let is_policy = |(kind, _): &&(ChildKind, Value)| *kind == ChildKind::NetworkPolicy;
    let Some((_, found)) = live.iter().find(is_policy) else { return };
    let Some((_, policy)) = wanted.iter_mut().find(|(kind, _)| *kind == ChildKind::NetworkPolicy) else { return };
    let Some(ways) = policy["spec"]["egress"].as_array_mut() else { return };
    let of_before = found["spec"]["egress"].as_array().into_iter().flatten();
    let missing: Vec<Value> = of_before.filter(|found| !ways.iter().any(|way| contains(found, way))).cloned().collect();
    ways.extend(missing);
}

/// Whether the API server does not know volumes from images: it dropped the field, and made an empty folder of the volume.
fn lacks_image_volume(object: &RerankDeployment, live: Option<&Value>) -> bool {
    let Some(live) = live.filter(|_| object.spec.weights.image.is_some()) else { return false };
    let volumes = live["spec"]["template"]["spec"]["volumes"].as_array();
    volumes.into_iter().flatten().all(|volume| volume["image"].is_null())
}

/// Whether it is not wanted any more, and is mounted by pods, or by what pods may be made of. A claim that is marked for deletion could
/// be mounted by no new pod, and without its configuration an old one could not start again. A later look gives it up.
fn is_needed_by_others(kind: ChildKind, child: &Value, wanted: &[(ChildKind, Value)], mounted: &Mounted) -> bool {
    let name = child["metadata"]["name"].as_str().unwrap_or_default();
    let is_wanted = wanted.iter().any(|(other, wanted)| *other == kind && wanted["metadata"]["name"] == name);
    match kind {
        ChildKind::ConfigMap => !is_wanted && mounted.has_config_map(name),
        ChildKind::CacheClaim => !is_wanted && mounted.has_claim(name),
        _ => false,
    }
}

fn invalid(refusal: &Refusal) -> Trouble {
    Trouble::new(Reason::InvalidSpec, refusal.to_string())
}

fn typed(deployment: &Value) -> Option<Deployment> {
    serde_json::from_value(deployment.clone()).ok()
}

fn own_deployment<'a>(object: &RerankDeployment, children: &'a [(ChildKind, Value)]) -> Option<&'a Value> {
    let (_, child) = children.iter().find(|(kind, _)| *kind == ChildKind::Deployment)?;
    is_ours(object, child).then_some(child)
}

#[cfg(test)]
mod tests;
