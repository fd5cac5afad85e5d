//! A real API server that knows `RerankDeployment`, the operator's rights in it, and words to speak with it. For tests: what goes wrong
//! panics with what was seen.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;

use rerank_crds::rerank_deployment::labels::FIELD_MANAGER;
use serde_json::{Value, json};

use crate::api_server::{ApiServer, AuditRecord};
use crate::http::root;
use crate::kubectl::Kubectl;
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
    kubectl: Kubectl,
}

impl Deref for Cluster {
    type Target = Kubectl;

    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl Cluster {
    /// Starts it, with the definition and the rights of the whole cluster.
    pub async fn start() -> Self {
        let server = ApiServer::start().await.unwrap();
        let cluster = Self { kubectl: server.as_administrator(), server };
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

    /// The API server's version without its `1.`, such as 37.
    pub async fn server_minor(&self) -> u32 {
        let version: Value = serde_json::from_str(&self.kubectl(&["version", "-o", "json"]).await).unwrap();
        let minor = version["serverVersion"]["minor"].as_str().unwrap_or_default();
        minor.trim_end_matches('+').parse().unwrap_or_else(|_| panic!("no minor version: {version}"))
    }

    /// What a command printed, which must succeed.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.kubectl.run(arguments).await
    }

    /// Has the API server know a kind that is somebody else's, by that one's own definition. `kind` as in `scaledobjects.keda.sh`.
    pub async fn know(&self, kind: &str, file: &str) {
        let path = self.server.definition(file).unwrap();
        self.kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()]).await;
        self.established(kind).await;
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
