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
//! `packed`: weights at 4, 2, 2 bytes; int8 is 1 byte a weight, and for each output channel a scale, a sum and up to 16
//! weights that are kept in float32, in panels of 32 outputs and steps of 64 inputs, with the embedding table in 16 bit. Norms and sums are float32. Of the output head only two rows are held. Weights of 16
//! bits are widened layer by layer while a batch runs.
//!
//! # What a load takes beyond its weights
//!
//! While loading: nothing for plain weights, whose file is mapped, which the kernel takes back under pressure. With
//! in-situ quantisation on a CPU the linear layers of two layers that wait to be quantised (layers are quantised as
//! they are read, on four threads at most), or at the end a second copy of the quantised output head, beside the last
//! layer and, where that is not the embedding table, its source. On a GPU that staging happens in host memory.
//! Loading and computing do not overlap, so the larger counts.
//!
//! While computing, at the token budget: the vectors of one layer, the attention mask and, on a GPU without
//! flash-attention, the attention scores of 1,024 queries at a time, the logits of each pair's last position, and keys
//! and values of every layer.
//!
//! `packed` has its own bound of a batch ([`packed_batch_tokens`]) and goes through a layer in tiles of 1,024 tokens:
//! it needs the hidden states of a batch, what lies between the products of a tile and once more the input of one, the
//! keys and values of the prompts' common beginning (kept for the next batch up to [`PACKED_KEPT_BYTES`]), and of one
//! layer those of a prompt longer than a tile. While it loads, one matrix is there twice: as the file has it, and in the
//! order in which products read it; of int8 some outputs only, which each thread reads and rounds. It is counted for a processor without AVX-512, where attention takes more, and with
//! weights of 16 bits widened, which products of bfloat16 do not need.
//!
//! On a CPU (`mistralrs`, measured; `make memory` holds it to 10 %): keys and values of a prompt are reserved in
//! steps of 512 tokens. After the prompts it runs one token more, for which it copies them all. So the peak is that
//! of the vectors while the prompts are read, or that of the second copy and the logits after it. Beside them a
//! matrix product keeps a copy of its input. Keys and values that are filled with zeros when they are made (those of
//! 16 bits, and small ones, which come from the allocator's arenas) are there half a time more: each prompt brings
//! its own.
//!
//! Overhead of a device: [`CUDA_OVERHEAD_BYTES`] or [`CPU_OVERHEAD_BYTES`], the rotary tables, and in host memory the
//! vocabulary of the tokenizer.

use super::execution::{DeviceKind, EngineKind, Quantization};
use super::shape::{Matrix, ModelShape, OutputHead};

/// Context, kernels and library workspaces of a process on a GPU: about 600 MB.
pub const CUDA_OVERHEAD_BYTES: u64 = 600_000_000;

/// Threads, their stacks and scratch memory, and what the allocator keeps, on a CPU: about 28 MB.
pub const CPU_OVERHEAD_BYTES: u64 = 28_000_000;

/// What a tokenizer holds for each token of its vocabulary.
const TOKENIZER_BYTES: u64 = 256;

/// Pieces of memory below it come from the allocator's arenas, where they are filled when they are made.
const ARENA_PIECE_BYTES: u64 = 1 << 20;

/// Weights in a block of `Q8_0`.
const BLOCK_WEIGHTS: u64 = 32;

/// Bytes of a block of `Q8_0`: 32 of weights and a float16 scale.
const BLOCK_BYTES: u64 = 34;

/// Bytes of a float32.
const FLOAT32_BYTES: u64 = 4;

/// Keys and values are held in steps of so many tokens, and one token is run after a prompt.
const KEY_VALUE_STEP_TOKENS: u64 = 512;

/// A product on a CPU reads its input in panels of so many columns.
const PRODUCT_DEPTH: u64 = 512;

/// A panel is no larger than the processor's last cache: of usual ones, 32 MB.
const PRODUCT_PANEL_BYTES: u64 = 32_000_000;

/// Queries whose attention scores are computed at a time.
const ATTENTION_CHUNK_TOKENS: u64 = 1_024;

/// Multiplications of one batch in `packed`, about: ten seconds on two cores.
const PACKED_BATCH_PRODUCTS: u64 = 2_000_000_000_000;

/// Bounds of the tokens of a batch in `packed`: below, products are slow; above, one request holds up others.
const PACKED_BATCH_TOKENS: std::ops::RangeInclusive<u64> = 512..=4_096;

