//! Products of matrices: what a linear layer does to rows.
//!
//! Three ways lead there. On a processor with AVX-512 weights were put into panels when they were loaded ([`panels`]), rows are
//! put into panels as they come, and kernels of our own ([`avx512`]) go through both, block by block on all threads
//! ([`blocks`]). Elsewhere the crate `gemm` reads weights and rows as they lie ([`portable`]). In 8 bits both are rounded and
//! put into panels on every processor ([`int8`]), and go through kernels of AVX-512, of AVX2 ([`avx2`]), or of plain code.
//!
//! Why kernels of our own: the kept crates put weights in order anew for every product, or know float32 only. With
//! panels made once float32 comes close to what the processor can do, bfloat16 to twice that, and a row's sums are added up
//! in one order whatever stands beside it.

use std::convert::Infallible;
use std::ops::Range;

use crate::linear::{Linear, Way};
use crate::matrix::Values;

mod avx2;
mod avx512;
mod blocks;
mod int8;
mod panels;
mod portable;

pub(crate) use avx512::{Call, interleave, pair_rows, separate};
pub(crate) use int8::{Instructions, Quantized, QuantizedWeights};
pub use int8::{MOST_INPUTS, Rounding};
pub(crate) use panels::{Kernel, OUTPUTS, Panels, ROWS, in_panels, narrow};
pub(crate) use portable::{Place, Size, multiply};

/// Rows of values, each `stride` behind the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) count: usize,
    pub(crate) columns: usize,
}

/// Rows that are written.
#[derive(Debug)]
pub(crate) struct RowsMut<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) count: usize,
    pub(crate) columns: usize,
}

impl<'a> Rows<'a> {
    /// Rows that follow each other without a gap.
    pub(crate) fn dense(values: &'a [f32], columns: usize) -> Self {
        Self { values, stride: columns, count: values.len() / columns, columns }
    }
}

impl<'a> RowsMut<'a> {
    /// Rows that follow each other without a gap.
    pub(crate) fn dense(values: &'a mut [f32], columns: usize) -> Self {
        Self { stride: columns, count: values.len() / columns, columns, values }
    }
}

/// What becomes of what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// It is replaced.
    Replace,
    /// It is added to.
    Add,
}

/// Weights as a product reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'a> {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) form: Form<'a>,
}

/// How they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form<'a> {
    /// `[outputs, inputs]`, row by row.
    Rows(&'a [f32]),
    /// In panels, as that kernel reads them.
    Panels(Kernel, &'a [u8]),
    /// In panels of 8 bits.
    Quantized(&'a QuantizedWeights),
}

/// Rows as a product reads them: made once, read by several products.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    Rows(Rows<'a>),
    Panels(Panels<'a>),
    Quantized(Quantized<'a>),
}

impl<'a> Input<'a> {
    /// For such weights. `fine`: rows, in ascending order, that are to keep 16 bits where weights are of 8. `words`: room for
    /// panels.
    pub(crate) fn new(rows: Rows<'a>, fine: &'a [usize], weights: Weights<'a>, words: &'a mut Vec<u32>) -> Self {
        assert!(is_within(rows.values.len(), rows.stride, rows.count, rows.columns) && rows.columns == weights.inputs);
        match weights.form {
            Form::Rows(_) => Self::Rows(rows),
            Form::Panels(kernel, _) => Self::Panels(Panels::new(kernel, rows, words)),
            Form::Quantized(weights) => Self::Quantized(Quantized::new(rows, fine, weights, words)),
        }
    }
}

/// Whether `rows` of `columns` that lie `stride` apart are within `length` values, and apart from each other.
fn is_within(length: usize, stride: usize, rows: usize, columns: usize) -> bool {
    columns <= stride && (rows == 0 || (rows - 1) * stride + columns <= length)
}

/// `out = input · weightsᵀ`, on the threads of the pool that it is called in.
pub(crate) fn project(mut out: RowsMut<'_>, input: &Input<'_>, weights: Weights<'_>, into: Into) {
    assert!(out.columns == weights.outputs && is_within(out.values.len(), out.stride, out.count, out.columns));
    match (input, weights.form) {
        (Input::Rows(rows), Form::Rows(values)) => portable::project(&mut out, *rows, values, into),
        (Input::Panels(panels), Form::Panels(kernel, bytes)) if panels.kernel == kernel => {
            panels.project(&mut out, bytes, into);
        }
        (Input::Quantized(rows), Form::Quantized(weights)) if rows.are_for(weights) => {
            rows.project(&mut out, weights, into, Instructions::widest());
        }
        (input, _) => unreachable!("rows made for other weights: {input:?}"),
    }
}

/// Weights, row by row, as that way holds them.
fn linear(values: &[f32], inputs: usize, way: Way) -> Linear {
    let outputs = values.len() / inputs;
    let Some(rounding) = way.rounding else {
        return Linear::new(outputs, inputs, Values::holding(values.to_vec(), way.holding), way.kernel);
    };
    let read = |wanted: Range<usize>, to: &mut [f32]| {
        to.copy_from_slice(&values[wanted.start * inputs..wanted.end * inputs]);
        Ok(())
    };
    match Linear::quantized::<Infallible>((outputs, inputs), rounding, Vec::new(), read) {
        Ok(linear) => linear,
    }
}

/// For measurements: seconds that one product of made-up matrices takes, on the threads of the pool that it is called
/// in, in the arithmetic of that way.
pub fn seconds_of_product(way: Way, rows: usize, inputs: usize, outputs: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
    let numbers = |count: usize| (0..count).map(|at| (at * 7 % 64) as f32 / 64.0 - 0.5).collect::<Vec<f32>>();
    let values = numbers(rows * inputs);
    let weights = linear(&numbers(outputs * inputs), inputs, way);
    let mut room = vec![0.0; weights.to_widen()];
    let weights = weights.ready(&mut room);
    let (mut out, mut words) = (vec![0.0; rows * outputs], Vec::new());
    let mut once = || {
        let input = Input::new(Rows::dense(&values, inputs), &[], weights, &mut words);
        let begun = std::time::Instant::now();
        project(RowsMut::dense(&mut out, outputs), &input, weights, Into::Replace);
        begun.elapsed().as_secs_f64()
    };
    // The first one has the system make the memory.
    once();
    once()
}

#[cfg(test)]
mod tests;
