//! The operator on Kubernetes' own API server: `kubectl apply` of an example leads to objects that would serve it, and status says
//! what is true.

use rerank_tests::cluster::{Cluster, condition, examples, search};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

#[tokio::test]
async fn every_example_leads_to_its_children_and_a_status_and_then_nothing_is_written_any_more() {
    let cluster = Cluster::start().await;
    let operator = cluster.leading().await;
    cluster.know("scaledobjects.keda.sh", "keda.sh_scaledobjects.yaml").await;
    // Volumes from images are on by default from 1.35 on; before, the API server takes the field away without a word.
    let has_image_volumes = cluster.server_minor().await >= 35;
    for (path, name) in examples() {
        let file = path.file_name().unwrap().to_str().unwrap();
        let begun = Instant::now();
        if file == "image-weights.yaml" && !has_image_volumes {
            cluster.apply_file(&format!("examples/{file}"), &[]).await;
            let refused = cluster.reason(&name, "Ready", "ReconcileFailed").await;
            println!("{file}: {}", refused["message"]);
            assert!(refused["message"].as_str().unwrap().contains("takes weights.image away"), "{refused}");
            cluster.kubectl(&["delete", "rrd", &name]).await;
            continue;
        }
        cluster.apply_file(&format!("examples/{file}"), &[]).await;
        let object = cluster.until("rrd", &name, "a status", |object| !condition(object, "Ready").is_null()).await;
        println!("{file}: status {:.1} s after kubectl apply began", begun.elapsed().as_secs_f64());
        assert_eq!(object["status"]["observedGeneration"], object["metadata"]["generation"], "{file}");
        assert_eq!(condition(&object, "Accepted")["status"], "True", "{file}: {object:#}");
        let kinds: Vec<Value> =
            object["status"]["conditions"].as_array().unwrap().iter().map(|one| one["type"].clone()).collect();
        assert_eq!(kinds, ["Accepted", "Preflight", "Available", "ModelReady", "Ready"]);
        for kind in ["deployment", "service", "serviceaccount", "poddisruptionbudget", "networkpolicy"] {
            let child = cluster.until(kind, &name, "been made", |child| !child.is_null()).await;
            assert_eq!(child["metadata"]["ownerReferences"][0]["uid"], object["metadata"]["uid"], "{file} {kind}");
            assert!(child["metadata"]["finalizers"].is_null(), "{file} {kind}");
        }
    }
    let scaled = cluster.until("hpa", "docs-scaled", "been made", |child| !child.is_null()).await;
    assert_eq!(scaled["spec"]["scaleTargetRef"]["kind"], "RerankDeployment");
    assert!(!cluster.get("pvc", "docs-scaled-cache").await.is_null());

    sleep(Duration::from_secs(3)).await;
    let before = cluster.writes();
    let begun = operator.reconciles().await.unwrap();
    for round in 0..100 {
        cluster.kubectl(&["annotate", "rrd", "docs", &format!("test/round={round}"), "--overwrite"]).await;
        // Changes that come together are looked at once.
        sleep(Duration::from_millis(150)).await;
    }
    cluster.kubectl(&["annotate", "rrd", "--all", "test/round=last", "--overwrite"]).await;
    sleep(Duration::from_secs(3)).await;
    let forced = operator.reconciles().await.unwrap() - begun;
    println!("{forced} forced reconciles of converged objects: {} writes", cluster.writes() - before);
    assert!(forced >= 100, "{forced}");
    assert_eq!(cluster.writes(), before, "forced reconciles of converged objects: {}", operator.log());
    let table = cluster.kubectl(&["get", "rrd"]).await;
    for column in ["READY", "RERANKER", "QUANTIZATION", "REPLICAS", "LOADED", "REASON", "AGE"] {
        assert!(table.contains(column), "{table}");
    }
    let explained = cluster.kubectl(&["explain", "rrd.spec.reranker.tokenBudget"]).await;
    assert!(explained.contains("bounds memory"), "{explained}");
}

