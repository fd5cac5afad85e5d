//! The small children: configuration, account, Service, disruption budget. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::ServiceType;

use super::{mounts, names};
use crate::controller::validate::Plan;

pub(super) fn config_map(object: &RerankDeployment, plan: &Plan) -> ConfigMap {
    ConfigMap {
        metadata: names::metadata(object, names::config_map(object, plan)),
        immutable: Some(true),
        data: Some(BTreeMap::from([(mounts::CONFIGURATION_KEY.to_owned(), plan.config_yaml.clone())])),
        ..ConfigMap::default()
    }
}

pub(super) fn service_account(object: &RerankDeployment) -> ServiceAccount {
    ServiceAccount {
        metadata: names::metadata(object, object.name_any()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

pub(super) fn service(object: &RerankDeployment) -> Service {
    let wanted = &object.spec.service;
    let kind = match wanted.r#type {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let annotations = (!wanted.annotations.is_empty()).then(|| wanted.annotations.clone());
    Service {
        metadata: ObjectMeta { annotations, ..names::metadata(object, object.name_any()) },
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            selector: Some(names::selector(object)),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: wanted.port,
                target_port: Some(IntOrString::String("api".to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Where the service answers, inside the cluster.
pub fn address(object: &RerankDeployment) -> String {
    let scheme = if object.spec.access.tls_secret_ref.is_some() { "https" } else { "http" };
    let namespace = object.namespace().unwrap_or_default();
    format!("{scheme}://{}.{namespace}.svc:{}", object.name_any(), object.spec.service.port)
}

pub(super) fn disruption_budget(object: &RerankDeployment) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: names::metadata(object, object.name_any()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector { match_labels: Some(names::selector(object)), ..LabelSelector::default() }),
            // One that does not serve anyway holds up no drain of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
