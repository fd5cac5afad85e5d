//! What a pod asks of a node: memory, a device, and the taints that guard it. Pure.

use k8s_openapi::api::core::v1::{PodResourceClaim, ResourceClaim as ContainerClaim, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rerank_crds::RerankDeployment;
use rerank_crds::catalog::DeviceKind;

use crate::controller::validate::Plan;

/// Of a server whose models lie on a GPU: the process, the tokenizers, and the weights on their way.
const GPU_HOST_BYTES: u64 = 2_000_000_000;

/// Of a server whose models the catalogue does not know.
const UNKNOWN_BYTES: u64 = 4_000_000_000;

/// Requests and limits of the container. What the object names stays; what it leaves out comes from the computation. There is
/// no limit of memory by default: a wrong prediction ends no process.
pub(super) fn requirements(object: &RerankDeployment, plan: &Plan) -> ResourceRequirements {
    let accelerator = &object.spec.accelerator;
    let mut all = object.spec.pod_template.resources.clone().unwrap_or_default();
    let requests = all.requests.get_or_insert_default();
    requests.entry("memory".to_owned()).or_insert_with(|| mebibytes(host_bytes(plan)));
    if let Some(gpu) = &accelerator.gpu {
        let count = Quantity(gpu.count.to_string());
        // Kubernetes wants both of an extended resource, and equal.
        requests.insert(gpu.resource_name.clone(), count.clone());
        all.limits.get_or_insert_default().insert(gpu.resource_name.clone(), count);
    }
    if let Some(claims) = &accelerator.resource_claims {
        let named = claims.iter().map(|claim| ContainerClaim { name: claim.name.clone(), request: None });
        all.claims = Some(named.collect());
    }
    all
}

/// Memory of the node that the server takes, in bytes: of models on a CPU, all that they take, and what waits in the queue.
pub fn host_bytes(plan: &Plan) -> u64 {
    let queue = u64::try_from(plan.config.api.limits.queue_bytes).unwrap_or(0);
    let models = match (plan.device, &plan.footprint) {
        (DeviceKind::Cuda, _) => GPU_HOST_BYTES,
        (DeviceKind::Cpu, Ok(footprint)) => footprint.memory.total_bytes(),
        (DeviceKind::Cpu, Err(_)) => UNKNOWN_BYTES,
    };
    models.saturating_add(queue)
}

/// The pod's claims of devices.
pub(super) fn claims(object: &RerankDeployment) -> Option<Vec<PodResourceClaim>> {
    let claims = object.spec.accelerator.resource_claims.as_ref()?;
    let claim = |claim: &rerank_crds::rerank_deployment::ResourceClaim| PodResourceClaim {
        name: claim.name.clone(),
        resource_claim_name: claim.resource_claim_name.clone(),
        resource_claim_template_name: claim.resource_claim_template_name.clone(),
    };
    Some(claims.iter().map(claim).collect())
}

/// The taint that keeps others off a node with the resource, then what the object names. Usual clusters taint with the resource of
/// whole GPUs, whatever the share that is asked for.
pub(super) fn tolerations(object: &RerankDeployment) -> Vec<Toleration> {
    let tolerate = |key: &str| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    };
    let mut all = Vec::new();
    let accelerator = &object.spec.accelerator;
    let vendor = accelerator.gpu.as_ref().and_then(|gpu| gpu.resource_name.split('/').next());
    if let Some(vendor) = vendor {
        all.push(tolerate(&format!("{vendor}/gpu")));
    } else if accelerator.resource_claims.is_some() {
        all.push(tolerate("nvidia.com/gpu"));
    }
    all.extend(object.spec.pod_template.tolerations.iter().cloned());
    all
}

fn mebibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Mi", bytes.div_ceil(1 << 20)))
}
