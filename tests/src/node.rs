//! A node for a real API server, in namespaces of its own: containerd and kubelet run pods, kube-proxy leads Services to
//! them, CoreDNS names them, scheduler and controllers do their part. All of it on addresses that nothing outside the network
//! namespace can reach. Linux and root. I/O; every wait is bounded.
//!
//! [`isolation`] makes the namespaces and starts this program again inside them, [`network`] and `mounts` furnish them, and
//! [`Node::start`] starts the programs, whose settings are in `settings`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::api_server::processes::Process;
use crate::api_server::{ApiServer, binaries};
use crate::http::LIMIT;

pub mod isolation;
mod mounts;
pub mod network;
mod settings;

/// The node's name.
pub const NAME: &str = "node-a";
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// A little, so that a limit can be set while something runs.
const MARGIN_BYTES: u64 = 4 << 20;

/// A running node. Dropping it ends its programs; what they started ends with the namespaces.
///
/// The fields are dropped in their order.
#[derive(Debug)]
pub struct Node {
    kubelet: Process,
    others: Vec<Process>,
    containerd: Process,
    programs: PathBuf,
    folder: PathBuf,
    cgroup: String,
}

impl Node {
    /// Starts everything for this API server, which must listen on [`network::ADDRESS`], and waits until the node is ready.
    /// `cgroup` is the one below which pods run; `images` are archives to load before; `pause` is the image that holds a pod's
    /// namespaces.
    ///
    /// # Errors
    /// A program is not there, or the node is not ready in time: with the last lines of its logs.
    pub async fn start(server: &ApiServer, cgroup: &str, images: &[PathBuf], pause: &str) -> anyhow::Result<Self> {
        let programs = binaries::node_folder(|name| std::env::var_os(name))?;
        let folder = server.folder().join("node");
        std::fs::create_dir_all(folder.join("cni")).context("failed to make the node's folder")?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("failed to write {name}"))?;
            anyhow::Ok(path.display().to_string())
        };
        let kubeconfig = |user: &str, groups: &[&str]| {
            anyhow::Ok(format!("--kubeconfig={}", server.kubeconfig_for(user, groups)?.display()))
        };
        let start = |name: &'static str, arguments: &[String]| {
            let program = programs.join(name);
            ensure!(program.is_file(), "{} is missing; `make node` builds it", program.display());
            Process::start(name, &program, arguments, &folder)
        };

        let containerd_settings = write("containerd.toml", &settings::containerd(&programs, &folder, pause))?;
        write("cni/10-pods.conflist", &settings::pod_network(&folder))?;
        let containerd = start("containerd", &["--config".to_owned(), containerd_settings])?;

        let kubelet_settings =
            write("kubelet.json", &settings::kubelet(&folder, &server.certificate("ca.crt"), cgroup))?;
        let mut node = Self {
            kubelet: start(
                "kubelet",
                &[
                    kubeconfig(&format!("system:node:{NAME}"), &["system:nodes"])?,
                    format!("--config={kubelet_settings}"),
                    format!("--root-dir={}", folder.join("kubelet").display()),
                    format!("--hostname-override={NAME}"),
                    format!("--node-ip={}", network::ADDRESS),
                ],
            )?,
            others: Vec::new(),
            containerd,
            programs: programs.clone(),
            folder: folder.clone(),
            cgroup: cgroup.to_owned(),
        };
        let corefile = write("Corefile", &settings::dns(server.kubeconfig()))?;
        node.others = vec![
            start(
                "kube-proxy",
                &[
                    kubeconfig("system:kube-proxy", &[])?,
                    "--proxy-mode=nftables".to_owned(),
                    format!("--hostname-override={NAME}"),
                    format!("--cluster-cidr={}", network::PODS),
                ],
            )?,
            start(
                "kube-scheduler",
                &[
                    kubeconfig("system:kube-scheduler", &[])?,
                    "--leader-elect=false".to_owned(),
                    "--secure-port=0".to_owned(),
                ],
            )?,
            start("coredns", &["-conf".to_owned(), corefile])?,
        ];
        node.wait_for_containerd().await?;
        for image in images {
            node.load(image).await?;
        }
        node.wait_ready(server).await?;
        Ok(node)
    }

    /// Loads an image of an archive, under the name that it has there.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn load(&self, archive: &Path) -> anyhow::Result<()> {
        let path = archive.to_str().context("the archive's path is no text")?;
        self.ctr(&["images", "import", "--local", path]).await.map(drop)
    }

    /// What containerd's own tool printed.
    ///
    /// # Errors
    /// It failed.
    pub async fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let socket = self.folder.join(settings::CONTAINERD_SOCKET);
        let mut command = Command::new(self.programs.join("ctr"));
        command.arg("--address").arg(socket).args(["--namespace", "k8s.io"]).args(arguments).kill_on_drop(true);
        let output = command.output().await.context("failed to start ctr")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "ctr {arguments:?} failed: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Leaves a container hardly more memory than it has allocated now, as its cgroup's limit.
    ///
    /// # Errors
    /// It has no cgroup, or the limit cannot be written.
    pub fn limit_memory(&self, container: &str) -> anyhow::Result<()> {
        let bytes = self.memory_bytes(container)? + MARGIN_BYTES;
        let limit = if is_first_version() { "memory.limit_in_bytes" } else { "memory.max" };
        std::fs::write(self.memory_cgroup(container)?.join(limit), bytes.to_string()).context("failed to limit it")
    }

    /// What a container has allocated: not what is kept of files.
    ///
    /// # Errors
    /// It has no cgroup.
    pub fn memory_bytes(&self, container: &str) -> anyhow::Result<u64> {
        let field = if is_first_version() { "rss " } else { "anon " };
        let statistics = self.memory_cgroup(container)?.join("memory.stat");
        let statistics = std::fs::read_to_string(statistics).context("failed to read what it uses")?;
        let allocated = statistics.lines().find_map(|line| line.strip_prefix(field));
        Ok(allocated.context("it tells of no memory")?.trim().parse()?)
    }

    fn memory_cgroup(&self, container: &str) -> anyhow::Result<PathBuf> {
        let root = if is_first_version() { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
        let below = Path::new(root).join(self.cgroup.trim_start_matches('/'));
        find_folder(&below, container).with_context(|| format!("{container} has no cgroup"))
    }

    /// The last lines of kubelet's and containerd's logs.
    pub fn tail(&self) -> String {
        format!("{}{}", self.kubelet.tail(), self.containerd.tail())
    }

    async fn wait_for_containerd(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.ctr(&["version"]).await {
            self.containerd.check().with_context(|| self.containerd.tail())?;
            if begun.elapsed() > LIMIT {
                bail!("containerd does not answer: {error:#}\n{}", self.containerd.tail());
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    async fn wait_ready(&mut self, server: &ApiServer) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let path = "-o=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            let looked = server.kubectl(&["get", "node", NAME, path]).await?;
            if looked.stdout == "True" {
                return Ok(());
            }
            for process in [&mut self.kubelet].into_iter().chain(&mut self.others) {
                if let Err(error) = process.check() {
                    bail!("{error}\n{}", process.tail());
                }
            }
            if begun.elapsed() > LIMIT {
                bail!("the node is not ready: {looked:?}\n{}", self.tail());
            }
            sleep(INTERVAL).await;
        }
    }
}

/// Of cgroups, of which Linux has two.
fn is_first_version() -> bool {
    Path::new("/sys/fs/cgroup/memory").is_dir()
}

/// The folder whose name has this in it, at any depth.
fn find_folder(below: &Path, name: &str) -> Option<PathBuf> {
    let folders =
        std::fs::read_dir(below).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir());
    let is_it = |path: &Path| path.file_name().is_some_and(|own| own.to_string_lossy().contains(name));
    folders.into_iter().find_map(|path| if is_it(&path) { Some(path) } else { find_folder(&path, name) })
}
