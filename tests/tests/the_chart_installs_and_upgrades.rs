//! The chart on a real API server: everything is admitted where only restricted pods are, the operator works with the rights that it
//! brings and in one namespace without any other, an upgrade keeps every object, and uninstalling leaves what people asked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rerank_tests::cluster::{Cluster, search};
use rerank_tests::http::{Finished, LIMIT, root};
use rerank_tests::operator::Operator;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

const RELEASE: &str = "rerank-operator";
const SYSTEM: &str = "rerank-system";
const DEFINITION: &str = "rerankdeployments.rerank.semantik.dev";

fn chart() -> PathBuf {
    root().join("charts/rerank-operator")
}

/// An API server with the controllers that make pods, which knows nothing of ours, and a namespace that admits restricted pods only.
async fn bare(namespace: &str) -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.server.start_controller_manager().await.unwrap();
    for file in ["operator/rbac/cluster.yaml", "crds/rerankdeployments.yaml"] {
        cluster.kubectl(&["delete", "-f", root().join(file).to_str().unwrap()]).await;
    }
    cluster.kubectl(&["create", "namespace", namespace]).await;
    cluster.kubectl(&["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]).await;
    cluster.know("podmonitors.monitoring.coreos.com", "monitoring.coreos.com_podmonitors.yaml").await;
    cluster
}

/// Runs helm as whoever a kubeconfig is of, with nobody's own settings.
async fn helm_as(cluster: &Cluster, kubeconfig: &Path, namespace: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new(cluster.server.program("helm").unwrap());
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME"] {
        command.env(name, cluster.server.folder());
    }
    command.env("KUBECONFIG", kubeconfig).arg("--namespace").arg(namespace).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    timeout(LIMIT, command.output()).await.expect("helm ends in time").unwrap().into()
}

/// Runs helm, which must succeed.
async fn helm(cluster: &Cluster, arguments: &[&str]) -> String {
    let finished = helm_as(cluster, cluster.server.kubeconfig(), SYSTEM, arguments).await;
    assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
    finished.stdout
}

/// Starts the operator as the installed Deployment would: as its account, with its arguments.
async fn as_installed(cluster: &Cluster, namespace: &str) -> Operator {
    let pod = cluster.get("deployment", RELEASE).await["spec"]["template"]["spec"].clone();
    let account = pod["serviceAccountName"].as_str().unwrap();
    assert!(!cluster.get("serviceaccount", account).await.is_null());
    // Tests name images, address and log themselves.
    let own = ["--cpu-image", "--gpu-image", "--listen", "--log-"];
    let arguments: Vec<String> = serde_json::from_value(pod["containers"][0]["args"].clone()).unwrap();
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|one| !own.iter().any(|name| one.starts_with(name))).collect();
    assert!(arguments.len() >= 2, "{arguments:?}");
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let mut operator = cluster.operator_as(&user, "a", &arguments);
    operator.leads().await.unwrap();
    operator
}

/// Waits until the Deployment has so many pods, one of its newest template among them, which says that they were admitted.
async fn admitted(cluster: &Cluster, replicas: i64) {
    let made = |child: &Value| {
        let status = &child["status"];
        let is_seen = status["observedGeneration"] == child["metadata"]["generation"];
        is_seen && status["updatedReplicas"].as_i64() > Some(0) && status["replicas"].as_i64() >= Some(replicas)
    };
    let deployment = cluster.until("deployment", RELEASE, "its pods", made).await;
    let conditions = deployment["status"]["conditions"].as_array().cloned().unwrap_or_default();
    assert!(conditions.iter().all(|one| one["type"] != "ReplicaFailure"), "{conditions:#?}");
}

