//! Which nodes pods of an object may be put on at all: cordons, labels, taints. Pure.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use rerank_crds::RerankDeployment;

use crate::controller::build::tolerations;

/// What Kubernetes and clouds taint nodes with while something passes: not ready, short of memory, just starting.
const PASSING: [&str; 2] = ["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"];

/// Whether pods of the object may be put there. Affinity is left to the scheduler.
pub(in crate::controller) fn is_usable(node: &Node, object: &RerankDeployment) -> bool {
    let spec = node.spec.as_ref();
    let is_open = !spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
    let labels = node.metadata.labels.as_ref();
    let mut wanted = object.spec.pod_template.node_selector.iter();
    let is_chosen = wanted.all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let tolerated = tolerations(object);
    let mut taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten().filter(|taint| keeps_off(taint));
    is_open && is_chosen && taints.all(|taint| tolerated.iter().any(|toleration| tolerates(toleration, taint)))
}

fn keeps_off(taint: &Taint) -> bool {
    let is_passing = PASSING.iter().any(|prefix| taint.key.starts_with(prefix));
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !is_passing
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let has = |wanted: Option<&str>, found: &str| wanted.is_none_or(|wanted| wanted.is_empty() || wanted == found);
    let has_value = match toleration.operator.as_deref() {
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        // Of operators that are not known here the scheduler knows more.
        Some(_) => true,
    };
    has(toleration.key.as_deref(), &taint.key) && has(toleration.effect.as_deref(), &taint.effect) && has_value
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn usable(taint: &Value, tolerations: &Value) -> bool {
        let spec =
            json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "podTemplate": {"tolerations": tolerations}});
        let object = RerankDeployment::new("docs", serde_json::from_value(spec).unwrap());
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": [taint]}});
        is_usable(&serde_json::from_value(node).unwrap(), &object)
    }

    #[test]
    fn a_taint_counts_unless_it_is_tolerated_or_passes_by_itself() {
        let taint = json!({"key": "a", "value": "b", "effect": "NoSchedule"});
        for (tolerations, expected) in [
            (json!([]), false),
            (json!([{"key": "a", "operator": "Exists"}]), true),
            (json!([{"operator": "Exists"}]), true),
            (json!([{"key": "a", "value": "b", "effect": "NoSchedule"}]), true),
            (json!([{"key": "a", "operator": "Equal", "value": "c"}]), false),
            (json!([{"key": "a", "value": "b", "effect": "NoExecute"}]), false),
            (json!([{"key": "c", "operator": "Exists"}, {"key": "a", "value": "b"}]), true),
        ] {
            assert_eq!(usable(&taint, &tolerations), expected, "{tolerations}");
        }
        let without = |key: &str, effect: &str| usable(&json!({"key": key, "effect": effect}), &json!([]));
        assert!(!without("a", "NoExecute"));
        assert!(without("a", "PreferNoSchedule"));
        assert!(without("node.kubernetes.io/not-ready", "NoSchedule"), "it comes back");
        assert!(without("nvidia.com/gpu", "NoSchedule"), "that of the device is tolerated always");
    }
}