#[tokio::test]
async fn what_others_change_is_put_back_what_they_add_stays_and_scale_goes_through_the_object() {
    let cluster = Cluster::start().await;
    let _operator = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    cluster.until("deployment", "docs", "been made", |child| !child.is_null()).await;
    cluster.kubectl(&["scale", "deployment/docs", "--replicas=7"]).await;
    cluster.kubectl(&["label", "deployment/docs", "team=search"]).await;
    cluster.until("deployment", "docs", "one replica again", |child| child["spec"]["replicas"] == 1).await;
    let deployment = cluster.get("deployment", "docs").await;
    assert_eq!(deployment["metadata"]["labels"]["team"], "search");

    // Somebody with a field manager of his own claims a field of ours, by force: it is ours again, and he keeps what is his.
    let theirs = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "docs", "namespace": "default", "labels": {"theirs": "1"}},
        "spec": {"progressDeadlineSeconds": 17}}"#;
    let apply = |flags: &'static [&'static str]| {
        let mut all = vec!["apply", "--server-side", "--field-manager=somebody", "-f", "-"];
        all.extend(flags);
        let cluster = &cluster;
        async move { cluster.server.kubectl_with_input(&all, theirs).await.unwrap() }
    };
    let refused = apply(&[]).await;
    assert!(refused.stderr.contains("conflict") && refused.stderr.contains("rerank-operator"), "{refused:?}");
    assert_eq!(apply(&["--force-conflicts"]).await.code, Some(0));
    let deadline = |child: &Value| child["spec"]["progressDeadlineSeconds"].clone();
    cluster.until("deployment", "docs", "its deadline again", |child| deadline(child) == deadline(&deployment)).await;
    assert_eq!(cluster.get("deployment", "docs").await["metadata"]["labels"]["theirs"], "1");

    cluster.kubectl(&["scale", "rrd/docs", "--replicas=3"]).await;
    cluster.until("deployment", "docs", "three replicas", |child| child["spec"]["replicas"] == 3).await;
    assert_eq!(cluster.get("rrd", "docs").await["spec"]["replicas"], 3, "it is never written by the operator");

    let template = deployment["spec"]["template"].clone();
    cluster.kubectl(&["delete", "networkpolicy", "docs"]).await;
    cluster.until("networkpolicy", "docs", "come back", |child| !child.is_null()).await;
    cluster
        .kubectl(&[
            "patch",
            "rrd",
            "docs",
            "--type=merge",
            "-p",
            r#"{"spec": {"access": {"networkPolicy": {"enabled": false}}}}"#,
        ])
        .await;
    cluster.until("networkpolicy", "docs", "gone", Value::is_null).await;
    assert_eq!(
        cluster.get("deployment", "docs").await["spec"]["template"],
        template,
        "the pods are not replaced for it"
    );

    cluster.kubectl(&["scale", "rrd/docs", "--replicas=0"]).await;
    cluster.reason("docs", "Ready", "Paused").await;
}