/// No request of the operator was refused so far.
fn nothing_was_refused(cluster: &Cluster) {
    let requests = cluster.requests();
    assert!(requests.len() > 20, "{}", requests.len());
    let refused: Vec<_> = requests.into_iter().filter(|request| request.code == 403).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

/// What the chart or the operator may have made.
const KINDS: &str =
    "rrd,configmaps,serviceaccounts,services,deployments,pdb,pvc,networkpolicies,hpa,podmonitors,roles,rolebindings";

/// Every object of these kinds by kind, namespace and name: its uid.
async fn uids(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for kinds in
        [[KINDS, "--all-namespaces"], ["clusterroles,clusterrolebindings", "-lapp.kubernetes.io/part-of=rerank"]]
    {
        let listed = cluster.kubectl(&["get", kinds[0], kinds[1], "-o", "json"]).await;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        for object in listed["items"].as_array().unwrap() {
            let metadata = &object["metadata"];
            let name = format!("{}/{}/{}", object["kind"], metadata["namespace"], metadata["name"]);
            found.insert(name.replace('"', ""), metadata["uid"].as_str().unwrap().to_owned());
        }
    }
    found.insert(DEFINITION.to_owned(), cluster.get("crd", DEFINITION).await["metadata"]["uid"].to_string());
    found
}

/// The block of a YAML text that begins with this line, its indentation apart: that line and all that are deeper.
fn without_block(text: &str, key: &str) -> String {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut removed = 0;
    let mut inside = None;
    let kept = text.lines().filter(|line| {
        if inside.is_some_and(|begun| depth(line) > begun) {
            return false;
        }
        inside = (line.trim_start() == key).then(|| depth(line));
        removed += usize::from(inside.is_some());
        inside.is_none()
    });
    let kept = kept.map(|line| format!("{line}\n")).collect();
    assert_eq!(removed, 1, "{key}");
    kept
}

/// The chart as it might have been released before: an earlier version whose definition lacks a field.
fn earlier(folder: &Path) -> PathBuf {
    let copy = folder.join("earlier");
    fs::create_dir_all(copy.join("templates")).unwrap();
    for place in ["", "templates"] {
        for entry in fs::read_dir(chart().join(place)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), copy.join(place).join(entry.file_name())).unwrap();
            }
        }
    }
    let edit = |file: &str, change: &dyn Fn(&str) -> String| {
        let text = fs::read_to_string(copy.join(file)).unwrap();
        fs::write(copy.join(file), change(&text)).unwrap();
    };
    edit("templates/crd.yaml", &|text| without_block(text, "runtimeClassName:"));
    let version = env!("CARGO_PKG_VERSION");
    edit("Chart.yaml", &|text| text.replace(version, "0.0.1"));
    copy
}

/// Runs `helm test` where no kubelet is: its pod ends as told.
async fn tested(cluster: &Cluster, phase: &str) -> Finished {
    let pod = format!("{RELEASE}-test");
    let kubelet = async {
        let is_new = |pod: &Value| pod["spec"]["containers"].is_array() && pod["status"]["phase"] == "Pending";
        cluster.until("pod", &pod, "been made", is_new).await;
        cluster.patch_status("pod", &pod, &json!({ "phase": phase })).await;
    };
    let arguments = ["test", RELEASE, "--timeout", "50s"];
    tokio::join!(helm_as(cluster, cluster.server.kubeconfig(), SYSTEM, &arguments), kubelet).0
}

