//! The process of one of our own engines: token ids in, log-odds out, a line of JSON each.

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use rerank_crds::catalog::{EngineKind, Quantization};
use rerank_server::engine::choice::Engines;
use rerank_server::engine::{EngineLoader, LoadSpec, ModelRole, ScoreRequest};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// As a server has it by default for the 0.6B.
const BATCH_SIZE: usize = 64;
const MAXIMUM_LENGTH: usize = 8_192;

#[derive(Deserialize)]
struct Request {
    prompts: Vec<Vec<u32>>,
    shared: usize,
    yes: u32,
    no: u32,
}

pub(crate) async fn answer(engine: &str, quantization: &str, model: &str) -> Result<()> {
    let (engine, quantization): (EngineKind, Quantization) = (
        engine.parse().map_err(|error| anyhow!("{error:?}"))?,
        quantization.parse().map_err(|error| anyhow!("{error:?}"))?,
    );
    let spec = LoadSpec {
        model: model.to_owned(),
        directory: model.into(),
        role: ModelRole::Reranker,
        quantization,
        engine,
        batch_size: BATCH_SIZE,
        token_budget: BATCH_SIZE * 512,
        max_length: MAXIMUM_LENGTH,
    };
    let begun = Instant::now();
    let engine = Engines::new(false)?.load(spec).await?;
    say(&json!({"load_seconds": begun.elapsed().as_secs_f64()}))?;
    for line in std::io::stdin().lock().lines() {
        let Request { prompts, shared, yes, no } = serde_json::from_str(&line?).context("a request")?;
        let request = ScoreRequest { prompts, shared_prefix_tokens: shared, yes_token: yes, no_token: no };
        let begun = Instant::now();
        let logits = engine.score(request, &CancellationToken::new()).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let log_odds: Vec<f32> = logits.iter().map(|logits| logits.log_odds()).collect();
        say(&json!({"seconds": seconds, "log_odds": log_odds}))?;
    }
    engine.unload().await?;
    Ok(())
}

fn say(line: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
