//! What happens to objects when the definition changes: nothing of them is lost, and one that breaks a newer rule can still be changed elsewhere.

use rerank_tests::cluster::{Cluster, search};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

/// Replaces the definition by itself with a change, and waits until the API server goes by it.
async fn redefine(cluster: &Cluster, change: impl Fn(&mut Value)) {
    let live = cluster.get("crd", "rerankdeployments.rerank.semantik.dev").await;
    let mut definition = json!({"apiVersion": live["apiVersion"], "kind": live["kind"],
        "metadata": {"name": live["metadata"]["name"]}, "spec": live["spec"]});
    change(&mut definition);
    let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let replaced = cluster.server.kubectl_with_input(&arguments, &definition.to_string()).await.unwrap();
    assert_eq!(replaced.code, Some(0), "{replaced:?}");
}

fn reranker(definition: &mut Value) -> &mut Value {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/reranker";
    definition.pointer_mut(path).unwrap()
}

#[tokio::test]
async fn an_old_object_that_breaks_a_newer_rule_still_takes_an_unrelated_change() {
    let cluster = Cluster::start().await;
    // As an earlier release might have had it: without rules about the reranker, and with longer batches.
    redefine(&cluster, |definition| {
        let reranker = reranker(definition);
        reranker.as_object_mut().unwrap().remove("x-kubernetes-validations");
        reranker["properties"]["batchSize"]["maximum"] = json!(100_000);
    })
    .await;
    let mut old = search("docs");
    old["spec"]["reranker"] = json!({"batchSize": 50_000, "maxLength": 8192, "tokenBudget": 4096});
    let begun = Instant::now();
    while cluster.server.kubectl_with_input(&["apply", "-f", "-"], &old.to_string()).await.unwrap().code != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the earlier definition never counts");
        sleep(Duration::from_millis(200)).await;
    }
    cluster.apply_file("crds/rerankdeployments.yaml", &["--server-side", "--force-conflicts"]).await;
    let mut new = search("new");
    new["spec"]["reranker"] = old["spec"]["reranker"].clone();
    let begun = Instant::now();
    loop {
        let refused =
            cluster.server.kubectl_with_input(&["create", "--dry-run=server", "-f", "-"], &new.to_string()).await;
        if refused.unwrap().stderr.contains("tokenBudget must be at least maxLength") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the newer definition never counts");
        sleep(Duration::from_millis(200)).await;
    }
    cluster.kubectl(&["label", "rrd", "docs", "team=search"]).await;
    cluster.kubectl(&["scale", "rrd/docs", "--replicas=2"]).await;
    cluster.patch("rrd", "docs", &json!({"spec": {"candidates": {"multiplier": 7}}})).await;
    let object = cluster.get("rrd", "docs").await;
    assert_eq!(object["spec"]["reranker"]["batchSize"], 50_000, "nothing of it is lost");
    let worse = json!({"spec": {"reranker": {"batchSize": 60_000}}}).to_string();
    let refused = cluster.server.kubectl(&["patch", "rrd", "docs", "--type=merge", "-p", &worse]).await.unwrap();
    assert!(refused.stderr.contains("batchSize"), "what is changed has to keep the rules: {refused:?}");
    // The operator lives with it.
    let _operator = cluster.leading().await;
    cluster.until("rrd", "docs", "a status", |object| object["status"]["conditions"].is_array()).await;
}