#[tokio::test]
async fn an_upgrade_keeps_every_object_and_uninstalling_what_people_asked_for() {
    let cluster = bare(SYSTEM).await;
    cluster.enter(SYSTEM).await;
    let earlier = earlier(cluster.server.folder());
    let (earlier, chart) = (earlier.to_str().unwrap(), chart());
    let install = ["install", RELEASE, earlier, "--set", "replicas=2,podMonitor.enabled=true"];
    let notes = helm(&cluster, &install).await;
    assert!(notes.contains("kubectl apply -n default") && notes.contains("test.rerankDeployment=docs"), "{notes}");
    admitted(&cluster, 2).await;
    let mut operator = as_installed(&cluster, SYSTEM).await;

    cluster.enter("default").await;
    let mut object = search("docs");
    object["spec"]["autoscaling"] = json!({"maximum": 3});
    object["spec"]["weights"] = json!({"cache": {"size": "1Gi", "storageClass": ""}});
    cluster.apply(&object).await;
    for (kind, name) in [("hpa", "docs"), ("pvc", "docs-cache"), ("networkpolicy", "docs"), ("podmonitor", "docs")] {
        cluster.until(kind, name, "been made", |child| !child.is_null()).await;
    }
    // The earlier definition does not know it.
    let newer = json!({"spec": {"podTemplate": {"runtimeClassName": "nvidia"}}});
    cluster.patch("rrd", "docs", &newer).await;
    let before = cluster.get("rrd", "docs").await;
    assert!(before["spec"]["podTemplate"]["runtimeClassName"].is_null(), "{before:#}");
    let old = uids(&cluster).await;
    assert!(old.len() > 20, "{old:#?}");

    let upgrade = ["upgrade", RELEASE, chart.to_str().unwrap(), "--reset-then-reuse-values"];
    let all = [&upgrade[..], &["--set", "test.rerankDeployment=docs,test.namespace=default"]].concat();
    helm(&cluster, &all).await;
    let new = uids(&cluster).await;
    let lost: Vec<_> = old.iter().filter(|(name, uid)| new.get(*name) != Some(uid)).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    let after = cluster.get("rrd", "docs").await;
    assert_eq!(
        (&after["spec"], &after["metadata"]["generation"]),
        (&before["spec"], &before["metadata"]["generation"])
    );
    // The definition is the newer one once the API server goes by it.
    let class = |object: &Value, pointer: &str| object.pointer(pointer) == Some(&json!("nvidia"));
    let begun = Instant::now();
    while !class(&cluster.get("rrd", "docs").await, "/spec/podTemplate/runtimeClassName") {
        assert!(begun.elapsed() < LIMIT, "the newer definition never counts");
        cluster.patch("rrd", "docs", &newer).await;
    }
    // A new image would have replaced the operator too.
    operator.signal(Signal::TERM).unwrap();
    operator.ended().await.unwrap();
    cluster.enter(SYSTEM).await;
    let operator = as_installed(&cluster, SYSTEM).await;
    cluster.enter("default").await;
    cluster.until("deployment", "docs", "it too", |one| class(one, "/spec/template/spec/runtimeClassName")).await;
    nothing_was_refused(&cluster);
    println!("{} objects kept through an upgrade", old.len());

    users_roles_are_enough(&cluster).await;
    cluster.enter(SYSTEM).await;
    admitted(&cluster, 2).await;
    let (passed, failed) = (tested(&cluster, "Succeeded").await, tested(&cluster, "Failed").await);
    assert_eq!(passed.code, Some(0), "{passed:?}");
    assert_ne!(failed.code, Some(0), "{failed:?}");

    drop(operator);
    helm(&cluster, &["uninstall", RELEASE]).await;
    for (kind, name) in [("deployment", RELEASE), ("clusterrole", RELEASE), ("networkpolicy", RELEASE)] {
        cluster.until(kind, name, "gone", Value::is_null).await;
    }
    // A definition that is deleted is still there until its objects are gone, but marked.
    for (kind, name) in [("crd", DEFINITION), ("rrd", "docs"), ("deployment", "docs")] {
        let kept = cluster.server.kubectl(&["get", kind, name, "-n", "default", "-o", "json"]).await.unwrap().stdout;
        let kept: Value = serde_json::from_str(&kept).unwrap();
        assert!(kept["metadata"]["deletionTimestamp"].is_null(), "{kind} {name} goes: {:#}", kept["metadata"]);
    }
    let left = uids(&cluster).await;
    let is_ours = |name: &&String| name.contains("/default/docs") || *name == DEFINITION;
    for name in old.keys().filter(is_ours) {
        assert_eq!(left.get(name), old.get(name), "{name}");
    }
    assert!(left.keys().filter(is_ours).count() >= 9, "{left:#?}");
    // The same release takes it up again.
    helm(&cluster, &["install", RELEASE, chart.to_str().unwrap()]).await;
    assert_eq!(uids(&cluster).await.get(DEFINITION), old.get(DEFINITION));
}

