//! The real operator against a real API server: started, spoken to, ended by its id.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant, sleep};

use crate::http::{LIMIT, root};

/// A running operator. Dropping it ends it.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    log: PathBuf,
}

/// How it is started.
#[derive(Clone, Debug, Default)]
pub struct OperatorOptions {
    /// Its name among several.
    pub identity: String,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Which binary; the one that tests share where none is named.
    pub binary: Option<PathBuf>,
}

impl Operator {
    /// Starts it with a kubeconfig; its log goes into the folder.
    ///
    /// # Errors
    /// It is not built, or cannot be started.
    pub fn start(kubeconfig: &Path, folder: &Path, options: &OperatorOptions) -> anyhow::Result<Self> {
        let binary = options.binary.clone().unwrap_or_else(|| root().join("target/debug/rerank-operator"));
        ensure!(binary.is_file(), "{} is missing; build it with `make build`", binary.display());
        let log = folder.join(format!("operator-{}-{}.log", options.identity, fastrand::u32(..)));
        let file = File::create(&log)?;
        let address: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut command = Command::new(binary);
        command
            .args(["--cpu-image", "rerank-server:cpu", "--gpu-image", "rerank-server:cuda", "--log-text"])
            .args(["--listen", &address.to_string(), "--identity", &options.identity])
            .args(&options.arguments)
            .env("KUBECONFIG", kubeconfig)
            .env_remove("RUST_LOG")
            .env_remove("POD_NAMESPACE")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true);
        let child = command.spawn().context("failed to start the operator")?;
        Ok(Self { child, log })
    }

    /// Waits until it works.
    ///
    /// # Errors
    /// It ended, or does not come to it.
    pub async fn leads(&mut self) -> anyhow::Result<()> {
        self.says("Leading").await
    }

    /// Waits until its log has these words.
    ///
    /// # Errors
    /// It ended before, or never says so.
    pub async fn says(&mut self, words: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !self.log().contains(words) {
            ensure!(self.child.try_wait()?.is_none(), "the operator ended: {}", self.log());
            ensure!(begun.elapsed() < LIMIT, "it does not say {words:?}: {}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The address of its admin port, once it listens.
    pub fn address(&self) -> Option<String> {
        let log = self.log();
        let rest = log.split("address=").nth(1)?;
        rest.split_whitespace().next().map(str::to_owned)
    }

    /// How many reconciles have ended.
    ///
    /// # Errors
    /// It does not answer, or does not count them.
    pub async fn reconciles(&self) -> anyhow::Result<u64> {
        self.metric("rerank_operator_reconciles_total").await
    }

    /// All metrics, as Prometheus reads them.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let address = self.address().context("it does not listen yet")?;
        Ok(reqwest::get(format!("http://{address}/metrics")).await?.error_for_status()?.text().await?)
    }

    /// Its process.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The value of a metric without labels.
    ///
    /// # Errors
    /// It does not answer, or has no such metric.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.metrics().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name} in {text}"))?.parse()?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.child.id().context("the operator has ended")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("no process has the id 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for its end. Answers its exit code.
    ///
    /// # Errors
    /// It does not end.
    pub async fn ended(&mut self) -> anyhow::Result<Option<i32>> {
        Ok(tokio::time::timeout(LIMIT, self.child.wait()).await.context("the operator does not end")??.code())
    }
}
