//! `make timing`: whether the time that a key takes to be refused, or to be found, tells anything about the keys. After
//! Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?" (DATE 2017): two classes of input in random order,
//! and Welch's t between their times. It prints what it measured and fails where a class can be told.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rerank_server::access::ApiKeys;

const CLIENTS: usize = 64;
const KEY_CHARACTERS: usize = 64;
/// Of each comparison, in both classes together.
const MEASUREMENTS: usize = 400_000;
/// Times above this part of all are left out: interrupts, which come whatever is compared.
const CROP_PERCENT: usize = 90;
/// Below this two classes count as one.
const BOUND: f64 = 4.5;

fn main() -> Result<()> {
    let mut random = fastrand::Rng::with_seed(0);
    let keys: Vec<String> =
        (0..CLIENTS).map(|_| std::iter::repeat_with(|| random.alphanumeric()).take(KEY_CHARACTERS).collect()).collect();
    let mut lines = String::new();
    for (client, key) in keys.iter().enumerate() {
        writeln!(lines, "client-{client}: {key}")?;
    }
    let file = tempfile::NamedTempFile::new().context("failed to make a file")?;
    std::fs::write(file.path(), lines).context("failed to write the keys")?;
    let known = ApiKeys::load(file.path())?;

    let middle = keys[CLIENTS / 2].as_bytes();
    let (first_wrong, last_wrong) = (changed(middle, 0), changed(middle, KEY_CHARACTERS - 1));
    let asks = |key: &[u8]| known.client_of(black_box(key)).is_some();
    println!(
        "{MEASUREMENTS} measurements of each comparison, {CLIENTS} keys of {KEY_CHARACTERS} characters; bound: |t| < {BOUND}\n"
    );
    println!("{:<62} {:>9} {:>9} {:>8}", "compared", "median", "median", "|t|");
    let wrong = compare("a wrong key: first character wrong, last character wrong", &first_wrong, &last_wrong, asks);
    let (first, last) = (keys[0].as_bytes(), keys[CLIENTS - 1].as_bytes());
    let found = compare("a right key: of the first client, of the last client", first, last, asks);
    // What the measurement would see: without this, a clock too coarse would look like constant time.
    let control =
        compare("control, character by character: first wrong, last wrong", &first_wrong, &last_wrong, |key| {
            middle.iter().zip(black_box(key)).all(|(known, asked)| black_box(known) == asked)
        });
    ensure!(control >= BOUND, "the control cannot be told from constant time: this machine's clock is too coarse");
    ensure!(wrong < BOUND, "the time of a refusal tells how much of a key is right");
    ensure!(found < BOUND, "the time of an answer tells whose key it is");
    Ok(())
}

fn changed(key: &[u8], place: usize) -> Vec<u8> {
    let mut key = key.to_vec();
    key[place] = if key[place] == b'x' { b'y' } else { b'x' };
    key
}

/// Measures a function on both inputs in random order, prints the medians in nanoseconds, and answers |t|.
fn compare(what: &str, left: &[u8], right: &[u8], function: impl Fn(&[u8]) -> bool) -> f64 {
    let mut random = fastrand::Rng::with_seed(1);
    let mut times: [Vec<u64>; 2] = Default::default();
    // Both in one place: where a key lies in memory is no secret, and can be measured.
    let mut key = [0; KEY_CHARACTERS];
    for _ in 0..MEASUREMENTS {
        let class = usize::from(random.bool());
        key.copy_from_slice([left, right][class]);
        let started = Instant::now();
        black_box(function(&key));
        times[class].push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    for times in &mut times {
        times.sort_unstable();
    }
    let medians = times.each_ref().map(|times| times[times.len() / 2]);
    let t = welch(times.each_ref().map(|times| {
        // One threshold for both would leave out more of the slower class, and so hide it.
        &times[..times.len() * CROP_PERCENT / 100]
    }));
    println!("{what:<62} {:>6} ns {:>6} ns {t:>8.2}", medians[0], medians[1]);
    t
}

/// The absolute value of Welch's t between two samples.
#[expect(clippy::cast_precision_loss, reason = "times of a comparison are exact in a double")]
fn welch(samples: [&[u64]; 2]) -> f64 {
    let [left, right] = samples.map(|sample| {
        let count = sample.len() as f64;
        let mean = sample.iter().map(|time| *time as f64).sum::<f64>() / count;
        let variance = sample.iter().map(|time| (*time as f64 - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    (left.0 - right.0).abs() / (left.1 + right.1).sqrt()
}
