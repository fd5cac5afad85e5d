//! The children of a `RerankDeployment`. Pure: the same object and settings give the same children, to the byte.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rerank_crds::RerankDeployment;
use serde_json::Value;

use super::kinds::ChildKind;
use super::validate::Plan;

mod around;
mod autoscaler;
mod cache;
mod deployment;
pub mod mounts;
pub mod names;
mod network_policy;
mod pod;
pub mod pod_monitor;
mod resources;
pub mod server_config;
mod template;

pub use around::address;
pub use autoscaler::QUEUE_METRIC;
pub use deployment::Replacement;
pub use pod::{DOWNLOAD, PREFLIGHT, SERVER, template as pod_template};
pub use resources::{LimitTooLow, bytes_on, check_limits, host_bytes, requirements, tolerations};
pub use template::{TEMPLATE_DIGEST, TemplateDigest};

/// What is the same for every object: the operator's flags, and what the cluster has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Image of pods that compute on a CPU.
    pub cpu_image: String,
    /// Image of pods that compute on a GPU.
    pub gpu_image: String,
    /// Whether the cluster has the kind PodMonitor.
    pub pod_monitors: bool,
}

/// Everything that belongs to one object. What is none is not wanted, and deleted where it is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    /// The server's configuration.
    pub config_map: ConfigMap,
    /// Of the pods; has no rights, and its token is not mounted.
    pub service_account: ServiceAccount,
    /// Downloads that stay.
    pub cache_claim: Option<PersistentVolumeClaim>,
    /// The API.
    pub service: Service,
    /// The pods.
    pub deployment: Deployment,
    /// One pod at a time may be evicted.
    pub disruption_budget: PodDisruptionBudget,
    /// What may reach the pods, and what they may reach.
    pub network_policy: Option<NetworkPolicy>,
    /// Scales the object by the pairs that wait.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// Has the pods scraped, where the cluster knows the kind.
    pub pod_monitor: Option<Value>,
}

impl Children {
    /// Each of them with `apiVersion` and `kind`, in the order in which they are applied.
    ///
    /// # Errors
    /// One cannot be written as JSON.
    pub fn to_values(&self) -> Result<Vec<(ChildKind, Value)>, serde_json::Error> {
        let Self {
            config_map,
            service_account,
            cache_claim,
            service,
            deployment,
            disruption_budget,
            network_policy,
            autoscaler,
            pod_monitor,
        } = self;
        let mut values = vec![
            (ChildKind::ConfigMap, serde_json::to_value(config_map)?),
            (ChildKind::ServiceAccount, serde_json::to_value(service_account)?),
            (ChildKind::Service, serde_json::to_value(service)?),
            (ChildKind::Deployment, serde_json::to_value(deployment)?),
            (ChildKind::DisruptionBudget, serde_json::to_value(disruption_budget)?),
        ];
        let optional = [
            (ChildKind::CacheClaim, cache_claim.as_ref().map(serde_json::to_value)),
            (ChildKind::NetworkPolicy, network_policy.as_ref().map(serde_json::to_value)),
            (ChildKind::Autoscaler, autoscaler.as_ref().map(serde_json::to_value)),
            (ChildKind::PodMonitor, pod_monitor.clone().map(Ok)),
        ];
        for (kind, value) in optional {
            values.extend(value.transpose()?.map(|value| (kind, value)));
        }
        values.sort_by_key(|(kind, _)| *kind);
        Ok(values)
    }

    /// As one YAML file of several documents.
    ///
    /// # Errors
    /// As [`Self::to_values`].
    pub fn to_yaml(&self) -> Result<String, Box<dyn std::error::Error>> {
        let documents =
            self.to_values()?.iter().map(|(_, value)| serde_yaml::to_string(value)).collect::<Result<Vec<_>, _>>()?;
        Ok(documents.join("---\n"))
    }
}

/// Builds them.
pub fn build(object: &RerankDeployment, plan: &Plan, replacement: Replacement, settings: &Settings) -> Children {
    Children {
        config_map: around::config_map(object, plan),
        service_account: around::service_account(object),
        cache_claim: cache::claim(object),
        service: around::service(object),
        deployment: deployment::deployment(object, plan, replacement, settings),
        disruption_budget: around::disruption_budget(object),
        network_policy: network_policy::network_policy(object, plan),
        autoscaler: autoscaler::autoscaler(object),
        pod_monitor: settings.pod_monitors.then(|| pod_monitor::pod_monitor(object)),
    }
}
