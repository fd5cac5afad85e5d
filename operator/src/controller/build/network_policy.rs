//! What may reach the pods, and what they may reach. Pure. A policy cannot name hosts, so what goes out is bounded by port, and
//! by the peers that the object names.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::EgressPeer;
use url::Url;

use super::names;
use crate::controller::validate::Plan;

const DNS_PORT: i32 = 53;

pub(super) fn network_policy(object: &RerankDeployment, plan: &Plan) -> Option<NetworkPolicy> {
    let wanted = &object.spec.access.network_policy;
    if !wanted.enabled {
        return None;
    }
    let inward = NetworkPolicyIngressRule {
        ports: Some(["api", "control"].map(|name| port("TCP", IntOrString::String(name.to_owned()))).to_vec()),
        from: None,
    };
    let dns = NetworkPolicyEgressRule {
        ports: Some(["UDP", "TCP"].map(|protocol| port(protocol, IntOrString::Int(DNS_PORT))).to_vec()),
        to: None,
    };
    let mut egress = vec![dns];
    let ports: Vec<NetworkPolicyPort> =
        outward_ports(object, plan).into_iter().map(|number| port("TCP", IntOrString::Int(number))).collect();
    // A rule without ports would allow every port.
    if !ports.is_empty() {
        let peers: Vec<NetworkPolicyPeer> = wanted.egress_peers.iter().map(peer).collect();
        egress.push(NetworkPolicyEgressRule { ports: Some(ports), to: (!peers.is_empty()).then_some(peers) });
    }
    Some(NetworkPolicy {
        metadata: names::metadata(object, object.name_any()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(names::selector(object)),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![inward]),
            egress: Some(egress),
        }),
    })
}

/// The ports of everything that the server connects to.
fn outward_ports(object: &RerankDeployment, plan: &Plan) -> BTreeSet<i32> {
    let config = &plan.config;
    let qdrant =
        config.vector_store.as_ref().and_then(|store| store.qdrant.as_ref()).map(|qdrant| (qdrant.url.as_str(), 6_334));
    let hub = config.weights.hub.as_ref().map(|hub| (hub.endpoint.as_str(), 443));
    let proxy = object.spec.weights.hub.as_ref().and_then(|hub| hub.proxy.as_deref()).map(|proxy| (proxy, 3_128));
    let collector = config.tracing.otlp_endpoint.as_deref().map(|endpoint| (endpoint, 4_317));
    let urls = [qdrant, proxy.or(hub), collector];
    urls.into_iter().flatten().map(|(url, default)| port_of(url).unwrap_or(default)).collect()
}

fn port_of(url: &str) -> Option<i32> {
    Url::parse(url).ok()?.port_or_known_default().map(i32::from)
}

fn port(protocol: &str, number: IntOrString) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.to_owned()), port: Some(number), end_port: None }
}

fn peer(peer: &EgressPeer) -> NetworkPolicyPeer {
    let EgressPeer { cidr, pod_labels } = peer;
    NetworkPolicyPeer {
        ip_block: cidr.clone().map(|cidr| IPBlock { cidr, except: None }),
        pod_selector: pod_labels
            .clone()
            .map(|labels| LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
        namespace_selector: None,
    }
}
