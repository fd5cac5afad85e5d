//! The tiny pair loaded and unloaded by request, again and again, at the real server, and what its process holds after
//! some of the cycles. I/O: starts the server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::sleep;

use crate::http::{ServerProcess, StartOptions, tiny_pair};
use crate::models::{TINY_EMBEDDER, TINY_RERANKER};
use crate::process::{self, Memory};

/// mistral.rs's threads of a load end when they next wake, which is every 5 s.
const SETTLED: Duration = Duration::from_secs(6);

/// What the process holds while no model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Loads and unloads of both models before it.
    pub cycles: usize,
    /// Memory.
    pub memory: Memory,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

/// Runs as many cycles as the last of `samples` says, and looks at the process after each number of them in it, which
/// `report` is told.
pub async fn run(samples: &[usize], report: impl Fn(&Sample)) -> Result<Vec<Sample>> {
    let folder = tempfile::tempdir().context("failed to make a folder")?;
    let config = format!("{}access: {{modelControl: Open}}\n", tiny_pair(folder.path()));
    // Short prompts: what is measured is the loading. The warm-up fills the largest batch each time.
    let config = config.replace("maxLength: 1024", "maxLength: 256");
    let server = ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await?;
    let id = server.id().context("the server has no id")?;
    let post = async |path: &str, body: serde_json::Value| -> Result<()> {
        let answer = server.post(path, body.to_string()).await?;
        ensure!(answer.status == 200, "{path} answered {}: {}", answer.status, answer.text);
        Ok(())
    };
    let mut taken = Vec::new();
    for cycle in 1..=samples.last().copied().unwrap_or(0) {
        for model in [TINY_RERANKER, TINY_EMBEDDER] {
            post("/v1/models/load", json!({"model": model})).await?;
        }
        post("/v1/rerank", json!({"query": "which planet is red", "documents": ["Venus is hot.", "Mars looks red."]}))
            .await?;
        post("/v1/embeddings", json!({"model": TINY_EMBEDDER, "input": ["Mars looks red."]})).await?;
        for model in [TINY_RERANKER, TINY_EMBEDDER] {
            post("/v1/models/unload", json!({"model": model})).await?;
        }
        if samples.contains(&cycle) {
            sleep(SETTLED).await;
            let sample = Sample {
                cycles: cycle,
                memory: process::memory(id)?,
                threads: process::threads(id)?,
                descriptors: process::descriptors(id)?,
            };
            report(&sample);
            taken.push(sample);
        }
    }
    Ok(taken)
}