/// Tokens of a tile in `packed`.
const PACKED_TILE_TOKENS: u64 = 1_024;

/// Outputs of a panel of weights in `packed`, and of how many inputs their number in int8 is a multiple.
const PANEL_OUTPUTS: u64 = 32;
const PANEL_INPUTS: u64 = 64;

/// Inputs of a layer that `packed` keeps in float32 beside int8, at most.
const WIDE_INPUTS: u64 = 16;

/// Queries of a block of attention in `packed`, each thread with a block of its own.
const PACKED_BLOCK_TOKENS: u64 = 128;

/// Queries, keys, values and answers of a piece of attention in `packed` where there is AVX-512, together.
const PACKED_ATTENTION_TOKENS: u64 = 1_280;

/// Threads that are counted on. Each of more takes 4 MB beside them at prompts of 8,192 tokens.
const PACKED_THREADS: u64 = 8;

/// Keys and values of a common beginning that `packed` keeps from one batch to the next, at most.
pub const PACKED_KEPT_BYTES: u64 = 64_000_000;

/// Layers that may wait to be quantised during a load.
const LAYERS_WAITING_FOR_QUANTISATION: u64 = 2;

/// What is to be run, in the numbers that decide its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Which engine computes; `Auto` counts as `Mistralrs`.
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

    /// Two models on one device at the same time: terms are summed and the device's overhead counts once. Both may
    /// compute at once; they are loaded one after the other.
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
    let positions = if layout.packed { longest(workload) } else { shape.maximum_positions };
    let rotary_tables = product([positions, shape.head_dimension, layout.base_bytes]);
    let tokenizer = match workload.device {
        DeviceKind::Cuda => 0,
        DeviceKind::Cpu => shape.vocabulary.saturating_mul(TOKENIZER_BYTES),
    };
    MemoryEstimate {
        weights_bytes: layout.weights(shape),
        loading_bytes: layout.loading(shape, workload),
        activations_bytes: layout.activations(shape, workload),
        key_value_bytes: layout.key_values(shape, workload),
        overhead_bytes: sum([fixed, rotary_tables, tokenizer]),
    }
}

/// What the weights alone take, in bytes.
pub fn weights_bytes(shape: &ModelShape, engine: EngineKind, device: DeviceKind, quantization: Quantization) -> u64 {
    let workload = Workload { engine, device, quantization, batch_size: 1, token_budget: 1, max_length: 1 };
    Layout::of(&workload).weights(shape)
}

/// Tokens of one batch in `packed`, whatever the token budget: few enough that a batch takes seconds, so that others
/// have their turn.
pub fn packed_batch_tokens(shape: &ModelShape) -> u64 {
    let weights = sum(shape.layer_matrices().map(Matrix::weights)).saturating_mul(shape.layers).max(1);
    (PACKED_BATCH_PRODUCTS / weights).clamp(*PACKED_BATCH_TOKENS.start(), *PACKED_BATCH_TOKENS.end())
}

