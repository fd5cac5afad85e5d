//! What is done to each row between the products, with the widest instructions that the processor has.

use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, SimdIterable, SimdOp, SimdUnaryOp};
use rten_vecmath::{Exp, Normalize, NormalizeOptions, Silu, Softmax, SumSquare};

/// `row · weight / √(mean(row²) + epsilon)`, into `to`.
#[expect(clippy::cast_precision_loss, reason = "no row is longer than float32 counts")]
pub(crate) fn normalize(row: &[f32], weight: &[f32], epsilon: f32, to: &mut [f32]) {
    to.copy_from_slice(row);
    let mean = SumSquare::new(row).dispatch() / row.len() as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    Normalize::new_mut(to, NormalizeOptions { scale, element_scale: Some(weight), ..NormalizeOptions::default() })
        .dispatch();
}

/// `gate · sigmoid(gate) · up`, into `gate`.
pub(crate) fn gate(gate: &mut [f32], up: &[f32]) {
    Gate { gate, up }.dispatch();
}

/// Softmax of the first `seen` values; the others become 0.
pub(crate) fn masked_softmax(scores: &mut [f32], seen: usize) {
    let (seen, unseen) = scores.split_at_mut(seen);
    Softmax::new_mut(seen).dispatch();
    unseen.fill(0.0);
}

/// Queries whose softmax goes on key by key, side by side.
const LANES: usize = 32;

/// How far a softmax has come, of each lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    /// The largest score so far.
    largest: [f32; LANES],
    /// The sum of all weights so far.
    pub(crate) sum: [f32; LANES],
}

impl Default for Running {
    fn default() -> Self {
        // Below every score, and finite so that differences are numbers.
        Self { largest: [-1e38; LANES], sum: [0.0; LANES] }
    }
}

/// Scores `[keys, LANES]` become weights: exp(score - largest so far). `sums`, `[any, LANES]`, are what was made with earlier
/// weights, if `has_sums`: they are scaled to the largest score of now.
pub(crate) fn weigh(scores: &mut [f32], running: &mut Running, sums: &mut [f32], has_sums: bool) {
    Weigh { scores, running, sums, has_sums }.dispatch();
}

struct Weigh<'a> {
    scores: &'a mut [f32],
    running: &'a mut Running,
    sums: &'a mut [f32],
    has_sums: bool,
}

impl SimdOp for Weigh<'_> {
    type Output = ();

    #[expect(clippy::inline_always, reason = "the instructions are those of the caller, by rten-simd's design")]
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let lanes = ops.len();
        for first in (0..LANES).step_by(lanes) {
            let part = first..first + lanes;
            let before = ops.load(&self.running.largest[part.clone()]);
            // Two keys at a time, since a maximum takes longer than a key.
            let (mut even, mut odd) = (before, before);
            let mut pairs = self.scores.chunks_exact(2 * LANES);
            for pair in &mut pairs {
                even = ops.max(even, ops.load(&pair[part.clone()]));
                odd = ops.max(odd, ops.load(&pair[LANES..][part.clone()]));
            }
            if let [_, ..] = pairs.remainder() {
                even = ops.max(even, ops.load(&pairs.remainder()[part.clone()]));
            }
            let largest = ops.max(even, odd);
            let mut sum = ops.zero();
            for key in self.scores.chunks_exact_mut(LANES) {
                let score = ops.load(&key[part.clone()]);
                let weight = Exp {}.eval(isa, ops.sub(score, largest));
                ops.store(weight, &mut key[part.clone()]);
                sum = ops.add(sum, weight);
            }
            if self.has_sums {
                let factor = Exp {}.eval(isa, ops.sub(before, largest));
                sum = ops.mul_add(ops.load(&self.running.sum[part.clone()]), factor, sum);
                for sums in self.sums.chunks_exact_mut(LANES) {
                    let scaled = ops.mul(ops.load(&sums[part.clone()]), factor);
                    ops.store(scaled, &mut sums[part.clone()]);
                }
            }
            ops.store(largest, &mut self.running.largest[part.clone()]);
            ops.store(sum, &mut self.running.sum[part]);
        }
    }
}

