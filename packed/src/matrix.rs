//! Weights as they are held, and as products read them.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Values that are widened as one piece of work.
const PIECE: usize = 1 << 16;

/// How weights are held. Sums are float32 whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// 4 bytes a weight.
    Float32,
    /// 2 bytes a weight.
    Float16,
    /// 2 bytes a weight, float32's range.
    Bfloat16,
}

/// Values of a matrix, in one of the ways.
#[derive(Debug)]
pub(crate) enum Values {
    Float32(Vec<f32>),
    Float16(Vec<f16>),
    Bfloat16(Vec<bf16>),
}

/// A matrix of weights, `[rows, columns]`, row by row: as files have it, outputs by inputs.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) values: Values,
}

/// A matrix in float32, `[rows, columns]`, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Matrix {
    /// Of zeros.
    pub(crate) fn new(rows: usize, columns: usize, holding: Holding) -> Self {
        let count = rows * columns;
        let values = match holding {
            Holding::Float32 => Values::Float32(vec![0.0; count]),
            Holding::Float16 => Values::Float16(vec![f16::ZERO; count]),
            Holding::Bfloat16 => Values::Bfloat16(vec![bf16::ZERO; count]),
        };
        Self { rows, columns, values }
    }

    /// Values that must be widened before a product reads them; 0 where none need be.
    pub(crate) fn to_widen(&self) -> usize {
        match &self.values {
            Values::Float32(_) => 0,
            Values::Float16(values) => values.len(),
            Values::Bfloat16(values) => values.len(),
        }
    }

    /// In float32: as it is held, else widened into `room`, which is as long as [`to_widen`](Self::to_widen) says.
    pub(crate) fn wide<'a>(&'a self, room: &'a mut [f32]) -> Wide<'a> {
        let values = match &self.values {
            Values::Float32(values) => values,
            Values::Float16(values) => widened(values, room),
            Values::Bfloat16(values) => widened(values, room),
        };
        Wide { values, rows: self.rows, columns: self.columns }
    }

    /// Copies a row.
    pub(crate) fn copy_row(&self, row: usize, to: &mut [f32]) {
        let range = row * self.columns..(row + 1) * self.columns;
        match &self.values {
            Values::Float32(values) => to.copy_from_slice(&values[range]),
            Values::Float16(values) => values[range].convert_to_f32_slice(to),
            Values::Bfloat16(values) => values[range].convert_to_f32_slice(to),
        }
    }
}

fn widened<'a, T: Sync>(values: &[T], room: &'a mut [f32]) -> &'a [f32]
where
    [T]: HalfFloatSliceExt,
{
    let pieces = values.par_chunks(PIECE).zip(room.par_chunks_mut(PIECE));
    pieces.for_each(|(values, room)| values.convert_to_f32_slice(room));
    room
}

impl Wide<'_> {
    /// Some of the rows.
    pub(crate) fn rows(self, first: usize, rows: usize) -> Self {
        let values = &self.values[first * self.columns..(first + rows) * self.columns];
        Wide { values, rows, columns: self.columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_in_16_bits_is_widened_exactly() {
        let numbers = [1.5_f32, -0.25, 0.0, 1024.0, -3.0, 0.125];
        let held = [
            Values::Float32(numbers.to_vec()),
            Values::Float16(numbers.map(f16::from_f32).to_vec()),
            Values::Bfloat16(numbers.map(bf16::from_f32).to_vec()),
        ];
        for values in held {
            let matrix = Matrix { rows: 3, columns: 2, values };
            let mut room = vec![0.0; matrix.to_widen()];
            let wide = matrix.wide(&mut room);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(wide.values), bits(&numbers));
            assert_eq!(bits(wide.rows(1, 2).values), bits(&numbers[2..]));
            let mut row = [0.0; 2];
            matrix.copy_row(1, &mut row);
            assert_eq!(bits(&row), bits(&numbers[2..4]));
        }
    }
}
