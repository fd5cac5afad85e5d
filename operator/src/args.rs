//! The command line. Pure: it parses and decides nothing.

use std::net::SocketAddr;

use clap::Parser;

/// Reconciles `RerankDeployment`s.
#[derive(Clone, Debug, Parser)]
#[command(name = "rerank-operator", version)]
pub struct Arguments {
    /// Image of servers on a CPU, where an object names none.
    #[arg(long, value_name = "IMAGE", env = "RERANK_CPU_IMAGE")]
    pub cpu_image: String,
    /// Image of servers on a GPU, where an object names none.
    #[arg(long, value_name = "IMAGE", env = "RERANK_GPU_IMAGE")]
    pub gpu_image: String,
    /// The only namespace that is watched; then no rights in the whole cluster are needed, and nodes are not read. Default: all.
    #[arg(long, value_name = "NAMESPACE", env = "RERANK_WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Nodes are added where pods need them: that none of today's is large enough is then no refusal.
    #[arg(long, env = "RERANK_ELASTIC_NODES")]
    pub elastic_nodes: bool,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS", env = "RERANK_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Namespace of the Lease by which several operators agree on one. Default: the pod's own, else `default`.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of the Lease.
    #[arg(long, value_name = "NAME", default_value = "rerank-operator")]
    pub lease_name: String,
    /// Name of this operator among several. Default: the host's name.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub identity: Option<String>,
    /// What is logged, in the syntax of RUST_LOG.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info,kube=warn")]
    pub log_filter: String,
    /// Log for a terminal instead of one JSON object a line.
    #[arg(long)]
    pub log_text: bool,
}
