//! `rerank-operator`.

use clap::Parser;
use rerank_operator::args::{Arguments, parse_log_filter};

/// A watch that fails is told by the operator, once a minute; the library would tell it each time. The user's filter can name it.
const LIBRARIES: &str = "kube_runtime::watcher=error";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Two libraries bring one each, so it has to be named. That another was installed before cannot be: this is the first line.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let filter = format!("{LIBRARIES},{}", arguments.log_filter);
    let filter = parse_log_filter(&filter).map_err(anyhow::Error::msg)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if arguments.log_text {
        log.init();
    } else {
        log.json().flatten_event(true).init();
    }
    rerank_operator::run::run(arguments).await
}
