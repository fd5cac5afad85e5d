//! The memory that everything a configuration serves takes at its largest, before any weights are read. Pure.

use super::{ServedModel, ServerConfig};
use crate::catalog::{
    DeviceKind, MemoryEstimate, ModelShape, Quantization, Workload, embedding_model, estimate_memory, reranker_model,
    token_budget,
};

/// Texts that the embedder reads together.
pub const EMBEDDER_BATCH_SIZE: i32 = 32;

/// Tokens of one text that the embedder reads, at most.
pub const EMBEDDER_MAXIMUM_LENGTH: i32 = 8_192;

/// Bytes of one weight in the files of a hub: bfloat16, as Qwen publishes.
const BYTES_OF_A_WEIGHT_IN_A_FILE: u64 = 2;

/// What a configuration will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// On the device: the embedder and the largest of the rerankers that may be asked for, both loaded.
    pub memory: MemoryEstimate,
    /// Files of the embedder and of the deployed reranker.
    pub file_bytes: u64,
}

/// A model whose shape the catalogue does not know, so that nothing can be said before its files are read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the catalogue does not know the shape of {model:?}")]
pub struct UnknownShape {
    /// Model id.
    pub model: String,
}

impl ServerConfig {
    /// What this will take on a device.
    ///
    /// # Errors
    /// One of its models is not in the catalogue.
    pub fn footprint(&self, device: DeviceKind) -> Result<Footprint, UnknownShape> {
        let mut memory = MemoryEstimate::default();
        let mut file_bytes = 0;
        if let Some(model) = &self.embedding.model {
            let shape = shape_of(model, embedding_model(model).map(|known| &known.shape))?;
            let budget = token_budget(None, EMBEDDER_BATCH_SIZE, EMBEDDER_MAXIMUM_LENGTH, device);
            let sizes = (EMBEDDER_BATCH_SIZE, budget, EMBEDDER_MAXIMUM_LENGTH);
            memory = self.estimate(shape, device, self.embedding.quantization, sizes);
            file_bytes += shape.parameters() * BYTES_OF_A_WEIGHT_IN_A_FILE;
        }
        let served = self.served_rerankers();
        let mut largest: Option<MemoryEstimate> = None;
        for (index, model) in served.iter().enumerate() {
            let (shape, estimate) = self.reranker_estimate(model, device)?;
            if largest.is_none_or(|largest| largest.total_bytes() < estimate.total_bytes()) {
                largest = Some(estimate);
            }
            if index == 0 {
                file_bytes += shape.parameters() * BYTES_OF_A_WEIGHT_IN_A_FILE;
            }
        }
        let memory = largest.map_or(memory, |largest| memory.together_with(&largest));
        Ok(Footprint { memory, file_bytes })
    }

    fn reranker_estimate(
        &self,
        served: &ServedModel,
        device: DeviceKind,
    ) -> Result<(&'static ModelShape, MemoryEstimate), UnknownShape> {
        let shape = shape_of(&served.model, reranker_model(&served.model).map(|known| &known.shape))?;
        let sizes = (self.batch_size(served), self.token_budget(served, device), self.reranker.max_length);
        Ok((shape, self.estimate(shape, device, served.quantization, sizes)))
    }

    fn estimate(
        &self,
        shape: &ModelShape,
        device: DeviceKind,
        quantization: Quantization,
        (batch_size, token_budget, max_length): (i32, i32, i32),
    ) -> MemoryEstimate {
        let engine = self.engine.for_the_catalogue(device);
        let wide = |number: i32| u64::try_from(number).unwrap_or(0);
        let workload = Workload {
            engine,
            device,
            quantization,
            batch_size: wide(batch_size),
            token_budget: wide(token_budget),
            max_length: wide(max_length),
        };
        estimate_memory(shape, &workload)
    }
}

fn shape_of(model: &str, shape: Option<&'static ModelShape>) -> Result<&'static ModelShape, UnknownShape> {
    shape.ok_or_else(|| UnknownShape { model: model.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server_config::AllowedOverride;

    fn config() -> ServerConfig {
        let mut config = ServerConfig::default();
        config.embedding.model = Some("Qwen/Qwen3-Embedding-0.6B".to_owned());
        config
    }

    #[test]
    fn embedder_and_reranker_share_the_device_and_an_override_counts_where_it_is_larger() {
        let both = config().footprint(DeviceKind::Cuda).unwrap();
        let mut alone = config();
        alone.embedding.model = None;
        alone.reranker.model = Some("Qwen/Qwen3-Reranker-0.6B".to_owned());
        let alone = alone.footprint(DeviceKind::Cuda).unwrap();
        assert!(both.memory.total_bytes() > alone.memory.total_bytes() + 1_000_000_000);
        assert_eq!(both.memory.overhead_bytes, alone.memory.overhead_bytes, "once for the device");
        assert!((2_200_000_000..2_700_000_000).contains(&both.file_bytes), "{}", both.file_bytes);

        let mut overridden = config();
        overridden.reranker.allowed_overrides = vec![AllowedOverride {
            model: "Qwen/Qwen3-Reranker-8B".to_owned(),
            revision: None,
            quantizations: vec![Quantization::Float16],
        }];
        let overridden = overridden.footprint(DeviceKind::Cuda).unwrap();
        // Its batches are smaller, its weights larger by far.
        let (largest, deployed) = (overridden.memory, both.memory);
        assert!(largest.weights_bytes > deployed.weights_bytes + 5_000_000_000, "{largest:?}");
        assert!(largest.total_bytes() > deployed.total_bytes(), "{largest:?} {deployed:?}");
        assert_eq!(overridden.file_bytes, both.file_bytes, "it is not downloaded beforehand");
    }

    #[test]
    fn a_model_that_the_catalogue_does_not_know_is_named() {
        let mut config = config();
        config.reranker.model = Some("acme/reranker".to_owned());
        assert_eq!(config.footprint(DeviceKind::Cpu), Err(UnknownShape { model: "acme/reranker".to_owned() }));
        config.reranker.enabled = false;
        assert!(config.footprint(DeviceKind::Cpu).is_ok(), "what is not served does not count");
    }
}
