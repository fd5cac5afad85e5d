//! What was measured, for people and for other programs. I/O: prints, and writes below `docs/benchmarks`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rerank_tests::http::root;
use rerank_tests::peers::TRANSFORMERS;
use rerank_tests::random_model::Shape;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::engines::Engine;
use crate::kind::Kind;
use crate::peak_rate::PeakRate;
use crate::sets::{NAMES, Set};

/// The processor's own name.
pub(crate) fn processor() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").context("failed to read the processor's name")?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Ok(name.map_or("unknown", |(_, name)| name.trim()).to_owned())
}

/// A table of one set, the fastest first. A column with an `x` is how many times as long as ours an engine takes.
pub(crate) fn print(set: &Set, engines: &[Engine], shape: &Shape, peak: PeakRate) {
    let (tokens, pairs) = (count(set.tokens()), count(set.request.prompts.len()));
    println!("\n{} ({}), {tokens} tokens of which each shares {}", set.name, set.about, set.request.shared);
    let of_ours = |quantization: &'static str| {
        engines.iter().find(|engine| engine.kind == Kind::Packed { quantization }).map_or(f64::NAN, Engine::seconds)
    };
    let (exact, narrow, rounded) = (of_ours("float32"), of_ours("bfloat16"), of_ours("int8"));
    println!(
        "{:<24} {:>9} {:>5} {:>8} {:>6} {:>9} {:>8} {:>14} {:>15} {:>11} {:>8} {:>9} {:>7}",
        "engine",
        "precision",
        "batch",
        "seconds",
        "spread",
        "tokens/s",
        "pairs/s",
        "packed float32",
        "packed bfloat16",
        "packed int8",
        "load, s",
        "peak, MB",
        "drift"
    );
    for engine in engines {
        let seconds = engine.seconds();
        println!(
            "{:<24} {:>9} {:>5} {seconds:>8.2} {:>6} {:>9.0} {:>8.2} {:>12.2} x {:>13.2} x {:>9.2} x {:>8.2} {:>9.0} {:>7.0e}",
            engine.kind.name(),
            engine.kind.precision(),
            if engine.kind.is_ours() { "-".to_owned() } else { engine.batch.to_string() },
            engine.spread().map_or_else(|| "once".to_owned(), |spread| format!("{:.0}%", spread * 100.0)),
            tokens / seconds,
            pairs / seconds,
            seconds / exact,
            seconds / narrow,
            seconds / rounded,
            engine.load_seconds,
            count(usize::try_from(engine.peak_bytes).unwrap_or(usize::MAX)) / 1e6,
            engine.drift
        );
    }
    // Products that are needed at least: of the shared beginning once, of the last layer about a sixth, and without
    // attention.
    let own: usize = set.request.prompts.iter().map(|prompt| prompt.len() - set.request.shared).sum();
    let layers = count(shape.layers);
    let products = count(shape.products_of_a_token()) * (layers - 5.0 / 6.0) / layers;
    let needed = 2.0 * count(own + set.request.shared) * products / 1e9;
    let ours = [("float32", exact, peak.float32), ("bfloat16", narrow, peak.bfloat16), ("int8", rounded, peak.int8)];
    for (name, seconds, alone) in ours {
        println!(
            "packed, {name}: {:.0} G/s of layers' products, {:.0} % of the {alone:.0} that they reach alone",
            needed / seconds,
            100.0 * needed / seconds / alone
        );
    }
}

/// Puts the figures of a set into `docs/benchmarks/peers.json`, with the day of their run. Those of other sets stay where
/// they were measured on the same processor; the date of all is that of the last.
pub(crate) fn write(set: &Set, engines: &[Engine]) -> Result<()> {
    let file = folder()?.join("peers.json");
    let date = jiff::Zoned::now().date().to_string();
    let mut all = json!({"cpu": processor()?, "date": date.as_str(), "sets": []});
    if let Ok(text) = std::fs::read_to_string(&file) {
        let before: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
        if before["cpu"] == all["cpu"] {
            all["sets"] = before["sets"].clone();
        }
    }
    let engines: Vec<Value> = engines.iter().map(|engine| entry(set, engine)).collect();
    let sets = all["sets"].as_array_mut().context("peers.json has no sets")?;
    sets.retain(|other| other["set"] != set.name);
    sets.push(json!({"set": set.name, "date": date, "engines": engines}));
    sets.sort_by_key(|set| NAMES.iter().position(|name| set["set"] == *name));
    std::fs::write(&file, serde_json::to_string_pretty(&all)? + "\n")?;
    Ok(())
}

/// Draws `peers.json`, as PNG and as SVG.
pub(crate) async fn plot() -> Result<()> {
    let mut command = Command::new(TRANSFORMERS.python().await?);
    let folder = folder()?;
    command.arg(root().join("tests/peers/plot.py")).arg(folder.join("peers.json"));
    command.args([folder.join("peers.png"), folder.join("peers.svg")]).kill_on_drop(true);
    let output = command.output().await?;
    ensure!(output.status.success(), "no plot: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn folder() -> Result<PathBuf> {
    let folder = root().join("docs/benchmarks");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn entry(set: &Set, engine: &Engine) -> Value {
    let seconds = engine.seconds();
    json!({
        "engine": engine.kind.name(),
        "precision": engine.kind.precision(),
        "ours": engine.kind.is_ours(),
        "prefixReuse": engine.kind.reuses_prefix(),
        "tokensPerSecond": (count(set.tokens()) / seconds * 10.0).round() / 10.0,
        "pairsPerSecond": (count(set.request.prompts.len()) / seconds * 1000.0).round() / 1000.0,
        "peakBytes": engine.peak_bytes,
        "maxScoreDrift": engine.drift,
    })
}

#[expect(clippy::cast_precision_loss, reason = "such counts are exact in a double")]
fn count(number: usize) -> f64 {
    number as f64
}
