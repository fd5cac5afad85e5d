//! What the operator may do and what it does are the same: the rules of `operator/rbac/` against the API server's own record. And its pods
//! are admitted where only restricted ones are.

use std::collections::BTreeSet;
use std::fs;

use rerank_tests::cluster::{Cluster, OPERATOR_USER, examples, search};
use rerank_tests::http::root;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

/// A resource, with its subresource, and a verb.
type Right = (String, String);

/// What the rules of a file grant.
fn granted(file: &str) -> BTreeSet<Right> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let mut rights = BTreeSet::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let document = Value::deserialize(document).unwrap();
        for rule in document["rules"].as_array().into_iter().flatten() {
            let texts = |field: &str| -> Vec<String> { serde_json::from_value(rule[field].clone()).unwrap() };
            assert!(
                !texts("apiGroups").contains(&"*".to_owned()) && !texts("verbs").contains(&"*".to_owned()),
                "{rule}"
            );
            for resource in texts("resources") {
                assert!(!resource.contains('*') && !resource.starts_with("secrets"), "{rule}");
                rights.extend(texts("verbs").into_iter().map(|verb| (resource.clone(), verb)));
            }
        }
    }
    assert!(rights.len() > 30, "{rights:?}");
    rights
}

/// What was used of them. Server-side apply that makes an object needs the right to create it and is recorded as a patch.
fn used(cluster: &Cluster) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for request in cluster.requests().into_iter().filter(|request| !request.resource.is_empty()) {
        let resource = match &request.subresource {
            Some(subresource) => format!("{}/{subresource}", request.resource),
            None => request.resource.clone(),
        };
        if request.verb == "patch" && request.code == 201 {
            rights.insert((resource.clone(), "create".to_owned()));
        }
        rights.insert((resource, request.verb));
    }
    rights
}

