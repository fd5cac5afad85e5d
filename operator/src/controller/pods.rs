//! What the pods of an object say of themselves. Pure: reads their status.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use rerank_crds::rerank_deployment::conditions::Reason;
use serde::Deserialize;

use super::build::{DOWNLOAD, PREFLIGHT, SERVER};

/// Longest message of a condition: the definition allows no longer one.
const LONGEST_MESSAGE_CHARACTERS: usize = 1_024;
/// How a message ends that was cut.
const CUT: &str = "...";

/// How Kubernetes says that a container was ended for its memory.
const OUT_OF_MEMORY: &str = "OOMKilled";

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
        let mut message = message.into();
        if message.chars().count() > LONGEST_MESSAGE_CHARACTERS
            && let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE_CHARACTERS - CUT.len())
        {
            message.truncate(end);
            message.push_str(CUT);
        }
        Self { reason, message }
    }
}

/// All pods together.
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

/// Reads them. Pods that are being deleted have had their say.
pub fn read(pods: &[Pod]) -> PodsReport {
    let mut report = PodsReport::default();
    let mut living: Vec<&Pod> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
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

/// Whether one of them mounts a claim.
pub fn mount(pods: &[Pod], claim: &str) -> bool {
    let mut volumes = pods.iter().filter_map(|pod| pod.spec.as_ref()).flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| volume.persistent_volume_claim.as_ref().is_some_and(|mounted| mounted.claim_name == claim))
}

