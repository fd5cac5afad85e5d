//! What only the API of a child would refuse, or what would be given up without a word. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rerank_crds::rerank_deployment::{Accelerator, Cache, PodTemplate, RerankDeploymentSpec};
use rerank_crds::server_config::Violation;
use rerank_crds::server_config::network::check_proxy_url;

use super::names::{ALLOWED_KEY, ALLOWED_VALUE, is_key, is_label_value, is_range};
use crate::args::parse_log_filter;
use crate::controller::quantity::{milli_units, nano_units};

/// Labels by which the pods are found; the operator sets them.
const OWN_LABELS: [&str; 5] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/managed-by",
];

/// No model that anybody uses is smaller.
const LEAST_CACHE: &str = "16Mi";

/// Resources of containers that belong to no domain, apart from huge pages.
const NATIVE_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Effects of taints.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// All of them.
pub(super) fn violations(spec: &RerankDeploymentSpec) -> Vec<Violation> {
    let mut found = Found::default();
    found.logging(&spec.logging.filter);
    found.images(spec);
    found.weights(spec);
    found.qdrant(spec);
    found.access(spec);
    let annotations = &spec.service.annotations;
    found.keys("service.annotations", annotations);
    found.pod_template(&spec.pod_template);
    found.resources(spec);
    found.0
}

#[derive(Debug, Default)]
struct Found(Vec<Violation>);

