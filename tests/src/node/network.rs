//! Addresses of the network namespace, and what passes between them. I/O: runs `ip`, of iproute2, and `nft`, of nftables.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

/// The node's address, and that of the API server and of DNS.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Where pods are found.
pub const PODS: &str = "10.244.0.0/24";

/// Gives the namespace loopback and the node's address. It is on a bridge that one end of a pair of links is plugged into, for
/// an interface without a link counts as down; a default route leads through it, since the kubelet asks for one.
///
/// # Errors
/// `ip` failed, or packets cannot be forwarded.
pub async fn furnish() -> anyhow::Result<()> {
    let address = format!("{ADDRESS}/24");
    let gateway = Ipv4Addr::new(10, 77, 0, 1).to_string();
    let commands: [&[&str]; 8] = [
        &["link", "set", "lo", "up"],
        &["link", "add", "node0", "type", "bridge"],
        &["link", "add", "plug0", "type", "veth", "peer", "name", "plug1"],
        &["link", "set", "plug0", "master", "node0", "up"],
        &["link", "set", "plug1", "up"],
        &["address", "add", &address, "dev", "node0"],
        &["link", "set", "node0", "up"],
        &["route", "add", "default", "via", &gateway, "dev", "node0"],
    ];
    for arguments in commands {
        run("ip", arguments).await?;
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("failed to let packets be forwarded")
}

async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output().await;
    let output = output.with_context(|| format!("failed to start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program} {} failed: {said}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Notes every connection that a pod begins, to another one or to the node, as nftables sees it: after a Service's address
/// was replaced.
#[derive(Debug)]
pub struct Connections(());

impl Connections {
    /// Begins.
    ///
    /// # Errors
    /// `nft` failed.
    pub async fn watch() -> anyhow::Result<Self> {
        let rules = "table ip rerank-tests {
            set begun { type ipv4_addr . ipv4_addr . inet_service; flags dynamic; size 65535; }
            chain note { ct state new meta l4proto { tcp, udp } add @begun { ip saddr . ip daddr . th dport }; }
            chain forwarded { type filter hook forward priority 10; jump note; }
            chain arriving { type filter hook input priority 10; jump note; }
        }";
        run("nft", &[rules]).await?;
        Ok(Self(()))
    }

    /// Addresses and ports to which something connected from this address.
    ///
    /// # Errors
    /// `nft` failed.
    pub async fn from(&self, address: &str) -> anyhow::Result<Vec<(String, u16)>> {
        let listed = run("nft", &["--json", "list", "set", "ip", "rerank-tests", "begun"]).await?;
        let listed: Value = serde_json::from_str(&listed).context("nft lists no JSON")?;
        let sets = listed["nftables"].as_array().context("nft lists nothing")?;
        let elements = sets.iter().find_map(|one| one["set"]["elem"].as_array()).cloned().unwrap_or_default();
        let connections = elements.iter().filter_map(|element| {
            let parts = element["concat"].as_array().or_else(|| element["elem"]["val"]["concat"].as_array())?;
            let port = u16::try_from(parts[2].as_u64()?).ok()?;
            (parts[0] == address).then(|| (parts[1].as_str().unwrap_or_default().to_owned(), port))
        });
        Ok(connections.collect())
    }
}
