//! Which reranker suits a GPU: the guide's decision tree as a function. Pure.

use super::execution::Quantization;
use super::models::DEFAULT_RERANKER;

/// Under this, only the smallest model in int8 has room. 2 GB.
const LITTLE_MEMORY_BYTES: u64 = 2_000_000_000;

/// Above this, the 4B in float16 has room beside an embedding model. 10 GB.
const MUCH_MEMORY_BYTES: u64 = 10_000_000_000;

/// How precise the ranking should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrecisionWish {
    /// As the embedding model's size suggests.
    #[default]
    Standard,
    /// High: complex queries, where precision matters more than speed.
    High,
}

/// What the decision tree advises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recommendation {
    /// The reranker to name. None: leave it to the selection.
    pub model: Option<&'static str>,
    /// The quantization to name. None: leave the default.
    pub quantization: Option<Quantization>,
    /// Why, as a sentence.
    pub reason: &'static str,
}

/// Which reranker suits a GPU with so much memory.
pub fn recommend(gpu_memory_bytes: u64, wish: PrecisionWish) -> Recommendation {
    if gpu_memory_bytes < LITTLE_MEMORY_BYTES {
        Recommendation {
            model: Some(DEFAULT_RERANKER),
            quantization: Some(Quantization::Int8),
            reason: "less than 2 GB of GPU memory holds the smallest reranker in int8",
        }
    } else if wish == PrecisionWish::High && gpu_memory_bytes > MUCH_MEMORY_BYTES {
        Recommendation {
            model: Some("Qwen/Qwen3-Reranker-4B"),
            quantization: Some(Quantization::Float16),
            reason: "high precision is wanted and more than 10 GB of GPU memory holds the 4B in float16",
        }
    } else {
        Recommendation {
            model: None,
            quantization: None,
            reason: "the reranker that matches the embedding model is the best choice",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_tree_holds_at_its_boundaries() {
        let small = (Some("Qwen/Qwen3-Reranker-0.6B"), Some(Quantization::Int8));
        let precise = (Some("Qwen/Qwen3-Reranker-4B"), Some(Quantization::Float16));
        let automatic = (None, None);
        for (bytes, wish, expected) in [
            (0, PrecisionWish::Standard, small),
            (1_999_999_999, PrecisionWish::Standard, small),
            (1_999_999_999, PrecisionWish::High, small),
            (2_000_000_000, PrecisionWish::Standard, automatic),
            (2_000_000_000, PrecisionWish::High, automatic),
            (10_000_000_000, PrecisionWish::High, automatic),
            (10_000_000_001, PrecisionWish::High, precise),
            (10_000_000_001, PrecisionWish::Standard, automatic),
            (u64::MAX, PrecisionWish::High, precise),
        ] {
            let advice = recommend(bytes, wish);
            assert_eq!((advice.model, advice.quantization), expected, "{bytes} bytes, {wish:?}");
            assert!(!advice.reason.is_empty());
        }
    }
}
