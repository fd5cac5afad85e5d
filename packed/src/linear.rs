//! The weights of a linear layer, in the order and the numbers in which products read them.

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::matrix::{Holding, Values};
use crate::product::{Form, Kernel, Weights, in_panels};

/// Values that are widened as one piece of work.
const PIECE: usize = 1 << 16;

/// How weights are held and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub(crate) holding: Holding,
    /// What goes through panels; `None`: there are no panels.
    pub(crate) kernel: Option<Kernel>,
}

impl Way {
    /// Arithmetic in float32, with the widest instructions of this processor.
    pub fn exact(holding: Holding) -> Self {
        Self { holding, kernel: Some(Kernel::Float32).filter(|kernel| kernel.is_available()) }
    }

    /// Products of bfloat16 with sums in float32; `None` where the processor has no instructions for it.
    pub fn bfloat16() -> Option<Self> {
        let kernel = Some(Kernel::Bfloat16).filter(|kernel| kernel.is_available());
        kernel.map(|_| Self { holding: Holding::Bfloat16, kernel })
    }

    /// Arithmetic in float32 without panels, as on a processor without AVX-512: for tests.
    pub fn portable(holding: Holding) -> Self {
        Self { holding, kernel: None }
    }
}

/// Weights of a linear layer.
#[derive(Debug)]
pub(crate) struct Linear {
    outputs: usize,
    inputs: usize,
    kernel: Option<Kernel>,
    values: Values,
}

impl Linear {
    /// From `[outputs, inputs]`, row by row. The kernel for bfloat16 takes none but such values.
    pub(crate) fn new(outputs: usize, inputs: usize, values: Values, kernel: Option<Kernel>) -> Self {
        let in_order = kernel.map(|kernel| {
            let values_a_word = kernel.values_a_word();
            match &values {
                Values::Float32(values) => Values::Float32(in_panels(values, inputs, values_a_word)),
                Values::Float16(values) => Values::Float16(in_panels(values, inputs, values_a_word)),
                Values::Bfloat16(values) => Values::Bfloat16(in_panels(values, inputs, values_a_word)),
            }
        });
        Self { outputs, inputs, kernel, values: in_order.unwrap_or(values) }
    }

    /// Values that must be widened before a product reads them; 0 where none need be.
    pub(crate) fn to_widen(&self) -> usize {
        match &self.values {
            Values::Bfloat16(_) if self.kernel == Some(Kernel::Bfloat16) => 0,
            Values::Float32(_) => 0,
            Values::Float16(values) => values.len(),
            Values::Bfloat16(values) => values.len(),
        }
    }

    /// As a product reads it: as it is held, else widened into `room`, which is as long as [`to_widen`](Self::to_widen)
    /// says.
    pub(crate) fn ready<'a>(&'a self, room: &'a mut [f32]) -> Weights<'a> {
        let wide = |values| match self.kernel {
            None => Form::Rows(values),
            Some(kernel) => Form::Panels(kernel, bytemuck::cast_slice(values)),
        };
        let form = match &self.values {
            Values::Bfloat16(values) if self.kernel == Some(Kernel::Bfloat16) => {
                Form::Panels(Kernel::Bfloat16, bytemuck::cast_slice(values))
            }
            Values::Float32(values) => wide(values),
            Values::Float16(values) => wide(widened(values, room)),
            Values::Bfloat16(values) => wide(widened(values, room)),
        };
        Weights { outputs: self.outputs, inputs: self.inputs, form }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_in_16_bits_is_widened_exactly() {
        let numbers = [1.5_f32, -0.25, 0.0, 1024.0, -3.0, 0.125];
        for holding in [Holding::Float32, Holding::Float16, Holding::Bfloat16] {
            let linear = Linear::new(3, 2, Values::holding(numbers.to_vec(), holding), None);
            let mut room = vec![0.0; linear.to_widen()];
            let Weights { outputs: 3, inputs: 2, form: Form::Rows(found) } = linear.ready(&mut room) else {
                panic!("{linear:?}")
            };
            assert!(found.iter().zip(numbers).all(|(found, number)| found.to_bits() == number.to_bits()));
        }
    }
}
