//! How a changed pod replaces the old one. Pure.
//!
//! On a GPU `rollout: Auto` looks for a free one, once, when the pod's template changes. What was decided then stays with the
//! Deployment: a GPU that is free at one look and taken at the next would otherwise rewrite it without an end. Where downloads are
//! kept in a claim that one node or one pod mounts at a time, a new pod would wait for the old one for ever: there the old one goes first.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use rerank_crds::RerankDeployment;
use rerank_crds::catalog::DeviceKind;
use rerank_crds::rerank_deployment::{AccessMode, Gpu, RerankDeploymentSpec, Rollout};
use serde_json::Value;

use super::build::mounts::has_cache_claim;
use super::build::{Replacement, TemplateDigest};
use super::nodes::{NodeView, allocatable, is_usable};

/// What the object and its live Deployment say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision<'a> {
    /// This way.
    Settled(Replacement),
    /// By surge where as many of these are free on one node, else in place.
    WhereFree(&'a Gpu),
}

/// Decides. `live`: the object's own Deployment; `wanted`: the template of the pod as it is to be.
pub fn decide<'a>(
    object: &'a RerankDeployment,
    device: DeviceKind,
    live: Option<&Value>,
    wanted: Option<&TemplateDigest>,
) -> Decision<'a> {
    match (object.spec.rollout, device) {
        (Rollout::Recreate, _) => return Decision::Settled(Replacement::InPlace),
        (Rollout::Auto, _) if has_exclusive_cache(&object.spec) => return Decision::Settled(Replacement::InPlace),
        (Rollout::Surge, _) | (Rollout::Auto, DeviceKind::Cpu) => return Decision::Settled(Replacement::Surge),
        (Rollout::Auto, DeviceKind::Cuda) => {}
    }
    // Claims of devices are the scheduler's alone.
    let (Some(live), Some(gpu)) = (live, &object.spec.accelerator.gpu) else {
        return Decision::Settled(Replacement::InPlace);
    };
    if TemplateDigest::of_deployment(live).as_ref() == wanted {
        Decision::Settled(replacement_of(live))
    } else {
        Decision::WhereFree(gpu)
    }
}

/// Whether downloads lie where the pods of one node, or one pod, can mount them.
fn has_exclusive_cache(spec: &RerankDeploymentSpec) -> bool {
    let mode = spec.weights.cache.as_ref().and_then(|cache| cache.access_mode);
    has_cache_claim(spec) && mode != Some(AccessMode::ReadWriteMany)
}

fn replacement_of(deployment: &Value) -> Replacement {
    if deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 1 {
        Replacement::Surge
    } else {
        Replacement::InPlace
    }
}

/// How much of a resource the pods of each node have. Filled page by page.
#[derive(Clone, Debug, Default)]
pub struct Taken(HashMap<String, i64>);

impl Taken {
    /// Adds pods. Those that have ended hold nothing.
    pub fn add(&mut self, pods: &[Pod], resource: &str) {
        for pod in pods {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let Some(spec) = pod.spec.as_ref().filter(|_| !matches!(phase, Some("Succeeded" | "Failed"))) else {
                continue;
            };
            let Some(node) = spec.node_name.clone() else { continue };
            let of = |container: &k8s_openapi::api::core::v1::Container| {
                let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
                limits.and_then(|limits| limits.get(resource)).and_then(|quantity| quantity.0.parse::<i64>().ok())
            };
            let together: i64 = spec.containers.iter().filter_map(of).sum();
            let first = spec.init_containers.iter().flatten().filter_map(of).max().unwrap_or(0);
            *self.0.entry(node).or_default() += together.max(first);
        }
    }

