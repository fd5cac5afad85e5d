//! The HorizontalPodAutoscaler: it scales the `RerankDeployment`, which scales its Deployment. Pure.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec,
    MetricTarget, PodsMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Resource, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::Autoscaling;

use super::names;

/// The gauge of the pairs that wait or are being scored in a pod.
pub const QUEUE_METRIC: &str = "rerank_queue_pairs";

pub(super) fn autoscaler(object: &RerankDeployment) -> Option<HorizontalPodAutoscaler> {
    // Paused is paused: an autoscaler would not scale from 0 anyway.
    let Autoscaling { minimum, maximum, queued_pairs_per_replica } =
        object.spec.autoscaling.as_ref().filter(|_| object.spec.replicas > 0)?;
    let pods = PodsMetricSource {
        metric: MetricIdentifier { name: QUEUE_METRIC.to_owned(), ..MetricIdentifier::default() },
        target: MetricTarget {
            type_: "AverageValue".to_owned(),
            average_value: Some(Quantity(queued_pairs_per_replica.to_string())),
            ..MetricTarget::default()
        },
    };
    Some(HorizontalPodAutoscaler {
        metadata: names::metadata(object, object.name_any()),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some(RerankDeployment::api_version(&()).into_owned()),
                kind: RerankDeployment::kind(&()).into_owned(),
                name: object.name_any(),
            },
            min_replicas: Some(*minimum),
            max_replicas: *maximum,
            metrics: Some(vec![MetricSpec { type_: "Pods".to_owned(), pods: Some(pods), ..MetricSpec::default() }]),
            ..HorizontalPodAutoscalerSpec::default()
        }),
        ..HorizontalPodAutoscaler::default()
    })
}
