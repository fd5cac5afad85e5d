//! Nodes of every kind, and what they can hold.

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
    node.metadata.labels = Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
    node
}

fn judged(accelerator: &serde_json::Value, nodes: &[Node], elastic: bool) -> Fit {
    let object = object(accelerator);
    let plan = validate(&object.spec).unwrap();
    fit(&object, &plan, &NodeView::Seen { nodes: nodes.to_vec(), elastic })
}

fn no_node(resource: &str, needed: &str, found: &str) -> Fit {
    let (resource, needed, found) = (resource.to_owned(), needed.to_owned(), found.to_owned());
    Fit::Unknown(UnknownFit::NoNode { resource, needed, found })
}

fn gpu() -> serde_json::Value {
    json!({"gpu": {}})
}

#[test]
fn a_gpu_with_enough_memory_fits_and_one_with_too_little_is_refused_with_both_numbers() {
    let large = node(&[("nvidia.com/gpu", "1")], &[(GPU_MEMORY_LABEL, "81559")]);
    let small = node(&[("nvidia.com/gpu", "1")], &[(GPU_MEMORY_LABEL, "2048")]);
    assert_eq!(judged(&gpu(), &[small.clone(), large], false), Fit::Fits);
    let Fit::TooLarge(shortage) = judged(&gpu(), std::slice::from_ref(&small), false) else { panic!("refused") };
    assert_eq!((shortage.found_bytes, shortage.of), (2_048 << 20, "GPU memory"));
    assert!(shortage.needed_bytes > 4_000_000_000, "{shortage:?}");
    assert_eq!(judged(&gpu(), &[small], true), Fit::Unknown(UnknownFit::Elastic(shortage)), "others may come");
}

#[test]
fn without_a_label_or_without_a_gpu_nothing_can_be_said() {
    let unlabelled = node(&[("nvidia.com/gpu", "1")], &[]);
    let small = node(&[("nvidia.com/gpu", "1")], &[(GPU_MEMORY_LABEL, "2048")]);
    assert_eq!(judged(&gpu(), &[small, unlabelled], false), Fit::Unknown(UnknownFit::NoMemoryLabel));
    let nothing = no_node("nvidia.com/gpu", "1", "0");
    assert_eq!(judged(&gpu(), &[node(&[("memory", "64Gi")], &[])], false), nothing);
    assert_eq!(judged(&gpu(), &[], false), Fit::Unknown(UnknownFit::NoUsableNode { nodes: 0 }));
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
    assert!(matches!(judged(&slice(json!(2_000_000_000)), std::slice::from_ref(&sliced), false), Fit::TooLarge(_)));
    let silent = json!({"gpu": {"resourceName": "nvidia.com/mig-1g.10gb"}});
    assert_eq!(judged(&silent, &[sliced], false), Fit::Unknown(UnknownFit::NoMemoryLabel));
}

#[test]
fn nodes_that_are_closed_or_not_chosen_do_not_count() {
    let mut closed = node(&[("memory", "640Gi")], &[]);
    closed.spec.get_or_insert_default().unschedulable = Some(true);
    let cpu = json!({"cpu": {}});
    let none = Fit::Unknown(UnknownFit::NoUsableNode { nodes: 1 });
    assert_eq!(judged(&cpu, &[closed.clone()], false), none);
    let open = node(&[("memory", "640Gi")], &[("pool", "a")]);
    assert_eq!(judged(&cpu, &[closed, open.clone()], false), Fit::Fits);
    let mut chosen = object(&cpu);
    chosen.spec.pod_template.node_selector.insert("pool".to_owned(), "b".to_owned());
    let plan = validate(&chosen.spec).unwrap();
    let view = NodeView::Seen { nodes: vec![open], elastic: false };
    assert_eq!(fit(&chosen, &plan, &view), none);
    let small = node(&[("memory", "1Gi")], &[]);
    assert!(matches!(judged(&cpu, &[small], false), Fit::TooLarge(Shortage { of: "memory", .. })));
}

