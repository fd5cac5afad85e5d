//! What the examples become, to the byte; and what holds of every one of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::fs;
use std::path::{Path, PathBuf};

use rerank_crds::RerankDeployment;
use rerank_crds::catalog::DeviceKind;
use rerank_crds::server_config::ServerConfig;
use rerank_operator::controller::build::{
    Children, Replacement, Settings, TEMPLATE_DIGEST, TemplateDigest, build, pod_template,
};
use rerank_operator::controller::validate::validate;
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn settings() -> Settings {
    Settings {
        cpu_image: "rerank-server:cpu".to_owned(),
        gpu_image: "rerank-server:cuda".to_owned(),
        pod_monitors: false,
    }
}

/// Every example that is a `RerankDeployment`, by its file's name.
fn examples() -> Vec<(String, RerankDeployment)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|_| path.extension().is_some_and(|end| end == "yaml"))
        else {
            continue;
        };
        let text = fs::read_to_string(&path).unwrap();
        if !text.contains("kind: RerankDeployment") {
            continue;
        }
        assert!(text.contains(&format!("kubectl apply -f examples/{name}")), "{name} does not say how to apply it");
        // What follows belongs to somebody else, such as a ScaledObject.
        let first = text.split("\n---\n").next().unwrap();
        let mut object: RerankDeployment =
            serde_yaml::from_str(first).unwrap_or_else(|error| panic!("{name}: {error}"));
        object.metadata.namespace = Some("search".to_owned());
        object.metadata.uid = Some("00000000-0000-0000-0000-000000000001".to_owned());
        found.push((name.to_owned(), object));
    }
    found.sort_by(|left, right| left.0.cmp(&right.0));
    assert!(found.len() >= 17, "{}", found.len());
    found
}

fn children(object: &RerankDeployment) -> Children {
    let plan = validate(&object.spec).unwrap();
    build(object, &plan, Replacement::InPlace, &settings())
}

#[test]
fn every_example_becomes_what_its_golden_file_says() {
    let mut differing = Vec::new();
    for (name, object) in examples() {
        let made = children(&object).to_yaml().unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(&name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &made).unwrap();
        }
        if fs::read_to_string(&path).unwrap_or_default() != made {
            differing.push(name);
        }
    }
    assert!(differing.is_empty(), "{differing:?}; UPDATE_GOLDEN=1 cargo test -p rerank-operator writes them");
}

#[test]
fn the_server_reads_the_configuration_of_every_example() {
    for (name, object) in examples() {
        let children = children(&object);
        let text = &children.config_map.data.unwrap()["config.yaml"];
        let config = ServerConfig::load(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config, validate(&object.spec).unwrap().config, "{name}");
        assert!(!text.contains("SecretRef"), "{name}: no Secret stands in it, only files");
    }
}

#[test]
fn every_child_belongs_to_its_object_and_no_pod_is_more_than_restricted() {
    for (name, object) in examples() {
        for (_, child) in children(&object).to_values().unwrap() {
            let owner = &child["metadata"]["ownerReferences"][0];
            assert_eq!((&owner["controller"], &owner["uid"]), (&json!(true), &json!(object.metadata.uid)), "{name}");
            assert_eq!(child["metadata"]["labels"]["app.kubernetes.io/managed-by"], "rerank-operator", "{name}");
            assert!(child["metadata"]["finalizers"].is_null(), "{name}");
        }
        let deployment = serde_json::to_value(children(&object).deployment).unwrap();
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for container in pod["initContainers"].as_array().into_iter().chain(pod["containers"].as_array()).flatten() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        }
        for volume in pod["volumes"].as_array().into_iter().flatten().filter(|volume| volume["secret"].is_object()) {
            assert_eq!(volume["secret"]["optional"], true, "{name}: an absent Secret is a finding");
        }
    }
}

/// The figure of S7: the pod outlives its longest request.
#[test]
fn a_pod_has_time_to_finish_its_longest_request() {
    for (name, object) in examples() {
        let deployment = serde_json::to_value(children(&object).deployment).unwrap();
        let pod = &deployment["spec"]["template"]["spec"];
        let arguments = pod["containers"][0]["args"].as_array().unwrap();
        let position = arguments.iter().position(|argument| argument == "--drain-delay-seconds").unwrap();
        let delay: i64 = arguments[position + 1].as_str().unwrap().parse().unwrap();
        let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap();
        assert!(grace >= delay + i64::from(object.spec.timeouts.request_seconds) + 5, "{name}: {grace}");
    }
}

fn example(name: &str) -> RerankDeployment {
    examples().into_iter().find(|(file, _)| file == name).unwrap().1
}

