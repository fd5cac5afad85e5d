//! The cluster of the stories, and what each of them needs of it. I/O; every wait is bounded.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::FutureExt;
use rerank_tests::api_server::ApiServer;
use rerank_tests::corpus::Corpus;
use rerank_tests::http::{Finished, root};
use rerank_tests::kubectl::Kubectl;
use rerank_tests::node::{Node, isolation, network};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::searches::Answer;
use crate::troubleshooting::Troubleshooting;

/// Namespace of the operator.
pub(crate) const OPERATOR_NAMESPACE: &str = "rerank-system";
/// Namespace of the Qdrant that stories share, and its address.
pub(crate) const STORES: &str = "stores";
/// Its address.
pub(crate) const QDRANT: &str = "http://qdrant.stores:6334";
/// The collection that holds the corpus.
pub(crate) const COLLECTION: &str = "docs";
/// Name of the release.
pub(crate) const RELEASE: &str = "rerank-operator";
/// The longest that anything in a cluster takes: a pod is pulled, checked, started and ready.
const LIMIT: Duration = Duration::from_secs(180);
/// In the corpus.
const DOCUMENTS: usize = 324;
/// Of one indexing request.
const DOCUMENTS_AT_ONCE: usize = 64;
/// What is told of a log.
const LINES_OF_A_LOG: &str = "--tail=60";

/// A cluster with an operator.
pub(crate) struct World {
    /// As someone who may do everything.
    pub(crate) kubectl: Kubectl,
    /// For requests from outside.
    pub(crate) client: reqwest::Client,
    /// The page of troubles, which stories meet.
    pub(crate) troubleshooting: Troubleshooting,
    cluster: Cluster,
    registry: String,
    helm: PathBuf,
}

/// A cluster of its own. The fields are dropped in their order.
struct Own {
    node: Node,
    _server: ApiServer,
}

/// Whose it is.
enum Cluster {
    /// Ours.
    Own(Box<Own>),
    /// Somebody's, reached by the file in this folder.
    Brought(#[expect(dead_code, reason = "it goes when this is dropped")] TempDir),
}

impl World {
    /// Starts a cluster inside the namespaces of this process, loads the images, and installs the operator.
    ///
    /// # Errors
    /// A program or an image is missing, or something does not start.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let begun = Instant::now();
        let cgroup = isolation::cgroup().context("this is not inside namespaces of its own")?;
        let mut server = ApiServer::start_on(network::ADDRESS).await?;
        server.start_controller_manager().await?;
        let images = ["operator", "server", "fixture", "tiny-pair"]
            .map(|name| root().join(format!("target/images/rerank-{name}.oci.tar")));
        for image in &images {
            ensure!(image.is_file(), "{} is missing; `make e2e` makes it", image.display());
        }
        let node = Node::start(&server, &cgroup, &images, "localhost/rerank-fixture:e2e").await?;
        eprintln!("a cluster of one node after {:.1} s", begun.elapsed().as_secs_f64());
        let (kubectl, helm) = (server.as_administrator(), server.program("helm")?);
        Self::furnish(kubectl, helm, Cluster::Own(Box::new(Own { node, _server: server })), "localhost".to_owned())
            .await
    }

    /// Uses the cluster of `KUBECONFIG`. Images are pulled from `IMAGE_REGISTRY`, or taken as loaded into its nodes.
    ///
    /// # Errors
    /// kubectl or helm is not on the path, or the operator cannot be installed.
    pub(crate) async fn brought() -> anyhow::Result<Self> {
        let given = PathBuf::from(std::env::var_os("KUBECONFIG").context("KUBECONFIG is not set")?);
        // Whatever fetches credentials may look there.
        let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
        let view = ["config", "view", "--raw", "--flatten", "--minify"];
        let view = Kubectl::new("kubectl".into(), &given, &home).finish(&view).await?;
        ensure!(view.code == Some(0), "KUBECONFIG cannot be read: {}", view.stderr);
        // Stories enter one namespace after the other, which is noted in a copy.
        let folder = tempfile::Builder::new().prefix("rerank-e2e-").tempdir()?;
        let copy = folder.path().join("kubeconfig");
        std::fs::write(&copy, view.stdout)?;
        let registry = std::env::var("IMAGE_REGISTRY").unwrap_or_else(|_| "localhost".to_owned());
        let kubectl = Kubectl::new("kubectl".into(), &copy, &home);
        Self::furnish(kubectl, "helm".into(), Cluster::Brought(folder), registry).await
    }

