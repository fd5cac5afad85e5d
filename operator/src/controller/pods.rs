//! What the pods of an object say of themselves, and what they hold. Pure: reads them.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec};
use kube::ResourceExt;
use rerank_crds::rerank_deployment::conditions::Reason;
use serde::Deserialize;

use super::build::{DOWNLOAD, PREFLIGHT, SERVER, TemplateDigest};
use super::fields::of_object;
use super::words::plain;

/// Longest message of a condition: the definition allows no longer one.
const LONGEST_MESSAGE_CHARACTERS: usize = 1_024;
/// How a message ends that was cut.
const CUT: &str = "...";

/// How Kubernetes says that a container was ended for its memory.
const OUT_OF_MEMORY: &str = "OOMKilled";

/// How it says that a container could not even begin, when it waits and when it has ended.
const NOT_STARTED: [&str; 5] =
    ["CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun"];

/// Exit codes of a server that does not understand its command line or its configuration.
const NOT_UNDERSTOOD: [i32; 2] = [2, 3];

/// What holds pods up, or what they found: a reason and the words of whoever knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Of the closed list.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

impl Trouble {
    /// With the message cut to what a condition holds.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let mut message = plain(&message.into());
        if message.chars().count() > LONGEST_MESSAGE_CHARACTERS
            && let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE_CHARACTERS - CUT.len())
        {
            message.truncate(end);
            message.push_str(CUT);
        }
        Self { reason, message }
    }
}

/// All pods of one template together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodsReport {
    /// What holds some pod up; the worst where there are several.
    pub trouble: Option<Trouble>,
    /// What preflight found that keeps a pod from answering.
    pub finding: Option<Trouble>,
    /// Whether preflight of some pod found nothing.
    pub passed: bool,
}

/// The findings that a pod leaves as its last words.
#[derive(Debug, Deserialize)]
struct Findings {
    ok: bool,
    #[serde(default)]
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    check: String,
    severity: String,
    subject: String,
    message: String,
}

/// The pods of a template: those of another say nothing of it.
pub fn of_template(pods: &[Pod], template: Option<&TemplateDigest>) -> Vec<Pod> {
    pods.iter().filter(|pod| TemplateDigest::of_pod(pod).as_ref() == template).cloned().collect()
}

/// Reads them. Pods that are being deleted or have ended have had their say: others are made in their place.
pub fn read(pods: &[Pod]) -> PodsReport {
    let mut report = PodsReport::default();
    let mut living: Vec<&Pod> = pods.iter().filter(|pod| is_living(pod)).collect();
    // Of several with the same trouble always the same one speaks.
    living.sort_by_key(|pod| pod.name_any());
    for pod in living {
        let trouble = trouble_of(pod);
        if worse(trouble.as_ref(), report.trouble.as_ref()) {
            report.trouble = trouble;
        }
        match preflight_of(pod) {
            Some(Ok(())) => report.passed = true,
            Some(Err(finding)) => report.finding = report.finding.or(Some(finding)),
            None => {}
        }
    }
    report
}

/// Whether pods of another template are there, perhaps on their way out, but not ended.
pub fn has_of_before(pods: &[Pod], template: Option<&TemplateDigest>) -> bool {
    pods.iter().any(|pod| !has_ended(pod) && TemplateDigest::of_pod(pod).as_ref() != template)
}

/// Whether it is to go on. One that was evicted stays for long, and nothing starts it again.
fn is_living(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !has_ended(pod)
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// What pods mount, and those that may still be made: what is deleted under them is missing when they start again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounted {
    claims: BTreeSet<String>,
    config_maps: BTreeSet<String>,
}

