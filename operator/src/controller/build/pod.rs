//! The pod: download, preflight, server. Pure. It satisfies the Pod Security level `restricted`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, HTTPGetAction, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    SeccompProfile, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use rerank_crds::RerankDeployment;
use rerank_crds::catalog::DeviceKind;
use rerank_crds::rerank_deployment::labels;
use rerank_crds::server_config::Loading;

use super::template::stamp;
use super::{Settings, mounts, names, resources};
use crate::controller::validate::Plan;

/// Name of the container that serves.
pub const SERVER: &str = "server";
/// Name of the init container that downloads models.
pub const DOWNLOAD: &str = "download";
/// Name of the init container that looks whether the server could answer.
pub const PREFLIGHT: &str = "preflight";

/// A user that is not root and owns nothing.
const USER: i64 = 65_532;

/// From SIGTERM until the listener closes; the server's `--drain-delay-seconds`.
const DRAIN_DELAY_SECONDS: i64 = 5;
/// Beyond drain and deadline: models are unloaded and the store is closed.
const END_MARGIN_SECONDS: i64 = 20;

const PROBE_PERIOD_SECONDS: i32 = 5;
/// A start without any weights: the store is opened, listeners bound.
const BARE_START_SECONDS: i32 = 120;
/// Weights are read from a slow disk at so many bytes a second, and compared with their digests.
const SLOW_BYTES_PER_SECOND: u64 = 50_000_000;
/// What warm-up and self-test of the two models take at most.
const WARM_UP_SECONDS: i32 = 240;

/// The pod's template. Its annotations tell what its containers read at start, and one template from another: a pod is replaced
/// where that changes, and only there.
pub fn template(object: &RerankDeployment, plan: &Plan, settings: &Settings) -> PodTemplateSpec {
    let extra = &object.spec.pod_template;
    let mut all_labels = extra.labels.clone();
    // Ours come last: the selector and the Service count on them.
    all_labels.extend(names::all_labels(object));
    let mut annotations = extra.annotations.clone();
    annotations.insert(labels::CONFIG_DIGEST.to_owned(), names::config_digest(plan));
    stamp(PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(all_labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(pod(object, plan, settings)),
    })
}

/// How long the start of a pod may take, in seconds: what Preload reads and warms is part of it.
pub(super) fn start_seconds(plan: &Plan) -> i32 {
    if plan.config.lifecycle.loading == Loading::OnDemand {
        return BARE_START_SECONDS;
    }
    // Of a model that the catalogue does not know, the largest that it knows is assumed: 8 billion weights twice.
    let file_bytes = plan.footprint.as_ref().map_or(32_000_000_000, |footprint| footprint.file_bytes);
    let reading = i32::try_from(file_bytes / SLOW_BYTES_PER_SECOND).unwrap_or(i32::MAX);
    reading.saturating_mul(2).saturating_add(BARE_START_SECONDS + WARM_UP_SECONDS)
}

fn pod(object: &RerankDeployment, plan: &Plan, settings: &Settings) -> PodSpec {
    let spec = &object.spec;
    let extra = &spec.pod_template;
    let (volumes, volume_mounts) = mounts::volumes(object, plan);
    let container = |name: &str| Container {
        name: name.to_owned(),
        image: Some(image(object, plan, settings)),
        image_pull_policy: spec.image_pull_policy.map(|policy| mounts::policy_name(policy).to_owned()),
        env: Some(environment(object)),
        volume_mounts: Some(volume_mounts.clone()),
        security_context: Some(confined()),
        ..Container::default()
    };
    let mut before = Vec::new();
    if mounts::has_hub(spec) {
        before.push(Container {
            args: Some(arguments("download", &["--termination-log", TERMINATION_LOG])),
            termination_message_path: Some(TERMINATION_LOG.to_owned()),
            resources: Some(resources::without_devices(spec, plan)),
            ..container(DOWNLOAD)
        });
    }
    // It looks at the device, so it gets what the server gets.
    before.push(Container {
        args: Some(arguments("preflight", &["--termination-log", TERMINATION_LOG])),
        termination_message_path: Some(TERMINATION_LOG.to_owned()),
        resources: Some(resources::requirements(spec, plan)),
        ..container(PREFLIGHT)
    });
    let drain = DRAIN_DELAY_SECONDS.to_string();
    let server = Container {
        args: Some(arguments("serve", &["--drain-delay-seconds", &drain])),
        ports: Some(vec![
            port("api", plan.config.listen.api_address.port()),
            port("control", plan.config.listen.control_address.port()),
        ]),
        startup_probe: Some(Probe {
            failure_threshold: Some((start_seconds(plan) / PROBE_PERIOD_SECONDS).max(1)),
            ..probe("/startupz", PROBE_PERIOD_SECONDS)
        }),
        readiness_probe: Some(Probe { failure_threshold: Some(1), ..probe("/readyz", PROBE_PERIOD_SECONDS) }),
        // The server ends by itself where only a new process helps; this is for one that does not even answer.
        liveness_probe: Some(Probe { failure_threshold: Some(6), ..probe("/livez", 10) }),
        resources: Some(resources::requirements(spec, plan)),
        ..container(SERVER)
    };
    let pull_secrets = &spec.image_pull_secrets;
    PodSpec {
        service_account_name: Some(object.name_any()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: (!pull_secrets.is_empty()).then(|| pull_secrets.clone()),
        init_containers: Some(before),
        containers: vec![server],
        volumes: Some(volumes),
        resource_claims: resources::claims(object),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // A large cache is not walked through at each start.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(runtime_default()),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(
            DRAIN_DELAY_SECONDS + i64::from(spec.timeouts.request_seconds) + END_MARGIN_SECONDS,
        ),
        node_selector: none_if_empty(&extra.node_selector),
        tolerations: Some(resources::tolerations(object)).filter(|tolerations| !tolerations.is_empty()),
        affinity: extra.affinity.clone(),
        topology_spread_constraints: Some(extra.topology_spread_constraints.clone())
            .filter(|constraints| !constraints.is_empty()),
        priority_class_name: extra.priority_class_name.clone(),
        runtime_class_name: extra.runtime_class_name.clone(),
        ..PodSpec::default()
    }
}

/// Where a container leaves its last words.
const TERMINATION_LOG: &str = "/dev/termination-log";

fn image(object: &RerankDeployment, plan: &Plan, settings: &Settings) -> String {
    let default = match plan.device {
        DeviceKind::Cpu => &settings.cpu_image,
        DeviceKind::Cuda => &settings.gpu_image,
    };
    object.spec.image.as_ref().unwrap_or(default).clone()
}

fn arguments(subcommand: &str, more: &[&str]) -> Vec<String> {
    let all = [subcommand, "--config", mounts::CONFIGURATION_FILE].into_iter().chain(more.iter().copied());
    all.map(str::to_owned).collect()
}

fn environment(object: &RerankDeployment) -> Vec<EnvVar> {
    let variable =
        |name: &str, value: &str| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() };
    let mut all = vec![variable("HOME", "/tmp")];
    if let Some(proxy) = object.spec.weights.hub.as_ref().and_then(|hub| hub.proxy.as_deref()) {
        all.push(variable("HTTPS_PROXY", proxy));
        all.push(variable("HTTP_PROXY", proxy));
    }
    all
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("control".to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

fn none_if_empty(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}
