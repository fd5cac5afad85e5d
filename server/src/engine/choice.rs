//! Which engine loads which model, and the loader that does as chosen.

use std::sync::Arc;

use async_trait::async_trait;
use rerank_crds::catalog::{DeviceKind, EngineKind, Quantization};

use super::fatal::FatalSignal;
use super::packed::PackedLoader;
use super::packed::support::supported;
use super::weights::WeightsInfo;
use super::{DeviceMemory, Engine, EngineError, EngineLoader, LoadSpec, unsupported};

/// The engine for a model: as configured; for `Auto` Packed on a CPU where it runs the model, else Mistralrs. Never
/// `Auto`. Pure. The error says what stands against the configured one.
pub fn choose(
    configured: EngineKind,
    device: DeviceKind,
    info: &WeightsInfo,
    quantization: Quantization,
) -> Result<EngineKind, String> {
    match (configured, device) {
        (EngineKind::Mistralrs, _) | (EngineKind::Auto, DeviceKind::Cuda) => Ok(EngineKind::Mistralrs),
        (EngineKind::Auto, DeviceKind::Cpu) => {
            Ok(supported(info, quantization).map_or(EngineKind::Mistralrs, |_| EngineKind::Packed))
        }
        (EngineKind::Packed, DeviceKind::Cpu) => supported(info, quantization).map(|_| EngineKind::Packed),
        (EngineKind::Packed, DeviceKind::Cuda) => {
            Err("engine Packed computes on a CPU, and a GPU is here; set engine to Auto or Mistralrs, or hide the GPU \
                 (CUDA_VISIBLE_DEVICES=)"
                .to_owned())
        }
    }
}

/// Every engine of this build. On a machine with a GPU its device is the GPU.
#[derive(Debug)]
pub struct Engines {
    packed: PackedLoader,
    #[cfg(feature = "mistralrs")]
    mistralrs: super::mistralrs::MistralrsLoader,
}

impl Engines {
    /// Opens the device and starts the threads. `show_progress`: loads draw a bar on a terminal.
    pub fn new(show_progress: bool) -> Result<Self, EngineError> {
        Ok(Self {
            packed: PackedLoader::new(show_progress)?,
            #[cfg(feature = "mistralrs")]
            mistralrs: super::mistralrs::MistralrsLoader::new(show_progress)?,
        })
    }
}

#[async_trait]
impl EngineLoader for Engines {
    async fn load(&self, spec: LoadSpec) -> Result<Arc<dyn Engine>, EngineError> {
        match spec.engine {
            EngineKind::Packed => self.packed.load(spec).await,
            #[cfg(feature = "mistralrs")]
            EngineKind::Mistralrs => self.mistralrs.load(spec).await,
            #[cfg(not(feature = "mistralrs"))]
            EngineKind::Mistralrs => {
                Err(unsupported("this build has no engine Mistralrs; build it with the feature `mistralrs`".to_owned()))
            }
            EngineKind::Auto => Err(unsupported("no engine was chosen".to_owned())),
        }
    }

    fn memory(&self) -> Result<DeviceMemory, EngineError> {
        #[cfg(feature = "mistralrs")]
        let memory = self.mistralrs.memory();
        #[cfg(not(feature = "mistralrs"))]
        let memory = self.packed.memory();
        memory
    }

    fn fatal(&self) -> &FatalSignal {
        // A CPU is not lost.
        #[cfg(feature = "mistralrs")]
        let fatal = self.mistralrs.fatal();
        #[cfg(not(feature = "mistralrs"))]
        let fatal = self.packed.fatal();
        fatal
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::packed::support::tests::info;
    use super::*;

    #[test]
    fn a_cpu_gets_packed_for_what_it_runs_and_mistralrs_for_the_rest() {
        let (qwen, llama) = (info(&json!({})), info(&json!({"architecture": "LlamaForCausalLM"})));
        let auto =
            |device, info: &WeightsInfo, quantization| choose(EngineKind::Auto, device, info, quantization).unwrap();
        for quantization in Quantization::ALL {
            assert_eq!(auto(DeviceKind::Cpu, &qwen, quantization), EngineKind::Packed);
            assert_eq!(auto(DeviceKind::Cuda, &qwen, quantization), EngineKind::Mistralrs);
            assert_eq!(auto(DeviceKind::Cpu, &llama, quantization), EngineKind::Mistralrs);
        }
    }

    #[test]
    fn the_same_is_said_of_the_models_of_the_catalogue_without_their_files() {
        for configured in EngineKind::ALL {
            for device in [DeviceKind::Cpu, DeviceKind::Cuda] {
                for quantization in Quantization::ALL {
                    let Ok(chosen) = choose(configured, device, &info(&json!({})), quantization) else { continue };
                    assert_eq!(configured.for_the_catalogue(device), chosen, "{configured} {device:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_named_and_cannot_be_is_refused_with_words() {
        let packed = |device, info: &WeightsInfo, quantization| {
            choose(EngineKind::Packed, device, info, quantization).unwrap_err()
        };
        let qwen = info(&json!({}));
        assert!(packed(DeviceKind::Cuda, &qwen, Quantization::Float32).contains("set engine to Auto or Mistralrs"));
        let llama = info(&json!({"architecture": "LlamaForCausalLM"}));
        assert!(packed(DeviceKind::Cpu, &llama, Quantization::Float32).contains("LlamaForCausalLM"));
    }
}