fn deployment(object: &RerankDeployment) -> Value {
    serde_json::to_value(children(object).deployment).unwrap()
}

fn template(object: &RerankDeployment) -> Value {
    deployment(object)["spec"]["template"].clone()
}

#[test]
fn a_change_that_the_pod_does_not_read_does_not_touch_its_template() {
    let object = example("access.yaml");
    let before = template(&object);
    let unchanged = |change: fn(&mut RerankDeployment)| {
        let mut changed = object.clone();
        change(&mut changed);
        assert_ne!(changed.spec, object.spec);
        assert_eq!(template(&changed), before);
    };
    unchanged(|object| object.spec.replicas = 5);
    unchanged(|object| object.spec.service.port = 80);
    unchanged(|object| object.spec.access.network_policy.enabled = false);
    unchanged(|object| object.spec.rollout = rerank_crds::rerank_deployment::Rollout::Recreate);
    let mut changed = object.clone();
    changed.spec.candidates.multiplier = 10;
    assert_ne!(template(&changed), before, "the server reads it at start");
}

/// A pod that starts again reads what it was made with, whatever has been asked for meanwhile.
#[test]
fn each_configuration_has_a_name_of_its_own_and_pods_mount_theirs() {
    let mut longest = example("minimal.yaml");
    longest.metadata.name = Some("a".repeat(rerank_crds::rerank_deployment::MAXIMUM_NAME_CHARACTERS));
    let config_map = |object: &RerankDeployment| {
        let made = children(object);
        assert_eq!(made.config_map.immutable, Some(true));
        let pod = &template(object)["spec"];
        let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "config").unwrap();
        let name = made.config_map.metadata.name.unwrap();
        assert_eq!(volume["configMap"]["name"], name.as_str());
        assert!(name.len() <= 63, "{name}");
        name
    };
    let before = config_map(&longest);
    let mut changed = longest.clone();
    changed.spec.replicas = 5;
    assert_eq!(config_map(&changed), before);
    changed.spec.candidates.multiplier = 10;
    assert_ne!(config_map(&changed), before);
}

#[test]
fn a_template_is_told_from_another_by_all_that_it_holds_but_its_own_digest() {
    let mut object = example("minimal.yaml");
    let plan = validate(&object.spec).unwrap();
    let digest = |object: &RerankDeployment| TemplateDigest::of_template(&pod_template(object, &plan, &settings()));
    let bare = digest(&object);
    assert!(bare.is_some());
    object.spec.pod_template.annotations.insert(TEMPLATE_DIGEST.to_owned(), "theirs".to_owned());
    assert_eq!(digest(&object), bare, "it is ours to write");
    object.spec.pod_template.annotations.insert("a".to_owned(), "b".to_owned());
    assert_ne!(digest(&object), bare);
}

#[test]
fn a_gpu_is_asked_for_by_name_and_its_usual_taint_is_tolerated() {
    let object = example("mig.yaml");
    let pod = &template(&object)["spec"];
    let looking = pod["initContainers"].as_array().unwrap().iter().find(|one| one["name"] == "preflight").unwrap();
    for container in [&pod["containers"][0], looking] {
        assert_eq!(container["resources"]["limits"]["nvidia.com/mig-1g.10gb"], "1");
        assert_eq!(container["resources"]["requests"]["nvidia.com/mig-1g.10gb"], "1");
    }
    assert_eq!(pod["tolerations"][0]["key"], "nvidia.com/gpu");
    assert_eq!(validate(&object.spec).unwrap().device, DeviceKind::Cuda);
    let claimed = &template(&example("dra.yaml"))["spec"];
    assert_eq!(claimed["resourceClaims"][0]["resourceClaimTemplateName"], "one-gpu");
    assert_eq!(claimed["containers"][0]["resources"]["claims"][0]["name"], "gpu");
    assert!(claimed["containers"][0]["resources"]["limits"].is_null());
    let cpu = &template(&example("cpu.yaml"))["spec"];
    assert_eq!(cpu["containers"][0]["image"], "rerank-server:cpu");
    assert!(cpu["tolerations"].is_null());
}

