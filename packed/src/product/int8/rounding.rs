//! Rows of float32 to words of 8 bits. Pure.

use rten_simd::ops::{BitOps, FloatOps, IntOps, NumOps};
use rten_simd::{Isa, SimdOp};

use super::rotate::{largest, rotate};
use super::{APART, OFFSET, VALUES};

/// The largest rounded value.
const LARGEST: f32 = 127.0;

/// How rows and weights are rounded. A server takes [`Rounding::CHOSEN`]; the others are there to be compared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// The last row of each text, from which its answer is read, keeps 16 bits: what rounding takes off it is rounded, and
    /// multiplied, too.
    pub refines_ends: bool,
    /// Inputs that stand out by the norm before them are multiplied in float32.
    pub keeps_outliers: bool,
    /// Rows and weights are rotated before, which spreads what is large in one place over many.
    pub rotates: bool,
}

impl Rounding {
    /// What ranks best for its time (`make bench-int8`).
    pub const CHOSEN: Self = Self { refines_ends: true, keeps_outliers: true, rotates: false };
}

/// What makes whole numbers of a row, and what one of them is worth.
struct Scale {
    factor: f32,
    one: f32,
}

impl Scale {
    /// Changes the row as is to be done before it is rounded.
    fn of(row: &mut [f32], rotates: bool) -> Self {
        let largest = if rotates { rotate(row) } else { largest(row) };
        Self { factor: if largest > 0.0 { LARGEST / largest } else { 0.0 }, one: largest / LARGEST }
    }
}

/// Changes a row in place and rounds it into words. Answers what one is worth.
pub(super) fn round_off(row: &mut [f32], rotates: bool, to: &mut [u32]) -> f32 {
    let Scale { factor, one } = Scale::of(row, rotates);
    round(row, factor, to);
    one
}

/// The same for what rounding takes off a row: half a step at most.
pub(super) fn round_remainder(row: &mut [f32], rotates: bool, to: &mut [u32]) -> f32 {
    let Scale { factor, one } = Scale::of(row, rotates);
    Remainder { values: row, factor }.dispatch();
    round(row, 2.0 * LARGEST, to);
    one / (2.0 * LARGEST)
}

fn round(row: &[f32], factor: f32, to: &mut [u32]) {
    let full = row.len() / (VALUES * APART);
    let (to_full, to_rest) = to.split_at_mut(full * APART);
    let (groups, rest) = row.split_at(full * VALUES * APART);
    Round { values: groups, factor, to: to_full }.dispatch();
    if !rest.is_empty() {
        let mut last = [0.0; VALUES * APART];
        last[..rest.len()].copy_from_slice(rest);
        Round { values: &last, factor, to: to_rest }.dispatch();
    }
}

/// Values become what rounding would take off them times a factor.
struct Remainder<'a> {
    values: &'a mut [f32],
    factor: f32,
}

impl SimdOp for Remainder<'_> {
    type Output = ();

    #[expect(clippy::inline_always, reason = "the instructions are those of the caller, by rten-simd's design")]
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let factor = ops.splat(self.factor);
        rten_simd::functional::simd_map(
            ops,
            self.values,
            #[inline(always)]
            |value| {
                let scaled = ops.mul(value, factor);
                ops.sub(scaled, ops.round_ties_even(scaled))
            },
        );
    }
}

/// Values times a factor to whole numbers, and these to words. Groups of 64 values to 16 words.
struct Round<'a> {
    values: &'a [f32],
    factor: f32,
    to: &'a mut [u32],
}

impl SimdOp for Round<'_> {
    type Output = ();

    #[expect(clippy::inline_always, reason = "the instructions are those of the caller, by rten-simd's design")]
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (floats, whole) = (isa.f32(), isa.i32());
        let lanes = floats.len();
        let (factor, offset) = (floats.splat(self.factor), whole.splat(OFFSET));
        let to: &mut [i32] = bytemuck::cast_slice_mut(self.to);
        for (values, to) in self.values.chunks_exact(VALUES * APART).zip(to.chunks_exact_mut(APART)) {
            for at in (0..APART).step_by(lanes) {
                let rounded = |part: usize| {
                    let values = floats.load(&values[part * APART + at..][..lanes]);
                    whole.add(floats.to_int_round(floats.mul(values, factor)), offset)
                };
                let low = whole.or(rounded(0), whole.shift_left::<8>(rounded(1)));
                let high = whole.or(rounded(2), whole.shift_left::<8>(rounded(3)));
                whole.store(whole.or(low, whole.shift_left::<16>(high)), &mut to[at..at + lanes]);
            }
        }
    }
}
