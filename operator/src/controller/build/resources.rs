//! What a pod asks of a node: memory, a device, and the taints that guard it. Pure.

use k8s_openapi::api::core::v1::{PodResourceClaim, ResourceClaim as ContainerClaim, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rerank_crds::catalog::DeviceKind;
use rerank_crds::rerank_deployment::RerankDeploymentSpec;
use rerank_crds::server_config::Footprint;
use rerank_crds::{RerankDeployment, ServerConfig};

use crate::controller::contains::milli_units;
use crate::controller::validate::Plan;

/// Of a server whose models lie on a GPU: the process, the tokenizers, and the weights on their way.
const GPU_HOST_BYTES: u64 = 2_000_000_000;

/// Of a server whose models the catalogue does not know.
const UNKNOWN_BYTES: u64 = 4_000_000_000;

/// Requests and limits of the container. What the object names stays; what it leaves out comes from the computation. There is
/// no limit of memory by default: a wrong prediction ends no process.
pub fn requirements(spec: &RerankDeploymentSpec, plan: &Plan) -> ResourceRequirements {
    let accelerator = &spec.accelerator;
    let mut all = spec.pod_template.resources.clone().unwrap_or_default();
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

/// The same for a container that computes nothing: no device. A quota refuses pods of which one container names no numbers.
pub(super) fn without_devices(spec: &RerankDeploymentSpec, plan: &Plan) -> ResourceRequirements {
    let mut all = requirements(spec, plan);
    all.claims = None;
    for quantities in [&mut all.requests, &mut all.limits] {
        // Only what is Kubernetes' own has no domain in its name.
        if let Some(quantities) = quantities {
            quantities.retain(|name, _| !name.contains('/'));
        }
        *quantities = quantities.take().filter(|quantities| !quantities.is_empty());
    }
    all
}

/// A limit that is less than what is asked for: no such pod can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LimitTooLow {
    /// Its path below `spec`.
    pub field: &'static str,
    /// Both numbers, and what would do.
    pub message: String,
}

/// Compares limits with requests, also with the one that is computed.
///
/// # Errors
/// See [`LimitTooLow`].
pub fn check_limits(spec: &RerankDeploymentSpec, plan: &Plan) -> Result<(), LimitTooLow> {
    let all = requirements(spec, plan);
    let (Some(requests), Some(limits)) = (&all.requests, &all.limits) else { return Ok(()) };
    for (name, Quantity(limit)) in limits {
        let Some(Quantity(request)) = requests.get(name) else { continue };
        let (Some(most), Some(least)) = (milli_units(limit), milli_units(request)) else { continue };
        if most >= least {
            continue;
        }
        let own = spec.pod_template.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let message = if own.is_some_and(|own| own.contains_key(name)) {
            format!("{limit} is less than podTemplate.resources.requests.{name}, {request}")
        } else {
            format!(
                "{limit} is less than the {request} that the pod asks for, as computed from what it serves; allowed: at least that, or a \
                 podTemplate.resources.requests.{name} of your own"
            )
        };
        let field = match name.as_str() {
            "memory" => "podTemplate.resources.limits.memory",
            "cpu" => "podTemplate.resources.limits.cpu",
            _ => "podTemplate.resources.limits",
        };
        return Err(LimitTooLow { field, message });
    }
    Ok(())
}

/// Memory of the node that the server takes, in bytes: of models on a CPU, all that they take, and what waits in the queue.
pub fn host_bytes(plan: &Plan) -> u64 {
    match (plan.device, &plan.footprint) {
        (DeviceKind::Cuda, _) => GPU_HOST_BYTES.saturating_add(queue_bytes(&plan.config)),
        (DeviceKind::Cpu, Ok(footprint)) => bytes_on(plan.device, &plan.config, footprint),
        (DeviceKind::Cpu, Err(_)) => UNKNOWN_BYTES.saturating_add(queue_bytes(&plan.config)),
    }
}

/// Memory that models need where they lie: on a GPU its own, else that of the node, which what waits in the queue shares with them.
pub fn bytes_on(device: DeviceKind, config: &ServerConfig, footprint: &Footprint) -> u64 {
    let models = footprint.memory.total_bytes();
    match device {
        DeviceKind::Cuda => models,
        DeviceKind::Cpu => models.saturating_add(queue_bytes(config)),
    }
}

fn queue_bytes(config: &ServerConfig) -> u64 {
    u64::try_from(config.api.limits.queue_bytes).unwrap_or(0)
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
pub fn tolerations(object: &RerankDeployment) -> Vec<Toleration> {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::validate::validate;

    fn spec(more: &Value) -> RerankDeploymentSpec {
        let mut spec = json!({"embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn with_resources(resources: &Value) -> RerankDeploymentSpec {
        spec(&json!({"podTemplate": {"resources": resources}}))
    }

    #[test]
    fn a_limit_below_what_is_asked_for_is_refused_with_both_numbers_and_the_field() {
        let refused =
            |resources: Value| validate(&with_resources(&resources)).map(drop).map_err(|error| error.to_string());
        let computed = refused(json!({"limits": {"memory": "1Gi"}})).unwrap_err();
        for words in ["podTemplate.resources.limits.memory: 1Gi", "2036Mi", "requests.memory of your own"] {
            assert!(computed.contains(words), "{computed}");
        }
        let own = refused(json!({"limits": {"cpu": "500m"}, "requests": {"cpu": 1}})).unwrap_err();
        assert_eq!(own, "podTemplate.resources.limits.cpu: 500m is less than podTemplate.resources.requests.cpu, 1");
        for fine in [
            json!({"limits": {"memory": "2Gi"}}),
            json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1024Mi"}}),
            json!({"limits": {"ephemeral-storage": "1Gi"}}),
        ] {
            assert_eq!(refused(fine.clone()), Ok(()), "{fine}");
        }
    }

    #[test]
    fn the_download_asks_for_what_the_server_asks_for_but_for_devices() {
        let resources = json!({"requests": {"cpu": "2"}, "limits": {"memory": "8Gi", "rdma/hca": "1"}});
        let spec = with_resources(&resources);
        let plan = validate(&spec).unwrap();
        let found = serde_json::to_value(without_devices(&spec, &plan)).unwrap();
        assert_eq!(found, json!({"requests": {"cpu": "2", "memory": "2036Mi"}, "limits": {"memory": "8Gi"}}));
        let gpu = without_devices(&with_resources(&json!({})), &plan);
        assert_eq!(serde_json::to_value(gpu).unwrap(), json!({"requests": {"memory": "2036Mi"}}));
    }
}
