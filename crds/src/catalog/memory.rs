//! Memory arithmetic: what a load will take, computed from a model's shape and the largest batch. Pure.
//!
//! # What each engine holds
//!
//! `mistralrs` (read in the sources of 0.8.1):
//! - float32, float16, bfloat16: every tensor at 4, 2, 2 bytes a weight. A tied output head is the embedding table itself.
//! - int8 is in-situ `Q8_0`: each row of a linear layer in blocks of 32 weights, 34 bytes a block (1.0625 bytes a weight).
//!   A row whose length is no multiple of 32 stays in float32. Norms and the embedding table keep the activations'
//!   type: 16 bit on a GPU, float32 on a CPU. The output head is quantised too, so a *tied* head becomes a second,
//!   quantised copy of the table. This is why int8 takes more than the guide's nominal figure, and why on a CPU it saves
//!   nothing over float16 for the 0.6B, whose table is a quarter of its weights.
//!
//! `packed`: weights at 4, 2, 2 bytes; int8 is 1 byte a weight and a float32 scale for each output channel, with the embedding
//! table in 16 bit. Norms and sums are float32. Of the output head only two rows are held.
//!
//! # What a load takes beyond its weights
//!
//! While loading: the largest tensor at full precision; with in-situ quantisation on a CPU also the linear layers of two
//! layers that wait to be quantised (layers are quantised as they are read, and the rest of the file is mapped, which the
//! kernel takes back under pressure). On a GPU that staging happens in host memory. Loading and computing do not overlap,
//! so the larger of the two counts.
//!
//! While computing, at the token budget: the vectors of one layer, the attention mask and, on a GPU without
//! flash-attention, the attention scores of 1,024 queries at a time, the logits of each pair's last position, and keys
//! and values of every layer (of one layer in `packed`).
//!
//! Overhead of a device: [`CUDA_OVERHEAD_BYTES`] or [`CPU_OVERHEAD_BYTES`], and the rotary tables.

use super::execution::{DeviceKind, EngineKind, Quantization};
use super::shape::{Matrix, ModelShape, OutputHead};

/// Context, kernels and library workspaces of a process on a GPU: about 600 MB.
pub const CUDA_OVERHEAD_BYTES: u64 = 600_000_000;

/// Threads, tokenizer and allocator slack of a process on a CPU: about 64 MB.
pub const CPU_OVERHEAD_BYTES: u64 = 64_000_000;

/// Weights in a block of `Q8_0`.
const BLOCK_WEIGHTS: u64 = 32;

/// Bytes of a block of `Q8_0`: 32 of weights and a float16 scale.
const BLOCK_BYTES: u64 = 34;

/// Bytes of a float32.
const FLOAT32_BYTES: u64 = 4;

/// Keys and values are held in steps of so many tokens.
const KEY_VALUE_STEP_TOKENS: u64 = 512;

/// Queries whose attention scores are computed at a time.
const ATTENTION_CHUNK_TOKENS: u64 = 1_024;

/// Layers that may wait to be quantised during a load.
const LAYERS_WAITING_FOR_QUANTISATION: u64 = 2;

/// What is to be run, in the numbers that decide its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Which engine computes; `Auto` counts as `Mistralrs`, the larger.
    pub engine: EngineKind,
    /// On what.
    pub device: DeviceKind,
    /// How weights are held.
    pub quantization: Quantization,
    /// Pairs in a batch, at most.
    pub batch_size: u64,
    /// Tokens in a batch, at most.
    pub token_budget: u64,
    /// Tokens of one prompt, at most.
    pub max_length: u64,
}

/// What a load will take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights, for as long as the model is loaded.
    pub weights_bytes: u64,
    /// Held beside the weights while loading only.
    pub loading_bytes: u64,
    /// Vectors, masks, scores and logits of the largest batch.
    pub activations_bytes: u64,
    /// Keys and values at the token budget.
    pub key_value_bytes: u64,
    /// What the device takes whatever is loaded. Models on one device share it.
    pub overhead_bytes: u64,
}

impl MemoryEstimate {
    /// The peak: weights, overhead, and the larger of what loading and what computing takes.
    pub fn total_bytes(&self) -> u64 {
        let computing = self.activations_bytes.saturating_add(self.key_value_bytes);
        self.weights_bytes.saturating_add(self.overhead_bytes).saturating_add(self.loading_bytes.max(computing))
    }