    /// Whether some node that pods of the object may run on has as many left as one pod asks for.
    pub fn leave(&self, gpu: &Gpu, object: &RerankDeployment, view: &NodeView) -> bool {
        let NodeView::Seen { nodes, .. } = view else { return false };
        nodes.iter().filter(|node| is_usable(node, object)).any(|node| {
            let taken = node.metadata.name.as_ref().and_then(|name| self.0.get(name)).copied().unwrap_or(0);
            allocatable(node, &gpu.resource_name) - taken >= i64::from(gpu.count)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::build::{Settings, TEMPLATE_DIGEST, pod_template};
    use crate::controller::validate::validate;

    fn object(rollout: &str) -> RerankDeployment {
        let spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "rollout": rollout});
        RerankDeployment::new("docs", serde_json::from_value(spec).unwrap())
    }

    fn deployment(surge: i32, template: &str) -> Value {
        let annotations = json!({TEMPLATE_DIGEST: template});
        json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": surge}}, "template": {"metadata": {"annotations": annotations}}}})
    }

    #[test]
    fn auto_looks_for_a_gpu_only_when_the_pod_changes_and_keeps_to_what_it_found() {
        let object = object("Auto");
        let wanted = TemplateDigest::of_deployment(&deployment(0, "b"));
        let decided = |live: Option<&Value>| decide(&object, DeviceKind::Cuda, live, wanted.as_ref());
        assert_eq!(decided(None), Decision::Settled(Replacement::InPlace));
        assert_eq!(decided(Some(&deployment(1, "b"))), Decision::Settled(Replacement::Surge));
        assert_eq!(decided(Some(&deployment(0, "b"))), Decision::Settled(Replacement::InPlace));
        assert!(matches!(decided(Some(&deployment(1, "a"))), Decision::WhereFree(gpu) if gpu.count == 1));
        let unmarked = json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1}}, "template": {}}});
        assert!(matches!(decided(Some(&unmarked)), Decision::WhereFree(_)), "of an operator that wrote no digest");
    }

    #[test]
    fn a_change_that_only_removes_is_a_change() {
        let spec = |tolerations: Value| json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "podTemplate": {"tolerations": tolerations}});
        let object = |tolerations| RerankDeployment::new("docs", serde_json::from_value(spec(tolerations)).unwrap());
        let (before, after) = (object(json!([{"key": "a", "operator": "Exists"}])), object(json!([])));
        let template =
            |object: &RerankDeployment| pod_template(object, &validate(&object.spec).unwrap(), &Settings::default());
        let live = json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1}}, "template": template(&before)}});
        let decided = |object| {
            let wanted = TemplateDigest::of_template(&template(object));
            matches!(decide(object, DeviceKind::Cuda, Some(&live), wanted.as_ref()), Decision::WhereFree(_))
        };
        assert!(decided(&after) && !decided(&before));
    }

    #[test]
    fn a_cache_that_one_node_mounts_is_never_surged_by_itself() {
        let decided = |cache: Value, rollout: &str| {
            let spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "rollout": rollout, "weights": {"cache": cache}});
            let object = RerankDeployment::new("docs", serde_json::from_value(spec).unwrap());
            decide(&object, DeviceKind::Cpu, None, None) == Decision::Settled(Replacement::Surge)
        };
        assert!(!decided(json!({"storageClass": "fast"}), "Auto"), "ReadWriteOnce where nothing is said");
        assert!(!decided(json!({"accessMode": "ReadWriteOncePod"}), "Auto"));
        assert!(decided(json!({"accessMode": "ReadWriteMany"}), "Auto"));
        assert!(decided(json!({"size": "1Gi"}), "Auto"), "there is no claim");
        assert!(decided(json!({"storageClass": "fast"}), "Surge"), "what is asked for counts");
    }

    #[test]
    fn what_is_asked_for_counts_and_a_cpu_is_never_waited_for() {
        let live = deployment(0, "a");
        for (rollout, device, expected) in [
            ("Surge", DeviceKind::Cuda, Replacement::Surge),
            ("Recreate", DeviceKind::Cpu, Replacement::InPlace),
            ("Auto", DeviceKind::Cpu, Replacement::Surge),
        ] {
            assert_eq!(decide(&object(rollout), device, Some(&live), None), Decision::Settled(expected), "{rollout}");
        }
    }

    #[test]
    fn a_gpu_is_free_where_the_pods_of_one_node_leave_enough() {
        let object = object("Auto");
        let gpu = object.spec.accelerator.gpu.clone().unwrap();
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": "2"}}});
        let view = NodeView::Seen { nodes: vec![serde_json::from_value(node).unwrap()], elastic: false };
        let pod = |phase: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": phase},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}))
            .unwrap()
        };
        let mut taken = Taken::default();
        taken.add(&[pod("Running"), pod("Succeeded")], "nvidia.com/gpu");
        assert!(taken.leave(&gpu, &object, &view), "one of two is left");
        taken.add(&[pod("Pending")], "nvidia.com/gpu");
        assert!(!taken.leave(&gpu, &object, &view));
        assert!(!Taken::default().leave(&gpu, &object, &NodeView::NotReadable));
    }
}
