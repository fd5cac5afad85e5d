//! `make memory`: what a load takes and gives back, measured at the real server, against what it predicted. It makes its
//! random models below `target`, prints a table and fails where a bound is broken.
//!
//! For each shape a fresh server loads the model, runs its warm-up, one document of full length and a batch that fills
//! the token budget, and unloads. Meanwhile its memory is looked at every millisecond. What counts is *own* memory
//! above that before the load: see `rerank_tests::process`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rerank_crds::catalog::{EngineKind, Quantization};
use rerank_server::engine::ModelRole;
use rerank_tests::http::{ServerProcess, StartOptions};
use rerank_tests::process::{self, Watch};
use rerank_tests::random_model::{self, SHAPE_0_6B, Shape};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// A prediction may be above the measured peak by this part of it, and never below it.
const ABOVE_PERCENT: f64 = 10.0;
/// What may stay after an unload, beside one twentieth of the peak: pools of threads and of the allocator.
const LEFT_BYTES: u64 = 32_000_000;
/// No load and no request takes longer.
const LIMIT: Duration = Duration::from_secs(600);
/// Keys and values are reserved in steps of so many tokens: as many prompts fill a budget.
const STEP_TOKENS: usize = 512;

/// One measurement.
struct Row {
    engine: EngineKind,
    name: &'static str,
    shape: Shape,
    quantization: Quantization,
    batch_size: usize,
    token_budget: usize,
    max_length: usize,
}

const SMALL: Shape = Shape {
    layers: 6,
    hidden: 512,
    intermediate: 1_536,
    heads: 8,
    key_value_heads: 4,
    head_dimension: 64,
    vocabulary: 32_768,
    positions: 4_096,
};
const MIDDLE: Shape = Shape { layers: 12, hidden: 768, intermediate: 2_304, heads: 12, key_value_heads: 4, ..SMALL };
const WIDE: Shape = Shape { layers: 6, vocabulary: 151_669, positions: 40_960, ..SHAPE_0_6B };

fn rows() -> [Row; 12] {
    use EngineKind::{Mistralrs, Packed};
    let row = |engine, name, shape, quantization, batch_size, token_budget, max_length| Row {
        engine,
        name,
        shape,
        quantization,
        batch_size,
        token_budget,
        max_length,
    };
    [
        row(Mistralrs, "small", SMALL, Quantization::Float32, 16, 4_096, 2_048),
        row(Mistralrs, "middle", MIDDLE, Quantization::Float16, 32, 4_096, 1_024),
        row(Mistralrs, "middle", MIDDLE, Quantization::Int8, 16, 1_024, 512),
        row(Mistralrs, "wide", WIDE, Quantization::Float32, 64, 4_096, 512),
        row(Mistralrs, "wide", WIDE, Quantization::Int8, 8, 512, 256),
        row(Mistralrs, "0.6b", SHAPE_0_6B, Quantization::Float16, 8, 1_024, 512),
        row(Packed, "small", SMALL, Quantization::Float32, 16, 4_096, 2_048),
        row(Packed, "middle", MIDDLE, Quantization::Float16, 32, 4_096, 1_024),
        row(Packed, "wide", WIDE, Quantization::Float32, 64, 4_096, 512),
        row(Packed, "0.6b", SHAPE_0_6B, Quantization::Float32, 32, 16_384, 512),
        row(Packed, "middle", MIDDLE, Quantization::Int8, 32, 4_096, 1_024),
        row(Packed, "0.6b", SHAPE_0_6B, Quantization::Int8, 32, 16_384, 512),
    ]
}

/// What one row came to, in bytes.
struct Outcome {
    predicted: u64,
    /// The peak of own memory above that before the load.
    peak: u64,
    /// Mapped page cache above that before the load.
    file: u64,
    /// Own memory after unloading above that before the load.
    left: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let only = std::env::args().nth(1);
    println!("Memory of a load, in MB (10^6 bytes): real server on CPU, random weights.");
    println!("peak: own memory above that before the load; file: mapped page cache, which the kernel takes back.\n");
    println!(
        "{:<9} {:<8} {:<9} {:>6} {:>7} {:>7} {:>10} {:>9} {:>7} {:>7} {:>7}",
        "engine", "shape", "held as", "pairs", "budget", "longest", "predicted", "peak", "ratio", "file", "left"
    );
    let mut broken = Vec::new();
    for row in rows() {
        let quantization = format!("{:?}", row.quantization).to_lowercase();
        let name = format!("{}-{}-{quantization}", row.engine, row.name).to_lowercase();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let Outcome { predicted, peak, file, left } =
            measure(&row, &quantization).await.with_context(|| format!("{name} failed"))?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of memory are exact in a double")]
        let (ratio, megabytes) = (predicted as f64 / peak as f64, |bytes: u64| bytes as f64 / 1e6);
        println!(
            "{:<9} {:<8} {quantization:<9} {:>6} {:>7} {:>7} {:>10.1} {:>9.1} {ratio:>7.3} {:>7.1} {:>7.1}",
            row.engine.as_str(),
            row.name,
            row.batch_size,
            row.token_budget,
            row.max_length,
            megabytes(predicted),
            megabytes(peak),
            megabytes(file),
            megabytes(left)
        );
        if !(1.0..=1.0 + ABOVE_PERCENT / 100.0).contains(&ratio) {
            broken.push(format!("{name}: predicted {predicted}, peak {peak}"));
        }
        if left > LEFT_BYTES.max(peak / 20) {
            broken.push(format!("{name}: {left} bytes stayed after the unload"));
        }
    }
    println!(
        "\nBounds: a ratio of 1 to {}; {} MB or 5 % of the peak left",
        1.0 + ABOVE_PERCENT / 100.0,
        LEFT_BYTES / 1_000_000
    );
    ensure!(broken.is_empty(), "bounds are broken:\n  {}", broken.join("\n  "));
    Ok(())
}