    /// Two models on one device at the same time: terms are summed and the device's overhead counts once. Both may compute
    /// at once; they are loaded one after the other.
    #[must_use]
    pub fn together_with(&self, other: &Self) -> Self {
        Self {
            weights_bytes: self.weights_bytes.saturating_add(other.weights_bytes),
            loading_bytes: self.loading_bytes.max(other.loading_bytes),
            activations_bytes: self.activations_bytes.saturating_add(other.activations_bytes),
            key_value_bytes: self.key_value_bytes.saturating_add(other.key_value_bytes),
            overhead_bytes: self.overhead_bytes.max(other.overhead_bytes),
        }
    }
}

/// What a model of that shape will take at its largest batch. See the head of this file for what is counted.
pub fn estimate_memory(shape: &ModelShape, workload: &Workload) -> MemoryEstimate {
    let layout = Layout::of(workload);
    let fixed = match workload.device {
        DeviceKind::Cuda => CUDA_OVERHEAD_BYTES,
        DeviceKind::Cpu => CPU_OVERHEAD_BYTES,
    };
    let rotary_tables = product([shape.maximum_positions, shape.head_dimension, layout.base_bytes]);
    MemoryEstimate {
        weights_bytes: layout.weights(shape),
        loading_bytes: layout.loading(shape, workload),
        activations_bytes: layout.activations(shape, workload),
        key_value_bytes: layout.key_values(shape, workload),
        overhead_bytes: fixed.saturating_add(rotary_tables),
    }
}

/// What the weights alone take, in bytes.
pub fn weights_bytes(shape: &ModelShape, engine: EngineKind, device: DeviceKind, quantization: Quantization) -> u64 {
    let workload = Workload { engine, device, quantization, batch_size: 1, token_budget: 1, max_length: 1 };
    Layout::of(&workload).weights(shape)
}

/// How a linear layer's weights are stored.
#[derive(Clone, Copy, Debug)]
enum LinearStorage {
    /// So many bytes each.
    Plain(u64),
    /// `Q8_0`.
    Blocks,
    /// 1 byte each and a float32 scale for each output channel.
    Channels,
}

impl LinearStorage {
    fn bytes(self, matrix: Matrix) -> u64 {
        match self {
            Self::Plain(bytes) => matrix.weights().saturating_mul(bytes),
            Self::Blocks if matrix.columns.is_multiple_of(BLOCK_WEIGHTS) => {
                product([matrix.rows, matrix.columns / BLOCK_WEIGHTS, BLOCK_BYTES])
            }
            Self::Blocks => matrix.weights().saturating_mul(FLOAT32_BYTES),
            Self::Channels => matrix.weights().saturating_add(matrix.rows.saturating_mul(FLOAT32_BYTES)),
        }
    }
}

/// How an engine lays a model out in memory.
#[derive(Clone, Copy, Debug)]
struct Layout {
    packed: bool,
    linear: LinearStorage,
    /// A weight of the embedding table.
    table_bytes: u64,
    /// A weight of a norm, a value of the hidden state, of keys and of values.
    base_bytes: u64,
    /// A value inside the linear layers.
    inner_bytes: u64,
}

impl Layout {
    fn of(workload: &Workload) -> Self {
        let plain = match workload.quantization {
            Quantization::Float32 => Some(FLOAT32_BYTES),
            Quantization::Float16 | Quantization::Bfloat16 => Some(2),
            Quantization::Int8 => None,
        };
        match (workload.engine, workload.device) {
            (EngineKind::Packed, _) => Self {
                packed: true,
                linear: plain.map_or(LinearStorage::Channels, LinearStorage::Plain),
                table_bytes: plain.unwrap_or(2),
                base_bytes: FLOAT32_BYTES,
                inner_bytes: FLOAT32_BYTES,
            },
            (EngineKind::Auto | EngineKind::Mistralrs, device) => {
                let unquantised = match device {
                    DeviceKind::Cuda => 2,
                    DeviceKind::Cpu => FLOAT32_BYTES,
                };
                Self {
                    packed: false,
                    linear: plain.map_or(LinearStorage::Blocks, LinearStorage::Plain),
                    table_bytes: plain.unwrap_or(unquantised),
                    base_bytes: plain.unwrap_or(unquantised),
                    inner_bytes: plain.unwrap_or(FLOAT32_BYTES),
                }
            }
        }
    }

    fn weights(&self, shape: &ModelShape) -> u64 {
        let layer = sum(shape.layer_matrices().map(|matrix| self.linear.bytes(matrix)));
        let table = shape.embedding_table();
        let head = match (shape.output_head, self.linear) {
            _ if self.packed => product([2, shape.hidden_size, FLOAT32_BYTES]),
            (OutputHead::Separate, storage) => storage.bytes(table),
            (OutputHead::Tied, LinearStorage::Blocks) => LinearStorage::Blocks.bytes(table),
            (OutputHead::Tied | OutputHead::Absent, _) => 0,
        };
        sum([
            shape.layers.saturating_mul(layer),
            table.weights().saturating_mul(self.table_bytes),
            head,
            shape.norm_weights().saturating_mul(self.base_bytes),
        ])
    }