/// The later in this list, the less it needs somebody to act.
fn worse(new: Option<&Trouble>, old: Option<&Trouble>) -> bool {
    const WORST_FIRST: [Reason; 6] = [
        Reason::DeviceUnhealthy,
        Reason::ImagePullFailed,
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
    }
    let named = |name: &str| containers.clone().find(|container| container.name == name);
    if let Some(download) = named(DOWNLOAD) {
        if let Some(end) = last_end(download).filter(|end| end.exit_code != 0) {
            let words = end.message.clone().unwrap_or_else(|| format!("it ended with exit code {}", end.exit_code));
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
    let reason = end.reason.as_deref().unwrap_or("Error");
    let cure = if reason == OUT_OF_MEMORY {
        format!("; raise podTemplate.resources.limits.memory, which is {}", memory_limit(pod))
    } else {
        String::new()
    };
    Some(Trouble::new(
        Reason::Crashing,
        format!(
            "the server has ended {} times, last with exit code {} ({reason}){cure}",
            server.restart_count, end.exit_code
        ),
    ))
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
    let said = end.message.as_deref().unwrap_or_default();
    let Ok(findings) = serde_json::from_str::<Findings>(said) else {
        let message = format!("preflight ended with exit code {} and said {said:?}", end.exit_code);
        return Some(Err(Trouble::new(Reason::ConfigurationRefused, message)));
    };
    if findings.ok {
        return Some(Ok(()));
    }
    let errors: Vec<&Finding> = findings.findings.iter().filter(|finding| finding.severity == "error").collect();
    let reason = errors.first().map_or(Reason::ConfigurationRefused, |finding| reason_of(&finding.check));
    let words: Vec<String> = errors.iter().map(|finding| format!("{}: {}", finding.subject, finding.message)).collect();
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
    }

    fn init(name: &str, state: &Value) -> Value {
        json!({"initContainerStatuses": [{"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state}]})
    }

    fn reason(status: &Value) -> Option<Reason> {
        read(&[pod("a", status)]).trouble.map(|trouble| trouble.reason)
    }

    #[test]
    fn the_schedulers_the_nodes_and_the_hubs_words_are_lifted() {
        let pending = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]});
        let report = read(&[pod("a", &pending)]);
        let trouble = report.trouble.unwrap();
        assert_eq!(trouble.reason, Reason::Unschedulable);
        assert!(trouble.message.contains("Insufficient nvidia.com/gpu"));
        assert_eq!(
            reason(&init("preflight", &json!({"waiting": {"reason": "ImagePullBackOff", "message": "x"}}))),
            Some(Reason::ImagePullFailed)
        );
        assert_eq!(reason(&init("download", &json!({"running": {}}))), Some(Reason::Downloading));
        let failed = read(&[pod("a", &init("download", &json!({"terminated": {"exitCode": 1, "message": "gated"}})))]);
        assert_eq!(failed.trouble, Some(Trouble::new(Reason::DownloadFailed, "gated")));
        assert_eq!(reason(&json!({})), None);
    }

    #[test]
    fn findings_of_preflight_become_a_reason_and_their_own_words() {
        let said = json!({"ok": false, "findings": [
            {"check": "collection", "severity": "warning", "subject": "docs", "message": "no record"},
            {"check": "store", "severity": "error", "subject": "qdrant", "message": "does not answer"}]});
        let ended = |code: i32, message: &str| {
            init("preflight", &json!({"terminated": {"exitCode": code, "message": message}}))
        };
        let report = read(&[pod("a", &ended(4, &said.to_string()))]);
        assert_eq!(report.finding, Some(Trouble::new(Reason::StoreUnreachable, "qdrant: does not answer")));
        assert!(!report.passed);
        let passed = read(&[pod("a", &ended(0, "{\"ok\": true}"))]);
        assert!(passed.passed && passed.finding.is_none());
        let garbled = read(&[pod("a", &ended(3, "not JSON"))]).finding.unwrap();
        assert_eq!(garbled.reason, Reason::ConfigurationRefused);
        assert!(garbled.message.contains("exit code 3"));
    }

    #[test]
    fn the_worst_of_several_pods_speaks_whatever_their_order_and_one_that_goes_is_not_heard() {
        let downloading = pod("a", &init("download", &json!({"running": {}})));
        let crashing = pod(
            "b",
            &json!({"containerStatuses": [{"name": "server", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 5, "reason": "Error"}}}]}),
        );
        let mut going = crashing.clone();
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        for pods in [vec![downloading.clone(), crashing.clone()], vec![crashing, downloading.clone()]] {
            let trouble = read(&pods).trouble.unwrap();
            assert_eq!(trouble.reason, Reason::Crashing);
            assert!(trouble.message.contains("3 times") && trouble.message.contains("exit code 5"), "{trouble:?}");
        }
        assert_eq!(read(&[going, downloading]).trouble.unwrap().reason, Reason::Downloading);
    }

    #[test]
    fn a_server_out_of_memory_says_which_number_to_raise_and_a_broken_device_is_named() {
        let mut killed = pod(
            "a",
            &json!({"containerStatuses": [{"name": "server", "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
        );
        killed.spec = serde_json::from_value(
            json!({"containers": [{"name": "server", "resources": {"limits": {"memory": "2Gi"}}}]}),
        )
        .unwrap();
        let message = read(&[killed]).trouble.unwrap().message;
        assert!(message.contains("OOMKilled") && message.contains("limits.memory, which is 2Gi"), "{message}");
        let broken = json!({"containerStatuses": [{"name": "server", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResourcesStatus": [{"name": "nvidia.com/gpu", "resources": [
                {"resourceID": "GPU-1", "health": "Healthy"}, {"resourceID": "GPU-2", "health": "Unhealthy"}]}]}]});
        let trouble = read(&[pod("a", &broken)]).trouble.unwrap();
        assert_eq!(trouble, Trouble::new(Reason::DeviceUnhealthy, "nvidia.com/gpu GPU-2 of pod a does not work"));
    }

    #[test]
    fn a_claim_is_mounted_while_one_pod_has_it() {
        let mut holding = pod("a", &json!({}));
        holding.spec = serde_json::from_value(json!({"containers": [], "volumes": [
            {"name": "tmp", "emptyDir": {}}, {"name": "weights", "persistentVolumeClaim": {"claimName": "docs-cache"}}]}))
        .unwrap();
        assert!(mount(&[pod("b", &json!({})), holding.clone()], "docs-cache"));
        assert!(!mount(&[holding], "other-cache"));
        assert!(!mount(&[], "docs-cache"));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = Trouble::new(Reason::Crashing, "ä".repeat(5_000)).message;
        assert_eq!(message.chars().count(), LONGEST_MESSAGE_CHARACTERS);
        let just = "ä".repeat(LONGEST_MESSAGE_CHARACTERS);
        assert_eq!(Trouble::new(Reason::Crashing, just.clone()).message, just);
    }
}
