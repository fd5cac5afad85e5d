//! How many pairs and how many tokens a batch may hold. Pure.

use super::custom::CustomReranker;
use super::execution::{DeviceKind, Quantization};
use super::models::{RERANKERS, reranker_model};
use super::size::{nearest_by_ratio, parse_size};

/// Tokens that a pair is expected to have when a GPU's budget is derived from the batch size.
const EXPECTED_TOKENS_PER_PAIR: i32 = 512;

/// Pairs in a batch for each way to hold weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// In float32.
    pub float32: i32,
    /// In float16; bfloat16 uses it too.
    pub float16: i32,
    /// In int8.
    pub int8: i32,
}

impl BatchRow {
    /// Pairs in a batch.
    pub const fn pairs(self, quantization: Quantization) -> i32 {
        match quantization {
            Quantization::Float32 => self.float32,
            Quantization::Float16 | Quantization::Bfloat16 => self.float16,
            Quantization::Int8 => self.int8,
        }
    }
}

/// Pairs in a batch of `model` unless the configuration names a number.
///
/// In this order: the user's own number for the model (`reranker.custom[].batchSizes`; bfloat16 without a number of its
/// own uses float16's), the table's row of the model, the row of the size nearest to the one in its name, the row of the
/// 0.6B. The last is right for small models and generous for large ones whose name states no size: the check of memory
/// before each load is what protects those.
pub fn batch_size(model: &str, quantization: Quantization, custom: &[CustomReranker]) -> i32 {
    let own = custom.iter().find(|entry| entry.model == model).and_then(|entry| {
        let sizes = &entry.batch_sizes;
        match quantization {
            Quantization::Bfloat16 => sizes.get(&quantization).or_else(|| sizes.get(&Quantization::Float16)),
            _ => sizes.get(&quantization),
        }
    });
    own.copied().unwrap_or_else(|| row_of(model).pairs(quantization))
}

fn row_of(model: &str) -> BatchRow {
    let [smallest, ..] = &RERANKERS;
    let nearest = || {
        let known = RERANKERS.each_ref();
        parse_size(model).and_then(|size| nearest_by_ratio(size, &known, |known| known.nominal_parameters))
    };
    reranker_model(model).or_else(nearest).unwrap_or(smallest).batch
}

/// Tokens in a batch, which bounds memory: `explicit` where it is given, else `batch_size` x 512 but at least
/// `max_length` on a GPU, and `max_length` on a CPU, where a larger batch is no faster.
pub fn token_budget(explicit: Option<i32>, batch_size: i32, max_length: i32, device: DeviceKind) -> i32 {
    explicit.unwrap_or_else(|| match device {
        DeviceKind::Cuda => batch_size.saturating_mul(EXPECTED_TOKENS_PER_PAIR).max(max_length),
        DeviceKind::Cpu => max_length,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::catalog::{Prompt, Scoring};

    fn custom(model: &str, sizes: &[(Quantization, i32)]) -> CustomReranker {
        CustomReranker {
            model: model.to_owned(),
            embedding_models: Vec::new(),
            batch_sizes: sizes.iter().copied().collect::<BTreeMap<_, _>>(),
            prompt: Prompt::default(),
            scoring: Scoring::default(),
        }
    }

    #[test]
    fn known_models_have_the_batch_sizes_of_the_guide() {
        for (model, sizes) in [
            ("Qwen/Qwen3-Reranker-0.6B", [64, 128, 128, 256]),
            ("Qwen/Qwen3-Reranker-4B", [16, 32, 32, 64]),
            ("Qwen/Qwen3-Reranker-8B", [8, 16, 16, 32]),
        ] {
            assert_eq!(Quantization::ALL.map(|quantization| batch_size(model, quantization, &[])), sizes, "{model}");
        }
    }

    #[test]
    fn other_models_use_the_row_of_the_nearest_size_and_without_a_size_the_first() {
        for (model, expected) in [("acme/rerank-3b", 32), ("acme/rerank-70B", 16), ("tiny", 128), ("acme/x-v2", 128)] {
            assert_eq!(batch_size(model, Quantization::Float16, &[]), expected, "{model}");
        }
    }

    #[test]
    fn the_users_own_batch_size_comes_first() {
        let entries = [
            custom("acme/x", &[(Quantization::Float16, 5), (Quantization::Int8, 7)]),
            custom("Qwen/Qwen3-Reranker-4B", &[(Quantization::Bfloat16, 3)]),
        ];
        assert_eq!(batch_size("acme/x", Quantization::Float16, &entries), 5);
        assert_eq!(batch_size("acme/x", Quantization::Bfloat16, &entries), 5);
        assert_eq!(batch_size("acme/x", Quantization::Int8, &entries), 7);
        assert_eq!(batch_size("acme/x", Quantization::Float32, &entries), 64);
        assert_eq!(batch_size("Qwen/Qwen3-Reranker-4B", Quantization::Bfloat16, &entries), 3);
        assert_eq!(batch_size("Qwen/Qwen3-Reranker-4B", Quantization::Float16, &entries), 32);
    }

    #[test]
    fn the_token_budget_follows_the_batch_on_a_gpu_and_the_prompt_on_a_cpu() {
        assert_eq!(token_budget(None, 128, 8_192, DeviceKind::Cuda), 65_536);
        assert_eq!(token_budget(None, 8, 8_192, DeviceKind::Cuda), 8_192);
        assert_eq!(token_budget(None, 128, 8_192, DeviceKind::Cpu), 8_192);
        assert_eq!(token_budget(Some(9_000), 128, 8_192, DeviceKind::Cuda), 9_000);
        assert_eq!(token_budget(Some(9_000), 128, 8_192, DeviceKind::Cpu), 9_000);
        assert_eq!(token_budget(None, i32::MAX, 8_192, DeviceKind::Cuda), i32::MAX);
    }
}
