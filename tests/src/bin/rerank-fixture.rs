//! Servers of the tests as programs of pods: what a service talks to in a cluster. Ends when it is told to (SIGTERM).
//!
//! `rerank-fixture pause` does nothing else; it holds the namespaces of a pod. `rerank-fixture qdrant` is Qdrant's engine behind
//! its protocol, port 6334, in memory. `rerank-fixture hub` is a hub of the models below `/models`, as `tests/NAME`, ports 8080 and 8081.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rerank_tests::qdrant_server::{QdrantServer, ServerOptions};
use rerank_tests::small_hub::SmallHub;
use tokio::signal::unix::{SignalKind, signal};

/// Where Qdrant is by convention.
const QDRANT_PORT: u16 = 6334;
/// Of the hub and of its storage.
const HUB_PORTS: [u16; 2] = [8080, 8081];
/// One folder for each model.
const MODELS: &str = "/models";
/// Whose they are for the hub, since its names have two parts.
const OWNER: &str = "tests";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut told = signal(SignalKind::terminate())?;
    let role = std::env::args().nth(1).unwrap_or_default();
    match role.as_str() {
        "pause" => {
            told.recv().await;
        }
        "qdrant" => {
            let address = Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, QDRANT_PORT)));
            let server = QdrantServer::start(ServerOptions { address, ..ServerOptions::default() }).await?;
            println!("Qdrant on {}", server.address());
            told.recv().await;
            server.stop().await;
        }
        "hub" => {
            // It redirects to its own address, so it needs one that others can reach: the pod's.
            let own: IpAddr =
                std::env::var("POD_IP").context("POD_IP is not set")?.parse().context("POD_IP is no address")?;
            let folders = models(Path::new(MODELS))?;
            let repositories: Vec<_> = folders.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
            let hub = SmallHub::start_on(HUB_PORTS.map(|port| (own, port).into()), &repositories).await?;
            println!("Hub on {}", hub.endpoint());
            told.recv().await;
        }
        _ => bail!("usage: rerank-fixture pause|qdrant|hub"),
    }
    Ok(())
}

/// Folders by their names.
fn models(folder: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))?;
    entries
        .map(|entry| entry.map(|entry| (format!("{OWNER}/{}", entry.file_name().to_string_lossy()), entry.path())))
        .map(|read| Ok(read?))
        .collect()
}
