//! Could any node hold the pod? Pure: judged by what nodes say of themselves, before a pod is made.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use rerank_crds::RerankDeployment;
use rerank_crds::catalog::DeviceKind;

use super::build::host_bytes;
use super::validate::Plan;

/// Label of GPU feature discovery: memory of one GPU of the node, in MiB.
const GPU_MEMORY_LABEL: &str = "nvidia.com/gpu.memory";

/// What the nodes can say.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum NodeView {
    /// They may not be read: a namespaced install.
    #[default]
    NotReadable,
    /// All of them.
    Seen {
        /// As they are.
        nodes: Vec<Node>,
        /// Others can be added by the cluster itself, so that none fits today is no refusal.
        elastic: bool,
    },
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// At least one node holds it.
    Fits,
    /// None does, and none will.
    TooLarge {
        /// What is needed.
        needed_bytes: u64,
        /// The most that a node has.
        found_bytes: u64,
        /// Of what.
        of: &'static str,
    },
    /// Nothing can be said; why not.
    Unknown(UnknownFit),
}

/// Why nothing can be said of the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnknownFit {
    /// Nodes may not be read.
    NotReadable,
    /// No node has the resource now.
    NoNode {
        /// Its name.
        resource: String,
        /// How many a pod needs.
        count: i64,
    },
    /// No node that has the resource says how much memory it has.
    NoMemoryLabel,
    /// The catalogue does not know the model.
    UnknownModel(String),
    /// Claims of devices are judged by the scheduler alone.
    Claims,
    /// Too large for the nodes of today, and others may come.
    Elastic {
        /// What is needed.
        needed_bytes: u64,
        /// The most that a node has.
        found_bytes: u64,
    },
}

/// Judges.
pub fn fit(object: &RerankDeployment, plan: &Plan, view: &NodeView) -> Fit {
    let NodeView::Seen { nodes, elastic } = view else { return Fit::Unknown(UnknownFit::NotReadable) };
    let wanted = &object.spec.pod_template.node_selector;
    let usable: Vec<&Node> = nodes.iter().filter(|node| is_usable(node, wanted)).collect();
    let accelerator = &object.spec.accelerator;
    if accelerator.resource_claims.is_some() {
        return Fit::Unknown(UnknownFit::Claims);
    }
    let footprint = match &plan.footprint {
        Ok(footprint) => footprint,
        Err(unknown) => return Fit::Unknown(UnknownFit::UnknownModel(unknown.model.clone())),
    };
    let gpu = accelerator.gpu.as_ref().filter(|_| plan.device == DeviceKind::Cuda);
    let (needed_bytes, found, of) = if let Some(gpu) = gpu {
        let count = i64::from(gpu.count);
        let with_gpu: Vec<&&Node> =
            usable.iter().filter(|node| allocatable(node, &gpu.resource_name) >= count).collect();
        if with_gpu.is_empty() {
            return Fit::Unknown(UnknownFit::NoNode { resource: gpu.resource_name.clone(), count });
        }
        let said = gpu.memory_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let gpus = u64::try_from(gpu.count).unwrap_or(1);
        // The label tells of whole GPUs; of a slice only the object can.
        let is_whole = gpu.resource_name == "nvidia.com/gpu";
        let memory =
            |node: &&&Node| said.or_else(|| labelled(node).filter(|_| is_whole)).map(|one| one.saturating_mul(gpus));
        let found: Vec<u64> = with_gpu.iter().filter_map(memory).collect();
        if found.len() < with_gpu.len() && found.iter().all(|bytes| *bytes < footprint.memory.total_bytes()) {
            return Fit::Unknown(UnknownFit::NoMemoryLabel);
        }
        (footprint.memory.total_bytes(), found, "GPU memory")
    } else {
        if usable.is_empty() {
            return Fit::Unknown(UnknownFit::NoNode { resource: "memory".to_owned(), count: 1 });
        }
        let needed = host_bytes(plan);
        let found = usable.iter().map(|node| u64::try_from(allocatable(node, "memory")).unwrap_or(0)).collect();
        (needed, found, "memory")
    };
    let found_bytes = found.into_iter().max().unwrap_or(0);
    if found_bytes >= needed_bytes {
        Fit::Fits
    } else if *elastic {
        Fit::Unknown(UnknownFit::Elastic { needed_bytes, found_bytes })
    } else {
        Fit::TooLarge { needed_bytes, found_bytes, of }
    }
}