impl Found {
    fn refuse(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation { path: path.into(), message: message.into(), allowed: None });
    }

    fn refuse_unless(&mut self, path: impl Into<String>, message: impl Into<String>, allowed: &str) {
        self.0.push(Violation { path: path.into(), message: message.into(), allowed: Some(allowed.to_owned()) });
    }

    fn logging(&mut self, filter: &str) {
        if let Err(words) = parse_log_filter(filter) {
            self.refuse("logging.filter", words);
        }
    }

    fn images(&mut self, spec: &RerankDeploymentSpec) {
        let of_weights = spec.weights.image.as_ref().map(|image| ("weights.image.reference", &image.reference));
        for (path, image) in spec.image.as_ref().map(|image| ("image", image)).into_iter().chain(of_weights) {
            if image.is_empty() || image.chars().any(|character| !is_of_an_image(character)) {
                self.refuse_unless(path, format!("`{image}` is no image"), "such as registry.example.com/path:tag");
            }
        }
        for (at, LocalObjectReference { name }) in spec.image_pull_secrets.iter().enumerate() {
            if name.trim().is_empty() {
                self.refuse(format!("imagePullSecrets[{at}].name"), "is empty; name a Secret of this namespace");
            }
        }
    }

    fn weights(&mut self, spec: &RerankDeploymentSpec) {
        if let Some(proxy) = spec.weights.hub.as_ref().and_then(|hub| hub.proxy.as_deref())
            && let Err(error) = check_proxy_url(proxy)
        {
            self.refuse("weights.hub.proxy", error.to_string());
        }
        let Some(Cache { size, storage_class, access_mode }) = &spec.weights.cache else { return };
        if nano_units(size).is_none_or(|found| Some(found) < nano_units(LEAST_CACHE)) {
            self.refuse_unless(
                "weights.cache.size",
                format!("`{size}` holds no model"),
                &format!("at least {LEAST_CACHE}, such as 50Gi"),
            );
        }
        if let Some(class) = storage_class.as_deref().filter(|class| !class.is_empty())
            && !is_key(&format!("{class}/a"))
        {
            self.refuse_unless(
                "weights.cache.storageClass",
                format!("`{class}` is no name of a class"),
                "lower-case letters, digits, `-` and `.`, or empty text for the cluster's default",
            );
        }
        if access_mode.is_some() && storage_class.is_none() {
            let message = "needs storageClass, without which there is no claim; empty text names the cluster's default";
            self.refuse("weights.cache.accessMode", message);
        }
    }

    fn qdrant(&mut self, spec: &RerankDeploymentSpec) {
        let Some(store) = &spec.vector_store else { return };
        let url = &store.qdrant.url;
        if url.contains("://") && !names_a_port(url) {
            self.refuse_unless(
                "vectorStore.qdrant.url",
                format!("`{url}` names no port, and the network policy opens no other than Qdrant's gRPC port"),
                "such as http://qdrant:6334",
            );
        }
    }

    fn access(&mut self, spec: &RerankDeploymentSpec) {
        for (at, peer) in spec.access.network_policy.egress_peers.iter().enumerate() {
            let path = format!("access.networkPolicy.egressPeers[{at}]");
            if let Some(cidr) = peer.cidr.as_deref().filter(|cidr| !is_range(cidr)) {
                self.refuse_unless(
                    format!("{path}.cidr"),
                    format!("`{cidr}` is no range of addresses"),
                    "its first address and its length, such as 10.0.0.0/8",
                );
            }
            if let Some(labels) = &peer.pod_labels {
                self.labels(&format!("{path}.podLabels"), labels);
            }
        }
    }

    fn pod_template(&mut self, template: &PodTemplate) {
        self.labels("podTemplate.labels", &template.labels);
        for label in OWN_LABELS.into_iter().filter(|label| template.labels.contains_key(*label)) {
            self.refuse(format!("podTemplate.labels[{label}]"), "is the operator's own: by it the pods are found");
        }
        self.keys("podTemplate.annotations", &template.annotations);
        self.labels("podTemplate.nodeSelector", &template.node_selector);
        for (at, toleration) in template.tolerations.iter().enumerate() {
            self.toleration(&format!("podTemplate.tolerations[{at}]"), toleration);
        }
    }

    fn keys(&mut self, path: &str, map: &BTreeMap<String, String>) {
        for key in map.keys().filter(|key| !is_key(&key.to_ascii_lowercase())) {
            self.refuse_unless(format!("{path}[{key}]"), "has a key that Kubernetes refuses", ALLOWED_KEY);
        }
    }

    fn labels(&mut self, path: &str, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            if !is_key(key) {
                self.refuse_unless(format!("{path}[{key}]"), "has a key that Kubernetes refuses", ALLOWED_KEY);
            }
            if !is_label_value(value) {
                let message = format!("`{value}` is no value of a label");
                self.refuse_unless(format!("{path}[{key}]"), message, ALLOWED_VALUE);
            }
        }
    }

    fn toleration(&mut self, path: &str, toleration: &Toleration) {
        let Toleration { key, operator, value, effect, toleration_seconds } = toleration;
        let is_named = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let operator = operator.as_deref().filter(|text| !text.is_empty()).unwrap_or("Equal");
        match key.as_deref().unwrap_or_default() {
            "" if operator != "Exists" => self.refuse(path, "without a key has to have operator: Exists"),
            "" => {}
            key if !is_key(key) => {
                self.refuse_unless(format!("{path}.key"), format!("`{key}` is no key of a taint"), ALLOWED_KEY);
            }
            _ => {}
        }
        match operator {
            "Exists" if is_named(value) => self.refuse(format!("{path}.value"), "has no place beside operator: Exists"),
            "Equal" if !is_label_value(value.as_deref().unwrap_or_default()) => {
                self.refuse_unless(format!("{path}.value"), "is no value of a taint", ALLOWED_VALUE);
            }
            "Exists" | "Equal" => {}
            other => {
                self.refuse_unless(format!("{path}.operator"), format!("`{other}` is none"), "Equal, Exists");
            }
        }
        if let Some(effect) = effect.as_deref().filter(|effect| !effect.is_empty() && !EFFECTS.contains(effect)) {
            self.refuse_unless(format!("{path}.effect"), format!("`{effect}` is none"), &EFFECTS.join(", "));
        }
        if toleration_seconds.is_some() && effect.as_deref() != Some("NoExecute") {
            self.refuse(format!("{path}.tolerationSeconds"), "needs effect: NoExecute");
        }
    }

    fn resources(&mut self, spec: &RerankDeploymentSpec) {
        let Some(resources) = &spec.pod_template.resources else { return };
        let path = "podTemplate.resources";
        if resources.claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
            self.refuse(format!("{path}.claims"), "has its place in accelerator.resourceClaims");
        }
        for (part, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
            for (name, Quantity(quantity)) in quantities.iter().flatten() {
                let path = format!("{path}.{part}.{name}");
                self.quantity(&path, quantity);
                self.resource(&path, name, &spec.accelerator);
            }
        }
        self.extended_resources(path, resources);
    }

    /// Of what is not overcommitted Kubernetes takes whole numbers, and as much asked for as allowed.
    fn extended_resources(&mut self, path: &str, resources: &ResourceRequirements) {
        let of = |quantities: &Option<BTreeMap<String, Quantity>>, name: &str| {
            quantities.as_ref().and_then(|all| all.get(name)).and_then(|Quantity(quantity)| milli_units(quantity))
        };
        let all = [&resources.requests, &resources.limits].into_iter().flatten().flat_map(BTreeMap::keys);
        for name in all.filter(|name| name.contains('/')).collect::<BTreeSet<_>>() {
            let (requested, limit) = (of(&resources.requests, name), of(&resources.limits, name));
            if [requested, limit].into_iter().flatten().any(|amount| amount % 1000 != 0) {
                self.refuse(format!("{path}.limits.{name}"), "is counted in whole numbers");
            } else if requested.is_some() && requested != limit {
                self.refuse(format!("{path}.limits.{name}"), "must be as large as the request, as Kubernetes asks");
            }
        }
    }

    fn quantity(&mut self, path: &str, quantity: &str) {
        if milli_units(quantity).is_none_or(|found| found < 0) {
            self.refuse_unless(path, format!("`{quantity}` is no amount"), "such as 500m, 2 or 8Gi");
        }
    }

    fn resource(&mut self, path: &str, name: &str, accelerator: &Accelerator) {
        if !is_key(name) {
            self.refuse_unless(path, "has a name that Kubernetes refuses", ALLOWED_KEY);
        } else if !name.contains('/') && !NATIVE_RESOURCES.contains(&name) && !name.starts_with("hugepages-") {
            let native =
                "cpu, memory, ephemeral-storage, hugepages-<size>, or an extended one such as example.org/device";
            self.refuse_unless(path, "is no resource of a container", native);
        }
        if accelerator.gpu.as_ref().is_some_and(|gpu| gpu.resource_name == name) {
            self.refuse(path, "has its place in accelerator.gpu.count, which counts");
        }
    }
}

