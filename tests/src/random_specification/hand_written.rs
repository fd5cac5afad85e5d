//! Values of Kubernetes's own parts of a pod. The operator hands them on as they are, so a few of each say whether it does. Pure.

use serde_json::{Value, json};

/// A property by its path, and its values.
type Part = (&'static str, fn() -> Vec<Value>);

/// Parts whose values are not read from the schema.
pub const HAND_WRITTEN: [Part; 4] = [
    ("podTemplate.affinity", affinity),
    ("podTemplate.resources", resources),
    ("podTemplate.tolerations", tolerations),
    ("podTemplate.topologySpreadConstraints", topology_spread_constraints),
];

fn affinity() -> Vec<Value> {
    let terms = json!([{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100", "l4"]}]}]);
    let apart = json!([{
        "weight": 100,
        "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "rerank-server"}}
        }
    }]);
    vec![
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}),
        json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": apart}}),
        json!({}),
    ]
}

fn resources() -> Vec<Value> {
    vec![
        json!({"requests": {"cpu": "4", "memory": "8Gi"}}),
        json!({"requests": {"cpu": 2}, "limits": {"memory": "16Gi", "ephemeral-storage": "1Gi"}}),
        json!({"limits": {"rdma/hca": 1}}),
        json!({}),
    ]
}

fn tolerations() -> Vec<Value> {
    vec![
        json!([{"key": "dedicated", "operator": "Equal", "value": "search", "effect": "NoSchedule"}]),
        json!([{"operator": "Exists"}, {"key": "spot", "effect": "NoExecute", "tolerationSeconds": 60}]),
        json!([]),
    ]
}

fn topology_spread_constraints() -> Vec<Value> {
    let zones = |skew: i32, otherwise: &str| {
        json!([{
            "maxSkew": skew, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": otherwise,
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "rerank-server"}}
        }])
    };
    vec![zones(1, "DoNotSchedule"), zones(2, "ScheduleAnyway"), json!([])]
}