#[tokio::test]
async fn what_others_add_goes_where_it_changes_who_is_reached_or_what_a_pod_may_do_and_an_orphan_is_adopted() {
    let cluster = Cluster::start().await;
    let _operator = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    let object = cluster.reason("docs", "Accepted", "Accepted").await;
    assert_eq!(object["status"], "True");
    for (kind, field, added) in [
        ("service", "/spec/selector", json!({"spec": {"selector": {"theirs": "1"}}})),
        ("service", "/spec/ports", json!({"spec": {"ports": [{"name": "back", "port": 1234, "targetPort": 9090}]}})),
        ("networkpolicy", "/spec/podSelector", json!({"spec": {"podSelector": {"matchLabels": {"theirs": "1"}}}})),
        ("poddisruptionbudget", "/spec/selector", json!({"spec": {"selector": {"matchLabels": {"theirs": "1"}}}})),
        (
            "deployment",
            "/spec/template",
            json!({"spec": {"template": {"spec": {"hostNetwork": true, "hostPID": true}}}}),
        ),
        (
            "deployment",
            "/spec/template",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "server", "env": [{"name": "RUST_LOG", "value": "trace"}]}]}}}}),
        ),
        ("deployment", "/spec/paused", json!({"spec": {"paused": true}})),
    ] {
        let before = cluster.until(kind, "docs", "been made", |child| !child.is_null()).await;
        let patch = ["patch", kind, "docs", "--type=strategic", "-p", &added.to_string()];
        let patched = cluster.kubectl(&[&patch[..], &["-o", "json"]].concat()).await;
        let patched: Value = serde_json::from_str(&patched).unwrap();
        assert_ne!(patched.pointer(field), before.pointer(field), "{kind} {added}");
        let is_back = |child: &Value| child.pointer(field) == before.pointer(field);
        cluster.until(kind, "docs", &format!("its own {field} again"), is_back).await;
    }

    let uid = cluster.get("rrd", "docs").await["metadata"]["uid"].clone();
    for kind in ["service", "deployment", "serviceaccount"] {
        let orphaned = r#"{"metadata": {"ownerReferences": null}}"#;
        cluster.kubectl(&["patch", kind, "docs", "--type=merge", "-p", orphaned]).await;
        let is_adopted = |child: &Value| child["metadata"]["ownerReferences"][0]["uid"] == uid;
        cluster.until(kind, "docs", "an owner again", is_adopted).await;
    }
    cluster.reason("docs", "Accepted", "Accepted").await;
}

#[tokio::test]
async fn what_cannot_be_says_why_and_a_corrected_object_goes_on_without_a_manual_delete() {
    let cluster = Cluster::start().await;
    let _operator = cluster.leading().await;
    let foreign = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "docs", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}});
    cluster.apply(&foreign).await;
    cluster.apply(&search("docs")).await;
    let conflict = cluster.reason("docs", "Accepted", "NameConflict").await;
    assert_eq!(cluster.event("docs", "NameConflict").await["type"], "Warning");
    assert!(conflict["message"].as_str().unwrap().contains("Service docs belongs to nobody"), "{conflict}");
    assert!(cluster.get("deployment", "docs").await.is_null(), "nothing is written");
    cluster.kubectl(&["delete", "service", "docs"]).await;
    cluster.reason("docs", "Accepted", "Accepted").await;
    cluster.until("deployment", "docs", "been made", |child| !child.is_null()).await;

    let wrong = r#"{"spec": {"api": {"modelAliases": {"other": "acme/absent"}}}}"#;
    cluster.kubectl(&["patch", "rrd", "docs", "--type=merge", "-p", wrong]).await;
    let invalid = cluster.reason("docs", "Ready", "InvalidSpec").await;
    assert!(invalid["message"].as_str().unwrap().contains("api.modelAliases[other]"), "{invalid}");
    assert!(!cluster.get("deployment", "docs").await.is_null(), "pods that run stay");
    cluster
        .kubectl(&["patch", "rrd", "docs", "--type=merge", "-p", r#"{"spec": {"api": {"modelAliases": null}}}"#])
        .await;
    cluster.reason("docs", "Accepted", "Accepted").await;
}

async fn node(cluster: &Cluster, name: &str, memory_mebibytes: &str) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"nvidia.com/gpu.memory": memory_mebibytes}}});
    cluster.apply(&node).await;
    let status = json!({"status": {"capacity": {"nvidia.com/gpu": "1", "memory": "64Gi"}, "allocatable": {"nvidia.com/gpu": "1", "memory": "64Gi"}}});
    cluster.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status.to_string()]).await;
}

