//! Products of numbers of 8 bits.
//!
//! A row, and the weights of an output, are divided by a scale of their own, such that the largest value becomes 127, and rounded
//! ([`rounding`]). A word holds four values: those 16 places apart, so that registers of any width make words without moving
//! values about. Values of rows are stored with 128 added, since the instructions multiply unsigned by signed numbers; what
//! that adds to the sum of an output is known beforehand and taken off again. A few inputs may be wide: they are left out of
//! all this, and multiplied in float32.
//!
//! ```text
//! weights  a panel: [steps, OUTPUTS] words, then of each output 128 x its sum, its scale, and [wide, OUTPUTS] weights
//! rows     a panel: [steps, ROWS] words, then of each row its scale, and [wide, ROWS] values
//! out = (sum of products - 128 x sum of weights) x scale of the output x scale of the row + sum of wide products
//! ```
//!
//! Sums are exact in 32 bits up to [`MOST_INPUTS`], and what follows is done in one order, so that every kernel comes to the
//! same bits.

use std::ops::Range;

use rayon::prelude::*;

use super::blocks::{self, Operands};
use super::panels::{OUTPUTS, ROWS};
use super::{Call, Into, Rows, RowsMut, avx2, avx512, interleave};

mod rotate;
mod rounding;

pub use rounding::Rounding;
use rounding::{round_off, round_remainder};

/// Values of a word, and how far apart they are in their row.
const VALUES: usize = 4;
const APART: usize = 16;

/// What is added to values of rows.
const OFFSET: i32 = 128;

/// Inputs of a layer whose sums are within 32 bits whatever they are: each product is at most 255 x 127.
pub const MOST_INPUTS: usize = 66_000;

/// How long panels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lengths {
    /// Words along the inner length.
    steps: usize,
    /// Inputs in float32.
    wide: usize,
}

impl Lengths {
    fn new(inputs: usize, wide: usize) -> Self {
        Self { steps: inputs.div_ceil(VALUES * APART) * APART, wide }
    }

    /// Words of a panel of weights.
    fn of_weights(self) -> usize {
        OUTPUTS * (self.steps + 2 + self.wide)
    }

    /// Words of a panel of rows.
    fn of_rows(self) -> usize {
        ROWS * (self.steps + 1 + self.wide)
    }
}

/// Weights `[outputs, inputs]` in panels.
#[derive(Debug)]
pub(crate) struct QuantizedWeights {
    inputs: usize,
    rounding: Rounding,
    /// Inputs in float32, in ascending order.
    wide: Vec<usize>,
    lengths: Lengths,
    /// Panel by panel.
    words: Vec<u32>,
}

impl QuantizedWeights {
    /// `read` fetches the weights of some outputs, row by row, from any thread. `wide`: inputs that are to be multiplied in
    /// float32, in ascending order.
    pub(crate) fn new<E: Send>(
        (outputs, inputs): (usize, usize),
        rounding: Rounding,
        wide: Vec<usize>,
        read: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let lengths = Lengths::new(inputs, wide.len());
        let mut words = vec![0; outputs.div_ceil(OUTPUTS) * lengths.of_weights()];
        let rooms = || (vec![0.0; OUTPUTS * inputs], vec![0; OUTPUTS * lengths.steps]);
        let panels = words.par_chunks_exact_mut(lengths.of_weights()).enumerate();
        panels.try_for_each_init(rooms, |(values, rounded), (number, panel)| {
            let first = number * OUTPUTS;
            let count = OUTPUTS.min(outputs - first);
            let values = &mut values[..count * inputs];
            read(first..first + count, values)?;
            put_weights((values, inputs), &wide, rounding, rounded, panel, lengths);
            Ok(())
        })?;
        Ok(Self { inputs, rounding, wide, lengths, words })
    }
}