    fn loading(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        if workload.device == DeviceKind::Cuda {
            return 0;
        }
        let matrices = shape.layer_matrices().map(Matrix::weights);
        let largest_linear = matrices.iter().copied().max().unwrap_or(0);
        let largest = largest_linear.max(shape.embedding_table().weights()).saturating_mul(self.base_bytes);
        match self.linear {
            LinearStorage::Plain(_) => largest,
            LinearStorage::Blocks | LinearStorage::Channels => {
                let waiting = product([sum(matrices), LAYERS_WAITING_FOR_QUANTISATION, self.base_bytes]);
                largest.saturating_add(waiting)
            }
        }
    }

    fn activations(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        let tokens = workload.token_budget;
        let longest = workload.max_length.min(tokens);
        let (hidden, queries, keys) = (shape.hidden_size, shape.query_width(), shape.key_width());
        // Residual, normed input and output of a layer's part; rotated and plain queries and keys, the attention's result
        // and its transpose; gate, up and their product.
        let attention = sum([queries.saturating_mul(4), keys.saturating_mul(3)]);
        let feed_forward = shape.intermediate_size.saturating_mul(3);
        let vectors = product([
            tokens,
            sum([hidden.saturating_mul(3), attention.max(feed_forward)]),
            self.inner_bytes.max(self.base_bytes),
        ]);
        let scores = match workload.device {
            // One document and one head at a time.
            _ if self.packed => product([longest, longest.min(ATTENTION_CHUNK_TOKENS), FLOAT32_BYTES]),
            // The kernel streams over keys and keeps no scores.
            DeviceKind::Cpu => 0,
            // Scores and their softmax, and keys and values repeated for each query head.
            DeviceKind::Cuda => {
                let rows = longest.min(ATTENTION_CHUNK_TOKENS);
                let matrices = product([shape.attention_heads, rows, tokens, self.base_bytes, 2]);
                matrices.saturating_add(product([tokens, queries, self.base_bytes, 2]))
            }
        };
        // Built as bytes, copied, then widened and filled.
        let mask = if self.packed { 0 } else { product([longest, longest, 2 + 2 * self.base_bytes]) };
        let logits = match shape.output_head {
            OutputHead::Absent => 0,
            _ if self.packed => product([workload.batch_size, 2, FLOAT32_BYTES]),
            // In the layer's type and as float32 for the sampler.
            OutputHead::Tied | OutputHead::Separate => {
                product([workload.batch_size.min(tokens), shape.vocabulary, self.inner_bytes + FLOAT32_BYTES])
            }
        };
        sum([vectors, scores, mask, logits])
    }

    fn key_values(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        let tokens = workload.token_budget.div_ceil(KEY_VALUE_STEP_TOKENS).saturating_mul(KEY_VALUE_STEP_TOKENS);
        let layers = if self.packed { 1 } else { shape.layers };
        product([tokens, layers, 2, shape.key_width(), self.base_bytes])
    }
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    // A zero anywhere makes the whole zero, even beside factors that saturate.
    if factors.contains(&0) { 0 } else { factors.into_iter().fold(1, u64::saturating_mul) }
}

fn sum<const N: usize>(terms: [u64; N]) -> u64 {
    terms.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
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
            let bytes =
                |quantization| weights_bytes(&model.shape, EngineKind::Mistralrs, DeviceKind::Cpu, quantization);
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
        let both = estimate_memory(&reranker.shape, &workload).together_with(&estimate_memory(
            &embedder.shape,
            &Workload { batch_size: 1, token_budget: 8_192, ..workload },
        ));
        assert!(both.total_bytes() < 24_000_000_000, "{}", both.total_bytes());
        assert!(both.total_bytes() > 4_000_000_000, "{}", both.total_bytes());
    }

    #[test]
    fn packed_int8_holds_a_byte_a_weight_and_two_rows_of_the_head() {
        let shape = RERANKERS[0].shape;
        let bytes = weights_bytes(&shape, EngineKind::Packed, DeviceKind::Cpu, Quantization::Int8);
        let linear: u64 = shape.layer_matrices().iter().map(|matrix| matrix.weights() + matrix.rows * 4).sum();
        assert_eq!(
            bytes,
            shape.layers * linear
                + shape.vocabulary * shape.hidden_size * 2
                + shape.norm_weights() * 4
                + 2 * shape.hidden_size * 4
        );
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
}
