//! `make bench-peers`: our engines beside other engines from PyPI on one CPU, in one run. It makes a random Qwen3
//! reranker of the 0.6B shape below `target`, gives every engine the same token ids in a process of its own, holds
//! the scores of each to ours, and lets them take turns. It prints a table for each set, with the share of the
//! machine's own peak rate of products, and writes `docs/benchmarks/peers.json` and plots of it.
//!
//! `rerank-bench-peers [LAYERS] [SET]...`: so many of the 28 layers, for a quick run, which writes nothing; and these
//! sets only, whose figures replace those in the file. `rerank-bench-peers growth [LAYERS]`: how the time of our own
//! engine grows with a request, and how long it takes until the first score. `rerank-bench-peers quality [LAYERS]`: what
//! rounding to 8 bits does to scores.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use rerank_server::engine::ModelRole;
use rerank_tests::random_model::{self, SHAPE_0_6B, Shape};
use tokio::signal::unix::{SignalKind, signal};

use engines::Engine;
use kind::Kind;
use sets::Set;

mod engines;
mod growth;
mod kind;
mod ours;
mod peak_rate;
mod quality;
mod report;
mod sets;

/// Rounds in which engines take turns, the first as each of them has started.
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["ours", engine, quantization, model] => runtime.block_on(ours::answer(engine, quantization, model)),
        ["peak-rate"] => peak_rate::measure(),
        ["growth", asked @ ..] => runtime.block_on(until_stopped(growth(&Asked::read(asked)?))),
        ["quality", asked @ ..] => quality(&Asked::read(asked)?),
        asked => runtime.block_on(until_stopped(run(&Asked::read(asked)?))),
    }
}

/// What is measured.
struct Asked {
    shape: Shape,
    sets: Vec<&'static str>,
}

impl Asked {
    fn read(arguments: &[&str]) -> Result<Self> {
        let mut asked = Self { shape: SHAPE_0_6B, sets: Vec::new() };
        for argument in arguments {
            if let Some(set) = sets::NAMES.into_iter().find(|name| name == argument) {
                asked.sets.push(set);
            } else {
                let layers = argument.parse().ok().filter(|layers| (1..=SHAPE_0_6B.layers).contains(layers));
                asked.shape.layers = layers.with_context(|| {
                    format!(
                        "{argument:?} is neither a number of layers, 1 to {}, nor one of the sets {}",
                        SHAPE_0_6B.layers,
                        sets::NAMES.join(", ")
                    )
                })?;
            }
        }
        if asked.sets.is_empty() {
            asked.sets.extend(sets::NAMES);
        }
        Ok(asked)
    }
}

/// A run that is broken off ends its engines too: they end where they are dropped.
async fn until_stopped(run: impl Future<Output = Result<()>>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = run => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("stopped")),
        _ = terminate.recv() => Err(anyhow!("stopped")),
    }
}

/// A random model, and what it is asked.
fn prepare(shape: &Shape) -> Result<(PathBuf, [Set; 3])> {
    let model = random_model::folder().join(format!("peers-{}-layers", shape.layers));
    random_model::make(&model, shape, ModelRole::Reranker)?;
    let sets = sets::all(&model)?;
    Ok((model, sets))
}

async fn growth(asked: &Asked) -> Result<()> {
    let (model, [documents, ..]) = prepare(&asked.shape)?;
    let threads = std::thread::available_parallelism()?.get();
    println!("Qwen3 of the 0.6B shape with {} layers; {}, {threads} threads", asked.shape.layers, report::processor()?);
    growth::measure(&model, &documents, threads).await
}

fn quality(asked: &Asked) -> Result<()> {
    let (model, [documents, ..]) = prepare(&asked.shape)?;
    let threads = std::thread::available_parallelism()?.get();
    println!("Qwen3 of the 0.6B shape with {} layers; {}, {threads} threads", asked.shape.layers, report::processor()?);
    quality::measure(&model, &documents, threads)
}

async fn run(asked: &Asked) -> Result<()> {
    let shape = &asked.shape;
    let threads = std::thread::available_parallelism()?.get();
    let (model, sets) = prepare(shape)?;
    let mut failed = Vec::new();
    for set in sets.iter().filter(|set| asked.sets.contains(&set.name)) {
        let peak = engines::peak_rate().await?;
        println!(
            "Qwen3 of the 0.6B shape with {} layers, random weights; {}, {threads} threads; products alone {:.0} GFLOP/s in float32, {:.0} in bfloat16, {:.0} G/s in int8",
            shape.layers,
            report::processor()?,
            peak.float32,
            peak.bfloat16,
            peak.int8
        );
        let mut engines = compare(set, &model, threads, &mut failed).await?;
        engines.sort_by(|one, other| one.seconds().total_cmp(&other.seconds()));
        report::print(set, &engines, shape, peak);
        if *shape == SHAPE_0_6B {
            report::write(set, &engines)?;
        }
    }
    if *shape == SHAPE_0_6B {
        report::plot().await?;
    }
    ensure!(failed.is_empty(), "not everything ran:\n  {}", failed.join("\n  "));
    Ok(())
}

/// Every engine on one set, several times each, in turns.
async fn compare(set: &Set, model: &Path, threads: usize, failed: &mut Vec<String>) -> Result<Vec<Engine>> {
    let mut engines: Vec<Engine> = Vec::new();
    for kind in Kind::all() {
        match Engine::start(kind, model, threads, set, engines.first()).await {
            Ok(engine) => engines.push(engine),
            // It is compared where it finishes.
            Err(error) if kind == Kind::Mistralrs && !engines.is_empty() => {
                println!("{}, {}: {error:#}", kind.name(), set.name);
            }
            Err(error) => failed.push(format!("{}, {}, {}: {error:#}", kind.name(), kind.precision(), set.name)),
        }
        ensure!(!engines.is_empty(), "ours does not run: {failed:?}");
    }
    for round in 2..=ROUNDS {
        for engine in &mut engines {
            engine.take_a_turn(model, threads, set).await.with_context(|| engine.kind.name())?;
        }
        eprintln!("{}: round {round} of {ROUNDS} done", set.name);
    }
    Ok(engines)
}
