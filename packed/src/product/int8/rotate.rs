//! Rotation of rows before they are rounded to 8 bits: what is large in one place becomes smaller and is spread over many,
//! so that the others keep their digits. Products do not change, since weights are rotated in the same way when they are
//! loaded. (The idea is that of `QuaRot`, arXiv 2404.00456.) Pure.

use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp};

/// Places that a value is never added to: the lanes of the widest registers, so that no value moves within one.
const APART: usize = 16;

/// Longest stretch that is rotated as one; a value is spread over a sixteenth of it.
const LONGEST: usize = 1_024;

/// Rotates a row of any length, by Hadamard matrices of places [`APART`]. Answers the largest absolute value of the
/// result, which is no number if one of the row was none.
pub(super) fn rotate(row: &mut [f32]) -> f32 {
    let stretch = stretch(row.len());
    let factor = if stretch > APART {
        #[expect(clippy::cast_precision_loss, reason = "at most 64")]
        let spread = (stretch / APART) as f32;
        spread.sqrt().recip()
    } else {
        1.0
    };
    Rotate { row, stretch, factor }.dispatch()
}

/// The longest power of two that divides a length, within bounds; no more than [`APART`]: it stays as it is.
fn stretch(length: usize) -> usize {
    (1_usize << length.trailing_zeros().min(LONGEST.ilog2())).max(APART)
}

/// The largest absolute value of a row as it is.
pub(super) fn largest(row: &mut [f32]) -> f32 {
    Rotate { row, stretch: APART, factor: 1.0 }.dispatch()
}

struct Rotate<'a> {
    row: &'a mut [f32],
    stretch: usize,
    factor: f32,
}

impl SimdOp for Rotate<'_> {
    type Output = f32;

    #[expect(clippy::inline_always, reason = "the instructions are those of the caller, by rten-simd's design")]
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> f32 {
        let ops = isa.f32();
        let lanes = ops.len();
        for stretch in self.row.chunks_exact_mut(self.stretch) {
            let mut half = APART;
            while half < self.stretch {
                for pair in stretch.chunks_exact_mut(2 * half) {
                    let (low, high) = pair.split_at_mut(half);
                    for (low, high) in low.chunks_exact_mut(lanes).zip(high.chunks_exact_mut(lanes)) {
                        let (one, other) = (ops.load(low), ops.load(high));
                        ops.store(ops.add(one, other), low);
                        ops.store(ops.sub(one, other), high);
                    }
                }
                half *= 2;
            }
        }
        let (factor, zero) = (ops.splat(self.factor), ops.zero());
        // Nothing times zero is zero, but for what is no number.
        let (mut largest, mut nothing) = (zero, zero);
        let mut pieces = self.row.chunks_exact_mut(lanes);
        for piece in &mut pieces {
            let value = ops.mul(ops.load(piece), factor);
            ops.store(value, piece);
            largest = ops.max(largest, ops.abs(value));
            nothing = ops.mul_add(value, zero, nothing);
        }
        let mut largest = largest.to_array().into_iter().fold(0.0_f32, f32::max);
        let mut nothing = ops.sum(nothing);
        for value in pieces.into_remainder() {
            *value *= self.factor;
            largest = largest.max(value.abs());
            nothing += *value * 0.0;
        }
        largest + nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..count).map(|_| random.f32() - 0.5).collect()
    }

    fn product(one: &[f32], other: &[f32]) -> f64 {
        one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum()
    }

    #[test]
    fn products_of_rotated_rows_are_those_of_the_rows() {
        for length in [1, 15, 16, 24, 32, 96, 160, 1_024, 2_560, 3_072] {
            let (one, other) = (numbers(length, 1), numbers(length, 2));
            let (mut turned, mut other_turned) = (one.clone(), other.clone());
            let largest = rotate(&mut turned);
            rotate(&mut other_turned);
            assert!((product(&turned, &other_turned) - product(&one, &other)).abs() < 1e-4, "{length}");
            let expected = turned.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            assert_eq!(largest.to_bits(), expected.to_bits(), "{length}");
        }
    }

    #[test]
    fn what_stands_out_is_spread() {
        let mut row = vec![0.0; 1_024];
        row[77] = 8.0;
        assert!((rotate(&mut row) - 1.0).abs() < 1e-6);
        assert_eq!(row.iter().filter(|value| value.abs() > 0.5).count(), 64);
    }

    #[test]
    fn what_is_no_number_is_told() {
        for place in [0, 500, 1_030] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut row = numbers(1_031, 3);
                row[place] = bad;
                assert!(!rotate(&mut row).is_finite(), "{bad} at {place}");
            }
        }
    }
}
