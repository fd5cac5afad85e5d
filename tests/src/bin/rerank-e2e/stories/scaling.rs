//! How many pods there are: by scale, by an autoscaler's object, by a drain that asks the budget; and none after deletion, also
//! while no operator runs.

use rerank_tests::node;
use serde_json::json;

use crate::world::{OPERATOR_NAMESPACE, World};

pub(crate) async fn tell(world: &World) {
    world.kubectl.apply(&world.tiny("scaled")).await;
    world.ready("scaled").await;
    world.kubectl.run(&["scale", "rrd", "scaled", "--replicas=2"]).await;
    world.until("two pods are ready", async || world.ready_replicas("scaled").await == 2).await;

    // One may go; the other one waits for another to come, which finds no node.
    let selector = "--pod-selector=app.kubernetes.io/instance=scaled";
    let drain = ["drain", node::NAME, selector, "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=10s"];
    let drained = world.kubectl.finish(&drain).await.unwrap();
    assert_ne!(drained.code, Some(0), "{drained:?}");
    world
        .troubleshooting
        .meets("kubectl drain", drained.stderr.lines().find(|line| line.contains("budget")).unwrap_or(""));
    assert_eq!(world.ready_replicas("scaled").await, 1);
    println!("a drain of both pods: one evicted, one kept by the budget");
    world.kubectl.run(&["uncordon", node::NAME]).await;
    world.until("two pods are ready again", async || world.ready_replicas("scaled").await == 2).await;

    world.kubectl.patch("rrd", "scaled", &json!({"spec": {"autoscaling": {"minimum": 1, "maximum": 3}}})).await;
    let autoscaler = world
        .kubectl
        .until("hpa", "scaled", "looked at its target", |object| object["status"]["conditions"].is_array())
        .await;
    let target = &autoscaler["spec"]["scaleTargetRef"];
    assert_eq!((target["kind"].as_str(), target["name"].as_str()), (Some("RerankDeployment"), Some("scaled")));
    let able = autoscaler["status"]["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "AbleToScale");
    assert_eq!(able.unwrap()["status"], "True", "{autoscaler}");

    let operator = ["scale", "deployment", "rerank-operator", "-n", OPERATOR_NAMESPACE];
    world.kubectl.run(&[&operator[..], &["--replicas=0"]].concat()).await;
    world
        .until("no operator runs", async || {
            let pods = world.kubectl.run(&["get", "pods", "-n", OPERATOR_NAMESPACE, "-o", "name"]).await;
            pods.trim().is_empty()
        })
        .await;
    world.kubectl.run(&["delete", "rrd", "scaled"]).await;
    let kinds =
        "deployments,replicasets,pods,services,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies,hpa,pvc";
    world
        .until("nothing of it is left", async || {
            let listed =
                world.kubectl.run(&["get", kinds, "-l", "app.kubernetes.io/instance=scaled", "-o", "name"]).await;
            listed.trim().is_empty()
        })
        .await;
    world.kubectl.run(&[&operator[..], &["--replicas=1"]].concat()).await;
    world.kubectl.run(&["rollout", "status", "deployment", "rerank-operator", "-n", OPERATOR_NAMESPACE]).await;
}
