//! The order in which kernels read: panels. Pure but for the instructions that narrow numbers.
//!
//! A word of 32 bits holds what a kernel multiplies at once along the inner length: one float32, or two bfloat16. Of the
//! weights a panel has [`OUTPUTS`] outputs, of the rows [`ROWS`] rows: word by word along the inner length those of all
//! outputs, or of all rows, beside each other. What is missing in the last panel is zero.

use half::bf16;
use rayon::prelude::*;

use super::avx512::{self, Call};
use super::blocks::{self, Operands};
use super::{Into, Rows, RowsMut, interleave};

/// Outputs of a panel of weights: two registers of sums.
pub(crate) const OUTPUTS: usize = 32;

/// Rows of a panel of rows: with two registers of sums each, most of the 32 that there are.
pub(crate) const ROWS: usize = 12;

/// What goes through panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Products and sums in float32.
    Float32,
    /// Products of bfloat16, sums in float32.
    Bfloat16,
}

impl Kernel {
    /// Whether this processor has its instructions.
    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::Float32 => avx512::has_float32(),
            Self::Bfloat16 => avx512::has_bfloat16(),
        }
    }

    /// Values of a word.
    pub(crate) const fn values_a_word(self) -> usize {
        match self {
            Self::Float32 => 1,
            Self::Bfloat16 => 2,
        }
    }

    /// One panel of rows times one panel of weights.
    ///
    /// # Safety
    /// The processor has the instructions ([`is_available`](Self::is_available)); the panels are as long as `call` says; of
    /// the rows and outputs that are written nobody else reads or writes any meanwhile.
    #[expect(unsafe_code, reason = "kernels take pointers")]
    pub(crate) unsafe fn run(self, call: &Call) {
        // Safety: as the caller promises.
        unsafe {
            match self {
                Self::Float32 => avx512::float32(call),
                Self::Bfloat16 => avx512::bfloat16(call),
            }
        }
    }

    /// Words of so many inputs.
    pub(crate) const fn words(self, inputs: usize) -> usize {
        inputs.div_ceil(self.values_a_word())
    }
}

/// Weights `[outputs, inputs]`, row by row, in panels with so many values a word.
pub(crate) fn in_panels<T: Copy + Default + Send + Sync>(values: &[T], inputs: usize, values_a_word: usize) -> Vec<T> {
    let outputs = values.len() / inputs;
    let words = inputs.div_ceil(values_a_word);
    let panel = OUTPUTS * words * values_a_word;
    let mut panels = vec![T::default(); outputs.div_ceil(OUTPUTS) * panel];
    panels.par_chunks_exact_mut(panel).zip(values.par_chunks(OUTPUTS * inputs)).for_each(|(to, from)| {
        for (output, row) in from.chunks_exact(inputs).enumerate() {
            for (word, values) in row.chunks(values_a_word).enumerate() {
                to[(word * OUTPUTS + output) * values_a_word..][..values.len()].copy_from_slice(values);
            }
        }
    });
    panels
}

/// Rows in panels.
#[derive(Debug)]
pub(crate) struct Panels<'a> {
    pub(super) kernel: Kernel,
    /// Panel by panel.
    pub(super) words: &'a [u32],
    pub(super) rows: usize,
    /// Words along the inner length.
    pub(super) steps: usize,
}

impl<'a> Panels<'a> {
    /// Puts rows in order, on the threads of the pool that it is called in.
    pub(super) fn new(kernel: Kernel, rows: Rows<'_>, room: &'a mut Vec<u32>) -> Self {
        let steps = kernel.words(rows.columns);
        let length = rows.count.div_ceil(ROWS) * ROWS * steps;
        if room.len() < length {
            room.resize(length, 0);
        }
        let words = &mut room[..length];
        words.par_chunks_exact_mut(ROWS * steps).enumerate().for_each_init(Vec::new, |narrowed, (panel, to)| {
            let first = panel * ROWS;
            let count = ROWS.min(rows.count - first);
            if count < ROWS {
                to.fill(0);
            }
            let row = |row: usize| &rows.values[(first + row) * rows.stride..][..rows.columns];
            if kernel == Kernel::Bfloat16 {
                narrowed.resize(ROWS * steps, 0);
                narrowed.chunks_exact_mut(steps).take(count).enumerate().for_each(|(at, to)| narrow(row(at), to));
            }
            let words = (0..count).map(|at| match kernel {
                Kernel::Float32 => row(at).as_ptr().cast(),
                Kernel::Bfloat16 => narrowed[at * steps..].as_ptr(),
            });
            #[expect(unsafe_code, reason = "rows are pointers")]
            // Safety: each of the rows has so many words, and the panel a place for each.
            unsafe {
                interleave(words, steps, to.as_mut_ptr(), ROWS);
            }
        });
        Self { kernel, words, rows: rows.count, steps }
    }

    /// `out = rows · weightsᵀ`, with weights in panels of the same kernel.
    pub(super) fn project(&self, out: &mut RowsMut<'_>, weights: &[u8], into: Into) {
        assert!(out.count == self.rows && self.kernel.is_available());
        let (rows, weights) = ((self.words, ROWS * self.steps), (weights, 4 * OUTPUTS * self.steps));
        #[expect(unsafe_code, reason = "kernels take pointers")]
        // Safety: a kernel reads as many steps of either panel; its instructions are there.
        unsafe {
            blocks::project(out, Operands { steps: self.steps, wide: 0, rows, weights }, into, |call| {
                self.kernel.run(call);
            });
        }
    }
}

/// Pairs of bfloat16, the first in the lower half.
pub(crate) fn narrow(values: &[f32], to: &mut [u32]) {
    let done = avx512::narrow(values, to);
    for (pair, to) in values[done..].chunks(2).zip(&mut to[done / 2..]) {
        let bits = |at: usize| pair.get(at).map_or(0, |value| u32::from(bf16::from_f32(*value).to_bits()));
        *to = bits(0) | bits(1) << 16;
    }
}
