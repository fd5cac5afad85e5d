use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

fn weights(values: &[f32], inputs: usize, rounding: Rounding, wide: &[usize]) -> QuantizedWeights {
    let read = |wanted: Range<usize>, to: &mut [f32]| {
        to.copy_from_slice(&values[wanted.start * inputs..wanted.end * inputs]);
        Ok::<(), Infallible>(())
    };
    QuantizedWeights::new((values.len() / inputs, inputs), rounding, wide.to_vec(), read).unwrap()
}

fn available() -> impl Iterator<Item = Instructions> {
    Instructions::ALL.into_iter().filter(|kind| kind.are_available())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_kernel_comes_to_the_bits_of_the_plain_one_and_writes_what_it_is_told(
        words in prop::collection::vec(prop::sample::select(vec![0_u32, 0xffff_ffff, 0x8080_8080, 0x7f81_01ff]), 1..6),
        seed in any::<u64>(), steps in 1_usize..40, rows in 1_usize..=ROWS, outputs in 1_usize..=OUTPUTS, adds in any::<bool>(),
        wide in 0_usize..5,
    ) {
        // Bytes of any value, also those at the ends, which no rounding makes.
        let mut random = fastrand::Rng::with_seed(seed);
        let mut panel = |count: usize| -> Vec<u32> {
            (0..count).map(|_| if random.bool() { random.u32(..) } else { words[random.usize(..words.len())] }).collect()
        };
        let (mut input, mut weights) = (panel(ROWS * steps), panel(OUTPUTS * steps));
        weights.extend((0..OUTPUTS).map(|_| random.u32(..1 << 20)));
        let mut floats = |count: usize| (0..count).map(|_| (random.f32() - 0.5).to_bits()).collect::<Vec<u32>>();
        input.extend(floats(ROWS * (1 + wide)));
        weights.extend(floats(OUTPUTS * (1 + wide)));
        let stride = OUTPUTS + 3;
        let before: Vec<f32> = (0..ROWS * stride).map(|_| random.f32()).collect();
        let run = |kind: Instructions| {
            let mut out = before.clone();
            let call = Call {
                steps, wide, input: input.as_ptr(), weights: weights.as_ptr().cast(), out: out.as_mut_ptr(), stride, rows, outputs, adds,
            };
            #[expect(unsafe_code, reason = "kernels take pointers")]
            // Safety: the panels are that long, and there is a place for each sum.
            unsafe { kind.run(&call) };
            out.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        let plain = run(Instructions::Plain);
        for (at, (bits, before)) in plain.iter().zip(&before).enumerate() {
            let is_written = at / stride < rows && at % stride < outputs;
            prop_assert!(is_written || *bits == before.to_bits());
        }
        for kind in available() {
            prop_assert_eq!(&run(kind), &plain, "{:?}", kind);
        }
    }

    #[test]
    fn whole_products_are_the_same_with_all_instructions_and_close_to_those_in_float32(
        rows in 1_usize..40, inputs in prop::sample::select(vec![1_usize, 31, 32, 64, 100, 128, 192, 513, 1024]), outputs in 1_usize..100,
        rotates in any::<bool>(), keeps_outliers in any::<bool>(), refines_ends in any::<bool>(),
    ) {
        let rounding = Rounding { refines_ends, keeps_outliers, rotates };
        let mut random = fastrand::Rng::with_seed(7);
        let mut numbers = |count: usize| -> Vec<f32> { (0..count).map(|_| random.f32() - 0.5).collect() };
        let (mut left, right) = (numbers(rows * inputs), numbers(outputs * inputs));
        let wide: Vec<usize> = if keeps_outliers { [3, 20].into_iter().filter(|at| *at < inputs).collect() } else { Vec::new() };
        for row in left.chunks_exact_mut(inputs) {
            for at in &wide {
                row[*at] *= 1_000.0;
            }
        }
        let fine: Vec<usize> = (0..rows).step_by(3).collect();
        let (panels, mut room) = (weights(&right, inputs, rounding, &wide), Vec::new());
        let input = Quantized::new(Rows::dense(&left, inputs), &fine, &panels, &mut room);
        let product = |kind: Instructions| {
            let mut out = vec![0.0; rows * outputs];
            input.project(&mut RowsMut::dense(&mut out, outputs), &panels, Into::Replace, kind);
            out
        };
        let found = product(Instructions::Plain);
        for kind in available() {
            prop_assert!(product(kind).iter().zip(&found).all(|(one, other)| one.to_bits() == other.to_bits()), "{kind:?}");
        }
        // What is rounded is off by half a step at most; rotated, its largest is up to eight times what it was.
        let narrow = |row: &[f32]| -> Vec<f32> {
            row.iter().enumerate().map(|(at, value)| if wide.contains(&at) { 0.0 } else { *value }).collect()
        };
        let half_a_step = |row: &[f32]| row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())) / 254.0 * if rotates { 8.0 } else { 1.0 };
        let length = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>().sqrt();
        #[expect(clippy::cast_precision_loss, reason = "at most 1,024")]
        let root = (inputs as f32).sqrt();
        for (at, found) in found.iter().enumerate() {
            let (row, left, right) = (at / outputs, &left[at / outputs * inputs..][..inputs], &right[at % outputs * inputs..][..inputs]);
            let sum: f64 = left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum();
            let (left, right) = (narrow(left), narrow(right));
            let is_fine = refines_ends && row % 3 == 0;
            let (of_row, of_weights) = (half_a_step(&left) / if is_fine { 254.0 } else { 1.0 }, half_a_step(&right));
            let bound = root * (of_row * length(&right) + of_weights * length(&left) + root * of_row * of_weights);
            #[expect(clippy::cast_possible_truncation, reason = "to the precision of a product")]
            let difference = (f64::from(*found) - sum).abs() as f32;
            prop_assert!(difference <= bound + 1e-3, "{found} for {sum}, {bound}");
        }
    }
}

#[test]
fn the_largest_sums_are_within_32_bits() {
    let largest = 255_u64 * 127 * u64::try_from(MOST_INPUTS).unwrap();
    assert!(largest < u64::from(u32::MAX) / 2);
}

#[test]
fn what_is_no_number_is_no_number_afterwards() {
    let inputs = 128;
    let panels = weights(&vec![0.5; 40 * inputs], inputs, Rounding::CHOSEN, &[]);
    let mut rows = vec![0.25; 3 * inputs];
    rows[inputs + 5] = f32::NAN;
    let (mut out, mut room) = (vec![0.0; 3 * 40], Vec::new());
    let input = Quantized::new(Rows::dense(&rows, inputs), &[0, 1], &panels, &mut room);
    input.project(&mut RowsMut::dense(&mut out, 40), &panels, Into::Replace, Instructions::widest());
    assert!(out[40..80].iter().all(|value| !value.is_finite()));
    assert!(out[..40].iter().chain(&out[80..]).all(|value| (value - 16.0).abs() < 0.2));
}

#[test]
fn rows_of_zeros_stay_zeros() {
    let panels = weights(&vec![0.0; 32 * 64], 64, Rounding::CHOSEN, &[]);
    let (mut out, mut room) = (vec![1.0; 32], Vec::new());
    let input = Quantized::new(Rows::dense(&[0.0; 64], 64), &[0], &panels, &mut room);
    input.project(&mut RowsMut::dense(&mut out, 32), &panels, Into::Replace, Instructions::widest());
    assert!(out.iter().all(|value| *value == 0.0));
}
