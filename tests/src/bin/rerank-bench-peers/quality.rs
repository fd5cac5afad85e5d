//! What rounding to 8 bits does to scores: ways to it, each against float32 and with its time, on random weights and on the same with channels
//! that stand out, as large models have them.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rerank_crds::catalog::Quantization;
use rerank_packed::{Holding, Model, Output, Rounding, Way};
use rerank_server::engine::ModelRole;
use rerank_server::engine::packed::support::supported;
use rerank_server::engine::weights;
use rerank_tests::random_model;

use crate::sets::Set;

/// Rank correlation (Kendall's tau) to the order of float32, at least; or as good as that of products of bfloat16, where
/// sums as such do not decide the order.
const LEAST_CORRELATION: f64 = 0.98;

/// What a server does.
const OURS: &str = "int8, ends and outliers: ours";
const BFLOAT16: &str = "bfloat16";

/// Prints a table for each model, and fails where ours does not keep the order.
pub(crate) fn measure(model: &Path, set: &Set, threads: usize) -> Result<()> {
    let planted = model.with_file_name(format!(
        "{}-outliers",
        model.file_name().and_then(|name| name.to_str()).context("the model's folder has no name")?
    ));
    random_model::plant_outliers(model, &planted)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    for (name, model) in [("random weights", model), ("channels that stand out", &planted)] {
        println!("\n{name}, {} ({})", set.name, set.about);
        println!(
            "{:<34} {:>7} {:>9} {:>22} {:>10} {:>11}",
            "way", "load, s", "seconds", "drift: median, largest", "their mean", "Kendall tau"
        );
        let exact = pool.install(|| scored(model, Way::exact(Holding::Float32), set))?;
        row("float32", &exact, &exact.log_odds);
        let mut correlations = HashMap::new();
        for (name, way) in ways() {
            let scored = pool.install(|| scored(model, way, set))?;
            correlations.insert(name, row(name, &scored, &exact.log_odds));
        }
        let ours = correlations.get(OURS).context("ours was not measured")?;
        let asked = correlations.get(BFLOAT16).map_or(LEAST_CORRELATION, |other| other.min(LEAST_CORRELATION));
        ensure!(*ours >= asked, "the order is not kept: {ours} < {asked}");
    }
    Ok(())
}

/// What is compared; ours is among them.
fn ways() -> Vec<(&'static str, Way)> {
    let rounded = |refines_ends, keeps_outliers, rotates| {
        let rounding = Rounding { refines_ends, keeps_outliers, rotates };
        Way::int8_alternative(Holding::Bfloat16, rounding, false)
    };
    let mut ways = vec![
        ("int8, plain", rounded(false, false, false)),
        ("int8, rotated", rounded(false, false, true)),
        ("int8, ends refined", rounded(true, false, false)),
        ("int8, outliers kept", rounded(false, true, false)),
        ("int8, all three", rounded(true, true, true)),
        (OURS, Way::int8(Holding::Bfloat16)),
    ];
    if let Some(way) = Way::bfloat16() {
        ways.push(("ours, attention in bfloat16", Way::int8_alternative(Holding::Bfloat16, Rounding::CHOSEN, true)));
        ways.push((BFLOAT16, way));
    }
    ways
}

struct Scored {
    log_odds: Vec<f64>,
    load_seconds: f64,
    seconds: f64,
}

fn scored(folder: &Path, way: Way, set: &Set) -> Result<Scored> {
    let info = weights::inspect(folder, ModelRole::Reranker)?;
    let (shape, _) = supported(&info, Quantization::Float32).map_err(anyhow::Error::msg)?;
    let begun = Instant::now();
    let model = Model::load(&info.files, shape, Output::TiedHead, way, &|_| {})?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let request = &set.request;
    let logits = model.score(&request.prompts, request.shared, [request.yes, request.no], &|| false)?;
    let seconds = begun.elapsed().as_secs_f64();
    let log_odds = logits.iter().map(|[yes, no]| f64::from(*yes) - f64::from(*no)).collect();
    Ok(Scored { log_odds, load_seconds, seconds })
}

/// Prints a row. Answers the correlation.
fn row(name: &str, scored: &Scored, exact: &[f64]) -> f64 {
    let mut drifts: Vec<f64> = scored.log_odds.iter().zip(exact).map(|(ours, exact)| (ours - exact).abs()).collect();
    drifts.sort_by(f64::total_cmp);
    let (median, largest) = (drifts[drifts.len() / 2], drifts[drifts.len() - 1]);
    #[expect(clippy::cast_precision_loss, reason = "a few pairs")]
    let mean = scored.log_odds.iter().zip(exact).map(|(ours, exact)| ours - exact).sum::<f64>() / drifts.len() as f64;
    let correlation = kendall(&scored.log_odds, exact);
    let Scored { load_seconds, seconds, .. } = scored;
    println!(
        "{name:<34} {load_seconds:>7.2} {seconds:>9.2} {median:>12.4}, {largest:>8.4} {mean:>10.4} {correlation:>11.4}"
    );
    correlation
}

/// Kendall's tau: pairs in the same order less those in the other, of all.
#[expect(clippy::cast_precision_loss, reason = "a few thousand pairs")]
fn kendall(one: &[f64], other: &[f64]) -> f64 {
    let (mut sum, mut all) = (0.0, 0_usize);
    for first in 0..one.len() {
        for second in 0..first {
            let agreement = (one[first] - one[second]) * (other[first] - other[second]);
            sum += if agreement == 0.0 { 0.0 } else { agreement.signum() };
            all += 1;
        }
    }
    sum / all as f64
}
