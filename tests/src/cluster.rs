//! A real API server that knows `RerankDeployment`, the operator's rights in it, and words to speak with it. For tests: what goes wrong
//! panics with what was seen.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rerank_crds::rerank_deployment::labels::FIELD_MANAGER;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api_server::{ApiServer, AuditRecord};
use crate::http::{LIMIT, root};
use crate::operator::{Operator, OperatorOptions};

/// Whom the operator is for the API server: its service account.
pub const OPERATOR_USER: &str = "system:serviceaccount:rerank-system:rerank-operator";

/// Namespace of the operator's Lease.
pub const OPERATOR_NAMESPACE: &str = "rerank-system";

/// An API server that knows `RerankDeployment` and grants the operator its rights.
#[derive(Debug)]
pub struct Cluster {
    /// The server and its processes.
    pub server: ApiServer,
}

impl Cluster {
    /// Starts it, with the definition and the rights of the whole cluster.
    pub async fn start() -> Self {
        let cluster = Self { server: ApiServer::start().await.unwrap() };
        cluster.apply_file("crds/rerankdeployments.yaml", &["--server-side"]).await;
        cluster.established("rerankdeployments.rerank.semantik.dev").await;
        cluster.apply_file("operator/rbac/cluster.yaml", &[]).await;
        cluster
    }

    /// Starts an operator with the rights of the whole cluster; it leads once the lease is free.
    pub fn operator(&self, identity: &str) -> Operator {
        self.operator_as(OPERATOR_USER, identity, &["--lease-namespace", OPERATOR_NAMESPACE])
    }

    /// Starts an operator as somebody, with further arguments.
    pub fn operator_as(&self, user: &str, identity: &str, arguments: &[&str]) -> Operator {
        let kubeconfig = self.server.kubeconfig_for(user, &["system:serviceaccounts"]).unwrap();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let options = OperatorOptions { identity: identity.to_owned(), arguments, binary: None };
        Operator::start(&kubeconfig, self.server.folder(), &options).unwrap()
    }

    /// An operator that leads.
    pub async fn leading(&self) -> Operator {
        let mut operator = self.operator("a");
        operator.leads().await.unwrap();
        operator
    }

    /// From now on everything that names no namespace is in this one, which is there.
    pub async fn enter(&self, namespace: &str) {
        self.kubectl(&["config", "set-context", "--current", &format!("--namespace={namespace}")]).await;
    }

    /// What a command printed, which must succeed.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        let finished = self.server.kubectl(arguments).await.unwrap();
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.stdout
    }

    /// Applies an object.
    pub async fn apply(&self, object: &Value) {
        let finished = self.server.kubectl_with_input(&["apply", "-f", "-"], &object.to_string()).await.unwrap();
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }

    /// Applies a file of the repository.
    pub async fn apply_file(&self, path: &str, arguments: &[&str]) {
        let path = root().join(path);
        let mut all = vec!["apply", "-f", path.to_str().unwrap()];
        all.extend(arguments);
        self.kubectl(&all).await;
    }

    /// Has the API server know a kind that is somebody else's, by that one's own definition. `kind` as in `scaledobjects.keda.sh`.
    pub async fn know(&self, kind: &str, file: &str) {
        let path = self.server.definition(file).unwrap();
        self.kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()]).await;
        self.established(kind).await;
    }

    /// Waits until a kind can be used. `kubectl wait` fails where the definition has no conditions at all yet.
    async fn established(&self, kind: &str) {
        let is_established = |definition: &Value| {
            let conditions = definition["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|one| one["type"] == "Established" && one["status"] == "True")
        };
        self.until("crd", kind, "been established", is_established).await;
    }

    /// Merges a patch into an object.
    pub async fn patch(&self, kind: &str, name: &str, patch: &Value) {
        self.kubectl(&["patch", kind, name, "--type=merge", "-p", &patch.to_string()]).await;
    }

    /// Merges a patch into the status of an object.
    pub async fn patch_status(&self, kind: &str, name: &str, status: &Value) {
        let patch = json!({ "status": status }).to_string();
        self.kubectl(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]).await;
    }

    /// An object as JSON; null where it is not there.
    pub async fn get(&self, kind: &str, name: &str) -> Value {
        let finished = self.server.kubectl(&["get", kind, name, "-o", "json"]).await.unwrap();
        serde_json::from_str(&finished.stdout).unwrap_or(Value::Null)
    }

    /// Waits until an object is as asked; answers it.
    pub async fn until(&self, kind: &str, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let object = self.get(kind, name).await;
            if is_so(&object) {
                return object;
            }
            assert!(begun.elapsed() < LIMIT, "{kind} {name} never has {what}: {object:#}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for a reason of a condition; answers the condition.
    pub async fn reason(&self, name: &str, kind: &str, reason: &str) -> Value {
        let what = format!("{kind} {reason}");
        let object = self.until("rrd", name, &what, |object| condition(object, kind)["reason"] == reason).await;
        condition(&object, kind)
    }

    /// Events about an object, by reason and type, until there is one of that reason.
    pub async fn event(&self, name: &str, reason: &str) -> Value {
        let begun = Instant::now();
        loop {
            let listed = self.kubectl(&["get", "events.events.k8s.io", "-A", "-o", "json"]).await;
            let listed: Value = serde_json::from_str(&listed).unwrap();
            let events = listed["items"].as_array().cloned().unwrap_or_default();
            if let Some(event) =
                events.iter().find(|event| event["regarding"]["name"] == name && event["reason"] == reason)
            {
                return event.clone();
            }
            assert!(begun.elapsed() < LIMIT, "no event {reason} about {name}: {events:#?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// What the operator asked of the API server so far.
    pub fn requests(&self) -> Vec<AuditRecord> {
        let mut records = self.server.audit().unwrap();
        records.retain(|record| record.user.ends_with(FIELD_MANAGER));
        records
    }

    /// How many writes of the operator there were so far, the Lease's apart.
    pub fn writes(&self) -> usize {
        self.written().len()
    }

    /// Writes of the operator so far, the Lease's apart.
    pub fn written(&self) -> Vec<AuditRecord> {
        let is_write = |record: &AuditRecord| {
            ["create", "update", "patch", "delete", "deletecollection"].contains(&record.verb.as_str())
        };
        let mut records = self.requests();
        records.retain(|record| is_write(record) && record.resource != "leases");
        records
    }
}

/// A condition of an object; null where it has none of that type.
pub fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

/// The shortest object that searches.
pub fn search(name: &str) -> Value {
    json!({
        "apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeployment",
        "metadata": {"name": name},
        "spec": {
            "embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"},
            "vectorStore": {"qdrant": {"url": "http://qdrant:6334", "collections": [{"name": "docs"}]}}
        }
    })
}

/// Every example that is a `RerankDeployment`: its file and its name.
pub fn examples() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap_or_default();
        if text.contains("kind: RerankDeployment") {
            let name = text.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap().to_owned();
            found.push((path, name));
        }
    }
    found.sort();
    found
}
