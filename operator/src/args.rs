//! The command line. Pure: it parses and decides nothing.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Reconciles `RerankDeployment`s.
#[derive(Clone, Debug, Parser)]
#[command(name = "rerank-operator", version)]
pub struct Arguments {
    /// Image of servers on a CPU, where an object names none.
    #[arg(long, value_name = "IMAGE", env = "RERANK_CPU_IMAGE", value_parser = image)]
    pub cpu_image: String,
    /// Image of servers on a GPU, where an object names none.
    #[arg(long, value_name = "IMAGE", env = "RERANK_GPU_IMAGE", value_parser = image)]
    pub gpu_image: String,
    /// The only namespace that is watched; then no rights in the whole cluster are needed, and nodes are not read. Default: all.
    #[arg(long, value_name = "NAMESPACE", env = "RERANK_WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Nodes are added where pods need them: that none of today's is large enough is then no refusal.
    #[arg(long, env = "RERANK_ELASTIC_NODES")]
    pub elastic_nodes: bool,
    /// Everything is looked at again after so many seconds, in case that a watch missed something.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub resync_seconds: u64,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS", env = "RERANK_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Namespace of the Lease by which several operators agree on one. Default: the pod's own, else `default`.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of the Lease.
    #[arg(long, value_name = "NAME", default_value = "rerank-operator")]
    pub lease_name: String,
    /// Name of this operator among several, to which a random part is added. Default: the host's name.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub identity: Option<String>,
    /// What is logged, in the syntax of RUST_LOG, without regular expressions.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info,kube=warn", value_parser = log_filter)]
    pub log_filter: String,
    /// Log for a terminal instead of one JSON object a line.
    #[arg(long)]
    pub log_text: bool,
}

impl Arguments {
    /// After how long everything is looked at again.
    pub const fn resync(&self) -> Duration {
        Duration::from_secs(self.resync_seconds)
    }

    /// The namespace of the Lease, named or not.
    pub fn lease_namespace(&self) -> &str {
        self.lease_namespace.as_deref().unwrap_or("default")
    }
}

/// An image's reference. What is not set in a chart arrives as empty text.
fn image(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("an image is needed, such as registry.example.com/rerank-server:0.1.0"),
        text => Ok(text.to_owned()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    parse_log_filter(text).map(|_| text.to_owned())
}

/// A filter of log lines. Values of fields are compared as texts: a regular expression could take any amount of memory.
///
/// # Errors
/// It is none; the message says how one looks.
pub fn parse_log_filter(text: &str) -> Result<EnvFilter, String> {
    let parsed = EnvFilter::builder().with_regex(false).parse(text);
    parsed.map_err(|error| {
        format!("{error}; levels and targets are allowed, such as `info` or `warn,rerank_server=debug`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> String {
        let all = ["rerank-operator", "--cpu-image", "a", "--gpu-image", "b"].iter().chain(arguments);
        Arguments::try_parse_from(all).unwrap_err().to_string()
    }

    #[test]
    fn a_flag_that_cannot_be_is_named_with_its_value() {
        let filter = refused(&["--log-filter", "a=b=c"]);
        assert!(filter.contains("--log-filter") && filter.contains("a=b=c"), "{filter}");
        let image = Arguments::try_parse_from(["rerank-operator", "--cpu-image", "", "--gpu-image", "b"]);
        let image = image.unwrap_err().to_string();
        assert!(image.contains("--cpu-image") && image.contains("an image is needed"), "{image}");
    }

    #[test]
    fn values_in_a_filter_are_texts() {
        // As a regular expression the one is none, and the other an automaton of 2^20 states, which takes minutes and gigabytes.
        parse_log_filter("[x{y=(}]=info").unwrap();
        parse_log_filter(&format!("[x{{y=(a|b)*a{}}}]=info", "(a|b)".repeat(20))).unwrap();
    }
}
