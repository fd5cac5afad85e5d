//! A Python with the client libraries that tests speak through, in `target/python-venv`, made on first use.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::timeout;

use crate::http::{Finished, LIMIT, root};

/// What is installed, pinned.
const REQUIREMENTS: &str = "tests/python/requirements.txt";

/// Making the environment downloads a few packages.
const SET_UP_LIMIT: Duration = Duration::from_secs(300);

/// Runs a program in the environment, in `target`, since some leave files where they run.
pub async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<Finished> {
    let python = environment().await?;
    let mut command = Command::new(python);
    command.arg("-c").arg(program).args(arguments).current_dir(root().join("target"));
    finish(command, LIMIT).await
}

/// The environment's Python. Its name holds the requirements' content, so that a change makes a new one.
async fn environment() -> anyhow::Result<PathBuf> {
    let requirements = root().join(REQUIREMENTS);
    let wanted =
        std::fs::read_to_string(&requirements).with_context(|| format!("failed to read {}", requirements.display()))?;
    let folder = root().join("target").join("python-venv");
    let (python, stamp) = (folder.join("bin").join("python3"), folder.join("installed-requirements.txt"));
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && python.exists() {
        return Ok(python);
    }
    let mut make = Command::new("python3");
    make.arg("-m").arg("venv").arg("--clear").arg(&folder);
    let made = finish(make, SET_UP_LIMIT).await.context("python3 with the module venv is needed for this test")?;
    succeeded(&made, "python3 -m venv")?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
    succeeded(&finish(install, SET_UP_LIMIT).await?, "pip install")?;
    std::fs::write(&stamp, wanted).context("failed to note what is installed")?;
    Ok(python)
}

fn succeeded(finished: &Finished, what: &str) -> anyhow::Result<()> {
    if finished.code != Some(0) {
        bail!("{what} failed:\n{}\n{}", finished.stdout, finished.stderr);
    }
    Ok(())
}

async fn finish(mut command: Command, limit: Duration) -> anyhow::Result<Finished> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(limit, command.output()).await.context("the command did not end in time")??;
    Ok(Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
