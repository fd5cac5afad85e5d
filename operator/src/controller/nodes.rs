//! Could any node hold the pod? Pure: judged by what nodes say of themselves, before a pod is made.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rerank_crds::RerankDeployment;
use rerank_crds::catalog::DeviceKind;

use super::build::{host_bytes, requirements};
use super::contains::milli_units;
use super::validate::Plan;

mod cures;
mod taints;

pub(super) use taints::is_usable;

/// The name of the resource.
const MEMORY: &str = "memory";

/// Label of GPU feature discovery: memory of one GPU of the node, in MiB.
const GPU_MEMORY_LABEL: &str = "nvidia.com/gpu.memory";

/// What the nodes can say.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum NodeView {
    /// They may not be read: a namespaced install.
    #[default]
    NotReadable,
    /// The API server does not tell of them; its words.
    Refused(String),
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
    TooLarge(Shortage),
    /// Nothing can be said; why not.
    Unknown(UnknownFit),
}

/// Memory that no node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What is needed.
    pub needed_bytes: u64,
    /// The most that a node has.
    pub found_bytes: u64,
    /// Of what.
    pub of: &'static str,
    /// What would make it fit, as fields and values. None: only a larger node.
    pub cures: Vec<String>,
}

/// Why nothing can be said of the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnknownFit {
    /// Nodes may not be read.
    NotReadable,
    /// The API server does not tell of them; its words.
    Refused(String),
    /// Pods may run on none of the nodes.
    NoUsableNode {
        /// How many there are.
        nodes: usize,
    },
    /// No node has as much of a resource now.
    NoNode {
        /// Its name.
        resource: String,
        /// What a pod needs.
        needed: String,
        /// The most that a node has.
        found: String,
    },
    /// No node that has the resource says how much memory it has.
    NoMemoryLabel,
    /// The catalogue does not know the model.
    UnknownModel(String),
    /// Claims of devices are judged by the scheduler alone.
    Claims,
    /// Too large for the nodes of today, and others may come.
    Elastic(Shortage),
}

/// Judges.
pub fn fit(object: &RerankDeployment, plan: &Plan, view: &NodeView) -> Fit {
    match judge(object, plan, view) {
        Ok(()) => Fit::Fits,
        Err(fit) => fit,
    }
}

fn judge(object: &RerankDeployment, plan: &Plan, view: &NodeView) -> Result<(), Fit> {
    let (nodes, elastic) = match view {
        NodeView::Seen { nodes, elastic } => (nodes, elastic),
        NodeView::NotReadable => return Err(Fit::Unknown(UnknownFit::NotReadable)),
        NodeView::Refused(words) => return Err(Fit::Unknown(UnknownFit::Refused(words.clone()))),
    };
    let too_large =
        |shortage| if *elastic { Fit::Unknown(UnknownFit::Elastic(shortage)) } else { Fit::TooLarge(shortage) };
    let accelerator = &object.spec.accelerator;
    if accelerator.resource_claims.is_some() {
        return Err(Fit::Unknown(UnknownFit::Claims));
    }
    let footprint = match &plan.footprint {
        Ok(footprint) => footprint,
        Err(unknown) => return Err(Fit::Unknown(UnknownFit::UnknownModel(unknown.model.clone()))),
    };
    let usable: Vec<&Node> = nodes.iter().filter(|node| is_usable(node, object)).collect();
    if usable.is_empty() {
        return Err(Fit::Unknown(UnknownFit::NoUsableNode { nodes: nodes.len() }));
    }
    let requests = requirements(&object.spec, plan).requests.unwrap_or_default();
    let request = requests.get(MEMORY).and_then(|request| milli_units(&request.0)).map_or(0, whole);
    let own = object.spec.pod_template.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let is_named = request > host_bytes(plan) && own.is_some_and(|own| own.contains_key(MEMORY));
    let memory = if plan.device == DeviceKind::Cpu { request.max(host_bytes(plan)) } else { request };
    let others = requests.iter().filter(|(name, _)| *name != MEMORY);
    let mut left = usable;
    for (name, Quantity(request)) in others {
        left = having(&left, name, request).map_err(Fit::Unknown)?;
    }
    let left = having_memory(&left, plan, memory, is_named).map_err(too_large)?;
    let Some(gpu) = accelerator.gpu.as_ref().filter(|_| plan.device == DeviceKind::Cuda) else { return Ok(()) };
    let needed_bytes = footprint.memory.total_bytes();
    let said = gpu.memory_bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let gpus = u64::try_from(gpu.count).unwrap_or(1);
    // The label tells of whole GPUs; of a slice only the object can.
    let is_whole = gpu.resource_name == "nvidia.com/gpu";
    let memory =
        |node: &&Node| said.or_else(|| labelled(node).filter(|_| is_whole)).map(|one| one.saturating_mul(gpus));
    let found: Vec<u64> = left.iter().filter_map(memory).collect();
    let found_bytes = found.iter().copied().max().unwrap_or(0);
    if found_bytes >= needed_bytes {
        Ok(())
    } else if found.len() < left.len() {
        Err(Fit::Unknown(UnknownFit::NoMemoryLabel))
    } else {
        let cures = cures::cures(plan, found_bytes);
        Err(too_large(Shortage { needed_bytes, found_bytes, of: "GPU memory", cures }))
    }
}

