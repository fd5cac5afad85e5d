//! Nodes that pretend to run pods: a scheduler, and kwok, which says of each pod that it runs and is ready. What a pod's control port would
//! answer is answered on loopback. For what many objects cost; nothing is computed.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::api_server::{ApiServer, binaries, processes::Process};
use crate::kubectl::Kubectl;

/// Pods of a node, as kubelets have it.
const PODS_OF_A_NODE: usize = 110;
/// Where pods have their addresses: on loopback.
const PODS: &str = "127.77.0.0/16";
/// What each node has of GPUs: enough for all of its pods.
const GPUS: &str = "110";
/// The control port of a server.
const CONTROL_PORT: u16 = 9_090;

/// Nodes, and what answers in their pods' place. Dropping it ends them.
#[derive(Debug)]
pub struct FakeNodes {
    _kwok: Process,
    _scheduler: Process,
    _answering: JoinSet<()>,
}

impl FakeNodes {
    /// Starts controllers and as many nodes as hold so many pods, whose control ports answer.
    ///
    /// # Errors
    /// `make kwok` was not run, or an address or a program cannot be had.
    pub async fn start(server: &mut ApiServer, pods: usize) -> Result<Self> {
        server.start_controller_manager().await?;
        let programs = binaries::kwok_folder(|name| std::env::var_os(name))?;
        let folder = server.folder().to_owned();
        let kubeconfig = format!("--kubeconfig={}", server.kubeconfig().display());
        let scheduler = [kubeconfig.clone(), "--leader-elect=false".to_owned(), "--secure-port=0".to_owned()];
        let stages = format!("--config={}", programs.join("stages.yaml").display());
        let kwok = [kubeconfig, "--manage-all-nodes=true".to_owned(), format!("--cidr={PODS}"), stages];
        let nodes = Self {
            _kwok: Process::start("kwok", &programs.join("kwok"), &kwok, &folder)?,
            _scheduler: Process::start("kube-scheduler", &programs.join("kube-scheduler"), &scheduler, &folder)?,
            // Some addresses more: the first ones of the range are not given to pods, and pods are replaced.
            _answering: answer(2 * pods + 256).await?,
        };
        let kubectl = server.as_administrator();
        for number in 0..=pods.div_ceil(PODS_OF_A_NODE) {
            add(&kubectl, &format!("fake-{number}")).await;
        }
        Ok(nodes)
    }
}

async fn add(kubectl: &Kubectl, name: &str) {
    let resources = json!({"cpu": "1000", "memory": "100Ti", "ephemeral-storage": "100Ti", "pods": PODS_OF_A_NODE.to_string(), "nvidia.com/gpu": GPUS});
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.memory": "81559"}},
        "status": {"capacity": resources, "allocatable": resources},
    });
    kubectl.apply(&node).await;
    // Nodes begin as not ready, and the controller that would see that they are is not here.
    kubectl.run(&["patch", "node", name, "--type=merge", "-p", r#"{"spec": {"taints": null}}"#]).await;
    let status = json!({"status": node["status"]});
    kubectl.run(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status.to_string()]).await;
}

/// The first addresses of [`PODS`] answer as a server does whose models wait for the first request.
async fn answer(addresses: usize) -> Result<JoinSet<()>> {
    let mut answering = JoinSet::new();
    let router = Router::new().route("/v1/models", get(async || Json(models())));
    for number in 0..u32::try_from(addresses)? {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 77, 0, 0)) + number);
        let listener = TcpListener::bind(SocketAddr::from((address, CONTROL_PORT))).await;
        let listener = listener.with_context(|| format!("{address}:{CONTROL_PORT} cannot be had"))?;
        let router = router.clone();
        answering.spawn(async move { drop(axum::serve(listener, router).await) });
    }
    Ok(answering)
}

fn models() -> Value {
    let model = |name: &str, role: &str| {
        let quantizations = json!([{"quantization": "float16", "state": "Standby", "predicted_memory_bytes": 1}]);
        json!({"id": name, "role": role, "object": "model", "created": 0, "owned_by": "local", "quantizations": quantizations})
    };
    json!({"object": "list", "data": [model("Qwen/Qwen3-Embedding-0.6B", "embedder"), model("Qwen/Qwen3-Reranker-0.6B", "reranker")]})
}