#[test]
fn weights_that_are_there_are_mounted_read_only_and_nothing_is_downloaded() {
    for (name, kind) in [("air-gapped.yaml", "persistentVolumeClaim"), ("image-weights.yaml", "image")] {
        let object = example(name);
        let pod = template(&object)["spec"].clone();
        let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "weights").unwrap();
        assert!(volume[kind].is_object(), "{volume}");
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        assert_eq!(mounts.iter().find(|mount| mount["name"] == "weights").unwrap()["readOnly"], true);
        let before: Vec<&Value> = pod["initContainers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(before, [&json!("preflight")], "{name}");
        assert_eq!(validate(&object.spec).unwrap().config.weights.hub, None, "{name}");
    }
    let hub = template(&example("minimal.yaml"))["spec"].clone();
    let before: Vec<&Value> = hub["initContainers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(before, [&json!("download"), &json!("preflight")]);
}

#[test]
fn pods_reach_only_the_ports_of_what_they_connect_to() {
    let ports = |name: &str| -> Vec<i64> {
        let policy = serde_json::to_value(children(&example(name)).network_policy.unwrap()).unwrap();
        let rules = policy["spec"]["egress"].as_array().unwrap().clone();
        rules
            .iter()
            .flat_map(|rule| rule["ports"].as_array().unwrap().clone())
            .map(|port| port["port"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(ports("air-gapped.yaml"), [53, 53, 6_334], "DNS and Qdrant, nothing else");
    assert_eq!(ports("access.yaml"), [53, 53, 443, 4_317, 6_334]);
    assert_eq!(ports("rerank-only.yaml"), [53, 53, 443]);
    let mut nowhere = example("air-gapped.yaml");
    nowhere.spec.vector_store = None;
    nowhere.spec.reranker.model = Some("Qwen/Qwen3-Reranker-0.6B".to_owned());
    let plan = validate(&nowhere.spec).unwrap();
    let policy = build(&nowhere, &plan, Replacement::InPlace, &settings()).network_policy.unwrap();
    assert_eq!(policy.spec.unwrap().egress.unwrap().len(), 1, "a rule without ports would allow all of them");
}

/// The figures of the guide: ten candidates for each result where precision counts, three where speed does.
#[test]
fn the_examples_do_what_their_first_lines_say() {
    let config = |name: &str| validate(&example(name).spec).unwrap().config;
    assert_eq!((config("precision.yaml").candidates.multiplier, config("speed.yaml").candidates.multiplier), (10, 3));
    assert_eq!(validate(&example("gpu.yaml").spec).unwrap().selection.unwrap().model, "Qwen/Qwen3-Reranker-4B");
    let custom = validate(&example("custom-reranker.yaml").spec).unwrap().selection.unwrap();
    assert_eq!(custom.model, "acme/support-reranker-0.6B");
    assert_eq!(config("overrides.yaml").reranker.allowed_overrides.len(), 2);
    let largest = |name: &str| validate(&example(name).spec).unwrap().footprint.unwrap().memory.total_bytes();
    assert!(largest("overrides.yaml") > largest("minimal.yaml"), "the largest override counts");
    assert!(config("private-weights.yaml").weights.require_pinned);
}

#[test]
fn pods_are_scraped_where_the_cluster_knows_how() {
    let object = example("minimal.yaml");
    let plan = validate(&object.spec).unwrap();
    let made = build(&object, &plan, Replacement::InPlace, &Settings { pod_monitors: true, ..settings() });
    let monitor = made.pod_monitor.unwrap();
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let pod = &template(&object);
    let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["name"] == endpoint["port"]), "{ports:?}");
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&pod["metadata"]["labels"][label], value);
    }
    assert_eq!(children(&object).pod_monitor, None);
}

/// Whatever scales pods has the object as its target: the operator keeps the Deployment at the object's own number.
#[test]
fn the_scaled_object_of_the_keda_example_scales_the_object_beside_it() {
    let text = fs::read_to_string(root().join("examples/keda.yaml")).unwrap();
    let documents: Vec<Value> = text.split("\n---\n").map(|text| serde_yaml::from_str(text).unwrap()).collect();
    let [object, scaled] = documents.as_slice() else { panic!("{}", documents.len()) };
    let target = &scaled["spec"]["scaleTargetRef"];
    assert_eq!((&target["apiVersion"], &target["kind"]), (&object["apiVersion"], &object["kind"]));
    assert_eq!(target["name"], object["metadata"]["name"]);
    assert!(object["spec"]["autoscaling"].is_null(), "two that scale one object would fight");
    let query = scaled["spec"]["triggers"][0]["metadata"]["query"].as_str().unwrap();
    assert!(query.contains("rerank_queue_pairs"), "{query}");
}

#[test]
fn what_the_schema_cannot_say_is_refused_in_the_servers_words() {
    let mut object = example("rerank-only.yaml");
    object.spec.api.model_aliases.insert("other".to_owned(), "acme/absent".to_owned());
    let refusal = validate(&object.spec).unwrap_err().to_string();
    assert!(refusal.contains("api.modelAliases[other]") && refusal.contains("not served"), "{refusal}");
}
