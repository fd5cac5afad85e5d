//! A service over the tiny pair whose weights folder a test may break, with two documents to search. The real server.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::http::{Answer, LIMIT, ServerProcess, StartOptions};
use crate::models::{self, TINY_EMBEDDER, TINY_RERANKER};

const FILES: [&str; 4] = ["config.json", "tokenizer.json", "model.safetensors", "self-test.json"];

/// A weights folder that a test may break.
#[derive(Debug)]
pub struct Weights(TempDir);

impl Weights {
    /// Both models of the tiny pair.
    pub fn whole() -> Self {
        let weights = Self(tempfile::tempdir().unwrap());
        weights.mend(TINY_EMBEDDER);
        weights.mend(TINY_RERANKER);
        weights
    }

    /// Puts a model's files back as they were.
    pub fn mend(&self, model: &str) {
        let folder = self.model(model);
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir(&folder).unwrap();
        for file in FILES {
            fs::copy(models::model(model).join(file), folder.join(file)).unwrap();
        }
    }

    /// The folder of all models.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A model's folder.
    pub fn model(&self, model: &str) -> PathBuf {
        self.0.path().join(model)
    }

    /// Configuration of the pair over a store, and more of it.
    pub fn config(&self, store: &str, more: &str) -> String {
        format!(
            "embedding: {{model: {TINY_EMBEDDER}, quantization: float32}}\n\
             reranker: {{model: {TINY_RERANKER}, quantization: float32, maxLength: 512}}\n\
             weights: {{directory: '{}'}}\n\
             vectorStore:\n  writable: true\n  {store}\n{more}",
            self.0.path().display()
        )
    }
}

/// An embedded store in a folder, with one collection.
pub fn embedded(folder: &Path) -> String {
    format!("embedded: {{path: '{}', collections: [{{name: docs}}]}}", folder.display())
}

/// Starts a server.
pub async fn start(config: String) -> ServerProcess {
    ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await.unwrap()
}

/// Indexes two documents.
pub async fn index(server: &ServerProcess) -> Answer {
    let documents = json!({"documents": [
        {"id": 1, "text": "Sourdough bread rises slowly in a cold kitchen."},
        {"id": 2, "text": "The brake pads of a bicycle squeal in the rain."},
    ]});
    server.post("/documents", documents.to_string()).await.unwrap()
}

/// Searches for the first of them.
pub async fn search(server: &ServerProcess) -> Answer {
    server.get("/search?q=my+sourdough+bread+does+not+rise&k=2").await.unwrap()
}

/// Searches again and again until the answer is in reranked order.
pub async fn search_until_reranked(server: &ServerProcess) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = search(server).await;
        if answer.status == 200 && answer.json()["reranking_used"] == true {
            assert_eq!(answer.json()["fallback"], Value::Null);
            return;
        }
        assert!(Instant::now() < deadline, "{answer:?}; its log:\n{}", server.log());
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the log has the text so many times: lines arrive a little after what they tell.
pub async fn wait_for_log(server: &ServerProcess, text: &str, times: usize) {
    let deadline = Instant::now() + LIMIT;
    while server.log().matches(text).count() < times {
        assert!(Instant::now() < deadline, "{text:?} is not there {times} times: {}", server.log());
        sleep(Duration::from_millis(20)).await;
    }
}

/// A documented error, with `Retry-After` where it is a 503.
#[track_caller]
pub fn assert_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert_eq!(answer.header("retry-after").is_some(), status == 503, "{answer:?}");
}