#[tokio::test]
async fn a_model_that_no_node_can_hold_is_refused_with_both_numbers_and_fits_once_a_larger_one_comes() {
    let cluster = Cluster::start().await;
    node(&cluster, "small", "2048").await;
    let _operator = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    let refused = cluster.reason("docs", "Ready", "InsufficientMemory").await;
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("the largest node has 2.1 GB") && message.contains("needs"), "{message}");
    assert_eq!(condition(&cluster.get("rrd", "docs").await, "Available")["reason"], "NotCreated");
    assert!(cluster.get("deployment", "docs").await.is_null(), "no pod stays Pending without a word");
    node(&cluster, "large", "81559").await;
    cluster.reason("docs", "Preflight", "Fits").await;
    cluster.until("deployment", "docs", "been made", |child| !child.is_null()).await;

    cluster.kubectl(&["delete", "node", "large"]).await;
    cluster.reason("docs", "Preflight", "InsufficientMemory").await;
    assert!(!cluster.get("deployment", "docs").await.is_null(), "pods that run are not lost to it");
}

#[tokio::test]
async fn of_two_operators_one_leads_and_the_other_takes_over_what_was_half_done() {
    let cluster = Cluster::start().await;
    let mut first = cluster.leading().await;
    let mut second = cluster.operator("b");
    cluster.apply(&search("docs")).await;
    cluster.reason("docs", "Accepted", "Accepted").await;
    assert!(!second.log().contains("Leading"), "{}", second.log());

    // A clean end gives the lease back.
    let begun = Instant::now();
    first.signal(Signal::TERM).unwrap();
    assert_eq!(first.ended().await.unwrap(), Some(0), "{}", first.log());
    second.leads().await.unwrap();
    println!("handed over in {:.1} s", begun.elapsed().as_secs_f64());
    cluster.kubectl(&["delete", "service", "docs"]).await;
    cluster.until("service", "docs", "come back", |child| !child.is_null()).await;

    // A sudden one is waited for.
    let mut third = cluster.operator("c");
    let begun = Instant::now();
    second.signal(Signal::KILL).unwrap();
    second.ended().await.unwrap();
    cluster.kubectl(&["delete", "service", "docs"]).await;
    third.leads().await.unwrap();
    println!("taken over in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < Duration::from_secs(25), "{}", third.log());
    cluster.until("service", "docs", "come back", |child| !child.is_null()).await;
}

#[tokio::test]
async fn deletion_needs_no_operator_and_one_without_the_definition_says_what_to_do() {
    let mut cluster = Cluster::start().await;
    cluster.server.start_controller_manager().await.unwrap();
    let mut operator = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    let deployment = cluster.until("deployment", "docs", "been made", |child| !child.is_null()).await;
    operator.signal(Signal::TERM).unwrap();
    operator.ended().await.unwrap();
    cluster.kubectl(&["delete", "rrd", "docs", "--timeout=20s"]).await;
    for kind in ["deployment", "service", "networkpolicy", "poddisruptionbudget", "serviceaccount"] {
        cluster.until(kind, "docs", "gone", Value::is_null).await;
    }
    cluster.until("configmap", &config_map_of(&deployment), "gone", Value::is_null).await;

    cluster.kubectl(&["delete", "crd", "rerankdeployments.rerank.semantik.dev"]).await;
    let mut operator = cluster.operator("b");
    assert_eq!(operator.ended().await.unwrap(), Some(1));
    assert!(operator.log().is_empty() || operator.log().contains("rerankdeployments.yaml"), "{}", operator.log());
}

#[tokio::test]
async fn a_leader_that_was_paused_writes_nothing_when_it_wakes_up_under_another() {
    let cluster = Cluster::start().await;
    let mut first = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    cluster.reason("docs", "Accepted", "Accepted").await;
    sleep(Duration::from_secs(2)).await;
    first.signal(Signal::STOP).unwrap();
    for (kind, role) in
        [("clusterrolebinding", "--clusterrole=rerank-operator"), ("rolebinding", "--role=rerank-operator-lease")]
    {
        let mut arguments = vec!["create", kind, "second", role, "--user=second"];
        if kind == "rolebinding" {
            arguments.extend(["-n", "rerank-system"]);
        }
        cluster.kubectl(&arguments).await;
    }
    let mut second = cluster.operator_as("second", "b", &["--lease-namespace", "rerank-system"]);
    second.leads().await.unwrap();
    let before = cluster.writes();
    // Something to do for whoever wakes up.
    cluster.kubectl(&["scale", "rrd/docs", "--replicas=2"]).await;
    cluster.kubectl(&["delete", "service", "docs"]).await;
    first.signal(Signal::CONT).unwrap();
    cluster.until("deployment", "docs", "two replicas", |child| child["spec"]["replicas"] == 2).await;
    cluster.until("service", "docs", "come back", |child| !child.is_null()).await;
    first.says("lease").await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.writes(), before, "writes of the first: {}", first.log());

    // It is still there, and takes over again.
    second.signal(Signal::TERM).unwrap();
    second.ended().await.unwrap();
    cluster.kubectl(&["delete", "service", "docs"]).await;
    cluster.until("service", "docs", "come back", |child| !child.is_null()).await;
    assert!(cluster.writes() > before);
}