#[test]
fn several_gpus_hold_more_together_and_claims_are_the_schedulers_business() {
    let two = node(&[("nvidia.com/gpu", "2")], &[(GPU_MEMORY_LABEL, "24576")]);
    let both = json!({"gpu": {"count": 2}});
    let plan = validate(&object(&both).spec).unwrap();
    let needed = plan.footprint.unwrap().memory.total_bytes();
    let expected = if needed <= 2 * (24_576 << 20) { Fit::Fits } else { unreachable!("the example is small enough") };
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

/// With requests and tolerations of its own.
fn judged_with(template: &serde_json::Value, accelerator: &serde_json::Value, nodes: &[Node]) -> Fit {
    let mut object = object(accelerator);
    object.spec.pod_template = serde_json::from_value(template.clone()).unwrap();
    let plan = validate(&object.spec).unwrap();
    fit(&object, &plan, &NodeView::Seen { nodes: nodes.to_vec(), elastic: false })
}

#[test]
fn what_a_pod_asks_for_besides_has_to_be_there_too_and_on_the_same_node() {
    let large = [(GPU_MEMORY_LABEL, "81559")];
    let first = node(&[("nvidia.com/gpu", "1"), ("memory", "32Gi"), ("cpu", "7910m")], &large);
    let second = node(&[("memory", "2Ti"), ("cpu", "64")], &[]);
    let nodes = [first, second];
    let asking =
        |requests: serde_json::Value| judged_with(&json!({"resources": {"requests": requests}}), &gpu(), &nodes);
    assert_eq!(asking(json!({"memory": "30Gi", "cpu": "7"})), Fit::Fits);
    let Fit::TooLarge(shortage) = asking(json!({"memory": "900Gi"})) else { panic!("too large") };
    assert_eq!((shortage.needed_bytes, shortage.found_bytes, shortage.of), (900 << 30, 32 << 30, "memory"));
    assert_eq!(shortage.cures, ["podTemplate.resources.requests.memory of at most 32768Mi"]);
    assert_eq!(asking(json!({"cpu": "8"})), no_node("nvidia.com/gpu", "1", "0"), "the other has no GPU");
    assert_eq!(asking(json!({"cpu": "100"})), no_node("cpu", "100", "64"));
}

#[test]
fn a_tainted_node_counts_only_where_its_taint_is_tolerated() {
    let mut tainted = node(&[("memory", "640Gi")], &[]);
    let taint = json!([{"key": "a", "value": "b", "effect": "NoSchedule"}]);
    tainted.spec.get_or_insert_default().taints = serde_json::from_value(taint).unwrap();
    let cpu = json!({"cpu": {}});
    let none = Fit::Unknown(UnknownFit::NoUsableNode { nodes: 1 });
    assert_eq!(judged_with(&json!({}), &cpu, &[tainted.clone()]), none);
    let tolerant = json!({"tolerations": [{"key": "a", "operator": "Exists"}]});
    assert_eq!(judged_with(&tolerant, &cpu, &[tainted]), Fit::Fits);
}

/// An L4 has 24 GB; its label says 23,034 MiB.
fn on_an_l4(reranker: &serde_json::Value) -> Fit {
    let spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "reranker": reranker});
    let object = RerankDeployment::new("docs", serde_json::from_value(spec).unwrap());
    let plan = validate(&object.spec).unwrap();
    let nodes = vec![node(&[("nvidia.com/gpu", "1")], &[(GPU_MEMORY_LABEL, "23034")])];
    fit(&object, &plan, &NodeView::Seen { nodes, elastic: false })
}

/// As the cure says.
fn cured(reranker: &serde_json::Value, cure: &str) -> serde_json::Value {
    let mut reranker = reranker.clone();
    for change in cure.split(" with ") {
        let (field, value) = change.trim_start_matches("reranker.").split_once(": ").unwrap();
        reranker[field] = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    }
    reranker
}