    async fn furnish(mut kubectl: Kubectl, helm: PathBuf, cluster: Cluster, registry: String) -> anyhow::Result<Self> {
        // Longer than what kubectl itself waits, so that it can say what it waited for.
        kubectl.limit = LIMIT + Duration::from_secs(20);
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build()?;
        let troubleshooting = Troubleshooting::read();
        let world = Self { kubectl, client, troubleshooting, cluster, registry, helm };
        let begun = Instant::now();
        let furnished = AssertUnwindSafe(world.serve_a_corpus()).catch_unwind().await;
        if furnished.is_err() {
            bail!("the stories cannot begin:\n{}", world.tell().await);
        }
        eprintln!("operator, Qdrant and {DOCUMENTS} documents after another {:.1} s", begun.elapsed().as_secs_f64());
        Ok(world)
    }

    /// Installs the operator, and has it serve the corpus for once, so that it is in the Qdrant that stories share.
    async fn serve_a_corpus(&self) {
        self.install(OPERATOR_NAMESPACE, &[]).await;
        self.enter_new(STORES).await;
        self.fixture("qdrant", "qdrant", &[6334]).await;
        self.kubectl.apply(&self.tiny("indexer")).await;
        self.ready("indexer").await;
        self.index(&self.url("indexer").await).await;
        self.kubectl.run(&["delete", "rrd", "indexer"]).await;
    }

    /// Puts the corpus into the collection of a service.
    pub(crate) async fn index(&self, url: &str) {
        self.put(url).await.unwrap();
    }

    /// Whether the corpus could be put into the collection of a service.
    pub(crate) async fn try_index(&self, url: &str) -> bool {
        self.put(url).await.is_ok()
    }

    async fn put(&self, url: &str) -> anyhow::Result<()> {
        let corpus = Corpus::read()?;
        ensure!(corpus.documents.len() == DOCUMENTS, "the corpus is another");
        for documents in corpus.documents.chunks(DOCUMENTS_AT_ONCE) {
            let documents: Vec<_> = documents.iter().map(|one| json!({"id": one.id, "text": one.text})).collect();
            let request = self.client.post(format!("{url}/documents")).json(&json!({"documents": documents}));
            let response = request.send().await?;
            let (status, text) = (response.status(), response.text().await?);
            ensure!(status.is_success(), "{status}: {text}");
        }
        Ok(())
    }

    /// Whether the node is ours, so that it can be looked into.
    pub(crate) fn has_node(&self) -> bool {
        matches!(self.cluster, Cluster::Own(_))
    }

    /// The node; stories that need it are run only where there is one.
    pub(crate) fn node(&self) -> &Node {
        match &self.cluster {
            Cluster::Own(own) => &own.node,
            Cluster::Brought(_) => panic!("the node is not ours"),
        }
    }

