//! Pythons with what tests and measurements need from PyPI: virtual environments below `target`, made on first use.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::timeout;

use crate::http::{Finished, LIMIT, root};

/// A virtual environment.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    /// Its folder below `target`.
    pub folder: &'static str,
    /// What is installed, pinned: a file of this repository.
    pub requirements: &'static str,
    /// Making it takes no longer: it downloads its packages.
    pub limit: Duration,
}

/// The client libraries that tests speak through.
pub const CLIENTS: Environment = Environment {
    folder: "python-venv",
    requirements: "tests/python/requirements.txt",
    limit: Duration::from_secs(300),
};

/// Runs a program with the client libraries, in `target`, since some leave files where they run.
pub async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<Finished> {
    let python = CLIENTS.python().await?;
    let mut command = Command::new(python);
    command.arg("-c").arg(program).args(arguments).current_dir(root().join("target"));
    finish(command, LIMIT).await
}

impl Environment {
    /// The environment's Python. A stamp holds the requirements' content, so that a change makes it anew.
    pub async fn python(&self) -> anyhow::Result<PathBuf> {
        let requirements = root().join(self.requirements);
        let wanted = std::fs::read_to_string(&requirements)
            .with_context(|| format!("failed to read {}", requirements.display()))?;
        let folder = root().join("target").join(self.folder);
        let (python, stamp) = (folder.join("bin").join("python3"), folder.join("installed-requirements.txt"));
        if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && python.exists() {
            return Ok(python);
        }
        let mut make = Command::new("python3");
        make.arg("-m").arg("venv").arg("--clear").arg(&folder);
        let made = finish(make, self.limit).await.context("python3 with the module venv is needed for this")?;
        succeeded(&made, "python3 -m venv")?;
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
        succeeded(&finish(install, self.limit).await?, "pip install")?;
        std::fs::write(&stamp, wanted).context("failed to note what is installed")?;
        Ok(python)
    }
}

fn succeeded(finished: &Finished, what: &str) -> anyhow::Result<()> {
    if finished.code != Some(0) {
        bail!("{what} failed:\n{}\n{}", finished.stdout, finished.stderr);
    }
    Ok(())
}

async fn finish(mut command: Command, limit: Duration) -> anyhow::Result<Finished> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(timeout(limit, command.output()).await.context("the command did not end in time")??.into())
}
