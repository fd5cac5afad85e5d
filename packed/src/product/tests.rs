use proptest::prelude::*;

use super::*;
use crate::matrix::Holding;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.f32() - 0.5).collect()
}

/// All that this processor can in float32 and in bfloat16, with the largest error of a product of so many numbers below 1.
fn ways() -> Vec<(Way, f32)> {
    let exact = [Way::portable(Holding::Float32), Way::exact(Holding::Float32), Way::exact(Holding::Float16)];
    // Of bfloat16 weights and values are rounded to 2^-9 of themselves.
    exact.into_iter().map(|way| (way, 1e-6)).chain(Way::bfloat16().map(|way| (way, 1.0 / 512.0))).collect()
}

/// As they are held.
fn rounded(values: &[f32], holding: Holding) -> Vec<f32> {
    values
        .iter()
        .map(|value| match holding {
            Holding::Float32 => *value,
            Holding::Float16 => half::f16::from_f32(*value).to_f32(),
            Holding::Bfloat16 => half::bf16::from_f32(*value).to_f32(),
        })
        .collect()
}

fn projected(input: &[f32], weights: Weights<'_>) -> Vec<f32> {
    let rows = input.len() / weights.inputs;
    let (mut out, mut words) = (vec![0.0; rows * weights.outputs], Vec::new());
    let input = Input::new(Rows::dense(input, weights.inputs), &[], weights, &mut words);
    project(RowsMut::dense(&mut out, weights.outputs), &input, weights, Into::Replace);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_product_is_what_it_should_be_also_among_other_columns_and_onto_what_is_there(
        rows in 1_usize..40, depth in 1_usize..70, outputs in 1_usize..100, gap in 0_usize..3,
    ) {
        for (way, error) in ways() {
            let (stride, apart) = (outputs + gap, depth + gap);
            let (left, right) = (numbers(rows * apart, 1), numbers(outputs * depth, 2));
            let mut out = numbers(rows * stride, 3);
            let before = out.clone();
            let linear = linear(&right, depth, way);
            let (mut room, mut words) = (vec![0.0; linear.to_widen()], Vec::new());
            let weights = linear.ready(&mut room);
            let input = Rows { values: &left, stride: apart, count: rows, columns: depth };
            let input = Input::new(input, &[], weights, &mut words);
            project(RowsMut { values: &mut out, stride, count: rows, columns: outputs }, &input, weights, Into::Add);
            let right = rounded(&right, way.holding);
            for row in 0..rows {
                for column in 0..outputs {
                    let sum: f32 = (0..depth).map(|at| left[row * apart + at] * right[column * depth + at]).sum();
                    let at = row * stride + column;
                    let difference = (out[at] - before[at] - sum).abs();
                    prop_assert!(difference <= error * (1.0 + 0.25 * f32::from(u8::try_from(depth).unwrap())), "{way:?}: {difference}");
                }
                let untouched = row * stride + outputs..(row + 1) * stride;
                prop_assert!(out[untouched.clone()].iter().zip(&before[untouched]).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }

    #[test]
    fn a_row_comes_out_the_same_to_the_last_bit_whatever_stands_beside_it(
        rows in 1_usize..300, first in 0_usize..299, count in 1_usize..300, threads in 1_usize..4,
        depth in prop::sample::select(vec![16_usize, 64, 100, 128, 513, 1024, 3072]),
        outputs in prop::sample::select(vec![65_usize, 96, 192, 260, 1000]),
    ) {
        let (first, rows) = (first.min(rows - 1), rows);
        let count = count.min(rows - first);
        let (input, weights) = (numbers(rows * depth, 4), numbers(outputs * depth, 5));
        for way in ways().into_iter().map(|(way, _)| way).chain([Way::int8(Holding::Bfloat16)]) {
            let linear = linear(&weights, depth, way);
            let mut room = vec![0.0; linear.to_widen()];
            let weights = linear.ready(&mut room);
            let all = projected(&input, weights);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let some = pool.install(|| projected(&input[first * depth..(first + count) * depth], weights));
            let same = all[first * outputs..(first + count) * outputs].iter().map(|value| value.to_bits());
            prop_assert!(some.iter().map(|value| value.to_bits()).eq(same), "{way:?}");
        }
    }
}

#[test]
fn values_are_narrowed_to_the_nearest_bfloat16_in_both_ways() {
    // Ties go to the even one, as in the reference; an odd one has a zero beside it.
    let mut values = numbers(77, 6);
    values[..3].copy_from_slice(&[f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000), -0.0]);
    let rows = Rows::dense(&values, 77);
    let mut room = Vec::new();
    let panels = Panels::new(Kernel::Bfloat16, rows, &mut room);
    let found: Vec<u32> = panels.words.iter().step_by(panels::ROWS).copied().collect();
    let bits = |at: usize| values.get(at).map_or(0, |value| u32::from(half::bf16::from_f32(*value).to_bits()));
    let expected: Vec<u32> = (0..39).map(|pair| bits(2 * pair) | bits(2 * pair + 1) << 16).collect();
    assert_eq!(found, expected);
}
