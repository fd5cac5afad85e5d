//! What the machine's products of float32 matrices come to alone, measured in a process of its own.

use anyhow::Result;
use rerank_packed::seconds_of_product;

/// Measurements; the best counts, since whatever disturbs only slows.
const ROUNDS: usize = 15;
/// A tile of rows, and the largest matrix of a layer of the 0.6B.
const ROWS: usize = 1_024;
const INNER: usize = 1_024;
const OUTPUTS: usize = 6_144;

/// Prints GFLOP/s on all threads.
#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
pub(crate) fn measure() -> Result<()> {
    let threads = std::thread::available_parallelism()?.get();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let seconds =
        pool.install(|| (0..ROUNDS).map(|_| seconds_of_product(ROWS, INNER, OUTPUTS)).fold(f64::MAX, f64::min));
    println!("{}", (2 * ROWS * INNER * OUTPUTS) as f64 / seconds / 1e9);
    Ok(())
}