struct Gate<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl SimdOp for Gate<'_> {
    type Output = ();

    #[expect(clippy::inline_always, reason = "the instructions are those of the caller, by rten-simd's design")]
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let mut up = self.up.simd_iter_pad(ops);
        let zero = ops.zero();
        rten_simd::functional::simd_map(
            ops,
            self.gate,
            #[inline(always)]
            |gate| ops.mul(Silu {}.eval(isa, gate), up.next().unwrap_or(zero)),
        );
    }
}

/// Norm of each head and turn by its position, in one go over the heads of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadNorm<'a> {
    /// Of the norm, `[head]`.
    pub(crate) weight: &'a [f32],
    /// Of the norm.
    pub(crate) epsilon: f32,
    /// Everything is multiplied by it in the end.
    pub(crate) scale: f32,
    /// Cosines and sines of the position, `[head / 2]` each.
    pub(crate) turn: (&'a [f32], &'a [f32]),
}

impl HeadNorm<'_> {
    /// Changes the heads in place.
    pub(crate) fn apply(self, heads: &mut [f32]) {
        OfHeads { heads, norm: self }.dispatch();
    }
}

struct OfHeads<'a> {
    heads: &'a mut [f32],
    norm: HeadNorm<'a>,
}

impl SimdOp for OfHeads<'_> {
    type Output = ();

    #[expect(clippy::inline_always, reason = "the instructions are those of the caller, by rten-simd's design")]
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let HeadNorm { weight, epsilon, scale, turn: (cosines, sines) } = self.norm;
        let half = weight.len() / 2;
        let lanes = ops.len();
        let (weight_low, weight_high) = weight.split_at(half);
        for head in self.heads.chunks_exact_mut(2 * half) {
            let mut squares = ops.zero();
            for values in head.simd_iter_pad(ops) {
                squares = ops.mul_add(values, values, squares);
            }
            #[expect(clippy::cast_precision_loss, reason = "no head is longer than float32 counts")]
            let mean = ops.sum(squares) / (2 * half) as f32;
            let factor = scale / (mean + epsilon).sqrt();
            let (low, high) = head.split_at_mut(half);
            let wide = half - half % lanes;
            let factors = ops.splat(factor);
            for at in (0..wide).step_by(lanes) {
                let part = at..at + lanes;
                let of = |values: &[f32]| ops.load(&values[part.clone()]);
                let x = ops.mul(ops.mul(of(low), factors), of(weight_low));
                let y = ops.mul(ops.mul(of(high), factors), of(weight_high));
                let (cosine, sine) = (of(cosines), of(sines));
                ops.store(ops.mul_sub_from(y, sine, ops.mul(x, cosine)), &mut low[part.clone()]);
                ops.store(ops.mul_add(x, sine, ops.mul(y, cosine)), &mut high[part]);
            }
            // A head that is no multiple of the lanes.
            for at in wide..half {
                let (x, y) = (low[at] * factor * weight_low[at], high[at] * factor * weight_high[at]);
                low[at] = x * cosines[at] - y * sines[at];
                high[at] = y * cosines[at] + x * sines[at];
            }
        }
    }
}

/// Cosines and sines of positions.
#[derive(Debug)]
pub(crate) struct Turns {
    cosines: Vec<f32>,
    sines: Vec<f32>,
    half: usize,
}