/// How a linear layer's weights are stored.
#[derive(Clone, Copy, Debug)]
enum LinearStorage {
    /// So many bytes each.
    Plain(u64),
    /// `Q8_0`.
    Blocks,
    /// 1 byte each, with a scale, a sum and some weights in float32 for each output channel, in panels.
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
            Self::Channels => {
                let output = matrix.columns.div_ceil(PANEL_INPUTS).saturating_mul(PANEL_INPUTS);
                let output = output.saturating_add((2 + WIDE_INPUTS) * FLOAT32_BYTES);
                product([matrix.rows.div_ceil(PANEL_OUTPUTS), PANEL_OUTPUTS, output])
            }
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
        match (workload.device, self.linear) {
            // Gates and ups are one matrix.
            (DeviceKind::Cpu, LinearStorage::Plain(bytes)) if self.packed => {
                let queries = product([shape.query_width(), shape.hidden_size, bytes]);
                queries.max(product([2, shape.intermediate_size, shape.hidden_size, bytes]))
            }
            // A panel of each thread: as the file has it, in float32, and rounded.
            (DeviceKind::Cpu, LinearStorage::Channels) => {
                let inputs = shape.query_width().max(shape.hidden_size).max(shape.intermediate_size);
                product([PACKED_THREADS, PANEL_OUTPUTS, inputs, 2 * FLOAT32_BYTES + 1])
            }
            (DeviceKind::Cuda, _) | (DeviceKind::Cpu, LinearStorage::Plain(_)) => 0,
            (DeviceKind::Cpu, storage) => {
                let layer = sum(shape.layer_matrices().map(Matrix::weights)).saturating_mul(self.base_bytes);
                let waiting = layer.saturating_mul(LAYERS_WAITING_FOR_QUANTISATION);
                let table = shape.embedding_table();
                let head = match shape.output_head {
                    OutputHead::Absent => 0,
                    OutputHead::Tied => layer.saturating_add(storage.bytes(table)),
                    OutputHead::Separate => {
                        sum([layer, storage.bytes(table), table.weights().saturating_mul(self.base_bytes)])
                    }
                };
                waiting.max(head)
            }
        }
    }

    /// What a batch takes beside its keys and values.
    fn activations(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        match workload.device {
            _ if self.packed => self.packed_activations(shape, workload),
            DeviceKind::Cpu => self.cpu_activations(shape, workload),
            DeviceKind::Cuda => self.cuda_activations(shape, workload),
        }
    }

    /// Hidden states, one tile and the input of a product, the last rows, what each thread needs for attention, and a widened
    /// layer.
    fn packed_activations(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        let longest = longest(workload);
        // A prompt above the bound runs alone.
        let tokens = workload.token_budget.min(packed_batch_tokens(shape)).max(longest);
        let attention = shape.query_width().saturating_add(shape.key_width().saturating_mul(2));
        let inner = attention.max(shape.intermediate_size.saturating_mul(2));
        let states = product([tokens, shape.hidden_size]);
        let input = shape.query_width().max(shape.intermediate_size);
        let tile = product([tokens.min(PACKED_TILE_TOKENS), sum([shape.hidden_size, inner, input])]);
        let last = product([
            workload.batch_size.min(tokens),
            shape.query_width().saturating_add(shape.hidden_size.saturating_mul(2)),
        ]);
        let scores = product([longest.min(PACKED_BLOCK_TOKENS), longest]);
        // Queries, keys, values and sums of a head.
        let panels = product([shape.head_dimension, PACKED_ATTENTION_TOKENS]);
        let attention = scores.max(panels).saturating_mul(PACKED_THREADS);
        let widened = match self.linear {
            LinearStorage::Plain(FLOAT32_BYTES) | LinearStorage::Blocks | LinearStorage::Channels => 0,
            LinearStorage::Plain(_) => sum(shape.layer_matrices().map(Matrix::weights)),
        };
        sum([states, tile, last, attention, widened]).saturating_mul(FLOAT32_BYTES)
    }

    /// Of the common beginning, and of a prompt longer than a tile.
    fn packed_key_values(shape: &ModelShape, workload: &Workload) -> u64 {
        let longest = longest(workload);
        let layer = product([longest, 2, shape.key_width(), FLOAT32_BYTES]);
        let carried = if longest > PACKED_TILE_TOKENS { layer } else { 0 };
        let beginning = match shape.output_head {
            OutputHead::Absent => 0,
            OutputHead::Tied | OutputHead::Separate => {
                layer.saturating_add(layer.saturating_mul(shape.layers).min(PACKED_KEPT_BYTES))
            }
        };
        carried.saturating_add(beginning)
    }

    /// As measured; the counts follow from which tensors the library's layer keeps until it returns.
    fn cpu_activations(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        let longest = longest(workload);
        let mask = |bytes| product([longest, longest, bytes]);
        let (hidden, queries, keys) = (shape.hidden_size, shape.query_width(), shape.key_width());
        // Built as bytes, copied, then widened and filled.
        let building = mask(2 + 2 * self.base_bytes);
        // Input and normed input; normed, rotated and joined queries; the same of keys, and values.
        let attention = sum([hidden.saturating_mul(2), queries.saturating_mul(3), keys.saturating_mul(4)]);
        // The kernel streams over keys and keeps no scores; it widens the mask.
        let attention = self.vectors(workload, attention).saturating_add(mask(self.base_bytes + FLOAT32_BYTES));
        // Input, normed input, the attention's output, their sum, its norm, and the output; gate, up and their product.
        let feed_forward = sum([hidden.saturating_mul(6), shape.intermediate_size.saturating_mul(3)]);
        let feed_forward = self.vectors(workload, feed_forward).saturating_add(mask(self.base_bytes));
        // One more token of each prompt, over a second copy of its keys and values.
        let answering = match shape.output_head {
            OutputHead::Absent => 0,
            OutputHead::Tied | OutputHead::Separate => {
                // For the sampler, and a pair's own until it is read: up to three, as the threads happen to run.
                self.reserved(shape, workload).saturating_add(self.logits(shape, workload, 3))
            }
        };
        building.max(attention).max(feed_forward).max(answering).saturating_add(self.products(shape, workload))
    }

    /// Not measured.
    fn cuda_activations(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        let (tokens, longest) = (workload.token_budget, longest(workload));
        // Scores and their softmax, and keys and values repeated for each query head.
        let rows = longest.min(ATTENTION_CHUNK_TOKENS);
        let scores = product([shape.attention_heads, rows, tokens, self.base_bytes, 2]);
        let repeated = product([tokens, shape.query_width(), self.base_bytes, 2]);
        let mask = product([longest, longest, 2 + 2 * self.base_bytes]);
        let vectors = self.vectors(workload, vectors_of_a_part(shape));
        sum([vectors, scores, repeated, mask, self.logits(shape, workload, 1)])
    }

    /// So many values for each token of the largest batch.
    fn vectors(&self, workload: &Workload, width: u64) -> u64 {
        product([workload.token_budget, width, self.inner_bytes.max(self.base_bytes)])
    }

    /// Logits of each pair's last position: in the layer's type, and so often as float32.
    fn logits(&self, shape: &ModelShape, workload: &Workload, copies: u64) -> u64 {
        let pairs = workload.batch_size.min(workload.token_budget);
        match shape.output_head {
            OutputHead::Absent => 0,
            OutputHead::Tied | OutputHead::Separate => {
                product([pairs, shape.vocabulary, self.inner_bytes + copies * FLOAT32_BYTES])
            }
        }
    }

    /// What a matrix product copies its input to: panels as deep as [`PRODUCT_DEPTH`], or all of it in blocks.
    fn products(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        let tokens = workload.token_budget;
        match self.linear {
            LinearStorage::Plain(_) => product([tokens, PRODUCT_DEPTH, FLOAT32_BYTES]).min(PRODUCT_PANEL_BYTES),
            LinearStorage::Blocks | LinearStorage::Channels => {
                product([tokens, shape.intermediate_size.div_ceil(BLOCK_WEIGHTS), BLOCK_BYTES])
            }
        }
    }

    fn key_values(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        if self.packed {
            return Self::packed_key_values(shape, workload);
        }
        let reserved = self.reserved(shape, workload);
        let generates = workload.device == DeviceKind::Cpu && shape.output_head != OutputHead::Absent;
        let piece = product([KEY_VALUE_STEP_TOKENS, shape.key_width(), self.base_bytes]);
        // Large pieces of float32 zeros come from the system, which makes them when they are written to.
        let filled = self.base_bytes < FLOAT32_BYTES || piece < ARENA_PIECE_BYTES;
        if generates && filled { reserved.saturating_add(reserved / 2) } else { reserved }
    }

    /// Keys and values of the largest batch, once.
    fn reserved(&self, shape: &ModelShape, workload: &Workload) -> u64 {
        let steps = |tokens: u64| tokens.div_ceil(KEY_VALUE_STEP_TOKENS).saturating_mul(KEY_VALUE_STEP_TOKENS);
        let mut tokens = steps(workload.token_budget);
        if workload.device == DeviceKind::Cpu {
            // A prompt as long as the budget is run alone, with the token after it.
            tokens = tokens.max(steps(workload.max_length.min(workload.token_budget).saturating_add(1)));
        }
        product([tokens, shape.layers, 2, shape.key_width(), self.base_bytes])
    }
}

/// Residual, normed input and output of a layer's part; and rotated and plain queries and keys, the attention's result
/// and its transpose, or gate, up and their product.
fn vectors_of_a_part(shape: &ModelShape) -> u64 {
    let attention = sum([shape.query_width().saturating_mul(4), shape.key_width().saturating_mul(3)]);
    let feed_forward = shape.intermediate_size.saturating_mul(3);
    shape.hidden_size.saturating_mul(3).saturating_add(attention.max(feed_forward))
}

fn longest(workload: &Workload) -> u64 {
    workload.max_length.min(workload.token_budget)
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    // A zero anywhere makes the whole zero, even beside factors that saturate.
    if factors.contains(&0) { 0 } else { factors.into_iter().fold(1, u64::saturating_mul) }
}

fn sum<const N: usize>(terms: [u64; N]) -> u64 {
    terms.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
