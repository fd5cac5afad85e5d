//! Namespaces of network, mounts and processes for a node, and what is left to clear away when they are gone. I/O: runs
//! `unshare` and `setpriv`, of util-linux.
//!
//! The outer process makes a folder and a cgroup, starts itself again inside new namespaces and waits. When that one ends, is
//! interrupted or dies with its parent, the kernel ends every process of the namespaces and drops their mounts and links.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::{mounts, network};

/// Set for the inner process: the cgroup of the node's pods.
const CGROUP_VARIABLE: &str = "RERANK_NODE_CGROUP";
/// Begins the names of cgroups; the id of the outer process ends them.
const CGROUP_PREFIX: &str = "rerank-node-";
/// Until the last process of a cgroup is gone.
const CLEARING_LIMIT: Duration = Duration::from_secs(20);

/// The cgroup of the node's pods, such as `/rerank-node-17`; none in the outer process.
pub fn cgroup() -> Option<String> {
    std::env::var(CGROUP_VARIABLE).ok()
}

/// Furnishes the namespaces. For the inner process, before anything else.
///
/// # Errors
/// A network or a mount cannot be made.
pub async fn furnish() -> anyhow::Result<()> {
    mounts::furnish().await?;
    network::furnish().await
}

/// Runs this program again inside new namespaces, with the same arguments; its exit code is that of the run. Afterwards
/// nothing of it is left, also where it was interrupted.
///
/// # Errors
/// Not root, no Linux with these namespaces, or something cannot be cleared away.
pub async fn run() -> anyhow::Result<ExitCode> {
    ensure!(rustix::process::geteuid().is_root(), "a node of Kubernetes is run by root only; run this as root");
    clear_cgroups_of_the_dead();
    let cgroup = format!("{CGROUP_PREFIX}{}", std::process::id());
    let folder = tempfile::Builder::new().prefix("rerank-node-").tempdir().context("failed to make a folder")?;
    // Containers are not root and pass through it.
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    for hierarchy in hierarchies()? {
        fs::create_dir(hierarchy.join(&cgroup)).context("failed to make a cgroup")?;
    }
    let mut inner = start(&cgroup, folder.path())?;
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let code = tokio::select! {
        status = inner.wait() => status.context("failed to wait for the run")?.code().unwrap_or(1),
        _ = interrupted.recv() => 130,
        _ = terminated.recv() => 143,
    };
    // Where it has ended already there is nothing to end.
    let _ = inner.kill().await;
    clear_cgroup(&cgroup).await?;
    folder.close().context("failed to remove the run's folder")?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn start(cgroup: &str, folder: &Path) -> anyhow::Result<Child> {
    let own = std::env::current_exe().context("failed to find this program")?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command.args(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(own).args(std::env::args_os().skip(1));
    command.env(CGROUP_VARIABLE, format!("/{cgroup}")).env("TMPDIR", folder);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command.spawn().context("failed to start setpriv (of util-linux)")
}

/// Roots of the machine's cgroups: one, or one for each controller.
fn hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").is_file() {
        return Ok(vec![root.to_owned()]);
    }
    let entries = fs::read_dir(root).context("failed to read /sys/fs/cgroup; a node needs cgroups")?;
    let folders =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.join("cgroup.procs").is_file());
    Ok(folders.collect())
}

/// Removes cgroups of runs that were killed.
fn clear_cgroups_of_the_dead() {
    for hierarchy in hierarchies().unwrap_or_default() {
        for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(CGROUP_PREFIX));
            if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
                let _ = remove(&entry.path());
            }
        }
    }
}

async fn clear_cgroup(name: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    for hierarchy in hierarchies()? {
        let cgroup = hierarchy.join(name);
        while let Err(error) = remove(&cgroup) {
            ensure!(begun.elapsed() < CLEARING_LIMIT, "failed to remove {}: {error}", cgroup.display());
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Removes a cgroup and those below it. Its files are the kernel's.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