/// Everything that an object can go through.
async fn live(cluster: &Cluster) {
    let mut object = search("all");
    object["spec"]["autoscaling"] = json!({"maximum": 3});
    object["spec"]["weights"] = json!({"cache": {"size": "1Gi", "storageClass": ""}});
    cluster.apply(&object).await;
    let children =
        [("hpa", "all"), ("pvc", "all-cache"), ("networkpolicy", "all"), ("pdb", "all"), ("podmonitor", "all")];
    for (kind, name) in children {
        cluster.until(kind, name, "been made", |child| !child.is_null()).await;
    }
    // A pod on a GPU that changes has the operator look for a free one.
    let less = json!({"spec": {"autoscaling": null, "weights": {"cache": null}, "access": {"networkPolicy": {"enabled": false}},
        "candidates": {"multiplier": 6}}});
    cluster.patch("rrd", "all", &less).await;
    for (kind, name) in [("hpa", "all"), ("networkpolicy", "all")] {
        cluster.until(kind, name, "gone", Value::is_null).await;
    }
    // The claim is in use, so it is only marked.
    let is_going = |claim: &Value| claim.is_null() || claim["metadata"]["deletionTimestamp"].is_string();
    cluster.until("pvc", "all-cache", "been given up", is_going).await;
    // The same event twice.
    for _ in 0..2 {
        cluster.kubectl(&["scale", "rrd/all", "--replicas=0"]).await;
        cluster.reason("all", "Ready", "Paused").await;
        cluster.kubectl(&["scale", "rrd/all", "--replicas=1"]).await;
        cluster.until("rrd", "all", "gone on", |object| object["status"]["conditions"][4]["reason"] != "Paused").await;
    }
    // Requests are written down a moment after they ended.
    sleep(Duration::from_secs(1)).await;
    let refused: Vec<_> = cluster.requests().into_iter().filter(|request| request.code == 403).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[tokio::test]
async fn what_is_granted_in_the_cluster_is_what_is_used() {
    let cluster = Cluster::start().await;
    cluster.know("podmonitors.monitoring.coreos.com", "monitoring.coreos.com_podmonitors.yaml").await;
    let _operator = cluster.leading().await;
    live(&cluster).await;
    let granted = granted("operator/rbac/cluster.yaml");
    let used = used(&cluster);
    println!("{} rights granted, {} used", granted.len(), used.len());
    assert_eq!(granted, used);
}

#[tokio::test]
async fn an_operator_of_one_namespace_needs_no_right_in_the_cluster_and_leaves_others_alone() {
    let cluster = Cluster::start().await;
    cluster.know("podmonitors.monitoring.coreos.com", "monitoring.coreos.com_podmonitors.yaml").await;
    cluster.apply_file("operator/rbac/namespaced.yaml", &[]).await;
    cluster.kubectl(&["delete", "clusterrolebinding", "rerank-operator"]).await;
    cluster.apply(&search("elsewhere")).await;
    cluster.enter("search").await;
    let user = "system:serviceaccount:search:rerank-operator";
    let mut operator = cluster.operator_as(user, "a", &["--watch-namespace", "search", "--lease-namespace", "search"]);
    operator.leads().await.unwrap();
    live(&cluster).await;
    let unknown = cluster.reason("all", "Preflight", "NodesNotReadable").await;
    assert_eq!(unknown["status"], "Unknown");
    cluster.enter("default").await;
    assert!(cluster.get("rrd", "elsewhere").await["status"].is_null());
    let granted = granted("operator/rbac/namespaced.yaml");
    let used = used(&cluster);
    println!("{} rights granted, {} used", granted.len(), used.len());
    assert_eq!(granted, used);
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_in_status_and_log_and_its_return_is_enough() {
    let cluster = Cluster::start().await;
    let role = cluster.get("clusterrole", "rerank-operator").await;
    let mut poorer = role.clone();
    poorer["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"] != json!(["pods"]));
    cluster.kubectl(&["delete", "clusterrole", "rerank-operator"]).await;
    let bare = |role: &Value| json!({"apiVersion": role["apiVersion"], "kind": role["kind"], "metadata": {"name": "rerank-operator"}, "rules": role["rules"]});
    cluster.apply(&bare(&poorer)).await;
    let mut operator = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    let failed = cluster.reason("docs", "Ready", "ReconcileFailed").await;
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("pods is forbidden") && message.contains(OPERATOR_USER), "{message}");
    assert_eq!(failed["status"], "Unknown");
    operator.says("A watch failed").await.unwrap();
    cluster.apply(&bare(&role)).await;
    cluster.reason("docs", "Accepted", "Accepted").await;
    cluster.until("deployment", "docs", "been made", |child| !child.is_null()).await;
}

#[tokio::test]
async fn pods_of_every_example_are_admitted_where_only_restricted_ones_are() {
    let mut cluster = Cluster::start().await;
    cluster.server.start_controller_manager().await.unwrap();
    cluster.kubectl(&["label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted"]).await;
    // It refuses what is not restricted, or the rest would tell nothing.
    let loose = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose"}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let refused = cluster.server.kubectl_with_input(&["apply", "-f", "-"], &loose.to_string()).await.unwrap();
    assert!(refused.stderr.contains("violates PodSecurity \"restricted"), "{refused:?}");
    let _operator = cluster.leading().await;
    for (path, name) in examples() {
        let text = fs::read_to_string(&path).unwrap();
        let object: Value = serde_yaml::from_str(text.split("\n---\n").next().unwrap()).unwrap();
        cluster.apply(&object).await;
        let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
        let made = |child: &Value| child["status"]["replicas"] == wanted;
        let deployment = cluster.until("deployment", &name, "its pods", made).await;
        let conditions = deployment["status"]["conditions"].as_array().cloned().unwrap_or_default();
        assert!(conditions.iter().all(|one| one["type"] != "ReplicaFailure"), "{}: {conditions:#?}", path.display());
    }
}
