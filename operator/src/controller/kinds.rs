//! The kinds of the children, and how an object of each is reached. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::core::ApiResource;
use rerank_crds::RerankDeployment;

use super::build::{names, pod_monitor};

/// A kind of child, in the order in which they are applied: what a pod mounts comes before it, and no pod is ever there without
/// its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    /// The server's configuration.
    ConfigMap,
    /// Of the pods.
    ServiceAccount,
    /// Downloads that stay.
    CacheClaim,
    /// What may reach the pods, and what they may reach.
    NetworkPolicy,
    /// The API.
    Service,
    /// The pods.
    Deployment,
    /// One pod at a time may be evicted.
    DisruptionBudget,
    /// Scales the object.
    Autoscaler,
    /// Has the pods scraped.
    PodMonitor,
}

impl ChildKind {
    /// Every kind, in order.
    pub const ALL: [Self; 9] = [
        Self::ConfigMap,
        Self::ServiceAccount,
        Self::CacheClaim,
        Self::NetworkPolicy,
        Self::Service,
        Self::Deployment,
        Self::DisruptionBudget,
        Self::Autoscaler,
        Self::PodMonitor,
    ];

    /// Where the API server has it.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::CacheClaim => ApiResource::erase::<PersistentVolumeClaim>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::DisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::Autoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
            Self::PodMonitor => ApiResource {
                group: "monitoring.coreos.com".to_owned(),
                version: "v1".to_owned(),
                api_version: pod_monitor::GROUP_VERSION.to_owned(),
                kind: pod_monitor::KIND.to_owned(),
                plural: "podmonitors".to_owned(),
            },
        }
    }

    /// The name that the child of an object has. None: each configuration has one of its own.
    pub fn name(self, object: &RerankDeployment) -> Option<String> {
        match self {
            Self::ConfigMap => None,
            Self::CacheClaim => Some(names::cache_claim(object)),
            _ => Some(object.name_any()),
        }
    }

    /// The kind, as Kubernetes calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::ServiceAccount => "ServiceAccount",
            Self::CacheClaim => "PersistentVolumeClaim",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
            Self::Deployment => "Deployment",
            Self::DisruptionBudget => "PodDisruptionBudget",
            Self::Autoscaler => "HorizontalPodAutoscaler",
            Self::PodMonitor => pod_monitor::KIND,
        }
    }
}
