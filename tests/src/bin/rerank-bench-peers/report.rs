//! What was measured, for people and for other programs. I/O: prints, and writes below `docs/benchmarks`.

use anyhow::{Context, Result};
use plotters::prelude::*;
use rerank_tests::http::root;
use rerank_tests::random_model::Shape;
use serde_json::{Value, json};

use crate::engines::Engine;
use crate::sets::Set;

/// The processor's own name.
pub(crate) fn processor() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").context("failed to read the processor's name")?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Ok(name.map_or("unknown", |(_, name)| name.trim()).to_owned())
}

/// A table of one set, the fastest first.
pub(crate) fn print(set: &Set, engines: &[Engine], shape: &Shape, peak: f64) {
    let (tokens, pairs) = (count(set.tokens()), count(set.request.prompts.len()));
    println!("\n{} ({}), {tokens} tokens of which each shares {}", set.name, set.about, set.request.shared);
    println!(
        "{:<34} {:>9} {:>9} {:>8} {:>9} {:>9} {:>10} {:>9} {:>10} {:>7}",
        "engine", "precision", "seconds", "spread", "tokens/s", "pairs/s", "ours takes", "load, s", "peak, MB", "drift"
    );
    let ours = engines.iter().find(|engine| engine.kind.name() == "packed").map_or(f64::NAN, Engine::seconds);
    for engine in engines {
        let seconds = engine.seconds();
        println!(
            "{:<34} {:>9} {seconds:>9.2} {:>7.0}% {:>9.0} {:>9.2} {:>8.2} x {:>9.2} {:>10.0} {:>7.0e}",
            engine.kind.name(),
            engine.kind.precision(),
            engine.spread() * 100.0,
            tokens / seconds,
            pairs / seconds,
            ours / seconds,
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
    let rate = 2.0 * count(own + set.request.shared) * products / ours / 1e9;
    println!(
        "packed: {rate:.0} GFLOP/s of a layer's four products, {:.0} % of what products reach alone",
        100.0 * rate / peak
    );
}

/// `docs/benchmarks/peers.json` and `peers.svg`.
pub(crate) fn write(results: &[(&Set, Vec<Engine>)]) -> Result<()> {
    let sets: Vec<Value> = results
        .iter()
        .map(|(set, engines)| {
            let engines: Vec<Value> = engines.iter().map(|engine| entry(set, engine)).collect();
            json!({"set": set.name, "engines": engines})
        })
        .collect();
    let date = jiff::Zoned::now().date().to_string();
    let all = json!({"cpu": processor()?, "date": date, "sets": sets});
    let folder = root().join("docs/benchmarks");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("peers.json"), serde_json::to_string_pretty(&all)? + "\n")?;
    plot(&folder.join("peers.svg"), results)
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

/// Bars of tokens a second, a group for each set.
fn plot(path: &std::path::Path, results: &[(&Set, Vec<Engine>)]) -> Result<()> {
    let area = SVGBackend::new(path, (900, 360)).into_drawing_area();
    area.fill(&WHITE)?;
    let parts = area.split_evenly((1, results.len()));
    for (part, (set, engines)) in parts.iter().zip(results) {
        let most = engines.iter().map(|engine| count(set.tokens()) / engine.seconds()).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(part)
            .caption(format!("{}, tokens/s", set.name), ("sans-serif", 16))
            .margin(10)
            .y_label_area_size(50)
            .x_label_area_size(10)
            .build_cartesian_2d(0.0..count(engines.len()), 0.0..most * 1.1)?;
        chart.configure_mesh().disable_x_mesh().x_labels(0).draw()?;
        for (at, engine) in engines.iter().enumerate() {
            let (left, value) = (count(at), count(set.tokens()) / engine.seconds());
            let colour = if engine.kind.is_ours() { RGBColor(0, 110, 180) } else { RGBColor(150, 150, 150) };
            chart.draw_series([Rectangle::new([(left + 0.1, 0.0), (left + 0.9, value)], colour.filled())])?;
            let label = Text::new(engine.kind.name(), (left + 0.15, most * 0.02), ("sans-serif", 11));
            chart.draw_series([label])?;
        }
    }
    area.present()?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "such counts are exact in a double")]
fn count(number: usize) -> f64 {
    number as f64
}
