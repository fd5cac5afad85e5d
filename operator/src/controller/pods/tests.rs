//! Pods in every state, as the kubelet writes them.

use serde_json::{Value, json};

use super::*;
use crate::controller::build::TEMPLATE_DIGEST;

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
    let ended =
        |code: i32, message: &str| init("preflight", &json!({"terminated": {"exitCode": code, "message": message}}));
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
    killed.spec =
        serde_json::from_value(json!({"containers": [{"name": "server", "resources": {"limits": {"memory": "2Gi"}}}]}))
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
fn what_pods_and_their_templates_mount_is_known() {
    let spec = json!({"containers": [], "volumes": [
        {"name": "tmp", "emptyDir": {}}, {"name": "weights", "persistentVolumeClaim": {"claimName": "docs-cache"}},
        {"name": "config", "configMap": {"name": "docs-config-1"}}]});
    let mut holding = pod("a", &json!({}));
    holding.spec = serde_json::from_value(spec.clone()).unwrap();
    let by_pod = Mounted::by(&[pod("b", &json!({})), holding], &[], None);
    let template = json!({"selector": {}, "template": {"spec": spec}});
    let set: ReplicaSet = serde_json::from_value(json!({"spec": template})).unwrap();
    let by_set = Mounted::by(&[], &[set], None);
    let deployment: Deployment = serde_json::from_value(json!({"spec": template})).unwrap();
    let by_deployment = Mounted::by(&[], &[], Some(&deployment));
    for (mounted, has_claim) in [(&by_pod, true), (&by_set, false), (&by_deployment, true)] {
        assert_eq!(mounted.has_claim("docs-cache"), has_claim, "{mounted:?}");
        assert!(mounted.has_config_map("docs-config-1") && !mounted.has_config_map("docs-config-2"), "{mounted:?}");
    }
    assert!(!by_pod.has_claim("other-cache"));
    assert_eq!(Mounted::by(&[], &[], None), Mounted::default());
}

#[test]
fn pods_of_another_template_are_not_heard() {
    let of = |name: &str, digest: &str| {
        let mut pod = pod(name, &init("preflight", &json!({"terminated": {"exitCode": 0}})));
        pod.metadata.annotations = Some([(TEMPLATE_DIGEST.to_owned(), digest.to_owned())].into());
        pod
    };
    let (old, new) = (of("a", "old"), of("b", "new"));
    let unmarked = pod("c", &json!({}));
    let pods = [old, new.clone(), unmarked.clone()];
    let names = |template: Option<&TemplateDigest>| -> Vec<String> {
        of_template(&pods, template).iter().map(ResourceExt::name_any).collect()
    };
    assert_eq!(names(TemplateDigest::of_pod(&new).as_ref()), ["b"]);
    assert_eq!(names(TemplateDigest::of_pod(&unmarked).as_ref()), ["c"], "those of an operator that wrote no digest");
    assert_eq!(names(TemplateDigest::of_pod(&of("d", "next")).as_ref()), [""; 0]);
}

#[test]
fn a_preflight_that_was_killed_or_could_not_begin_refuses_no_configuration() {
    let ended = |code: i32, reason: &str, message: &str| {
        let terminated = json!({"exitCode": code, "reason": reason, "message": message});
        read(&[pod("a", &init("preflight", &json!({ "terminated": terminated })))])
    };
    let killed = ended(137, "OOMKilled", "").finding.unwrap();
    assert_eq!(killed.reason, Reason::InsufficientMemory);
    assert!(killed.message.contains("podTemplate.resources.limits.memory, which is that of the node"), "{killed:?}");
    let broken = ended(128, "StartError", "exec: rerank-server: not found");
    assert_eq!((broken.finding, broken.passed), (None, false));
    let trouble = broken.trouble.unwrap();
    assert_eq!(trouble.reason, Reason::StartFailed);
    assert!(trouble.message.contains("container preflight of pod a: exec"), "{trouble:?}");
    let silent = ended(137, "Error", "").finding.unwrap();
    assert_eq!(silent.message, "preflight said nothing; it ended with exit code 137 (Error)");
    assert_eq!(silent.reason, Reason::PreflightFailed);
    assert_eq!(ended(2, "Error", "unknown flag").finding.unwrap().reason, Reason::ConfigurationRefused);
    let waiting = json!({"waiting": {"reason": "CreateContainerConfigError", "message": "runAsNonRoot"}});
    assert_eq!(reason(&init("preflight", &waiting)), Some(Reason::StartFailed));
    let again = json!({"containerStatuses": [{"name": "server", "image": "", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 128, "reason": "StartError"}}}]});
    assert_ne!(reason(&again), Some(Reason::StartFailed), "it has begun now");
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let message = Trouble::new(Reason::Crashing, "ä".repeat(5_000)).message;
    assert_eq!(message.chars().count(), LONGEST_MESSAGE_CHARACTERS);
    let just = "ä".repeat(LONGEST_MESSAGE_CHARACTERS);
    assert_eq!(Trouble::new(Reason::Crashing, just.clone()).message, just);
}

#[test]
fn a_pod_that_was_evicted_says_nothing_of_the_one_in_its_place() {
    let killed = json!({"terminated": {"exitCode": 137, "reason": "Error"}});
    let mut evicted = init("preflight", &killed);
    evicted["phase"] = json!("Failed");
    let passed = init("preflight", &json!({"terminated": {"exitCode": 0}}));
    let report = read(&[pod("a", &evicted), pod("b", &passed)]);
    assert_eq!(report, PodsReport { passed: true, ..PodsReport::default() });
    assert_eq!(read(&[pod("a", &evicted)]), PodsReport::default());
}
