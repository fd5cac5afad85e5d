use super::*;
use crate::catalog::{EMBEDDING_MODELS, RERANKERS, batch_size, embedding_model, token_budget};

fn weights(index: usize, device: DeviceKind, quantization: Quantization) -> u64 {
    weights_bytes(&RERANKERS[index].shape, EngineKind::Mistralrs, device, quantization)
}

fn workload(device: DeviceKind, quantization: Quantization) -> Workload {
    Workload {
        engine: EngineKind::Mistralrs,
        device,
        quantization,
        batch_size: 32,
        token_budget: 8_192,
        max_length: 8_192,
    }
}

#[test]
fn float16_weights_meet_the_guides_table_within_ten_percent() {
    for (index, model) in RERANKERS.iter().enumerate() {
        for device in [DeviceKind::Cpu, DeviceKind::Cuda] {
            let computed = weights(index, device, Quantization::Float16);
            let nominal = model.nominal_float16_bytes;
            assert!(computed.abs_diff(nominal) * 10 <= nominal, "{}: {computed} and {nominal}", model.id);
        }
    }
}

#[test]
fn int8_really_takes_more_than_its_nominal_figure_and_less_than_float16() {
    // (real, nominal) on a GPU: the table stays in 16 bit and a tied head becomes a second copy of it.
    let sums = [0, 1, 2]
        .map(|index| (weights(index, DeviceKind::Cuda, Quantization::Int8), RERANKERS[index].nominal_int8_bytes));
    assert_eq!(sums, [(943_692_096, 600_000_000), (5_049_875_232, 4_000_000_000), (9_283_030_272, 8_000_000_000)]);
    for index in 0..3 {
        let int8 = weights(index, DeviceKind::Cuda, Quantization::Int8);
        assert!(int8 < weights(index, DeviceKind::Cuda, Quantization::Float16));
        let int8_on_cpu = weights(index, DeviceKind::Cpu, Quantization::Int8);
        assert!(int8 < int8_on_cpu && int8_on_cpu < weights(index, DeviceKind::Cpu, Quantization::Float32));
    }
}

#[test]
fn on_a_cpu_int8_saves_nothing_over_float16_for_the_smallest_model() {
    // Its embedding table in float32 and its second, quantised copy outweigh what the layers save.
    let saves = |index| {
        weights(index, DeviceKind::Cpu, Quantization::Int8) < weights(index, DeviceKind::Cpu, Quantization::Float16)
    };
    assert_eq!([0, 1, 2].map(saves), [false, true, true]);
}

#[test]
fn int8_on_a_cpu_keeps_the_embedding_table_in_float32() {
    let shape = RERANKERS[0].shape;
    let table_and_norms = shape.vocabulary * shape.hidden_size + shape.norm_weights();
    assert_eq!(
        weights(0, DeviceKind::Cpu, Quantization::Int8) - weights(0, DeviceKind::Cuda, Quantization::Int8),
        2 * table_and_norms
    );
}

#[test]
fn every_weight_of_a_float_model_is_counted_once() {
    for model in &RERANKERS {
        let bytes = |quantization| weights_bytes(&model.shape, EngineKind::Mistralrs, DeviceKind::Cpu, quantization);
        assert_eq!(bytes(Quantization::Float32), model.shape.parameters() * 4);
        assert_eq!(bytes(Quantization::Float16), model.shape.parameters() * 2);
        assert_eq!(bytes(Quantization::Bfloat16), model.shape.parameters() * 2);
    }
}

#[test]
fn a_row_that_has_no_whole_blocks_stays_in_float32() {
    let blocks = LinearStorage::Blocks;
    assert_eq!(blocks.bytes(Matrix { rows: 3, columns: 64 }), 3 * 2 * 34);
    assert_eq!(blocks.bytes(Matrix { rows: 3, columns: 40 }), 3 * 40 * 4);
}

#[test]
fn keys_and_values_grow_with_the_budget_in_steps() {
    let shape = RERANKERS[0].shape;
    let bytes = |token_budget| {
        let workload = Workload { token_budget, ..workload(DeviceKind::Cuda, Quantization::Float16) };
        estimate_memory(&shape, &workload).key_value_bytes
    };
    // 28 layers x 2 x 8 heads x 128 x 2 bytes = 114,688 bytes a token.
    assert_eq!(bytes(8_192), 8_192 * 114_688);
    assert_eq!(bytes(8_193), 8_704 * 114_688);
    assert_eq!(bytes(1), 512 * 114_688);
}

#[test]
fn the_peak_is_that_of_loading_or_that_of_computing() {
    let estimate = MemoryEstimate {
        weights_bytes: 1_000,
        loading_bytes: 70,
        activations_bytes: 20,
        key_value_bytes: 30,
        overhead_bytes: 5,
    };
    assert_eq!(estimate.total_bytes(), 1_075);
    assert_eq!(MemoryEstimate { loading_bytes: 49, ..estimate }.total_bytes(), 1_055);
}

