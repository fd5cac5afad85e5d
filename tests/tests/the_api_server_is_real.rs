//! The API server of the tests is Kubernetes' own: it admits, keeps and audits as a cluster does, and leaves nothing behind.

use std::ffi::OsString;
use std::path::Path;

use rerank_tests::api_server::{ApiServer, binaries};
use rerank_tests::http::{Finished, LIMIT};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

/// A definition whose schema admits sizes from 1 to 9.
const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: kettles.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Kettle, plural: kettles}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, minimum: 1, maximum: 9}}}
";

/// One of them.
fn kettle(size: u32) -> String {
    json!({
        "apiVersion": "example.com/v1", "kind": "Kettle",
        "metadata": {"name": "small", "namespace": "default"}, "spec": {"size": size},
    })
    .to_string()
}

/// A command that must succeed. Answers what it printed.
fn succeeded(finished: Finished) -> String {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished.stdout
}

async fn kubectl(server: &ApiServer, arguments: &[&str]) -> String {
    succeeded(server.kubectl(arguments).await.unwrap())
}

async fn apply(server: &ApiServer, objects: &str) -> String {
    succeeded(server.kubectl_with_input(&["apply", "-f", "-"], objects).await.unwrap())
}

fn is_running(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[tokio::test]
async fn what_was_applied_is_there_after_a_restart_and_the_audit_log_tells_who_did_it() {
    let mut server = ApiServer::start().await.unwrap();
    let version: Value = serde_json::from_str(&kubectl(&server, &["version", "-o", "json"]).await).unwrap();
    let version = version["serverVersion"]["gitVersion"].as_str().unwrap().to_owned();
    match std::env::var_os("KUBEBUILDER_ASSETS") {
        Some(_) => assert!(version.starts_with("v1."), "{version}"),
        None => assert_eq!(version, format!("v{}", binaries::version().unwrap())),
    }

    apply(&server, DEFINITION).await;
    server.as_administrator().established("kettles.example.com").await;
    apply(&server, &kettle(3)).await;
    let refused = server.kubectl_with_input(&["apply", "-f", "-"], &kettle(10)).await.unwrap();
    assert!(refused.stderr.contains("should be less than or equal to 9"), "{refused:?}");

    let url = server.url();
    server.stop_api_server().unwrap();
    assert_eq!(server.kubectl(&["get", "kettles"]).await.unwrap().code, Some(1));
    server.start_api_server().await.unwrap();
    assert_eq!(server.url(), url);
    assert_eq!(kubectl(&server, &["get", "kettle", "small", "-o", "jsonpath={.spec.size}"]).await, "3");

    let groups = ["system:serviceaccounts", "system:serviceaccounts:default"];
    let reader = server.kubeconfig_for("system:serviceaccount:default:reader", &groups).unwrap();
    let delete = ["delete", "kettle", "small", "--kubeconfig", reader.to_str().unwrap()];
    let refused = server.kubectl(&delete).await.unwrap();
    assert!(refused.stderr.contains("Forbidden"), "{refused:?}");
    let who = kubectl(&server, &["auth", "whoami", "-o", "json", "--kubeconfig", reader.to_str().unwrap()]).await;
    let who: Value = serde_json::from_str(&who).unwrap();
    let mut expected = groups.to_vec();
    expected.push("system:authenticated");
    assert_eq!(who["status"]["userInfo"]["groups"], json!(expected));

    let audit = server.audit().unwrap();
    let kettles: Vec<_> = audit.iter().filter(|record| record.resource == "kettles").collect();
    let did = |user: &str, verb: &str, code: u16| {
        kettles.iter().find(|record| record.user == user && record.verb == verb && record.code == code)
    };
    let created = did("administrator", "create", 201).expect("who created it is told");
    assert_eq!(created.namespace.as_deref(), Some("default"));
    assert!(created.user_agent.starts_with("kubectl"), "{created:?}");
    assert!(did("administrator", "patch", 422).is_some(), "{kettles:#?}");
    let forbidden = did("system:serviceaccount:default:reader", "delete", 403).expect("who was refused is told");
    assert_eq!(forbidden.name.as_deref(), Some("small"));
    assert!(audit.iter().all(|record| !record.uri.starts_with("/readyz")), "the tests' own probes are in the log");
}

#[tokio::test]
async fn two_run_side_by_side_and_one_that_is_dropped_leaves_no_process_and_no_folder() {
    let (one, other) = tokio::join!(ApiServer::start(), ApiServer::start());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_ne!(one.url(), other.url());
    kubectl(&one, &["create", "namespace", "only-here"]).await;
    assert!(!kubectl(&other, &["get", "namespaces"]).await.contains("only-here"));

    let (ids, folder) = (one.ids(), one.folder().to_owned());
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| is_running(*id)) && folder.exists());
    drop(one);
    assert!(!ids.iter().any(|id| is_running(*id)), "of {ids:?} one is left");
    assert!(!folder.exists());
    assert!(kubectl(&other, &["get", "--raw", "/readyz"]).await.contains("ok"));

    // As a test that fails: its task unwinds while it holds the server. This prints no panic, which would mislead.
    let ids = other.ids();
    let failed = tokio::spawn(async move {
        let _server = other;
        std::panic::resume_unwind(Box::new("meant to fail"));
    });
    assert!(failed.await.unwrap_err().is_panic());
    assert!(!ids.iter().any(|id| is_running(*id)), "of {ids:?} one is left");
}

#[tokio::test]
async fn with_a_controller_manager_what_an_owner_leaves_behind_is_deleted() {
    let mut server = ApiServer::start().await.unwrap();
    if let Err(error) = server.start_controller_manager().await {
        // Folders that people bring along have none as a rule; what needs it then says so.
        assert!(std::env::var_os("KUBEBUILDER_ASSETS").is_some(), "{error:#}");
        assert!(error.to_string().contains("make api-server"), "{error:#}");
        return;
    }
    assert_eq!(server.ids().len(), 3);
    kubectl(&server, &["create", "configmap", "owner"]).await;
    let uid = kubectl(&server, &["get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}"]).await;
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
    let owned = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "owned", "namespace": "default", "ownerReferences": owner},
    });
    apply(&server, &owned.to_string()).await;
    kubectl(&server, &["delete", "configmap", "owner"]).await;
    let deadline = Instant::now() + LIMIT;
    while kubectl(&server, &["get", "configmaps", "-o", "name"]).await.contains("configmap/owned") {
        assert!(Instant::now() < deadline, "it is still there");
        sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn where_the_programs_are_missing_the_error_names_both_ways_to_have_them() {
    let empty = tempfile::tempdir().unwrap();
    let value = OsString::from(empty.path());
    for variable in ["KUBEBUILDER_ASSETS", "RERANK_CACHE", "XDG_CACHE_HOME", "HOME"] {
        let error = binaries::folder(|name| (name == variable).then(|| value.clone())).unwrap_err().to_string();
        assert!(error.starts_with(empty.path().to_str().unwrap()), "{error}");
        assert!(error.contains("`make api-server`") && error.contains("KUBEBUILDER_ASSETS"), "{error}");
    }
    let error = binaries::folder(|_| None).unwrap_err().to_string();
    assert!(error.contains("HOME"), "{error}");
}
