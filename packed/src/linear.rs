//! The weights of a linear layer, in the order and the numbers in which products read them.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::matrix::{Holding, Values};
use crate::product::{Form, Kernel, QuantizedWeights, Rounding, Weights, in_panels};

/// Values that are widened as one piece of work.
const PIECE: usize = 1 << 16;

/// How weights are held and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Of the embedding table, and of layers that are not of 8 bits.
    pub(crate) holding: Holding,
    /// What attention goes through, and products that are not of 8 bits; `None`: there are no panels.
    pub(crate) kernel: Option<Kernel>,
    /// Products of layers are of 8 bits, with rows and weights made so.
    pub(crate) rounding: Option<Rounding>,
}

impl Way {
    /// Arithmetic in float32, with the widest instructions of this processor.
    pub fn exact(holding: Holding) -> Self {
        let kernel = Some(Kernel::Float32).filter(|kernel| kernel.is_available());
        Self { holding, kernel, rounding: None }
    }

    /// Products of bfloat16 with sums in float32; `None` where the processor has no instructions for it.
    pub fn bfloat16() -> Option<Self> {
        let kernel = Some(Kernel::Bfloat16).filter(|kernel| kernel.is_available());
        kernel.map(|_| Self { holding: Holding::Bfloat16, kernel, rounding: None })
    }

    /// Products of layers of 8 bits with sums of 32, weights rounded for each output and rows for each token; attention and
    /// all else in float32, the embedding table held as it is said.
    pub fn int8(table: Holding) -> Self {
        Self { rounding: Some(Rounding::CHOSEN), ..Self::exact(table) }
    }

    /// Other ways to 8 bits, to be compared with [`int8`](Self::int8): rows and weights rounded as said, and attention in
    /// bfloat16 where it is asked for and the processor has it.
    pub fn int8_alternative(table: Holding, rounding: Rounding, bfloat16_attention: bool) -> Self {
        let narrow = Self::bfloat16().filter(|_| bfloat16_attention);
        let kernel = narrow.map_or_else(|| Self::exact(table).kernel, |way| way.kernel);
        Self { holding: table, kernel, rounding: Some(rounding) }
    }

    /// Arithmetic in float32 without panels, as on a processor without AVX-512: for tests.
    pub fn portable(holding: Holding) -> Self {
        Self { holding, kernel: None, rounding: None }
    }
}

/// Weights of a linear layer.
#[derive(Debug)]
pub(crate) struct Linear {
    outputs: usize,
    inputs: usize,
    weights: Held,
}

/// How they lie.
#[derive(Debug)]
enum Held {
    /// Row by row.
    Rows(Values),
    /// In panels of a kernel; for the one of bfloat16 they are such values.
    Panels(Kernel, Values),
    /// In panels of 8 bits.
    Quantized(QuantizedWeights),
}

impl Linear {
    /// From `[outputs, inputs]`, row by row. The kernel for bfloat16 takes none but such values.
    pub(crate) fn new(outputs: usize, inputs: usize, values: Values, kernel: Option<Kernel>) -> Self {
        let weights = match kernel {
            None => Held::Rows(values),
            Some(kernel) => {
                let values_a_word = kernel.values_a_word();
                let in_order = match &values {
                    Values::Float32(values) => Values::Float32(in_panels(values, inputs, values_a_word)),
                    Values::Float16(values) => Values::Float16(in_panels(values, inputs, values_a_word)),
                    Values::Bfloat16(values) => Values::Bfloat16(in_panels(values, inputs, values_a_word)),
                };
                Held::Panels(kernel, in_order)
            }
        };
        Self { outputs, inputs, weights }
    }

    /// Of 8 bits; see [`QuantizedWeights::new`].
    pub(crate) fn quantized<E: Send>(
        (outputs, inputs): (usize, usize),
        rounding: Rounding,
        wide: Vec<usize>,
        read: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let weights = QuantizedWeights::new((outputs, inputs), rounding, wide, read)?;
        Ok(Self { outputs, inputs, weights: Held::Quantized(weights) })
    }

    /// Values that must be widened before a product reads them; 0 where none need be.
    pub(crate) fn to_widen(&self) -> usize {
        match &self.weights {
            Held::Rows(Values::Float32(_))
            | Held::Panels(_, Values::Float32(_))
            | Held::Panels(Kernel::Bfloat16, _)
            | Held::Quantized(_) => 0,
            Held::Rows(Values::Float16(values)) | Held::Panels(_, Values::Float16(values)) => values.len(),
            Held::Rows(Values::Bfloat16(values)) | Held::Panels(_, Values::Bfloat16(values)) => values.len(),
        }
    }

    /// As a product reads it: as it is held, else widened into `room`, which is as long as [`to_widen`](Self::to_widen)
    /// says.
    pub(crate) fn ready<'a>(&'a self, room: &'a mut [f32]) -> Weights<'a> {
        let form = match &self.weights {
            Held::Rows(values) => Form::Rows(wide(values, room)),
            Held::Panels(Kernel::Bfloat16, Values::Bfloat16(values)) => {
                Form::Panels(Kernel::Bfloat16, bytemuck::cast_slice(values))
            }
            Held::Panels(kernel, values) => Form::Panels(*kernel, bytemuck::cast_slice(wide(values, room))),
            Held::Quantized(weights) => Form::Quantized(weights),
        };
        Weights { outputs: self.outputs, inputs: self.inputs, form }
    }
}

fn wide<'a>(values: &'a Values, room: &'a mut [f32]) -> &'a [f32] {
    match values {
        Values::Float32(values) => values,
        Values::Float16(values) => widened(values, room),
        Values::Bfloat16(values) => widened(values, room),
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
