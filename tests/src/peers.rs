//! Other rerank servers from PyPI as child processes: started on a free port of loopback, ended by their own handle.
//! Every wait is bounded.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::http::{collect, read, root};
use crate::python::Environment;

/// What torch brings is a few gigabytes.
const SET_UP_LIMIT: Duration = Duration::from_secs(1_800);
/// Loading takes no longer.
const START_LIMIT: Duration = Duration::from_secs(600);

/// FastAPI, transformers and torch.
pub const TRANSFORMERS: Environment = Environment {
    folder: "peers/transformers-venv",
    requirements: "tests/peers/requirements-transformers.txt",
    limit: SET_UP_LIMIT,
};

/// llama.cpp's bindings, which pip compiles for this machine: a C++ compiler is needed.
pub const LLAMA: Environment =
    Environment { folder: "peers/llama-venv", requirements: "tests/peers/requirements-llama.txt", limit: SET_UP_LIMIT };

/// ONNX Runtime and what exports models to it.
pub const ONNX: Environment =
    Environment { folder: "peers/onnx-venv", requirements: "tests/peers/requirements-onnx.txt", limit: SET_UP_LIMIT };

/// OpenVINO and what exports models to it.
pub const OPENVINO: Environment = Environment {
    folder: "peers/openvino-venv",
    requirements: "tests/peers/requirements-openvino.txt",
    limit: SET_UP_LIMIT,
};

/// infinity-emb.
pub const INFINITY: Environment = Environment {
    folder: "peers/infinity-venv",
    requirements: "tests/peers/requirements-infinity.txt",
    limit: SET_UP_LIMIT,
};

/// A running server. Dropping it ends it at once.
#[derive(Debug)]
pub struct PeerProcess {
    child: Child,
    /// Where it answers: `http://`, address and port.
    pub base: String,
    log: Arc<Mutex<String>>,
}

impl PeerProcess {
    /// Starts the server of `tests/peers/fastapi_transformers.py`. `arguments`: further ones, such as `--dtype`.
    pub fn transformers(python: &Path, model: &Path, threads: usize, arguments: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(python);
        command.arg(root().join("tests/peers/fastapi_transformers.py")).arg("--model").arg(model);
        command.args(["--port", &port.to_string(), "--threads", &threads.to_string()]).args(arguments);
        Self::spawn(command, port, threads)
    }

    /// Starts infinity-emb on a sequence classifier.
    pub fn infinity(python: &Path, model: &Path, threads: usize, batch_size: usize) -> Result<Self> {
        let port = free_port()?;
        let program: PathBuf = python.with_file_name("infinity_emb");
        let mut command = Command::new(program);
        command.arg("v2").arg("--model-id").arg(model).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--engine", "torch", "--device", "cpu", "--dtype", "float32"]);
        command.args(["--batch-size", &batch_size.to_string(), "--no-bettertransformer", "--no-model-warmup"]);
        Self::spawn(command, port, threads)
    }

    fn spawn(mut command: Command, port: u16, threads: usize) -> Result<Self> {
        command.current_dir(root().join("target")).env("PYTHONDONTWRITEBYTECODE", "1");
        // Nothing is fetched and nothing is told to anyone.
        command.env("HF_HUB_OFFLINE", "1").env("DO_NOT_TRACK", "1").env("OMP_NUM_THREADS", threads.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("failed to start")?;
        let log = Arc::new(Mutex::new(String::new()));
        tokio::spawn(collect(child.stderr.take().context("the server has no standard error")?, Arc::clone(&log)));
        Ok(Self { child, base: format!("http://127.0.0.1:{port}"), log })
    }

    /// Waits until `/health` answers, which both do once the model is loaded.
    pub async fn wait_ready(&mut self, client: &reqwest::Client) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        let url = format!("{}/health", self.base);
        loop {
            if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                sleep(Duration::from_millis(100)).await;
                bail!("it ended with {status}; its log:\n{}", read(&self.log));
            }
            if Instant::now() > deadline {
                bail!("it did not answer in time; its log:\n{}", read(&self.log));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The process's id.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }
}

/// A port that was free a moment ago: these servers do not tell which one they were given.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("failed to find a free port")?.local_addr()?.port())
}
