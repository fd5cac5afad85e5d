//! `make cycles`: 1,000 loads and unloads of both models of the tiny pair at the real server, after which it holds no
//! more memory, threads and descriptors than after the first. A number as argument asks for other than 1,000 cycles.

use anyhow::{Context, Result, ensure};
use rerank_tests::cycles::{self, Sample};

const CYCLES: usize = 1_000;
/// Looks at the process, evenly spread. The first is after a tenth of the cycles, when all pools have started.
const SAMPLES: usize = 10;
/// Between the first sample and the last, own memory may grow by so much along the line fitted through all: as much as
/// one cycle would leave that kept its models, and less than the allocator's own coming and going between two samples.
const GROWTH_BYTES: f64 = 5e6;
/// Threads that wait for work come and go in the runtime's pool.
const THREADS: u64 = 2;

#[tokio::main]
async fn main() -> Result<()> {
    let cycles = match std::env::args().nth(1) {
        Some(number) => number.parse().with_context(|| format!("{number:?} is no number of cycles"))?,
        None => CYCLES,
    };
    ensure!(cycles >= SAMPLES, "at least {SAMPLES} cycles are needed");
    let points: Vec<usize> = (1..=SAMPLES).map(|sample| cycles * sample / SAMPLES).collect();
    println!("{:>7} {:>15} {:>15} {:>8} {:>12}", "cycles", "own memory/kB", "resident/kB", "threads", "descriptors");
    let samples = cycles::run(&points, |sample| {
        let Sample { cycles, memory, threads, descriptors } = sample;
        println!(
            "{cycles:>7} {:>15} {:>15} {threads:>8} {descriptors:>12}",
            memory.own / 1_024,
            memory.resident() / 1_024
        );
    })
    .await?;
    let growth = growth(&samples);
    println!("\nFitted growth from cycle {} to {cycles}: {:.0} kB", points[0], growth / 1_024.0);
    ensure!(growth <= GROWTH_BYTES, "own memory grows by {growth:.0} bytes");
    let (first, last) = (samples.first().context("no sample")?, samples.last().context("no sample")?);
    ensure!(last.threads <= first.threads + THREADS, "{} threads became {}", first.threads, last.threads);
    ensure!(last.descriptors <= first.descriptors, "{} descriptors became {}", first.descriptors, last.descriptors);
    Ok(())
}

/// Growth of own memory in bytes from the first sample to the last, along the line of least squares.
#[expect(clippy::cast_precision_loss, reason = "bytes of memory and numbers of cycles are exact in a double")]
fn growth(samples: &[Sample]) -> f64 {
    let points: Vec<(f64, f64)> =
        samples.iter().map(|sample| (sample.cycles as f64, sample.memory.own as f64)).collect();
    let count = points.len() as f64;
    let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (x, y) in &points {
        covariance += (x - mean_x) * (y - mean_y);
        variance += (x - mean_x) * (x - mean_x);
    }
    let span = points.last().map_or(0.0, |last| last.0) - points.first().map_or(0.0, |first| first.0);
    covariance / variance * span
}