async fn measure(row: &Row, quantization: &str) -> Result<Outcome> {
    let models = random_model::folder();
    random_model::make(&models.join(row.name), &row.shape, ModelRole::Reranker)?;
    let Row { engine, name, batch_size, token_budget, max_length, .. } = row;
    let config = format!(
        "engine: {engine}\n\
         reranker: {{model: {name}, quantization: {quantization}, batchSize: {batch_size}, tokenBudget: {token_budget}, \
         maxLength: {max_length}, selfTest: Off}}\n\
         lifecycle: {{unloadTimeoutSeconds: 0}}\n\
         timeouts: {{requestSeconds: 1200, rerankSeconds: 1200}}\n\
         access: {{modelControl: Open}}\n\
         weights: {{directory: '{}'}}\n",
        models.display()
    );
    let server = ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await?;
    let id = server.id().context("the server has no id")?;
    let api =
        Api { client: reqwest::Client::builder().timeout(LIMIT).build()?, base: format!("http://{}", server.api) };
    api.get("/v1/models").await?;
    let before = process::memory(id)?;

    let watch = Watch::start(id);
    api.post("/v1/models/load", json!({"model": name})).await?;
    let predicted = api.wait_ready(&server).await?;
    // The warm-up fills the batch by pairs. These fill it by the longest document, and by tokens: keys and values are
    // reserved in steps, and one token is run after each prompt.
    let template = api.rerank(1, 1, 1).await? - 2;
    for tokens in [*max_length, max_length - 1, STEP_TOKENS - 1] {
        let pairs = token_budget / (tokens + 1).next_multiple_of(STEP_TOKENS);
        api.rerank(1, tokens - template - 1, pairs.clamp(1, *batch_size)).await?;
    }
    // And this by what the prompts share; a query may be half of a prompt.
    api.rerank(max_length / 2 - 64, 16, (token_budget / max_length).clamp(1, *batch_size)).await?;
    let peaks = watch.stop()?;

    api.post("/v1/models/unload", json!({"model": name})).await?;
    let after = process::memory(id)?;
    Ok(Outcome {
        predicted,
        peak: peaks.own - before.own,
        file: peaks.file - before.file,
        left: after.own.saturating_sub(before.own),
    })
}

struct Api {
    client: reqwest::Client,
    base: String,
}

impl Api {
    async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.get(format!("{}{path}", self.base)).send().await?.error_for_status()?.json().await?)
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        let answer = self.client.post(format!("{}{path}", self.base)).json(&body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Scores documents of so many words against a query of so many, each a token. Answers the tokens of all prompts.
    async fn rerank(&self, of_query: usize, of_each: usize, documents: usize) -> Result<usize> {
        let documents = vec!["word ".repeat(of_each); documents];
        let query = "word ".repeat(of_query);
        let body = json!({"query": query, "documents": documents, "return_documents": false});
        let answer = self.post("/v1/rerank", body).await?;
        Ok(usize::try_from(answer["usage"]["prompt_tokens"].as_u64().context("no usage")?)?)
    }

    /// Waits until the model is ready. Answers the bytes that were predicted for it.
    async fn wait_ready(&self, server: &ServerProcess) -> Result<u64> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let models = self.get("/v1/models").await?;
            let entry = &models["data"][0]["quantizations"][0];
            match entry["state"].as_str() {
                Some("Ready") => return entry["predicted_memory_bytes"].as_u64().context("no prediction"),
                Some("Failed") => anyhow::bail!("the load failed; the server's log:\n{}", server.log()),
                _ => ensure!(Instant::now() < deadline, "the load did not end in time: {models}"),
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}