/// Fills a panel with the weights of its outputs, row by row.
fn put_weights(
    (values, inputs): (&mut [f32], usize),
    wide: &[usize],
    rounding: Rounding,
    rounded: &mut [u32],
    panel: &mut [u32],
    lengths: Lengths,
) {
    let steps = lengths.steps;
    let (words, rest) = panel.split_at_mut(OUTPUTS * steps);
    let (taken_off, rest) = rest.split_at_mut(OUTPUTS);
    let (scales, of_wide) = rest.split_at_mut(OUTPUTS);
    let count = values.len() / inputs;
    let rounded = &mut rounded[..count * steps];
    for (output, (row, to)) in values.chunks_exact_mut(inputs).zip(rounded.chunks_exact_mut(steps)).enumerate() {
        for (at, input) in wide.iter().enumerate() {
            of_wide[at * OUTPUTS + output] = std::mem::take(&mut row[*input]).to_bits();
        }
        scales[output] = round_off(row, rounding.rotates, to).to_bits();
        let mut sum = 0;
        for word in to.iter_mut() {
            sum += word.to_le_bytes().map(|byte| i32::from(byte) - OFFSET).iter().sum::<i32>();
            // Less the offset, as a signed byte.
            *word ^= 0x8080_8080;
        }
        // What is missing in the last words counts as nothing there, too.
        taken_off[output] = (OFFSET * sum).cast_unsigned();
    }
    for (half, rows) in rounded.chunks(OUTPUTS / 2 * steps).enumerate() {
        let rows = rows.chunks_exact(steps).map(<[u32]>::as_ptr);
        let to = &mut words[half * OUTPUTS / 2..];
        #[expect(unsafe_code, reason = "rows are pointers")]
        // Safety: rows of so many words, at most half a panel of them; the panel has a place for each.
        unsafe {
            interleave(rows, steps, to.as_mut_ptr(), OUTPUTS);
        }
    }
}

/// Rows in panels, for weights of one kind.
#[derive(Debug)]
pub(crate) struct Quantized<'a> {
    rounding: Rounding,
    wide: &'a [usize],
    inputs: usize,
    lengths: Lengths,
    /// How many.
    rows: usize,
    /// What rounding took off these is in panels of its own behind the others.
    fine: &'a [usize],
    /// Panel by panel.
    words: &'a [u32],
}

impl<'a> Quantized<'a> {
    /// Rounds rows and puts them in order, on the threads of the pool that it is called in. `fine`: rows that are to keep 16
    /// bits if the weights' rounding does that.
    pub(super) fn new(
        rows: Rows<'_>,
        fine: &'a [usize],
        weights: &'a QuantizedWeights,
        room: &'a mut Vec<u32>,
    ) -> Self {
        let QuantizedWeights { inputs, rounding, lengths, .. } = *weights;
        let (wide, steps) = (weights.wide.as_slice(), lengths.steps);
        let fine = if rounding.refines_ends { fine } else { &[] };
        let row_panels = rows.count.div_ceil(ROWS);
        let length = (row_panels + fine.len().div_ceil(ROWS)) * lengths.of_rows();
        if room.len() < length {
            room.resize(length, 0);
        }
        let words = &mut room[..length];
        let rooms = || (vec![0.0; inputs], vec![0; ROWS * steps]);
        let panels = words.par_chunks_exact_mut(lengths.of_rows()).enumerate();
        panels.for_each_init(rooms, |(values, rounded), (panel, to)| {
            let of_fine = panel.checked_sub(row_panels).map(|panel| &fine[panel * ROWS..]);
            let first = panel * ROWS;
            let count = ROWS.min(of_fine.map_or(rows.count.saturating_sub(first), <[usize]>::len));
            let (to, rest) = to.split_at_mut(ROWS * steps);
            let (scales, of_wide) = rest.split_at_mut(ROWS);
            for (at, rounded) in rounded.chunks_exact_mut(steps).take(count).enumerate() {
                let row = of_fine.map_or(first + at, |fine| fine[at]);
                values.copy_from_slice(&rows.values[row * rows.stride..][..inputs]);
                for (number, input) in wide.iter().enumerate() {
                    let value = std::mem::take(&mut values[*input]);
                    // Nothing was taken off it.
                    of_wide[number * ROWS + at] = if of_fine.is_some() { 0 } else { value.to_bits() };
                }
                let round = if of_fine.is_some() { round_remainder } else { round_off };
                scales[at] = round(values, rounding.rotates, rounded).to_bits();
            }
            if count < ROWS {
                to.fill(0);
            }
            let rounded = rounded.chunks_exact(steps).take(count).map(<[u32]>::as_ptr);
            #[expect(unsafe_code, reason = "rows are pointers")]
            // Safety: each of the rows has so many words, and the panel a place for each.
            unsafe {
                interleave(rounded, steps, to.as_mut_ptr(), ROWS);
            }
        });
        Self { rounding, wide, inputs, lengths, rows: rows.count, fine, words }
    }

    /// Whether they were made for weights of that kind.
    pub(super) fn are_for(&self, weights: &QuantizedWeights) -> bool {
        self.inputs == weights.inputs && self.rounding == weights.rounding && self.wide == weights.wide
    }