#[test]
fn the_overhead_of_a_device_counts_once_for_two_models() {
    let workload = workload(DeviceKind::Cuda, Quantization::Float16);
    let reranker = estimate_memory(&RERANKERS[0].shape, &workload);
    let embedder = estimate_memory(&EMBEDDING_MODELS[0].shape, &workload);
    let both = reranker.together_with(&embedder);
    assert_eq!(both, embedder.together_with(&reranker));
    assert_eq!(both.total_bytes(), reranker.total_bytes() + embedder.total_bytes() - embedder.overhead_bytes);
    assert!(both.overhead_bytes >= CUDA_OVERHEAD_BYTES);
}

#[test]
fn a_larger_batch_never_takes_less() {
    for quantization in Quantization::ALL {
        for device in [DeviceKind::Cpu, DeviceKind::Cuda] {
            for engine in [EngineKind::Mistralrs, EngineKind::Packed] {
                let base = Workload { engine, ..workload(device, quantization) };
                let total = |workload: &Workload| estimate_memory(&RERANKERS[0].shape, workload).total_bytes();
                assert!(total(&base) <= total(&Workload { token_budget: 16_384, ..base }));
                assert!(total(&base) <= total(&Workload { batch_size: 64, ..base }));
                assert!(total(&Workload { max_length: 512, ..base }) <= total(&base));
            }
        }
    }
}

#[test]
fn the_smaller_fixes_really_take_less() {
    let mut previous = u64::MAX;
    for (index, quantization) in [
        (2, Quantization::Float16),
        (2, Quantization::Int8),
        (1, Quantization::Float16),
        (1, Quantization::Int8),
        (0, Quantization::Float16),
    ] {
        let model = &RERANKERS[index];
        let workload = workload(DeviceKind::Cuda, quantization);
        let total = estimate_memory(&model.shape, &workload).total_bytes();
        assert!(total < previous, "{} {quantization}: {total}", model.id);
        previous = total;
    }
}

#[test]
fn the_default_deployment_fits_a_common_gpu_and_not_a_tiny_one() {
    let reranker = &RERANKERS[0];
    let pairs = batch_size(reranker.id, Quantization::Float16, &[]);
    let tokens = token_budget(None, pairs, 8_192, DeviceKind::Cuda);
    let workload = Workload {
        batch_size: u64::try_from(pairs).unwrap(),
        token_budget: u64::try_from(tokens).unwrap(),
        ..workload(DeviceKind::Cuda, Quantization::Float16)
    };
    let embedder = embedding_model(reranker.embedding_model).unwrap();
    let both = estimate_memory(&reranker.shape, &workload)
        .together_with(&estimate_memory(&embedder.shape, &Workload { batch_size: 1, token_budget: 8_192, ..workload }));
    assert!(both.total_bytes() < 24_000_000_000, "{}", both.total_bytes());
    assert!(both.total_bytes() > 4_000_000_000, "{}", both.total_bytes());
}

#[test]
fn packed_int8_holds_a_byte_a_weight_72_an_output_and_two_rows_of_the_head() {
    let shape = RERANKERS[0].shape;
    let bytes = weights_bytes(&shape, EngineKind::Packed, DeviceKind::Cpu, Quantization::Int8);
    let linear: u64 = shape.layer_matrices().iter().map(|matrix| matrix.weights() + matrix.rows * 72).sum();
    assert_eq!(
        bytes,
        shape.layers * linear
            + shape.vocabulary * shape.hidden_size * 2
            + shape.norm_weights() * 4
            + 2 * shape.hidden_size * 4
    );
    let float32 = weights_bytes(&shape, EngineKind::Packed, DeviceKind::Cpu, Quantization::Float32);
    assert!(bytes * 100 <= float32 * 33, "{bytes} of {float32}");
    let packed = Workload { engine: EngineKind::Packed, ..workload(DeviceKind::Cpu, Quantization::Int8) };
    let mistralrs = workload(DeviceKind::Cpu, Quantization::Int8);
    assert!(estimate_memory(&shape, &packed).total_bytes() < estimate_memory(&shape, &mistralrs).total_bytes());
}

#[test]
fn absurd_numbers_saturate_instead_of_wrapping() {
    let huge = u64::MAX;
    let shape = ModelShape { layers: huge, hidden_size: huge, ..RERANKERS[0].shape };
    let workload = Workload {
        batch_size: huge,
        token_budget: huge / 2,
        max_length: huge,
        ..workload(DeviceKind::Cuda, Quantization::Float32)
    };
    assert_eq!(estimate_memory(&shape, &workload).total_bytes(), huge);
}

