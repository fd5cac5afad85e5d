//! What the machine's products of matrices come to alone, measured in a process of its own.

use anyhow::Result;
use rerank_packed::{Holding, Way, seconds_of_product};
use serde::{Deserialize, Serialize};

/// Measurements; the best counts, since whatever disturbs only slows.
const ROUNDS: usize = 15;
/// A tile of rows, and the largest matrix of a layer of the 0.6B.
const ROWS: usize = 1_024;
const INNER: usize = 1_024;
const OUTPUTS: usize = 6_144;

/// GFLOP/s on all threads.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct PeakRate {
    pub(crate) float32: f64,
    /// That of float32 where the processor multiplies no bfloat16.
    pub(crate) bfloat16: f64,
    /// Of 8 bits, in 10^9 a second.
    pub(crate) int8: f64,
}

/// Measures, and prints it as JSON.
#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
pub(crate) fn measure() -> Result<()> {
    let threads = std::thread::available_parallelism()?.get();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let rate = |way| {
        let once = |_| seconds_of_product(way, ROWS, INNER, OUTPUTS);
        let seconds = pool.install(|| (0..ROUNDS).map(once).fold(f64::MAX, f64::min));
        (2 * ROWS * INNER * OUTPUTS) as f64 / seconds / 1e9
    };
    let exact = Way::exact(Holding::Float32);
    let rates = PeakRate {
        float32: rate(exact),
        bfloat16: rate(Way::bfloat16().unwrap_or(exact)),
        int8: rate(Way::int8(Holding::Bfloat16)),
    };
    println!("{}", serde_json::to_string(&rates)?);
    Ok(())
}