/// What `view` and `edit` come to include; here bound by themselves, as no controller adds them up.
async fn users_roles_are_enough(cluster: &Cluster) {
    let may = async |user: &str, verb: &str, part: &str| {
        let part = format!("--subresource={part}");
        let asked = ["auth", "can-i", verb, DEFINITION, &part, "--as", user, "-n", "default"];
        cluster.server.kubectl(&asked).await.unwrap().stdout.trim() == "yes"
    };
    for role in ["view", "edit"] {
        let binding =
            ["create", "rolebinding", role, &format!("--clusterrole={RELEASE}-{role}"), &format!("--user={role}er")];
        cluster.kubectl(&[&binding[..], &["-n", "default"]].concat()).await;
    }
    assert!(may("viewer", "list", "").await && !may("viewer", "create", "").await);
    for verb in ["create", "update", "patch", "delete"] {
        assert!(may("editer", verb, "").await, "{verb}");
    }
    assert!(may("editer", "patch", "scale").await && !may("viewer", "patch", "scale").await);
    assert!(!may("editer", "patch", "status").await);
}

#[tokio::test]
async fn whoever_owns_one_namespace_installs_it_there_and_its_next_command_is_served() {
    let cluster = bare("search").await;
    cluster.apply_file("crds/rerankdeployments.yaml", &["--server-side"]).await;
    cluster.enter("search").await;
    cluster.kubectl(&["create", "rolebinding", "owner", "--clusterrole=cluster-admin", "--user=owner"]).await;
    let owner = cluster.server.kubeconfig_for("owner", &[]).unwrap();
    let chart = chart();
    let values = chart.join("tests/cases/namespace.yaml");
    let install = ["install", RELEASE, chart.to_str().unwrap(), "--values", values.to_str().unwrap()];
    // The whole cluster is more than it may have.
    let refused = helm_as(&cluster, &owner, "search", &install[..3]).await;
    assert!(refused.code != Some(0) && refused.stderr.contains("cannot"), "{refused:?}");
    let further = ["--set", "replicas=2,podMonitor.enabled=true,images.pullSecrets[0].name=mirror", "--replace"];
    let installed = helm_as(&cluster, &owner, "search", &[&install[..], &further].concat()).await;
    assert_eq!(installed.code, Some(0), "{installed:?}");
    admitted(&cluster, 2).await;
    let _operator = as_installed(&cluster, "search").await;

    let notes = &installed.stdout;
    assert!(notes.contains("serves the namespace search") && notes.contains("kubectl apply -n search -f -"), "{notes}");
    let next = notes.split_once("<<'END'\n").unwrap().1.split_once("END\n").unwrap().0;
    let applied = cluster.server.kubectl_with_input(&["apply", "-n", "search", "-f", "-"], next).await.unwrap();
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let unknown = cluster.reason("docs", "Preflight", "NodesNotReadable").await;
    assert_eq!(unknown["status"], "Unknown");
    cluster.until("podmonitor", "docs", "been made", |child| !child.is_null()).await;
    nothing_was_refused(&cluster);
    // The definition that is there belongs to no release.
    let whole = ["install", "whole", chart.to_str().unwrap()];
    let administrator = cluster.server.kubeconfig();
    let refused = helm_as(&cluster, administrator, "default", &whole).await;
    assert!(refused.code != Some(0) && refused.stderr.contains("invalid ownership metadata"), "{refused:?}");
    let take = ["--take-ownership", "--force-conflicts", "--replace"];
    let taken = helm_as(&cluster, administrator, "default", &[&whole[..], &take].concat()).await;
    assert_eq!(taken.code, Some(0), "{taken:?}");
}
