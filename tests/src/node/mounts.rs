//! Mounts of the mount namespace. I/O: runs `mount`, of util-linux.

use anyhow::{Context, ensure};
use tokio::process::Command;

/// Lets pods see mounts, and lays empty folders over those that programs of a node write to by habit, so that nothing of it
/// is seen outside or left behind.
///
/// # Errors
/// A mount failed.
pub(super) async fn furnish() -> anyhow::Result<()> {
    let mut commands = vec![vec!["--make-rshared", "/"]];
    for folder in ["/run", "/var/lib", "/var/log"] {
        commands.push(vec!["-t", "tmpfs", "-o", "mode=755", "rerank-node", folder]);
    }
    for arguments in commands {
        let output = Command::new("mount").args(&arguments).output().await.context("failed to start mount")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "mount {} failed: {said}", arguments.join(" "));
    }
    Ok(())
}
