//! Installed for one namespace, by a Role, where nodes may not be read; and nothing is written in any other.

use serde_json::json;

use super::first_answer;
use crate::world::{OPERATOR_NAMESPACE, RELEASE, World};

pub(crate) async fn tell(world: &World) {
    let namespace = world.namespace().await;
    world.helm(&["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait"]).await;
    // The definition stays, and so would every object.
    world.install(&namespace, &["--set", "scope=namespace,crds.enabled=false"]).await;
    first_answer::tell(world).await;
    let preflight = rerank_tests::cluster::condition(&world.kubectl.get("rrd", "docs").await, "Preflight");
    assert_eq!(preflight["reason"], "Passed", "{preflight}");

    let mut elsewhere = world.tiny("elsewhere");
    elsewhere["metadata"]["namespace"] = json!("default");
    world.kubectl.apply(&elsewhere).await;
    world.kubectl.patch("rrd", "docs", &json!({"spec": {"replicas": 0}})).await;
    world.kubectl.reason("docs", "Available", "Paused").await;
    let other = world.kubectl.run(&["get", "rrd", "elsewhere", "-n", "default", "-o", "jsonpath={.status}"]).await;
    assert_eq!(other, "");
    world.kubectl.run(&["delete", "rrd", "elsewhere", "-n", "default"]).await;
    world.helm(&["uninstall", RELEASE, "--namespace", &namespace, "--wait"]).await;
    world.install(OPERATOR_NAMESPACE, &[]).await;
}
