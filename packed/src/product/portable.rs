//! Products of float32 matrices by the crate `gemm`. The only place that calls it.
//!
//! Why that crate: it chooses the widest instructions at run time, and adds up a row's products in an order that depends on
//! nothing but the inner length ([`FEWEST_ROWS`] apart), so that what is in a batch beside a text does not change its score.
//! Of the kept crates it is among the fastest for our shapes on several threads (`make bench-products`).

use gemm::Parallelism;

use super::{Into, Rows, RowsMut};

/// With fewer rows the crate takes another way, with sums in another order. (So it does with up to 64 outputs; no model
/// has so few.)
const FEWEST_ROWS: usize = 8;

/// `out = input · weightsᵀ`, `weights` row by row. `out` and `input` were checked to be within their values.
pub(super) fn project(out: &mut RowsMut<'_>, input: Rows<'_>, weights: &[f32], into: Into) {
    assert!(out.count == input.count && weights.len() == out.columns * input.columns);
    if input.count < FEWEST_ROWS {
        project_few(out, input, weights, into);
        return;
    }
    let (depth, alpha) = (input.columns, if into == Into::Add { 1.0 } else { 0.0 });
    #[expect(
        unsafe_code,
        reason = "the library takes pointers; whoever called checked that they are within the slices"
    )]
    unsafe {
        multiply(
            Size { rows: out.count, columns: out.columns, depth },
            Place { at: out.values.as_mut_ptr(), row: signed(out.stride), column: 1 },
            Place { at: input.values.as_ptr().cast_mut(), row: signed(input.stride), column: 1 },
            Place { at: weights.as_ptr().cast_mut(), row: 1, column: signed(depth) },
            alpha,
            Parallelism::Rayon(0),
        );
    }
}

/// The same with rows of zeros behind the few.
fn project_few(out: &mut RowsMut<'_>, input: Rows<'_>, weights: &[f32], into: Into) {
    let (columns, outputs) = (input.columns, out.columns);
    let mut padded = vec![0.0; FEWEST_ROWS * columns];
    for (row, to) in padded.chunks_exact_mut(columns).take(input.count).enumerate() {
        to.copy_from_slice(&input.values[row * input.stride..][..columns]);
    }
    let mut sums = vec![0.0; FEWEST_ROWS * outputs];
    if into == Into::Add {
        for (row, to) in sums.chunks_exact_mut(outputs).take(out.count).enumerate() {
            to.copy_from_slice(&out.values[row * out.stride..][..outputs]);
        }
    }
    project(&mut RowsMut::dense(&mut sums, outputs), Rows::dense(&padded, columns), weights, into);
    for (row, from) in sums.chunks_exact(outputs).take(out.count).enumerate() {
        out.values[row * out.stride..][..outputs].copy_from_slice(from);
    }
}

fn signed(stride: usize) -> isize {
    isize::try_from(stride).unwrap_or(isize::MAX)
}

/// `[rows, depth] · [depth, columns]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
}

/// Where a matrix lies: its first value, and how far apart rows and columns are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) at: *mut f32,
    pub(crate) row: isize,
    pub(crate) column: isize,
}

/// `out = alpha · out + left · right`.
///
/// # Safety
/// All three places hold as many values as `size` and their strides say, `left` and `right` are read and `out` is
/// written by nobody else meanwhile, and `out` shares no value with them.
#[expect(unsafe_code, reason = "the library takes pointers")]
pub(crate) unsafe fn multiply(size: Size, out: Place, left: Place, right: Place, alpha: f32, threads: Parallelism) {
    // Safety: as the caller promises.
    unsafe {
        gemm::gemm(
            size.rows,
            size.columns,
            size.depth,
            out.at,
            out.column,
            out.row,
            alpha != 0.0,
            left.at,
            left.column,
            left.row,
            right.at,
            right.column,
            right.row,
            alpha,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}