#[test]
fn every_cure_that_is_named_is_one_and_the_largest_batch_is_the_largest() {
    assert_eq!(on_an_l4(&json!({})), Fit::Fits);
    let large = json!({"model": "Qwen/Qwen3-Reranker-8B", "quantization": "float32"});
    for (reranker, expected) in [
        (json!({"quantization": "int8"}), &["reranker.batchSize: ", "reranker.quantization: float16"][..]),
        (json!({"tokenBudget": 4_194_304}), &["reranker.tokenBudget: "]),
        (large, &["reranker.quantization: ", "reranker.model: "]),
    ] {
        let Fit::TooLarge(shortage) = on_an_l4(&reranker) else { panic!("{reranker} fits") };
        let cures = shortage.cures;
        println!("{reranker}: {cures:?}");
        for words in expected {
            assert!(cures.iter().any(|cure| cure.starts_with(words)), "{reranker}: {words} is not among {cures:?}");
        }
        for cure in &cures {
            assert_eq!(on_an_l4(&cured(&reranker, cure)), Fit::Fits, "{reranker}: {cure}");
            if let Some(pairs) = cure.strip_prefix("reranker.batchSize: ") {
                let more = format!("reranker.batchSize: {}", pairs.parse::<i32>().unwrap() + 1);
                assert_ne!(on_an_l4(&cured(&reranker, &more)), Fit::Fits, "{reranker}: {cure} is not the largest");
            }
        }
    }
}

#[test]
fn on_a_cpu_the_longest_prompt_is_a_cure_too() {
    let judged = |length: i32, bytes: u64| {
        let reranker = json!({"model": "Qwen/Qwen3-Reranker-0.6B", "maxLength": length});
        let spec = json!({"reranker": reranker, "accelerator": {"cpu": {}}});
        let object = RerankDeployment::new("docs", serde_json::from_value(spec).unwrap());
        let plan = validate(&object.spec).unwrap();
        let nodes = vec![node(&[("memory", &bytes.to_string())], &[])];
        (fit(&object, &plan, &NodeView::Seen { nodes, elastic: false }), host_bytes(&plan))
    };
    // As a pod asks for it.
    let bytes = judged(8_192, 0).1.next_multiple_of(1 << 20);
    assert_eq!(judged(8_192, bytes).0, Fit::Fits);
    let Fit::TooLarge(shortage) = judged(32_768, bytes).0 else { panic!("it does not fit") };
    let length = |cure: &String| cure.strip_prefix("reranker.maxLength: ")?.parse::<i32>().ok();
    let length = shortage.cures.iter().find_map(length).unwrap();
    assert!((8_192..16_384).contains(&length), "{shortage:?}");
    assert_eq!(judged(length, bytes).0, Fit::Fits);
}

#[test]
fn where_nothing_helps_nothing_is_named() {
    let spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-8B"}, "reranker": {"enabled": false}});
    let object = RerankDeployment::new("docs", serde_json::from_value(spec).unwrap());
    let plan = validate(&object.spec).unwrap();
    let nodes = vec![node(&[("nvidia.com/gpu", "1")], &[(GPU_MEMORY_LABEL, "2048")])];
    let judged = fit(&object, &plan, &NodeView::Seen { nodes, elastic: false });
    assert!(matches!(&judged, Fit::TooLarge(shortage) if shortage.cures.is_empty()), "{judged:?}");
}

#[test]
fn figures_are_rounded_to_the_side_that_does_not_deceive() {
    for (bytes, needed, found) in [(21_650_000_001, "21.7 GB", "21.6 GB"), (9_000, "0.1 GB", "0.0 GB")] {
        assert_eq!((gigabytes(bytes, true).as_str(), gigabytes(bytes, false).as_str()), (needed, found));
    }
}
