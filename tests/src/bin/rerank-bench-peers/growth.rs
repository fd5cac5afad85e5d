//! How the time of our own engine grows with a request, and how long it takes until the first score.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::engines::Lone;
use crate::kind::Kind;
use crate::sets::{Request, Set};

/// Tokens of a request, the common beginning counted once.
const TOKENS: [usize; 5] = [1_000, 3_000, 10_000, 30_000, 100_000];
/// Of each document.
const DOCUMENT_TOKENS: usize = 250;
/// Turns of each size; the median counts.
const TURNS: usize = 3;
/// How far the time of a token may be from that of the others.
const ALLOWED: f64 = 0.15;

/// Prints both, and fails where the time is not linear. `set`: what documents are made of.
pub(crate) async fn measure(model: &Path, set: &Set, threads: usize) -> Result<()> {
    let shared = set.request.shared;
    let beginning = &set.request.prompts.first().context("the set is empty")?[..shared];
    let words: Vec<u32> = set.request.prompts.iter().flat_map(|prompt| prompt[shared..].iter().copied()).collect();
    let request = |documents: usize| {
        let document = |number: usize| {
            let from = words.iter().cycle().skip(number * 101 % words.len());
            beginning.iter().chain(from.take(DOCUMENT_TOKENS)).copied().collect()
        };
        Request { prompts: (0..documents).map(document).collect(), ..set.request.clone() }
    };
    for quantization in ["float32", "bfloat16", "int8"] {
        let (mut engine, load_seconds) = Lone::start(Kind::Packed { quantization }, model, threads).await?;
        let first = engine.ask(&request(1)).await?;
        println!("\n{quantization}: loaded in {load_seconds:.2} s, the first pair scored {first:.2} s after that");
        println!("{:>9} {:>9} {:>9} {:>14}", "documents", "tokens", "seconds", "ms for a token");
        let mut of_a_token = Vec::new();
        for tokens in TOKENS {
            let documents = (tokens - shared).div_ceil(DOCUMENT_TOKENS);
            let request = request(documents);
            let mut seconds = Vec::with_capacity(TURNS);
            for _ in 0..TURNS {
                seconds.push(engine.ask(&request).await?);
            }
            seconds.sort_by(f64::total_cmp);
            let (tokens, seconds) = (shared + documents * DOCUMENT_TOKENS, seconds[TURNS / 2]);
            #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
            let milliseconds = 1e3 * seconds / tokens as f64;
            println!("{documents:>9} {tokens:>9} {seconds:>9.2} {milliseconds:>14.3}");
            of_a_token.push(milliseconds);
        }
        let (least, most) =
            of_a_token.iter().fold((f64::MAX, 0.0_f64), |(least, most), it| (least.min(*it), most.max(*it)));
        println!(
            "the slowest takes {:.0} % longer a token than the fastest (bound: {:.0} %)",
            100.0 * (most / least - 1.0),
            100.0 * ALLOWED
        );
        ensure!(most / least <= 1.0 + ALLOWED, "time does not grow linearly");
    }
    Ok(())
}