    /// An image of the tests.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/rerank-{name}:e2e", self.registry)
    }

    /// Runs helm to its end, which must be a good one; answers what it printed.
    pub(crate) async fn helm(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.helm);
        command.args(arguments).env("KUBECONFIG", self.kubectl.kubeconfig()).kill_on_drop(true);
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "helm {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Installs the chart, or changes what is installed, with further arguments, and waits until the operator works.
    pub(crate) async fn install(&self, namespace: &str, arguments: &[&str]) {
        let chart = root().join("charts/rerank-operator");
        let registry = format!("images.registry={}", self.registry);
        let mut all = vec!["upgrade", "--install", RELEASE, chart.to_str().unwrap(), "--namespace", namespace];
        all.extend(["--create-namespace", "--wait", "--timeout", "180s", "--set", &registry]);
        all.extend(["--set", "images.operator.tag=e2e,images.serverCpu.tag=e2e-cpu,images.serverCuda.tag=e2e-cuda"]);
        all.extend(arguments);
        self.helm(&all).await;
    }

    /// Makes a namespace, held to the strictest of Kubernetes' own rules for pods, and enters it.
    pub(crate) async fn enter_new(&self, namespace: &str) {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}});
        self.kubectl.apply(&object).await;
        self.kubectl.enter(namespace).await;
        // Pods are refused before it is there.
        self.kubectl.until("serviceaccount", "default", "been made", |object| !object.is_null()).await;
    }

    /// Runs a server of the tests, behind a Service of the same name.
    pub(crate) async fn fixture(&self, name: &str, role: &str, ports: &[u16]) {
        let port = |port: &u16| json!({"name": format!("port-{port}"), "port": port, "targetPort": port});
        let pod_ip = json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}});
        let container = json!({
            "name": role, "image": self.image("fixture"), "args": [role], "env": [pod_ip],
            "readinessProbe": {"tcpSocket": {"port": ports[0]}, "periodSeconds": 1},
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "temporary", "mountPath": "/tmp"}],
        });
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"fixture": name}},
                "template": {"metadata": {"labels": {"fixture": name}}, "spec": {
                    "containers": [container], "volumes": [{"name": "temporary", "emptyDir": {}}],
                    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                    "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
                }},
            },
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"fixture": name}, "ports": ports.iter().map(port).collect::<Vec<_>>()},
        });
        self.kubectl.apply(&deployment).await;
        self.kubectl.apply(&service).await;
        self.kubectl.run(&["rollout", "status", "deployment", name, "--timeout=120s"]).await;
    }

    /// A `RerankDeployment` that searches the shared collection with the tiny pair, whose weights come from an image.
    pub(crate) fn tiny(&self, name: &str) -> Value {
        json!({
            "apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeployment",
            "metadata": {"name": name},
            "spec": {
                "accelerator": {"cpu": {}},
                "embedding": {"model": "tiny-embedder", "quantization": "float32"},
                "reranker": {"model": "tiny-reranker", "quantization": "float32", "maxLength": 1024},
                "weights": {"image": {"reference": self.image("tiny-pair"), "pullPolicy": "IfNotPresent"}},
                "vectorStore": {"qdrant": {"url": QDRANT, "collections": [{"name": COLLECTION}]}, "writable": true},
            },
        })
    }

    /// Waits until an object is ready; answers how long it took.
    pub(crate) async fn ready(&self, name: &str) -> Duration {
        let begun = Instant::now();
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        self.kubectl.run(&["wait", "--for=condition=Ready", "rrd", name, &timeout]).await;
        let ready = begun.elapsed();
        // What leads the Service to the pod follows within a second.
        let url = reqwest::Url::parse(&self.url(name).await).unwrap();
        let address = (url.host_str().unwrap().to_owned(), url.port().unwrap());
        self.until("the Service leads to the pod", async || TcpStream::connect(&address).await.is_ok()).await;
        ready
    }

    /// Where a service of this namespace answers from outside.
    pub(crate) async fn url(&self, name: &str) -> String {
        self.service_url(&self.namespace().await, name).await
    }

    /// Where the first port of a Service answers from outside.
    pub(crate) async fn service_url(&self, namespace: &str, name: &str) -> String {
        let service = self.object(&["service", name, "-n", namespace]).await;
        format!("http://{}:{}", service["spec"]["clusterIP"].as_str().unwrap(), service["spec"]["ports"][0]["port"])
    }

    /// The namespace that was entered.
    pub(crate) async fn namespace(&self) -> String {
        self.kubectl.run(&["config", "view", "--minify", "-o", "jsonpath={..namespace}"]).await
    }

    /// The image of servers on a CPU.
    pub(crate) fn server_image(&self) -> String {
        format!("{}/rerank-server:e2e-cpu", self.registry)
    }

    /// An object that is there.
    pub(crate) async fn object(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl.run(&[&["get"], arguments, &["-o", "json"]].concat()).await).unwrap()
    }

    /// How many pods of an object are ready.
    pub(crate) async fn ready_replicas(&self, name: &str) -> u64 {
        self.kubectl.get("deployment", name).await["status"]["readyReplicas"].as_u64().unwrap_or_default()
    }

    /// The node of an object's only pod, once it has one.
    pub(crate) async fn node_of(&self, name: &str) -> Option<String> {
        let pod = self.pods(name).await.pop()?;
        self.kubectl.get("pod", &pod).await["spec"]["nodeName"].as_str().map(str::to_owned)
    }

    /// Address of a pod.
    pub(crate) async fn address_of(&self, pod: &str, namespace: &str) -> String {
        self.object(&["pod", pod, "-n", namespace]).await["status"]["podIP"].as_str().unwrap().to_owned()
    }

    /// Address of the pod of a server of the tests.
    pub(crate) async fn pod_address_of_fixture(&self, namespace: &str, name: &str) -> String {
        let listed = self.object(&["pods", "-n", namespace, "-l", &format!("fixture={name}")]).await;
        listed["items"][0]["status"]["podIP"].as_str().unwrap().to_owned()
    }

    /// Id of the server's container in a pod.
    pub(crate) async fn container(&self, pod: &str) -> String {
        let pod = self.kubectl.get("pod", pod).await;
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
        id.strip_prefix("containerd://").unwrap().to_owned()
    }

    /// Memory of an object's only pod, but for what is kept of files.
    pub(crate) async fn memory_bytes(&self, name: &str) -> u64 {
        let pod = self.pods(name).await.remove(0);
        self.node().memory_bytes(&self.container(&pod).await).unwrap()
    }

    /// Names of an object's pods that are not being deleted.
    pub(crate) async fn pods(&self, name: &str) -> Vec<String> {
        let selector = format!("app.kubernetes.io/instance={name}");
        let listed = self.kubectl.run(&["get", "pods", "-l", &selector, "-o", "json"]).await;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let pods = listed["items"].as_array().cloned().unwrap_or_default();
        pods.iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// A failure was told by a condition.
    pub(crate) fn meets(&self, condition: &Value) {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        self.troubleshooting.meets(text("reason"), text("message"));
    }

    /// A failure was told by an answer.
    pub(crate) fn meets_answer(&self, answer: &Answer) {
        let error = &answer.body["error"];
        let text = |field: &str| error[field].as_str().unwrap_or_default();
        self.troubleshooting.meets(&format!("{} {}", answer.status, text("code")), text("message"));
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < LIMIT, "never: {what}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Everything that tells why a story failed.
    pub(crate) async fn tell(&self) -> String {
        let mut told = String::new();
        let commands: [&[&str]; 4] = [
            &["get", "rrd,deployments,pods,services,pvc", "-o", "wide"],
            &[
                "get",
                "rrd",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{range .status.conditions[*]}{\"  \"}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}{end}",
            ],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "-n", OPERATOR_NAMESPACE, "-l", "app.kubernetes.io/name=rerank-operator", LINES_OF_A_LOG],
        ];
        for arguments in commands {
            let finished = self.kubectl.finish(arguments).await.unwrap();
            tell(&mut told, arguments, &finished);
        }
        let pods = self.kubectl.finish(&["get", "pods", "-o", "name"]).await.unwrap().stdout;
        for pod in pods.lines() {
            let arguments = ["logs", pod, "--all-containers", "--prefix", LINES_OF_A_LOG];
            let finished = self.kubectl.finish(&arguments).await.unwrap();
            tell(&mut told, &arguments, &finished);
        }
        if let Cluster::Own(own) = &self.cluster {
            told.push_str(&own.node.tail());
        }
        told
    }

    /// Removes what was installed into somebody's cluster; a cluster of our own goes as a whole.
    pub(crate) async fn end(self) {
        if !self.has_node() {
            self.kubectl.run(&["delete", "namespace", STORES, "--ignore-not-found", "--wait=false"]).await;
            self.helm(&["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--ignore-not-found"]).await;
        }
    }
}

/// A file of the repository.
pub(crate) fn file(path: &str) -> String {
    let path: &Path = &root().join(path);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A folder of the node with the tiny pair, readable by everybody.
pub(crate) fn models_folder() -> PathBuf {
    root().join("target/images/tiny-pair/models")
}

fn tell(told: &mut String, arguments: &[&str], finished: &Finished) {
    told.extend(["$ kubectl ", &arguments.join(" "), "\n", &finished.stdout, &finished.stderr, "\n"]);
}