    /// `out = rows · weightsᵀ`.
    pub(super) fn project(
        &self,
        out: &mut RowsMut<'_>,
        weights: &QuantizedWeights,
        into: Into,
        instructions: Instructions,
    ) {
        assert!(out.count == self.rows && self.are_for(weights) && instructions.are_available());
        let lengths = self.lengths;
        let (rows, fine) = self.words.split_at(self.rows.div_ceil(ROWS) * lengths.of_rows());
        let multiply = |out: &mut RowsMut<'_>, rows, into| {
            let operands = Operands {
                steps: lengths.steps,
                wide: lengths.wide,
                rows: (rows, lengths.of_rows()),
                weights: (bytemuck::cast_slice(&weights.words), size_of::<u32>() * lengths.of_weights()),
            };
            #[expect(unsafe_code, reason = "kernels take pointers")]
            // Safety: a kernel reads as many steps of either panel and what stands behind them; its instructions are there.
            unsafe {
                blocks::project(out, operands, into, |call| instructions.run(call));
            }
        };
        multiply(out, rows, into);
        if !self.fine.is_empty() {
            let mut further = vec![0.0; self.fine.len() * out.columns];
            multiply(&mut RowsMut::dense(&mut further, out.columns), fine, Into::Replace);
            for (row, further) in self.fine.iter().zip(further.chunks_exact(out.columns)) {
                let to = &mut out.values[row * out.stride..][..out.columns];
                to.iter_mut().zip(further).for_each(|(to, further)| *to += further);
            }
        }
    }
}

/// What multiplies numbers of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// AVX-512 with VNNI: four products of each of 16 sums at once.
    Avx512Vnni,
    /// AVX-VNNI: of 8 sums.
    AvxVnni,
    /// AVX2: two products of each of 8 sums, in 16 bits.
    Avx2,
    /// Whatever the compiler makes of it.
    Plain,
}

impl Instructions {
    /// From the fastest on.
    pub(super) const ALL: [Self; 4] = [Self::Avx512Vnni, Self::AvxVnni, Self::Avx2, Self::Plain];

    /// The fastest that this processor has.
    pub(crate) fn widest() -> Self {
        Self::ALL.into_iter().find(|kind| kind.are_available()).unwrap_or(Self::Plain)
    }

    pub(super) fn are_available(self) -> bool {
        match self {
            Self::Avx512Vnni => avx512::has_int8(),
            Self::AvxVnni => avx2::has_vnni(),
            Self::Avx2 => avx2::has_avx2(),
            Self::Plain => true,
        }
    }

    /// One panel of rows times one panel of weights.
    ///
    /// # Safety
    /// The processor has the instructions ([`are_available`](Self::are_available)); the panels are as long as `call` says; of
    /// the rows and outputs that are written nobody else reads or writes any meanwhile.
    #[expect(unsafe_code, reason = "kernels take pointers")]
    pub(super) unsafe fn run(self, call: &Call) {
        // Safety: as the caller promises.
        unsafe {
            match self {
                Self::Avx512Vnni => avx512::int8(call),
                Self::AvxVnni => avx2::int8_vnni(call),
                Self::Avx2 => avx2::int8(call),
                Self::Plain => plain(call),
            }
        }
    }
}

/// What all kernels do.
///
/// # Safety
/// See [`Instructions::run`].
#[expect(unsafe_code, reason = "kernels take pointers")]
unsafe fn plain(call: &Call) {
    let all_weights: *const u32 = call.weights.cast();
    for output in 0..call.outputs {
        for row in 0..call.rows {
            // Safety: as the caller promises: words of this row and output, what stands behind them, and the place of
            // their sum.
            unsafe {
                let of_row = |step: usize| *call.input.add(step * ROWS + row);
                let of_output = |step: usize| all_weights.add(step * OUTPUTS + output).read_unaligned();
                let products = |step| {
                    let pairs = of_row(step).to_le_bytes().into_iter().zip(of_output(step).to_le_bytes());
                    pairs.map(|(value, weight)| i32::from(value) * i32::from(weight.cast_signed())).sum::<i32>()
                };
                let sum = (0..call.steps).map(products).sum::<i32>() - of_output(call.steps).cast_signed();
                #[expect(clippy::cast_precision_loss, reason = "as the instructions round it")]
                let scaled = sum as f32 * f32::from_bits(of_output(call.steps + 1));
                let mut sum = scaled * f32::from_bits(of_row(call.steps));
                for wide in 1..=call.wide {
                    let value = f32::from_bits(of_row(call.steps + wide));
                    sum += value * f32::from_bits(of_output(call.steps + 1 + wide));
                }
                let to = call.out.add(row * call.stride + output);
                *to = if call.adds { *to + sum } else { sum };
            }
        }
    }
}

#[cfg(test)]
mod tests;
