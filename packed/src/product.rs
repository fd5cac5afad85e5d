//! Products of matrices, by the crate `gemm`. The only place that calls it.
//!
//! Why that crate: of those that are kept it is the fastest for our shapes on several threads, chooses the widest
//! instructions at run time, and adds up a row's products in an order that depends on nothing but the inner length
//! ([`FEWEST_ROWS`] apart), so that what is in a batch beside a text does not change its score.

use gemm::Parallelism;

use crate::matrix::Wide;

/// With fewer rows the crate takes another way, with sums in another order. (So it does with up to 64 outputs; no model
/// has so few.)
const FEWEST_ROWS: usize = 8;

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

/// Whether `rows` of `columns` that lie `stride` apart are within `length` values, and apart from each other.
fn is_within(length: usize, stride: usize, rows: usize, columns: usize) -> bool {
    columns <= stride && (rows == 0 || (rows - 1) * stride + columns <= length)
}

/// `out = input · weightsᵀ`, on the threads of the pool that it is called in.
pub(crate) fn project(mut out: RowsMut<'_>, input: Rows<'_>, weights: Wide<'_>, into: Into) {
    assert!(out.count == input.count && out.columns == weights.rows && input.columns == weights.columns);
    assert!(is_within(out.values.len(), out.stride, out.count, out.columns));
    assert!(is_within(input.values.len(), input.stride, input.count, input.columns));
    assert!(weights.values.len() == weights.rows * weights.columns);
    if input.count < FEWEST_ROWS {
        project_few(&mut out, input, weights, into);
        return;
    }
    let (depth, alpha) = (weights.columns, if into == Into::Add { 1.0 } else { 0.0 });
    #[expect(unsafe_code, reason = "the library takes pointers; the assertions above keep them within the slices")]
    unsafe {
        multiply(
            Size { rows: out.count, columns: out.columns, depth },
            Place { at: out.values.as_mut_ptr(), row: signed(out.stride), column: 1 },
            Place { at: input.values.as_ptr().cast_mut(), row: signed(input.stride), column: 1 },
            Place { at: weights.values.as_ptr().cast_mut(), row: 1, column: signed(depth) },
            alpha,
            Parallelism::Rayon(0),
        );
    }
}

/// The same with rows of zeros behind the few.
fn project_few(out: &mut RowsMut<'_>, input: Rows<'_>, weights: Wide<'_>, into: Into) {
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
    project(RowsMut::dense(&mut sums, outputs), Rows::dense(&padded, columns), weights, into);
    for (row, from) in sums.chunks_exact(outputs).take(out.count).enumerate() {
        out.values[row * out.stride..][..outputs].copy_from_slice(from);
    }
}

/// For measurements: seconds that one product of random matrices takes, on the threads of the pool that it is called
/// in.
pub fn seconds_of_product(rows: usize, inner: usize, outputs: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
    let numbers = |count: usize| (0..count).map(|at| (at * 7 % 64) as f32 / 64.0 - 0.5).collect::<Vec<f32>>();
    let (input, weights) = (numbers(rows * inner), numbers(outputs * inner));
    let mut out = vec![0.0; rows * outputs];
    let weights = Wide { values: &weights, rows: outputs, columns: inner };
    let mut once = || project(RowsMut::dense(&mut out, outputs), Rows::dense(&input, inner), weights, Into::Replace);
    // The first one has the system make the memory.
    once();
    let begun = std::time::Instant::now();
    once();
    begun.elapsed().as_secs_f64()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..count).map(|_| random.f32() - 0.5).collect()
    }

    fn projected(input: &[f32], weights: Wide<'_>) -> Vec<f32> {
        let rows = input.len() / weights.columns;
        let mut out = vec![0.0; rows * weights.rows];
        project(RowsMut::dense(&mut out, weights.rows), Rows::dense(input, weights.columns), weights, Into::Replace);
        out
    }

    #[test]
    fn a_product_is_what_it_should_be_also_among_other_columns_and_onto_what_is_there() {
        let (rows, depth, outputs) = (11, 7, 5);
        let (left, right) = (numbers(rows * 9, 1), numbers(outputs * depth, 2));
        let mut out = numbers(rows * 6, 3);
        let before = out.clone();
        let weights = Wide { values: &right, rows: outputs, columns: depth };
        let input = Rows { values: &left[1..], stride: 9, count: rows, columns: depth };
        project(RowsMut { values: &mut out, stride: 6, count: rows, columns: outputs }, input, weights, Into::Add);
        for row in 0..rows {
            for column in 0..outputs {
                let sum: f32 = (0..depth).map(|at| left[1 + row * 9 + at] * right[column * depth + at]).sum();
                let at = row * 6 + column;
                assert!((out[at] - before[at] - sum).abs() < 1e-6);
            }
            assert_eq!(out[row * 6 + 5].to_bits(), before[row * 6 + 5].to_bits(), "the gap");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn a_row_comes_out_the_same_to_the_last_bit_whatever_stands_beside_it(
            rows in 1_usize..300, first in 0_usize..299, count in 1_usize..300, threads in 1_usize..4,
            depth in prop::sample::select(vec![16_usize, 64, 100, 128, 513, 1024, 3072]),
            outputs in prop::sample::select(vec![65_usize, 96, 192, 260, 1000]),
        ) {
            let (first, rows) = (first.min(rows - 1), rows);
            let count = count.min(rows - first);
            let (input, weights) = (numbers(rows * depth, 4), numbers(outputs * depth, 5));
            let weights = Wide { values: &weights, rows: outputs, columns: depth };
            let all = projected(&input, weights);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let some = pool.install(|| projected(&input[first * depth..(first + count) * depth], weights));
            let same = all[first * outputs..(first + count) * outputs].iter().map(|value| value.to_bits());
            prop_assert!(some.iter().map(|value| value.to_bits()).eq(same));
        }
    }
}
