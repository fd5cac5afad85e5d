//! `make bench-products`: our products and those of the kept crates for float32 matrices, on the shapes of a layer of the
//! 0.6B, in one run.
//!
//! `compare-products [THREADS]`: as many threads, else as many as there are processors. Each figure is the median of
//! the rounds, in GFLOP/s; crates take turns within a round. A crate whose product differs from that of the first by
//! more than rounding ends the run.

use std::time::Instant;

use rerank_packed::{Holding, Way as Ours, seconds_of_product};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

const ROUNDS: usize = 9;

/// Rows (tokens), inner length, columns (outputs), and what it is.
const SHAPES: [(usize, usize, usize, &str); 5] = [
    (1024, 1024, 4096, "queries, keys, values"),
    (1024, 2048, 1024, "output"),
    (1024, 1024, 6144, "gate, up"),
    (1024, 3072, 1024, "down"),
    (128, 1024, 6144, "gate, up of a short batch"),
];

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / 4_294_967_296.0 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// A way to compute `[rows, inner] · [columns, inner]ᵀ` into the slice.
type Way<'a> = (&'static str, Box<dyn FnMut(&mut [f32]) + 'a>);

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::args().nth(1).map_or(cores, |number| number.parse().expect("a number of threads"));
    println!("GFLOP/s, medians of {ROUNDS} rounds, {threads} threads, weights as files have them (transposed)");
    for (rows, inner, columns, name) in SHAPES {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let medians = pool.install(|| compare(rows, inner, columns, threads));
        let figures: Vec<String> = medians.iter().map(|(name, figure)| format!("{name} {figure:.0}")).collect();
        println!("{rows} x {inner} x {columns} ({name}): {}", figures.join(", "));
    }
}

fn compare(rows: usize, inner: usize, columns: usize, threads: usize) -> Vec<(&'static str, f64)> {
    let (left, weights) = (numbers(rows * inner, 1), numbers(columns * inner, 2));
    let signed = |number: usize| isize::try_from(number).expect("small");
    let executor = GemmExecutor::<f32, f32, f32>::new();
    let left_tensor = NdTensor::from_data([rows, inner], left.clone());
    let weights_tensor = NdTensor::from_data([columns, inner], weights.clone());
    let packed = executor.prepack_b(weights_tensor.transposed().view());
    let mut ways: Vec<Way<'_>> = vec![
        (
            "gemm",
            Box::new(|out| unsafe {
                let parallelism = gemm::Parallelism::Rayon(0);
                let (depth, width) = (signed(inner), signed(columns));
                let (left, weights) = (left.as_ptr(), weights.as_ptr());
                gemm::gemm(
                    rows, columns, inner, out.as_mut_ptr(), 1, width, false, left, 1, depth, weights, depth, 1, 0.0, 1.0,
                    false, false, false, parallelism,
                );
            }),
        ),
        (
            "faer",
            Box::new(|out| {
                let out = faer::MatMut::from_row_major_slice_mut(out, rows, columns);
                let left = faer::MatRef::from_row_major_slice(&left, rows, inner);
                let weights = faer::MatRef::from_row_major_slice(&weights, columns, inner).transpose();
                let parallelism = if threads == 1 { faer::Par::Seq } else { faer::Par::rayon(threads) };
                faer::linalg::matmul::matmul(out, faer::Accum::Replace, left, weights, 1.0, parallelism);
            }),
        ),
        (
            "rten-gemm (weights packed before)",
            Box::new(|out| {
                let (left, weights) = (GemmInputA::Unpacked(left_tensor.view()), GemmInputB::Packed(&packed));
                executor.gemm(out, left, weights, GemmOptions::default()).expect("the shapes fit");
            }),
        ),
        (
            "matrixmultiply",
            Box::new(|out| unsafe {
                let (depth, width) = (signed(inner), signed(columns));
                let (left, weights) = (left.as_ptr(), weights.as_ptr());
                let out = out.as_mut_ptr();
                matrixmultiply::sgemm(rows, inner, columns, 1.0, left, depth, 1, weights, 1, depth, 0.0, out, width, 1);
            }),
        ),
    ];
    let mut out = vec![0.0; rows * columns];
    let mut first: Option<Vec<f32>> = None;
    for (name, way) in &mut ways {
        way(&mut out);
        let first = first.get_or_insert_with(|| out.clone());
        let difference = first.iter().zip(&out).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-3, "{name} differs by {difference}");
    }
    let ours: Vec<(&'static str, Ours)> = [("ours", Ours::exact(Holding::Float32))]
        .into_iter()
        .chain(Ours::bfloat16().map(|way| ("ours, of bfloat16", way)))
        .collect();
    let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); ours.len() + ways.len()];
    for _ in 0..ROUNDS {
        for ((_, way), seconds) in ours.iter().zip(&mut seconds) {
            seconds.push(seconds_of_product(*way, rows, inner, columns));
        }
        for ((_, way), seconds) in ways.iter_mut().zip(&mut seconds[ours.len()..]) {
            let begun = Instant::now();
            way(&mut out);
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    let work = 2.0 * (rows * inner * columns) as f64 / 1e9;
    let median = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[ROUNDS / 2]
    };
    let names = ours.iter().map(|(name, _)| *name).chain(ways.iter().map(|(name, _)| *name));
    names.zip(&mut seconds).map(|(name, seconds)| (name, work / median(seconds))).collect()
}