impl Mounted {
    /// Of pods, and of the templates that pods may be made of: those of ReplicaSets and the live Deployment's own.
    pub fn by(pods: &[Pod], replica_sets: &[ReplicaSet], deployment: Option<&Deployment>) -> Self {
        let of_pods = pods.iter().filter_map(|pod| pod.spec.as_ref());
        let of_sets = replica_sets.iter().filter_map(|set| set.spec.as_ref()?.template.as_ref()?.spec.as_ref());
        let of_deployment = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref());
        let mut mounted = Self::default();
        for spec in of_pods.chain(of_deployment) {
            mounted.add(spec, true);
        }
        // A claim that only the past mounted may go: to go back to it would make it anew.
        of_sets.for_each(|spec| mounted.add(spec, false));
        mounted
    }

    fn add(&mut self, spec: &PodSpec, with_claims: bool) {
        for volume in spec.volumes.iter().flatten() {
            let claim = volume.persistent_volume_claim.as_ref().filter(|_| with_claims);
            self.claims.extend(claim.map(|claim| claim.claim_name.clone()));
            self.config_maps.extend(volume.config_map.as_ref().map(|config_map| config_map.name.clone()));
        }
    }

    /// Whether one of them mounts that claim.
    pub fn has_claim(&self, name: &str) -> bool {
        self.claims.contains(name)
    }

    /// Whether one of them mounts that ConfigMap.
    pub fn has_config_map(&self, name: &str) -> bool {
        self.config_maps.contains(name)
    }
}

/// The later in this list, the less it needs somebody to act.
fn worse(new: Option<&Trouble>, old: Option<&Trouble>) -> bool {
    const WORST_FIRST: [Reason; 7] = [
        Reason::DeviceUnhealthy,
        Reason::ImagePullFailed,
        Reason::StartFailed,
        Reason::Crashing,
        Reason::DownloadFailed,
        Reason::Unschedulable,
        Reason::Downloading,
    ];
    let place = |trouble: Option<&Trouble>| {
        trouble
            .and_then(|trouble| WORST_FIRST.iter().position(|reason| *reason == trouble.reason))
            .unwrap_or(WORST_FIRST.len())
    };
    place(new) < place(old)
}