/// A row of `make memory`: engine, shape, quantisation, pairs, token budget, longest prompt, and the measured peak in MB.
type Measured = (EngineKind, ModelShape, Quantization, u64, u64, u64, u64);

/// What `make memory` measured last, which cannot be run in every test: what is predicted must stay true to it.
fn measured() -> [Measured; 9] {
    use EngineKind::{Mistralrs, Packed};
    let small = ModelShape {
        layers: 6,
        hidden_size: 512,
        intermediate_size: 1_536,
        attention_heads: 8,
        key_value_heads: 4,
        head_dimension: 64,
        vocabulary: 32_768,
        maximum_positions: 4_096,
        output_head: OutputHead::Tied,
    };
    let middle = ModelShape { layers: 12, hidden_size: 768, intermediate_size: 2_304, attention_heads: 12, ..small };
    let whole = RERANKERS[0].shape;
    let wide = ModelShape { layers: 6, ..whole };
    [
        (Mistralrs, small, Quantization::Float32, 16, 4_096, 2_048, 380),
        (Mistralrs, middle, Quantization::Float16, 32, 4_096, 1_024, 425),
        (Mistralrs, middle, Quantization::Int8, 16, 1_024, 512, 324),
        (Mistralrs, wide, Quantization::Float32, 64, 4_096, 512, 1_632),
        (Mistralrs, wide, Quantization::Int8, 8, 512, 256, 1_161),
        (Mistralrs, whole, Quantization::Float16, 8, 1_024, 512, 1_572),
        (Packed, middle, Quantization::Float16, 32, 4_096, 1_024, 343),
        (Packed, wide, Quantization::Float32, 64, 4_096, 512, 1_119),
        (Packed, whole, Quantization::Float32, 32, 16_384, 512, 2_473),
    ]
}

#[test]
fn predictions_on_a_cpu_are_at_most_a_tenth_above_what_was_measured_and_never_below() {
    for (engine, shape, quantization, batch_size, token_budget, max_length, megabytes) in measured() {
        let workload =
            Workload { engine, batch_size, token_budget, max_length, ..workload(DeviceKind::Cpu, quantization) };
        let (predicted, peak) = (estimate_memory(&shape, &workload).total_bytes(), megabytes * 1_000_000);
        assert!(
            (peak..=peak * 11 / 10).contains(&predicted),
            "{quantization}, budget {token_budget}: {predicted} predicted, {peak} measured"
        );
    }
}

#[test]
fn packed_has_its_own_bound_of_a_batch_and_needs_no_more_with_a_larger_budget() {
    let total = |token_budget| {
        let workload = Workload {
            engine: EngineKind::Packed,
            token_budget,
            max_length: 512,
            ..workload(DeviceKind::Cpu, Quantization::Float32)
        };
        estimate_memory(&RERANKERS[0].shape, &workload).total_bytes()
    };
    assert_eq!(packed_batch_tokens(&RERANKERS[0].shape), 4_096);
    assert!(packed_batch_tokens(&RERANKERS.last().unwrap().shape) < 1_000, "seconds, whatever the model");
    assert!(total(512) < total(4_096));
    assert_eq!(total(4_096), total(1 << 20));
    let weights = weights_bytes(&RERANKERS[0].shape, EngineKind::Packed, DeviceKind::Cpu, Quantization::Float32);
    assert!(total(16_384) < weights + 400_000_000, "{}", total(16_384) - weights);
}

#[test]
fn a_quantised_head_is_there_twice_for_a_moment() {
    let workload = workload(DeviceKind::Cpu, Quantization::Int8);
    let estimate =
        |output_head| estimate_memory(&ModelShape { output_head, ..RERANKERS[0].shape }, &workload).loading_bytes;
    let table = RERANKERS[0].shape.embedding_table();
    let head = LinearStorage::Blocks.bytes(table);
    let layer = RERANKERS[0].shape.layer_matrices().map(Matrix::weights).into_iter().sum::<u64>() * 4;
    assert_eq!(estimate(OutputHead::Tied), head + layer);
    assert_eq!(estimate(OutputHead::Separate), head + layer + table.weights() * 4);
    assert_eq!(estimate(OutputHead::Absent), 2 * layer);
}

#[test]
fn keys_and_values_of_16_bits_are_filled_for_each_prompt_on_a_cpu_as_well() {
    let bytes =
        |quantization| estimate_memory(&RERANKERS[0].shape, &workload(DeviceKind::Cpu, quantization)).key_value_bytes;
    // 28 layers x 2 x 8 heads x 128 values a token; the longest prompt is run with one token more.
    assert_eq!(bytes(Quantization::Float16), 8_704 * 57_344 * 2 * 3 / 2);
    assert_eq!(bytes(Quantization::Float32), 8_704 * 57_344 * 4);
}