/// Whether a URL says its port; the usual ones of http and https are others than Qdrant's.
fn names_a_port(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let port = host.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()))
}

fn is_of_an_image(character: char) -> bool {
    character.is_ascii_alphanumeric() || "._-:/@+[]".contains(character)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(more: &Value) -> Vec<String> {
        let mut spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        violations(&serde_json::from_value(spec).unwrap()).iter().map(ToString::to_string).collect()
    }

    fn template(more: &Value) -> Value {
        json!({"podTemplate": more})
    }

    #[test]
    fn what_a_child_would_refuse_is_refused_by_its_field() {
        for (more, words) in [
            (template(&json!({"labels": {"a b": "c"}})), "podTemplate.labels[a b]: has a key"),
            (template(&json!({"labels": {"a": "b c"}})), "podTemplate.labels[a]: `b c` is no value"),
            (
                template(&json!({"labels": {"app.kubernetes.io/name": "x"}})),
                "podTemplate.labels[app.kubernetes.io/name]: is the operator's own",
            ),
            (template(&json!({"annotations": {"a b": "c"}})), "podTemplate.annotations[a b]: "),
            (template(&json!({"nodeSelector": {"a": "b/c"}})), "podTemplate.nodeSelector[a]: "),
            (template(&json!({"tolerations": [{"key": "a", "operator": "Is"}]})), "tolerations[0].operator: `Is`"),
            (template(&json!({"tolerations": [{"value": "a"}]})), "tolerations[0]: without a key"),
            (
                template(&json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]})),
                "tolerations[0].value: has no place",
            ),
            (template(&json!({"tolerations": [{"key": "a", "effect": "Never"}]})), "tolerations[0].effect: `Never`"),
            (
                template(&json!({"tolerations": [{"key": "a", "tolerationSeconds": 5}]})),
                "tolerations[0].tolerationSeconds: needs",
            ),
            (template(&json!({"resources": {"requests": {"cpu": "-1"}}})), "resources.requests.cpu: `-1`"),
            (template(&json!({"resources": {"limits": {"memory": "abc"}}})), "resources.limits.memory: `abc`"),
            (
                template(&json!({"resources": {"limits": {"nvidia.com/gpu": 2}}})),
                "resources.limits.nvidia.com/gpu: has its place in accelerator.gpu.count",
            ),
            (template(&json!({"resources": {"requests": {"foo": 1}}})), "resources.requests.foo: is no resource"),
            (template(&json!({"resources": {"requests": {"rdma/hca": 1}}})), "limits.rdma/hca: must be as large"),
            (
                template(&json!({"resources": {"requests": {"rdma/hca": 1}, "limits": {"rdma/hca": 2}}})),
                "limits.rdma/hca: must be as large",
            ),
            (template(&json!({"resources": {"limits": {"rdma/hca": "500m"}}})), "limits.rdma/hca: is counted in whole"),
            (template(&json!({"resources": {"claims": [{"name": "a"}]}})), "resources.claims: has its place"),
            (json!({"service": {"annotations": {"a b": "c"}}}), "service.annotations[a b]: has a key"),
            (
                json!({"access": {"networkPolicy": {"egressPeers": [{"cidr": "10.0.0.1/8"}]}}}),
                "access.networkPolicy.egressPeers[0].cidr: `10.0.0.1/8`",
            ),
            (
                json!({"access": {"networkPolicy": {"egressPeers": [{"podLabels": {"-": "a"}}]}}}),
                "egressPeers[0].podLabels[-]: ",
            ),
            (json!({"weights": {"cache": {"storageClass": "Bad Class"}}}), "weights.cache.storageClass: `Bad Class`"),
            (json!({"weights": {"cache": {"size": "0"}}}), "weights.cache.size: `0` holds no model"),
            (json!({"weights": {"cache": {"size": "1Ki"}}}), "allowed: at least 16Mi"),
            (json!({"weights": {"cache": {"accessMode": "ReadWriteOnce"}}}), "accessMode: needs storageClass"),
            (json!({"weights": {"image": {"reference": "a b"}}}), "weights.image.reference: `a b`"),
            (json!({"image": "not an image!!"}), "image: `not an image!!` is no image"),
            (json!({"imagePullSecrets": [{"name": ""}]}), "imagePullSecrets[0].name: is empty"),
            (
                json!({"vectorStore": {"qdrant": {"url": "http://qdrant", "collections": []}}}),
                "vectorStore.qdrant.url: `http://qdrant` names no port",
            ),
        ] {
            let found = found(&more);
            assert!(found.len() == 1 && found[0].contains(words), "{more}: {found:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_refused() {
        for more in [
            template(
                &json!({"labels": {"example.org/team": "search", "app.kubernetes.io/version": "1"}, "annotations": {"A/b": "any text"}}),
            ),
            template(
                &json!({"tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5}]}),
            ),
            template(&json!({"resources": {"requests": {"cpu": ".5", "memory": "9000e6"}, "limits": {"rdma/hca": 1}}})),
            json!({"weights": {"cache": {"size": "20Gi", "storageClass": "", "accessMode": "ReadWriteMany"}}}),
            json!({"image": "[::1]:5000/a/b_c:v1@sha256:0"}),
            json!({"vectorStore": {"qdrant": {"url": "http://[fd00::1]:6334/", "collections": []}}}),
        ] {
            assert_eq!(found(&more), Vec::<String>::new(), "{more}");
        }
        assert!(!names_a_port("http://[fd00::1]") && !names_a_port("http://qdrant:/") && names_a_port("https://q:443"));
    }
}