#[tokio::test]
async fn an_api_server_that_goes_and_comes_back_ends_nothing() {
    let mut cluster = Cluster::start().await;
    let mut operator = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    cluster.reason("docs", "Accepted", "Accepted").await;
    // Longer than the lease can be kept without it.
    cluster.server.stop_api_server().unwrap();
    sleep(Duration::from_secs(15)).await;
    cluster.server.start_api_server().await.unwrap();
    let begun = Instant::now();
    cluster.kubectl(&["scale", "rrd/docs", "--replicas=2"]).await;
    cluster.until("deployment", "docs", "two replicas", |child| child["spec"]["replicas"] == 2).await;
    println!("converged {:.1} s after the API server was ready again", begun.elapsed().as_secs_f64());
    operator.says("Could not renew the lease in time").await.unwrap();
}

#[tokio::test]
async fn an_object_that_cannot_be_read_holds_up_no_other_and_is_told_of() {
    let cluster = Cluster::start().await;
    // Of a version of the definition that this operator does not know.
    let definition = cluster.get("crd", "rerankdeployments.rerank.semantik.dev").await;
    let mut later = json!({"apiVersion": definition["apiVersion"], "kind": definition["kind"],
        "metadata": {"name": definition["metadata"]["name"]}, "spec": definition["spec"]});
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/embedding/properties/quantization";
    later.pointer_mut(schema).unwrap()["enum"].as_array_mut().unwrap().push(json!("int2"));
    let replaced = cluster
        .server
        .kubectl_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &later.to_string())
        .await
        .unwrap();
    assert_eq!(replaced.code, Some(0), "{replaced:?}");
    let mut poison = search("poison");
    poison["spec"]["embedding"]["quantization"] = json!("int2");
    let mut operator = cluster.operator("a");
    let begun = Instant::now();
    // The API server takes a moment to know the new definition.
    while cluster.server.kubectl_with_input(&["apply", "-f", "-"], &poison.to_string()).await.unwrap().code != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(20));
        sleep(Duration::from_millis(200)).await;
    }
    operator.leads().await.unwrap();
    cluster.apply(&search("docs")).await;
    cluster.reason("docs", "Accepted", "Accepted").await;
    let event = cluster.event("poison", "InvalidSpec").await;
    assert!(event["note"].as_str().unwrap().contains("int2"), "{event}");
    cluster.patch("rrd", "poison", &json!({"spec": {"embedding": {"quantization": "int8"}}})).await;
    cluster.reason("poison", "Accepted", "Accepted").await;
    assert_eq!(operator.says("Leading").await.ok(), Some(()), "it never ended");
}

/// The ConfigMap that pods of a Deployment mount.
fn config_map_of(deployment: &Value) -> String {
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    volumes.iter().find_map(|volume| volume["configMap"]["name"].as_str()).unwrap().to_owned()
}