impl Turns {
    /// Of the first positions. The arithmetic of the reference, float32 where it is.
    #[expect(clippy::cast_precision_loss, reason = "positions and widths are small numbers")]
    #[expect(clippy::cast_possible_truncation, reason = "to the precision of the reference")]
    pub(crate) fn new(positions: usize, head: usize, base: f32) -> Self {
        let half = head / 2;
        let frequencies: Vec<f32> = (0..half).map(|at| 1.0 / base.powf((2 * at) as f32 / head as f32)).collect();
        let angles = (0..positions).flat_map(|position| {
            frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency).sin_cos())
        });
        let (sines, cosines) = angles.map(|(sine, cosine)| (sine as f32, cosine as f32)).unzip();
        Self { cosines, sines, half }
    }

    /// Of one position.
    pub(crate) fn of(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cosines[range.clone()], &self.sines[range])
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..count).map(|_| 4.0 * (random.f32() - 0.5)).collect()
    }

    fn assert_close(found: &[f32], expected: impl IntoIterator<Item = f64>) {
        let expected: Vec<f64> = expected.into_iter().collect();
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{at}: {found} for {expected}");
        }
    }

    #[test]
    fn a_norm_divides_by_the_root_of_the_mean_square() {
        for width in [5, 16, 100] {
            let (row, weight) = (numbers(width, 1), numbers(width, 2));
            let mut to = vec![0.0; width];
            normalize(&row, &weight, 1e-6, &mut to);
            let mean = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / width as f64;
            assert_close(
                &to,
                row.iter().zip(&weight).map(|(x, w)| f64::from(*x) * f64::from(*w) / (mean + 1e-6).sqrt()),
            );
        }
    }

    #[test]
    fn the_gate_is_silu_times_up() {
        for width in [3, 64, 77] {
            let (mut gates, ups) = (numbers(width, 3), numbers(width, 4));
            let expected: Vec<f64> = gates
                .iter()
                .zip(&ups)
                .map(|(gate, up)| f64::from(*gate) / (1.0 + (-f64::from(*gate)).exp()) * f64::from(*up))
                .collect();
            gate(&mut gates, &ups);
            assert_close(&gates, expected);
        }
    }

    #[test]
    fn what_is_not_seen_has_no_weight() {
        for (width, seen) in [(1, 1), (40, 1), (40, 17), (40, 40)] {
            let mut scores = numbers(width, 5);
            let sum: f64 = scores[..seen].iter().map(|score| f64::from(*score).exp()).sum();
            let expected: Vec<f64> =
                (0..width).map(|at| if at < seen { f64::from(scores[at]).exp() / sum } else { 0.0 }).collect();
            masked_softmax(&mut scores, seen);
            assert_close(&scores, expected);
        }
    }

    #[test]
    fn a_softmax_in_pieces_is_that_of_the_whole() {
        let (keys, width) = (37, 3);
        let (scores, values) = (numbers(keys * LANES, 8), numbers(keys * width, 9));
        let (mut running, mut sums) = (Running::default(), vec![0.0; width * LANES]);
        let mut first = 0;
        for count in [1, 20, 3, 13] {
            let mut weights = scores[first * LANES..(first + count) * LANES].to_vec();
            weigh(&mut weights, &mut running, &mut sums, first > 0);
            for (key, weights) in weights.chunks_exact(LANES).enumerate() {
                for (at, sums) in sums.chunks_exact_mut(LANES).enumerate() {
                    let value = values[(first + key) * width + at];
                    sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * value);
                }
            }
            first += count;
        }
        for lane in 0..LANES {
            let weights = || scores.iter().skip(lane).step_by(LANES).map(|score| f64::from(*score).exp());
            let found: Vec<f32> = (0..width).map(|at| sums[at * LANES + lane] / running.sum[lane]).collect();
            let all: f64 = weights().sum();
            let sum = |at: usize| weights().zip(values.iter().skip(at).step_by(width)).map(|(w, v)| w * f64::from(*v));
            assert_close(&found, (0..width).map(|at| sum(at).sum::<f64>() / all));
        }
    }

    #[test]
    fn heads_are_normed_and_turned() {
        // Narrower than any vector, no multiple of one, and several.
        for head in [4, 24, 40, 128] {
            let (heads, weight, turns) = (numbers(3 * head, 6), numbers(head, 7), Turns::new(9, head, 10_000.0));
            let mut found = heads.clone();
            HeadNorm { weight: &weight, epsilon: 1e-6, scale: 0.25, turn: turns.of(8) }.apply(&mut found);
            let half = head / 2;
            let expected = heads.chunks_exact(head).flat_map(|values| {
                let mean = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / head as f64;
                let normed = |at: usize| 0.25 * f64::from(values[at]) * f64::from(weight[at]) / (mean + 1e-6).sqrt();
                let turned = |at: usize| {
                    let pair = at % half;
                    let angle = 8.0 * 10_000_f64.powf(-2.0 * pair as f64 / head as f64);
                    let (x, y) = (normed(pair), normed(pair + half));
                    if at < half { x * angle.cos() - y * angle.sin() } else { y * angle.cos() + x * angle.sin() }
                };
                (0..head).map(turned).collect::<Vec<f64>>()
            });
            assert_close(&found, expected);
        }
    }
}
