//! The fields that say how many pods there are and how they are replaced. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A HorizontalPodAutoscaler on the pairs that wait in each pod. It writes this object's scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("self.minimum <= self.maximum", "minimum must be at most maximum"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Autoscaling {
    /// Pods at least.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000))]
    pub minimum: i32,
    /// Pods at most.
    #[schemars(range(min = 1, max = 1_000))]
    pub maximum: i32,
    /// Pairs that may wait in a pod before another is added.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queued_pairs_per_replica: i32,
}

/// How a changed pod replaces the old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Rollout {
    /// Surge on a CPU, and on a GPU where another one is free when the pod changes; else Recreate. Recreate too where downloads are kept in
    /// a claim that pods of other nodes cannot mount: the old pod holds it.
    #[default]
    Auto,
    /// The new pod first: needs a second GPU for a while.
    Surge,
    /// The old pod first, one after the other: a gap where there is only one.
    Recreate,
}

fn one() -> i32 {
    1
}

fn hundred() -> i32 {
    100
}