/// A pod of the Deployment's template as the kubelet would have it, without one.
async fn pod(cluster: &Cluster, name: &str, status: &Value) {
    let annotations = &cluster.get("deployment", "docs").await["spec"]["template"]["metadata"]["annotations"];
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "annotations": annotations,
            "labels": {"app.kubernetes.io/name": "rerank-server", "app.kubernetes.io/instance": "docs"}},
        "spec": {"initContainers": [{"name": "preflight", "image": "x"}], "containers": [{"name": "server", "image": "x"}]}});
    cluster.apply(&pod).await;
    cluster.patch_status("pod", name, status).await;
}

#[tokio::test]
async fn what_pods_find_and_become_is_lifted_into_status_and_events_and_kubectl_waits_for_it() {
    let cluster = Cluster::start().await;
    cluster.kubectl(&["create", "serviceaccount", "default"]).await;
    let _operator = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    let first = cluster.until("rrd", "docs", "a status", |object| !condition(object, "Ready").is_null()).await;
    assert_eq!(condition(&first, "Ready")["status"], "False");
    cluster.until("deployment", "docs", "been made", |child| !child.is_null()).await;
    let finding = json!({"ok": false, "findings": [
        {"check": "store", "severity": "error", "subject": "vectorStore.qdrant.url", "message": "connection refused"}]});
    let ended = |code: i32, message: &str| {
        json!([{"name": "preflight", "image": "x", "imageID": "x", "ready": false, "restartCount": 1,
            "state": {"terminated": {"exitCode": code, "message": message}}}])
    };
    pod(&cluster, "docs-1", &json!({"phase": "Pending", "initContainerStatuses": ended(4, &finding.to_string())}))
        .await;
    let lifted = cluster.reason("docs", "Ready", "StoreUnreachable").await;
    assert_eq!(lifted["message"], "vectorStore.qdrant.url: connection refused");
    assert_eq!(cluster.event("docs", "StoreUnreachable").await["type"], "Warning");

    // The store answers, the pod becomes ready; its control port cannot be reached from here.
    let ready = json!({"phase": "Running", "podIP": "127.0.0.254", "podIPs": [{"ip": "127.0.0.254"}],
        "initContainerStatuses": ended(0, "{\"ok\": true, \"findings\": []}"),
        "conditions": [{"type": "Ready", "status": "True"}]});
    cluster.patch_status("pod", "docs-1", &ready).await;
    let counts = json!({"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1, "conditions": [
        {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": ""}]});
    cluster.patch_status("deployment", "docs", &counts).await;
    cluster.kubectl(&["wait", "--for=condition=Ready", "rrd/docs", "--timeout=20s"]).await;
    let object = cluster.get("rrd", "docs").await;
    assert_eq!(condition(&object, "ModelReady")["reason"], "NotReachable");
    assert_eq!((&object["status"]["readyReplicas"], &object["status"]["replicas"]), (&json!(1), &json!(1)));
    assert_eq!(cluster.event("docs", "Ready").await["type"], "Normal");

    let unscheduled = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."}]});
    cluster.kubectl(&["delete", "pod", "docs-1", "--force", "--grace-period=0"]).await;
    pod(&cluster, "docs-2", &unscheduled).await;
    let gone = json!({"readyReplicas": 0, "availableReplicas": 0, "conditions": [
        {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": ""}]});
    cluster.patch_status("deployment", "docs", &gone).await;
    let waiting = cluster.reason("docs", "Available", "Unschedulable").await;
    assert!(waiting["message"].as_str().unwrap().contains("Insufficient nvidia.com/gpu"), "{waiting}");
}

/// A cluster with a Deployment controller, which makes pods that nobody runs.
async fn with_controllers() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.server.start_controller_manager().await.unwrap();
    cluster
}

/// The pods of `docs` that are not on their way out, by the image of their server.
async fn pods_of(cluster: &Cluster, image: &str) -> Vec<Value> {
    let text = cluster.kubectl(&["get", "pods", "-l", "app.kubernetes.io/instance=docs", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    let is_meant = |pod: &&Value| {
        pod["spec"]["containers"][0]["image"] == image && !pod["metadata"]["deletionTimestamp"].is_string()
    };
    list["items"].as_array().unwrap().iter().filter(is_meant).cloned().collect()
}

/// The name of the pod that has this image, once it is there.
async fn pod_of(cluster: &Cluster, image: &str) -> String {
    let begun = Instant::now();
    loop {
        if let Some(pod) = pods_of(cluster, image).await.first() {
            return pod["metadata"]["name"].as_str().unwrap().to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no pod with {image}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// What a pod is when its server answers.
fn answering() -> Value {
    json!({"phase": "Running", "podIP": "127.0.0.254", "podIPs": [{"ip": "127.0.0.254"}],
        "initContainerStatuses": [{"name": "preflight", "image": "x", "imageID": "x", "ready": true, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "message": "{\"ok\": true}"}}}],
        "conditions": [{"type": "Ready", "status": "True"}]})
}

#[tokio::test]
async fn a_pod_that_no_node_takes_is_said_though_kubernetes_calls_its_deployment_available() {
    let cluster = with_controllers().await;
    let _operator = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    let pod = pod_of(&cluster, "rerank-server:cuda").await;
    let is_called_available = |deployment: &Value| {
        let conditions = deployment["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|one| one["type"] == "Available" && one["status"] == "True")
    };
    cluster.until("deployment", "docs", "called available", is_called_available).await;
    cluster.reason("docs", "Available", "Progressing").await;
    let unscheduled = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."}]});
    cluster.patch_status("pod", &pod, &unscheduled).await;
    let waiting = cluster.reason("docs", "Ready", "Unschedulable").await;
    assert!(waiting["message"].as_str().unwrap().contains("Insufficient nvidia.com/gpu"), "{waiting}");
    assert_eq!(condition(&cluster.get("rrd", "docs").await, "Available")["status"], "False");
    assert_eq!(cluster.event("docs", "Unschedulable").await["type"], "Warning");
}

#[tokio::test]
async fn old_pods_that_answer_do_not_speak_for_an_image_that_cannot_be_had() {
    let cluster = with_controllers().await;
    let _operator = cluster.leading().await;
    let mut object = search("docs");
    object["spec"]["rollout"] = json!("Surge");
    cluster.apply(&object).await;
    let old = pod_of(&cluster, "rerank-server:cuda").await;
    cluster.patch_status("pod", &old, &answering()).await;
    cluster.kubectl(&["wait", "--for=condition=Ready", "rrd/docs", "--timeout=30s"]).await;
    assert_eq!(condition(&cluster.get("rrd", "docs").await, "Preflight")["reason"], "Passed");

    cluster.patch("rrd", "docs", &json!({"spec": {"image": "rerank-server:absent"}})).await;
    let is_of_the_second = |object: &Value| object["status"]["observedGeneration"] == 2;
    let object = cluster.until("rrd", "docs", "been looked at", is_of_the_second).await;
    assert_eq!(condition(&object, "Ready")["status"], "False", "{object:#}");
    let new = pod_of(&cluster, "rerank-server:absent").await;
    let absent = json!({"initContainerStatuses": [{"name": "download", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]});
    cluster.patch_status("pod", &new, &absent).await;
    let failed = cluster.reason("docs", "Ready", "ImagePullFailed").await;
    assert_eq!(failed["message"], "no such image");
    let object = cluster.get("rrd", "docs").await;
    assert_eq!(condition(&object, "Available")["status"], "True", "the old one answers: {object:#}");
    assert_ne!(condition(&object, "Preflight")["reason"], "Passed", "it was the old one that has looked");
    assert_eq!(cluster.event("docs", "ImagePullFailed").await["type"], "Warning");

    // The new one answers, the old one goes.
    cluster.patch_status("pod", &new, &json!({"initContainerStatuses": null})).await;
    cluster.patch_status("pod", &new, &answering()).await;
    cluster.kubectl(&["wait", "--for=condition=Ready", "rrd/docs", "--timeout=30s"]).await;
}

#[tokio::test]
async fn what_fits_no_node_changes_neither_pods_nor_their_configuration_and_scaling_goes_on() {
    let cluster = with_controllers().await;
    node(&cluster, "l4", "23034").await;
    let _operator = cluster.leading().await;
    cluster.apply(&search("docs")).await;
    let pod = pod_of(&cluster, "rerank-server:cuda").await;
    cluster.patch_status("pod", &pod, &answering()).await;
    cluster.kubectl(&["wait", "--for=condition=Ready", "rrd/docs", "--timeout=30s"]).await;
    let before = cluster.get("deployment", "docs").await;

    let large = json!({"spec": {"reranker": {"model": "Qwen/Qwen3-Reranker-8B", "quantization": "float32"}}});
    cluster.patch("rrd", "docs", &large).await;
    let refused = cluster.reason("docs", "Ready", "InsufficientMemory").await;
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("reranker.model: Qwen/Qwen3-Reranker-0.6B") && message.contains("stay what they were"),
        "{message}"
    );
    let object = cluster.get("rrd", "docs").await;
    assert_eq!(object["status"]["reranker"]["model"], "Qwen/Qwen3-Reranker-0.6B", "it is what runs");
    assert_eq!(condition(&object, "Available")["status"], "True");
    let config_maps = || async {
        let text = cluster.kubectl(&["get", "configmaps", "-l", "app.kubernetes.io/instance=docs", "-o", "name"]).await;
        text.lines().map(|line| line.trim_start_matches("configmap/").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(config_maps().await, [config_map_of(&before)]);

    for replicas in [3, 0, 1] {
        cluster.kubectl(&["scale", "rrd/docs", &format!("--replicas={replicas}")]).await;
        let is_scaled = |deployment: &Value| deployment["spec"]["replicas"] == replicas;
        let deployment = cluster.until("deployment", "docs", "scaled", is_scaled).await;
        assert_eq!(deployment["spec"]["template"], before["spec"]["template"]);
    }

    // What fits is rolled out, with a configuration of its own. That of before stays while something could mount it.
    let fitting = json!({"spec": {"reranker": {"model": null, "quantization": null, "batchSize": 8}}});
    cluster.patch("rrd", "docs", &fitting).await;
    let is_another = |deployment: &Value| config_map_of(deployment) != config_map_of(&before);
    let after = cluster.until("deployment", "docs", "been changed", is_another).await;
    let mut both = vec![config_map_of(&before), config_map_of(&after)];
    both.sort();
    assert_eq!(config_maps().await, both);
    cluster.kubectl(&["annotate", "rrd", "docs", "test/look=again"]).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(config_maps().await, both, "its ReplicaSet is there");
    let of_before = cluster.kubectl(&["get", "replicasets", "-o", "json"]).await;
    let of_before: Value = serde_json::from_str(&of_before).unwrap();
    let digest =
        |set: &Value| set["spec"]["template"]["metadata"]["annotations"]["rerank.semantik.dev/template-digest"].clone();
    let sets = of_before["items"].as_array().unwrap();
    let set = sets.iter().find(|set| digest(set) == digest(&before)).unwrap();
    cluster.kubectl(&["delete", "replicaset", set["metadata"]["name"].as_str().unwrap()]).await;
    // Its pods go with it; nobody ends them here.
    cluster.kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0"]).await;
    cluster.kubectl(&["annotate", "rrd", "docs", "test/look=once-more", "--overwrite"]).await;
    cluster.until("configmap", &config_map_of(&before), "gone", Value::is_null).await;
    assert!(!cluster.get("configmap", &config_map_of(&after)).await.is_null());
}