fn trouble_of(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    if let Some(condition) = scheduled.filter(|condition| condition.status == "False") {
        return Some(Trouble::new(Reason::Unschedulable, condition.message.clone().unwrap_or_default()));
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in containers.clone() {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        if let Some((reason, message)) =
            waiting.and_then(|waiting| Some((waiting.reason.as_deref()?, &waiting.message)))
            && matches!(reason, "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull")
        {
            return Some(Trouble::new(Reason::ImagePullFailed, message.clone().unwrap_or_else(|| reason.to_owned())));
        }
        if let Some(words) = start_failure(container) {
            let message = format!("container {} of pod {}: {words}", container.name, pod.name_any());
            return Some(Trouble::new(Reason::StartFailed, message));
        }
    }
    let named = |name: &str| containers.clone().find(|container| container.name == name);
    if let Some(download) = named(DOWNLOAD) {
        if let Some(end) = last_end(download).filter(|end| end.exit_code != 0) {
            let words =
                end.message.clone().filter(|_| !is_out_of_memory(end)).unwrap_or_else(|| how_it_ended(pod, end));
            return Some(Trouble::new(Reason::DownloadFailed, words));
        }
        if download.state.as_ref().is_some_and(|state| state.running.is_some()) {
            return Some(Trouble::new(Reason::Downloading, format!("pod {} downloads its models", pod.name_any())));
        }
    }
    let server = named(SERVER)?;
    if let Some(device) = unhealthy_device(server) {
        return Some(Trouble::new(
            Reason::DeviceUnhealthy,
            format!("{device} of pod {} does not work", pod.name_any()),
        ));
    }
    let is_down = !server.ready && server.restart_count > 0;
    let end = last_end(server).filter(|end| is_down && end.exit_code != 0)?;
    let message =
        format!("the server has ended {} times; the last time {}", server.restart_count, how_it_ended(pod, end));
    Some(Trouble::new(Reason::Crashing, message))
}

/// Why a container could not even begin, in the node's words.
fn start_failure(container: &ContainerStatus) -> Option<String> {
    let is_one = |reason: &Option<String>| reason.as_deref().is_some_and(|reason| NOT_STARTED.contains(&reason));
    let words = |reason: &Option<String>, message: &Option<String>| message.clone().or_else(|| reason.clone());
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    if let Some(waiting) = waiting.filter(|waiting| is_one(&waiting.reason)) {
        return words(&waiting.reason, &waiting.message);
    }
    // One that runs now did begin.
    let ended = last_end(container).filter(|_| container.state.as_ref().is_none_or(|state| state.running.is_none()))?;
    words(&ended.reason, &ended.message).filter(|_| is_one(&ended.reason))
}

fn is_out_of_memory(end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some(OUT_OF_MEMORY)
}

/// By which code, and what can be done about it.
fn how_it_ended(pod: &Pod, end: &ContainerStateTerminated) -> String {
    let reason = end.reason.as_deref().unwrap_or("Error");
    let cure = if is_out_of_memory(end) {
        format!("; raise podTemplate.resources.limits.memory, which is {}", memory_limit(pod))
    } else {
        String::new()
    };
    format!("it ended with exit code {} ({reason}){cure}", end.exit_code)
}

/// What the node says of the container's devices: the name of one that does not work.
fn unhealthy_device(server: &ContainerStatus) -> Option<String> {
    let resources = server.allocated_resources_status.iter().flatten();
    let mut devices =
        resources.flat_map(|status| status.resources.iter().flatten().map(move |device| (&status.name, device)));
    let (resource, device) = devices.find(|(_, device)| device.health.as_deref() == Some("Unhealthy"))?;
    Some(format!("{resource} {}", device.resource_id))
}

fn memory_limit(pod: &Pod) -> String {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let server = containers.iter().find(|container| container.name == SERVER);
    let limits = server.and_then(|server| server.resources.as_ref()).and_then(|resources| resources.limits.as_ref());
    limits
        .and_then(|limits| limits.get("memory"))
        .map_or_else(|| "that of the node".to_owned(), |limit| limit.0.clone())
}

/// None: it has not ended yet.
fn preflight_of(pod: &Pod) -> Option<Result<(), Trouble>> {
    let statuses = pod.status.as_ref()?.init_container_statuses.iter().flatten();
    let end = last_end(statuses.clone().find(|container| container.name == PREFLIGHT)?)?;
    if end.exit_code == 0 {
        return Some(Ok(()));
    }
    if is_out_of_memory(end) {
        let message = format!("preflight has not enough memory: {}", how_it_ended(pod, end));
        return Some(Err(Trouble::new(Reason::InsufficientMemory, message)));
    }
    if end.reason.as_deref().is_some_and(|reason| NOT_STARTED.contains(&reason)) {
        // It has looked at nothing.
        return None;
    }
    let said = end.message.as_deref().unwrap_or_default();
    let Ok(findings) = serde_json::from_str::<Findings>(said) else {
        let is_not_understood = NOT_UNDERSTOOD.contains(&end.exit_code);
        let reason = if is_not_understood { Reason::ConfigurationRefused } else { Reason::PreflightFailed };
        let words = if said.is_empty() { "said nothing".to_owned() } else { format!("said {said:?}") };
        return Some(Err(Trouble::new(reason, format!("preflight {words}; {}", how_it_ended(pod, end)))));
    };
    if findings.ok {
        return Some(Ok(()));
    }
    let errors: Vec<&Finding> = findings.findings.iter().filter(|finding| finding.severity == "error").collect();
    let reason = errors.first().map_or(Reason::ConfigurationRefused, |finding| reason_of(&finding.check));
    let words: Vec<String> =
        errors.iter().map(|finding| of_object(&format!("{}: {}", finding.subject, finding.message))).collect();
    Some(Err(Trouble::new(reason, words.join("; "))))
}

fn reason_of(check: &str) -> Reason {
    match check {
        "api_keys" => Reason::ApiKeysUnusable,
        "tls" => Reason::CertificateUnusable,
        "weights" => Reason::WeightsUnusable,
        "tokenizer" => Reason::TokenizerUnusable,
        "memory" => Reason::InsufficientMemory,
        "store" => Reason::StoreUnreachable,
        "collection" => Reason::CollectionUnusable,
        _ => Reason::ConfigurationRefused,
    }
}

/// How a container ended, now or before its restart.
fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or_else(|| container.last_state.as_ref().and_then(|state| state.terminated.as_ref()))
}

#[cfg(test)]
mod tests;
