//! Weights as they are held, row by row.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// How weights are held.
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

impl Values {
    /// So many zeros.
    fn zeros(count: usize, holding: Holding) -> Self {
        match holding {
            Holding::Float32 => Self::Float32(vec![0.0; count]),
            Holding::Float16 => Self::Float16(vec![f16::ZERO; count]),
            Holding::Bfloat16 => Self::Bfloat16(vec![bf16::ZERO; count]),
        }
    }

    /// These values, rounded where they have to be.
    pub(crate) fn holding(values: Vec<f32>, holding: Holding) -> Self {
        match holding {
            Holding::Float32 => Self::Float32(values),
            Holding::Float16 => Self::Float16(values.into_iter().map(f16::from_f32).collect()),
            Holding::Bfloat16 => Self::Bfloat16(values.into_iter().map(bf16::from_f32).collect()),
        }
    }
}

impl Matrix {
    /// Of zeros.
    pub(crate) fn new(rows: usize, columns: usize, holding: Holding) -> Self {
        Self { rows, columns, values: Values::zeros(rows * columns, holding) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_held_in_16_bits_is_widened_exactly() {
        let numbers = [1.5_f32, -0.25, 0.0, 1024.0, -3.0, 0.125];
        for holding in [Holding::Float32, Holding::Float16, Holding::Bfloat16] {
            let matrix = Matrix { rows: 3, columns: 2, values: Values::holding(numbers.to_vec(), holding) };
            let mut row = [0.0; 2];
            matrix.copy_row(1, &mut row);
            assert_eq!(row.map(f32::to_bits), [0.0_f32, 1024.0].map(f32::to_bits));
        }
    }
}
