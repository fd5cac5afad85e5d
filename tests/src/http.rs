//! The real server as a child process: built before, started on free ports of loopback, asked over HTTP, stopped by its
//! id. Every wait is bounded.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// No wait is longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The server's binary, beside the test's own.
///
/// # Errors
/// It is not built: cargo builds the binaries of a test's own crate only.
pub fn server_binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("failed to find the test's own binary")?;
    // A test's binary is in target/<profile>/deps, another one of this crate in target/<profile>.
    let folder = own.parent().context("the binary is in no folder")?;
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let binary = profile.join("rerank-server");
    if !binary.is_file() {
        bail!("{} is not built; run `cargo build --workspace` first (`make test` does)", binary.display());
    }
    Ok(binary)
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; None where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the server's binary to its end, from the repository's root.
pub async fn run_server(arguments: &[&str]) -> anyhow::Result<Finished> {
    let mut command = Command::new(server_binary()?);
    command.args(arguments).current_dir(root()).env_remove("RUST_LOG").env_remove("RERANK_CONFIG");
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(timeout(LIMIT, command.output()).await.context("the command did not end in time")??.into())
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// Body.
    pub text: String,
}

impl Answer {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// `error.code`, or nothing.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A running server. Dropping it ends it at once.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where the control port listens.
    pub control: SocketAddr,
    log: Arc<Mutex<String>>,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
}

/// How to start one.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// Configuration as YAML, without `listen`.
    pub config: String,
    /// What `listen` has besides addresses, as YAML, such as `tls: {...}`.
    pub listen: Option<String>,
    /// Further arguments of `serve`.
    pub arguments: Vec<String>,
    /// `RUST_LOG`.
    pub log_filter: Option<String>,
    /// The one core that it may run on; any by default.
    pub core: Option<usize>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
}

impl ServerProcess {
    /// Starts `serve` on free ports and waits until it listens.
    pub async fn start(options: StartOptions) -> anyhow::Result<Self> {
        let StartOptions { config, listen, arguments, log_filter, core, environment } = options;
        let folder = tempfile::tempdir().context("failed to make a temporary folder")?;
        let path = folder.path().join("config.yaml");
        let more = listen.map(|more| format!(", {more}")).unwrap_or_default();
        let listen = format!("listen: {{apiAddress: '127.0.0.1:0', controlAddress: '127.0.0.1:0'{more}}}\n");
        std::fs::write(&path, format!("{listen}{config}")).context("failed to write the configuration")?;
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.arg("--cpu-list").arg(core.to_string()).arg(server_binary()?);
                command
            }
            None => Command::new(server_binary()?),
        };
        command.arg("serve").arg("--config").arg(&path).args(arguments).current_dir(root()).env_remove("RUST_LOG");
        if let Some(filter) = log_filter {
            command.env("RUST_LOG", filter);
        }
        command.envs(environment);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("failed to start the server")?;
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().context("the server has no standard error")?;
        tokio::spawn(collect(stderr, Arc::clone(&log)));
        let (api, control) = match timeout(LIMIT, listening(&log, &mut child)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(error),
            Err(_) => bail!("the server does not listen; its log:\n{}", read(&log)),
        };
        let client = reqwest::Client::builder().timeout(LIMIT).build().context("failed to make a client")?;
        Ok(Self { child, api, control, log, client, _folder: folder })
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = self.control("/readyz").await?;
            if answer.status == 200 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the server is not ready: {}; its log:\n{}", answer.text, self.log());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks the API with GET. The path holds the query string, encoded.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        answer(self.client.get(format!("http://{}{path}", self.api))).await
    }

    /// Asks the API with further headers.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let request = self.client.get(format!("http://{}{path}", self.api));
        answer(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    /// Asks the API with a bearer key.
    pub async fn get_with_key(&self, path: &str, key: &str) -> anyhow::Result<Answer> {
        answer(self.client.get(format!("http://{}{path}", self.api)).bearer_auth(key)).await
    }

    /// Sends a JSON text to the API.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> anyhow::Result<Answer> {
        let request = self.client.post(format!("http://{}{path}", self.api));
        answer(request.header("content-type", "application/json").body(body)).await
    }

    /// Sends a JSON text to the API with further headers.
    pub async fn post_with(&self, path: &str, body: String, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let request = self.client.post(format!("http://{}{path}", self.api)).header("content-type", "application/json");
        answer(headers.iter().fold(request.body(body), |request, (name, value)| request.header(*name, *value))).await
    }

    /// Sends a JSON text to the API with a bearer key.
    pub async fn post_with_key(&self, path: &str, body: impl Into<reqwest::Body>, key: &str) -> anyhow::Result<Answer> {
        let request = self.client.post(format!("http://{}{path}", self.api)).bearer_auth(key);
        answer(request.header("content-type", "application/json").body(body)).await
    }

    /// Asks the control port.
    pub async fn control(&self, path: &str) -> anyhow::Result<Answer> {
        answer(self.client.get(format!("http://{}{path}", self.control))).await
    }

    /// The process's id.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.child.id().context("the server has ended")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("the server has no id")?;
        kill_process(pid, signal).context("failed to send the signal")
    }

    /// Waits for the end. Answers its status and the whole log.
    pub async fn ended(mut self) -> anyhow::Result<(ExitStatus, String)> {
        match timeout(LIMIT, self.child.wait()).await {
            Ok(status) => {
                // The last lines may still be on their way.
                sleep(Duration::from_millis(100)).await;
                Ok((status.context("failed to wait for the server")?, self.log()))
            }
            Err(_) => bail!("the server did not end; its log:\n{}", self.log()),
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
    let response = request.send().await.context("no answer")?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.context("the answer broke off")?;
    Ok(Answer { status, headers, text })
}

/// Keeps what a process says, to be told when it fails.
pub async fn collect(stream: impl AsyncRead + Unpin, log: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_str(&line);
        log.push('\n');
    }
}

/// What was kept.
pub fn read(log: &Mutex<String>) -> String {
    log.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Addresses from the log line that tells them.
async fn listening(log: &Mutex<String>, child: &mut Child) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    loop {
        for line in read(log).lines() {
            let json: Value = serde_json::from_str(line).unwrap_or_default();
            if json["message"] == "Listening" {
                let address = |name: &str| json[name].as_str().unwrap_or_default().parse();
                return Ok((address("api")?, address("control")?));
            }
        }
        if let Some(status) = child.try_wait()? {
            sleep(Duration::from_millis(100)).await;
            bail!("the server ended with {status}; its log:\n{}", read(log));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Configuration of a service that only reranks, whose weights are not there: every load fails at once.
pub fn without_models() -> String {
    "reranker: {model: no/such-reranker}\nweights: {directory: /nonexistent}\n".to_owned()
}

/// Configuration of the tiny pair over an embedded store in `folder`, with one writable collection.
pub fn tiny_pair(folder: &Path) -> String {
    let models = root().join("tests").join("models");
    format!(
        "embedding: {{model: tiny-embedder, quantization: float32}}\n\
         reranker:\n  model: tiny-reranker\n  quantization: float32\n  maxLength: 1024\n  allowedOverrides:\n  - model: \
         tiny-reranker\n    quantizations: [int8]\n\
         weights: {{directory: '{}'}}\n\
         vectorStore:\n  writable: true\n  embedded:\n    path: '{}'\n    collections: [{{name: corpus}}]\n",
        models.display(),
        folder.display()
    )
}