/// The nodes that have as much of a resource, if any has.
fn having<'a>(nodes: &[&'a Node], name: &str, request: &str) -> Result<Vec<&'a Node>, UnknownFit> {
    // A quantity that is not understood is the API server's to refuse.
    let Some(needed) = milli_units(request).filter(|needed| *needed > 0) else { return Ok(nodes.to_vec()) };
    let has = |node: &&Node| allocatable_milli(node, name).unwrap_or(0) >= needed;
    let left: Vec<&Node> = nodes.iter().copied().filter(has).collect();
    if !left.is_empty() {
        return Ok(left);
    }
    let most = nodes.iter().copied().max_by_key(|node| allocatable_milli(node, name));
    let found = most.and_then(|node| quantity(node, name)).unwrap_or("0").to_owned();
    Err(UnknownFit::NoNode { resource: name.to_owned(), needed: request.to_owned(), found })
}

/// The nodes that have so much memory, if any has. One that does not say how much may have it. `is_named`: the object names the number.
fn having_memory<'a>(
    nodes: &[&'a Node],
    plan: &Plan,
    needed_bytes: u64,
    is_named: bool,
) -> Result<Vec<&'a Node>, Shortage> {
    let of = |node: &&Node| allocatable_milli(node, MEMORY).map(whole);
    let left: Vec<&Node> =
        nodes.iter().copied().filter(|node| of(node).is_none_or(|bytes| bytes >= needed_bytes)).collect();
    if !left.is_empty() {
        return Ok(left);
    }
    let found_bytes = nodes.iter().filter_map(of).max().unwrap_or(0);
    let cures = if is_named {
        vec![format!("podTemplate.resources.requests.{MEMORY} of at most {}Mi", found_bytes >> 20)]
    } else if plan.device == DeviceKind::Cpu {
        cures::cures(plan, found_bytes)
    } else {
        Vec::new()
    };
    Err(Shortage { needed_bytes, found_bytes, of: "memory", cures })
}

/// A number of bytes for people, in GB of 10^9 bytes: what is needed is rounded up, what was found down.
pub(super) fn gigabytes(bytes: u64, up: bool) -> String {
    let tenths = if up { bytes.div_ceil(100_000_000) } else { bytes / 100_000_000 };
    format!("{}.{} GB", tenths / 10, tenths % 10)
}

fn whole(milli: i128) -> u64 {
    u64::try_from(milli / 1_000).unwrap_or(if milli < 0 { 0 } else { u64::MAX })
}

fn quantity<'a>(node: &'a Node, resource: &str) -> Option<&'a str> {
    let quantities = node.status.as_ref()?.allocatable.as_ref()?;
    quantities.get(resource).map(|quantity| quantity.0.as_str())
}

fn allocatable_milli(node: &Node, resource: &str) -> Option<i128> {
    quantity(node, resource).and_then(milli_units)
}

/// A whole quantity of a node.
pub(super) fn allocatable(node: &Node, resource: &str) -> i64 {
    allocatable_milli(node, resource).map_or(0, |milli| i64::try_from(milli / 1_000).unwrap_or(i64::MAX))
}

fn labelled(node: &Node) -> Option<u64> {
    let mebibytes: u64 = node.metadata.labels.as_ref()?.get(GPU_MEMORY_LABEL)?.parse().ok()?;
    mebibytes.checked_mul(1 << 20)
}

#[cfg(test)]
mod tests;