/// Whether pods with these labels of nodes may be put there.
pub(super) fn is_usable(node: &Node, wanted: &BTreeMap<String, String>) -> bool {
    let spec = node.spec.as_ref();
    let is_schedulable = !spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
    let labels = node.metadata.labels.as_ref();
    is_schedulable && wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// A whole quantity of a node; bytes of memory.
pub(super) fn allocatable(node: &Node, resource: &str) -> i64 {
    let quantities = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let quantity = quantities.and_then(|quantities| quantities.get(resource));
    quantity
        .and_then(|quantity| super::contains::milli_units(&quantity.0))
        .map_or(0, |milli| i64::try_from(milli / 1_000).unwrap_or(i64::MAX))
}

fn labelled(node: &Node) -> Option<u64> {
    let mebibytes: u64 = node.metadata.labels.as_ref()?.get(GPU_MEMORY_LABEL)?.parse().ok()?;
    mebibytes.checked_mul(1 << 20)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    use super::*;
    use crate::controller::validate::validate;

    fn object(accelerator: &serde_json::Value) -> RerankDeployment {
        let spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "accelerator": accelerator});
        RerankDeployment::new("docs", serde_json::from_value(spec).unwrap())
    }

    fn node(resources: &[(&str, &str)], labels: &[(&str, &str)]) -> Node {
        let mut node = Node::default();
        let quantities = resources.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned())));
        node.status.get_or_insert_default().allocatable = Some(quantities.collect());
        node.metadata.labels =
            Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
        node
    }

    fn judged(accelerator: &serde_json::Value, nodes: &[Node], elastic: bool) -> Fit {
        let object = object(accelerator);
        let plan = validate(&object.spec).unwrap();
        fit(&object, &plan, &NodeView::Seen { nodes: nodes.to_vec(), elastic })
    }

    fn gpu() -> serde_json::Value {
        json!({"gpu": {}})
    }

    #[test]
    fn a_gpu_with_enough_memory_fits_and_one_with_too_little_is_refused_with_both_numbers() {
        let large = node(&[("nvidia.com/gpu", "1")], &[(GPU_MEMORY_LABEL, "81559")]);
        let small = node(&[("nvidia.com/gpu", "1")], &[(GPU_MEMORY_LABEL, "2048")]);
        assert_eq!(judged(&gpu(), &[small.clone(), large], false), Fit::Fits);
        let Fit::TooLarge { needed_bytes, found_bytes, of: "GPU memory" } =
            judged(&gpu(), std::slice::from_ref(&small), false)
        else {
            panic!("refused")
        };
        assert_eq!(found_bytes, 2_048 << 20);
        assert!(needed_bytes > 4_000_000_000, "{needed_bytes}");
        assert_eq!(
            judged(&gpu(), &[small], true),
            Fit::Unknown(UnknownFit::Elastic { needed_bytes, found_bytes }),
            "others may come"
        );
    }

    #[test]
    fn without_a_label_or_without_a_gpu_nothing_can_be_said() {
        let unlabelled = node(&[("nvidia.com/gpu", "1")], &[]);
        let small = node(&[("nvidia.com/gpu", "1")], &[(GPU_MEMORY_LABEL, "2048")]);
        assert_eq!(judged(&gpu(), &[small, unlabelled], false), Fit::Unknown(UnknownFit::NoMemoryLabel));
        let nothing = Fit::Unknown(UnknownFit::NoNode { resource: "nvidia.com/gpu".to_owned(), count: 1 });
        assert_eq!(judged(&gpu(), &[node(&[("memory", "64Gi")], &[])], false), nothing);
        assert_eq!(judged(&gpu(), &[], false), nothing);
        let object = object(&gpu());
        let plan = validate(&object.spec).unwrap();
        assert_eq!(fit(&object, &plan, &NodeView::NotReadable), Fit::Unknown(UnknownFit::NotReadable));
    }

    #[test]
    fn a_slice_has_the_memory_that_the_object_says_and_not_that_of_the_whole() {
        let sliced = node(&[("nvidia.com/mig-1g.10gb", "7")], &[(GPU_MEMORY_LABEL, "81559")]);
        let slice =
            |bytes: serde_json::Value| json!({"gpu": {"resourceName": "nvidia.com/mig-1g.10gb", "memoryBytes": bytes}});
        assert_eq!(judged(&slice(json!(40_000_000_000_i64)), std::slice::from_ref(&sliced), false), Fit::Fits);
        assert!(matches!(
            judged(&slice(json!(2_000_000_000)), std::slice::from_ref(&sliced), false),
            Fit::TooLarge { .. }
        ));
        let silent = json!({"gpu": {"resourceName": "nvidia.com/mig-1g.10gb"}});
        assert_eq!(judged(&silent, &[sliced], false), Fit::Unknown(UnknownFit::NoMemoryLabel));
    }

    #[test]
    fn nodes_that_are_closed_or_not_chosen_do_not_count() {
        let mut closed = node(&[("memory", "640Gi")], &[]);
        closed.spec.get_or_insert_default().unschedulable = Some(true);
        let cpu = json!({"cpu": {}});
        assert!(matches!(judged(&cpu, &[closed.clone()], false), Fit::Unknown(UnknownFit::NoNode { .. })));
        let open = node(&[("memory", "640Gi")], &[("pool", "a")]);
        assert_eq!(judged(&cpu, &[closed, open.clone()], false), Fit::Fits);
        let mut chosen = object(&cpu);
        chosen.spec.pod_template.node_selector.insert("pool".to_owned(), "b".to_owned());
        let plan = validate(&chosen.spec).unwrap();
        let view = NodeView::Seen { nodes: vec![open], elastic: false };
        assert!(matches!(fit(&chosen, &plan, &view), Fit::Unknown(UnknownFit::NoNode { .. })));
        let small = node(&[("memory", "1Gi")], &[]);
        assert!(matches!(judged(&cpu, &[small], false), Fit::TooLarge { of: "memory", .. }));
    }

    #[test]
    fn several_gpus_hold_more_together_and_claims_are_the_schedulers_business() {
        let two = node(&[("nvidia.com/gpu", "2")], &[(GPU_MEMORY_LABEL, "24576")]);
        let both = json!({"gpu": {"count": 2}});
        let plan = validate(&object(&both).spec).unwrap();
        let needed = plan.footprint.unwrap().memory.total_bytes();
        let expected =
            if needed <= 2 * (24_576 << 20) { Fit::Fits } else { unreachable!("the example is small enough") };
        assert_eq!(judged(&both, &[two], false), expected);
        let claims = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "mine"}]});
        assert_eq!(judged(&claims, &[], false), Fit::Unknown(UnknownFit::Claims));
    }

    #[test]
    fn a_model_of_unknown_shape_is_not_judged() {
        let mut object = object(&gpu());
        object.spec.reranker.model = Some("acme/reranker".to_owned());
        let plan = validate(&object.spec).unwrap();
        let view = NodeView::Seen { nodes: vec![], elastic: false };
        assert_eq!(fit(&object, &plan, &view), Fit::Unknown(UnknownFit::UnknownModel("acme/reranker".to_owned())));
    }
}
