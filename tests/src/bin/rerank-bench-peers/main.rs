//! `make bench-peers`: our engines beside other engines from PyPI on one CPU, in one run. It makes a random Qwen3
//! reranker of the 0.6B shape below `target`, gives every engine the same token ids in a process of its own, holds
//! the scores of each to ours, and lets them take turns. It prints a table for each set, with the share of the
//! machine's own peak rate of products, and writes `docs/benchmarks/peers.json` and a plot.
//!
//! `rerank-bench-peers [LAYERS]`: so many of the 28 layers, for a quick run, which writes nothing.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rerank_server::engine::ModelRole;
use rerank_tests::random_model::{self, SHAPE_0_6B, Shape};
use tokio::signal::unix::{SignalKind, signal};

use engines::{Engine, Kind};
use sets::Set;

mod engines;
mod ours;
mod peak_rate;
mod report;
mod sets;

/// Rounds in which engines take turns.
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["ours", engine, quantization, model] => runtime.block_on(ours::answer(engine, quantization, model)),
        ["peak-rate"] => peak_rate::measure(),
        [] => runtime.block_on(until_stopped(SHAPE_0_6B)),
        [layers] => {
            let layers = layers.parse().ok().filter(|layers| (1..=SHAPE_0_6B.layers).contains(layers));
            let layers =
                layers.with_context(|| format!("the argument is a number of layers, 1 to {}", SHAPE_0_6B.layers))?;
            runtime.block_on(until_stopped(Shape { layers, ..SHAPE_0_6B }))
        }
        other => bail!("{other:?}: the only argument is a number of layers"),
    }
}

/// A run that is broken off ends its engines too: they end where they are dropped.
async fn until_stopped(shape: Shape) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = run(shape) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("stopped")),
        _ = terminate.recv() => Err(anyhow!("stopped")),
    }
}

async fn run(shape: Shape) -> Result<()> {
    let threads = std::thread::available_parallelism()?.get();
    let model = random_model::folder().join(format!("peers-{}-layers", shape.layers));
    random_model::make(&model, &shape, ModelRole::Reranker)?;
    let sets = sets::all(&model)?;
    let peak = engines::peak_rate().await?;
    println!(
        "Qwen3 of the 0.6B shape with {} layers, random weights; {}, {threads} threads; products alone {peak:.0} GFLOP/s",
        shape.layers,
        report::processor()?
    );
    let mut failed = Vec::new();
    let mut results = Vec::new();
    for set in &sets {
        let mut of_set = compare(set, &model, threads, &mut failed).await?;
        of_set.sort_by(|one, other| one.seconds().total_cmp(&other.seconds()));
        report::print(set, &of_set, &shape, peak);
        results.push((set, of_set));
    }
    if shape == SHAPE_0_6B {
        report::write(&results)?;
    }
    ensure!(failed.is_empty(), "not everything ran:\n  {}", failed.join("\n  "));
    Ok(())
}

/// Every engine on one set, several times each, in turns. Of an engine with several batch sizes the fastest counts.
async fn compare(set: &Set, model: &std::path::Path, threads: usize, failed: &mut Vec<String>) -> Result<Vec<Engine>> {
    let mut running = Vec::new();
    let mut expected: Option<Vec<f64>> = None;
    for kind in Kind::all() {
        match Engine::start(kind, model, threads, set, expected.as_deref()).await {
            Ok(engine) => {
                expected.get_or_insert_with(|| engine.log_odds.clone());
                running.push(engine);
            }
            Err(error) => failed.push(format!("{}, {}: {error:#}", kind.name(), set.name)),
        }
    }
    ensure!(running.first().is_some_and(|engine| engine.kind.is_ours()), "ours does not run: {failed:?}");
    // The first answer warmed up and was not counted; of several batch sizes only the fastest goes on.
    let mut fastest: BTreeMap<&'static str, Engine> = BTreeMap::new();
    for engine in running {
        let name = engine.kind.name();
        match fastest.remove(name) {
            Some(other) if other.first_seconds <= engine.first_seconds => fastest.insert(name, other),
            _ => fastest.insert(name, engine),
        };
    }
    let mut engines: Vec<Engine> = fastest.into_values().collect();
    for round in 0..ROUNDS {
        for engine in &mut engines {
            engine.take_a_turn(set).await.with_context(|| engine.kind.name())?;
        }
        eprintln!("{}: round {} of {ROUNDS} done", set.name, round + 1);
    }
    Ok(engines)
}
