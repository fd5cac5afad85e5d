//! mistral.rs as the engine: GPU and CPU, every decoder that it loads. This file is the two traits; the parts:
//!
//! | file | owns |
//! |---|---|
//! | `loading` | a model's folder -> a running mistral.rs engine |
//! | `channel` | one batch over to the engine's thread, and back |
//! | `scoring`, `embedding` | one batch: requests, answers |
//! | `running` | turns, cancellation, death, unloading |
//! | `faults` | what an error text of the library means (pure) |
//! | `throughput_logger` | the end of a thread that the library leaves behind |
//! | `tokenizer` | the tokenizer that the library is given (pure) |
//!
//! What `int8` means here: in-situ quantization of the linear layers to `Q8_0` (blocks of 32 weights with one float16
//! scale, symmetric); norms and the embedding table keep 32 bits on CPU and 16 on GPU.
//!
//! # Caveats
//! mistralrs-core 0.8.1, read in its source:
//! - Prompts of **equal length** only run together, with paged attention too: its scheduler sorts them into buckets by
//!   length. On CPU it also confuses prompts of different lengths that it holds at once (it runs some again, and panics
//!   where their reserved memory differs), so that there a batch is of one length and is over when all of it has left
//!   the scheduler. The shared prefix of a request is not computed once on CPU; on CUDA its block-wise prefix cache
//!   does so.
//! - On CPU it runs one token more than is asked for: about a tenth of the time for prompts of some hundred tokens.
//! - Every load starts a thread that logs throughput and never ends: `throughput_logger` ends it within 5 s, where
//!   `telemetry` has been installed.
//! - Attention on CPU is scalar code: for tests and small models.
//! - No run on a GPU has been made with this code yet.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use candle_core::Device;
use rerank_crds::catalog::Quantization;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::batches::Bounds;
use super::fatal::FatalSignal;
use super::heart::Pulse;
use super::inputs::Inputs;
use super::memory::{self, MemoryFiles};
use super::{DeviceMemory, Engine, EngineError, EngineLoader, LoadSpec, ModelRole, PairLogits, ScoreRequest};

mod channel;
mod embedding;
mod faults;
mod loading;
mod running;
mod scoring;
mod throughput_logger;
mod tokenizer;

use running::RunningEngine;
pub(crate) use throughput_logger::end_throughput_loggers;

/// Loads models through mistral.rs: onto the first CUDA device where the build has CUDA and one is there, else on CPU.
#[derive(Clone, Debug)]
pub struct MistralrsLoader {
    device: Device,
    show_progress: bool,
    memory_files: MemoryFiles,
    fatal: FatalSignal,
}

impl MistralrsLoader {
    /// Chooses the device. `show_progress`: progress bars on stderr while weights are read, for a terminal; leave it
    /// off where logs are read by machines.
    pub fn new(show_progress: bool) -> Result<Self, EngineError> {
        memory::keep_little_of_what_is_freed();
        let device = Device::cuda_if_available(0)
            .map_err(|error| faults::Fault::from_message(format!("failed to open the GPU: {error}")).into_error())?;
        Ok(Self { device, show_progress, memory_files: MemoryFiles::default(), fatal: FatalSignal::default() })
    }

    /// `cpu` or `cuda:0`.
    fn device_name(&self) -> String {
        match self.device.location() {
            candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
            candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        }
    }
}

#[async_trait]
impl EngineLoader for MistralrsLoader {
    async fn load(&self, spec: LoadSpec) -> Result<Arc<dyn Engine>, EngineError> {
        loading::Precision::of(spec.quantization, &self.device)?;
        let (device, show_progress) = (self.device.clone(), self.show_progress);
        let (answer, loaded) = oneshot::channel();
        let (prompts, tokens, role) = (spec.batch_size.max(1), spec.token_budget, spec.role);
        // A thread for each load: the library keeps the quantization of a load in a variable of its thread and never
        // clears it, so that the next load on the same thread would be quantized too.
        std::thread::Builder::new()
            .name("model-load".to_owned())
            .spawn(move || {
                // Where nobody waits any more, the model comes back here and is dropped, which ends it.
                let _ = answer.send(loading::load_guarded(&spec, &device, show_progress));
            })
            .map_err(|error| EngineError::Failed { message: format!("failed to start a thread: {error}") })?;
        let loaded = loaded
            .await
            .map_err(|_| EngineError::Failed { message: "the loading thread ended without an answer".to_owned() })?;
        let loaded = loaded.inspect_err(|error| {
            if let EngineError::DeviceLost { message } = error {
                self.fatal.trip(message);
            }
        })?;
        Ok(Arc::new(MistralrsEngine {
            inputs: Inputs::new(role, &loaded.config),
            bounds: Bounds {
                prompts,
                tokens,
                reserved_by: loaded.reserved_by,
                further: usize::from(role == ModelRole::Reranker && !loaded.paged),
                equal_lengths: role == ModelRole::Embedder || !loaded.paged,
            },
            running: RunningEngine::new(loaded, self.fatal.clone()),
        }))
    }

    fn memory(&self) -> Result<DeviceMemory, EngineError> {
        if self.device.is_cpu() {
            return self.memory_files.read();
        }
        let figure = |bytes: candle_core::Result<usize>| {
            let bytes = bytes.map_err(|error| EngineError::Failed { message: error.to_string() })?;
            Ok::<u64, EngineError>(bytes as u64)
        };
        Ok(DeviceMemory {
            device: self.device_name(),
            free_bytes: figure(mistralrs_core::MemoryUsage.get_memory_available(&self.device))?,
            total_bytes: figure(mistralrs_core::MemoryUsage.get_total_memory(&self.device))?,
        })
    }

    fn fatal(&self) -> &FatalSignal {
        &self.fatal
    }
}

/// One model that mistral.rs runs.
struct MistralrsEngine {
    inputs: Inputs,
    bounds: Bounds,
    running: RunningEngine,
}

#[async_trait]
impl Engine for MistralrsEngine {
    fn batches(&self, lengths: &[usize]) -> Vec<Vec<usize>> {
        self.bounds.plan(lengths)
    }

    async fn score(&self, request: ScoreRequest, cancel: &CancellationToken) -> Result<Vec<PairLogits>, EngineError> {
        self.inputs.check_pairs(&request)?;
        let lengths: Vec<usize> = request.prompts.iter().map(Vec::len).collect();
        let plan = self.bounds.plan(&lengths);
        let tokens = scoring::AnswerTokens { yes: request.yes_token, no: request.no_token };
        self.running
            .run_batches(request.prompts, plan, cancel, move |channel, prompts| {
                scoring::score_batch(channel, prompts, tokens)
            })
            .await
    }

    async fn embed(&self, texts: Vec<Vec<u32>>, cancel: &CancellationToken) -> Result<Vec<Vec<f32>>, EngineError> {
        self.inputs.check_texts(&texts)?;
        let texts: Vec<Vec<u32>> = texts.into_iter().map(embedding::at_least_two_tokens).collect();
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let plan = self.bounds.plan(&lengths);
        self.running.run_batches(texts, plan, cancel, embedding::embed_batch).await
    }

    fn is_dead(&self) -> bool {
        self.running.is_dead()
    }

    fn pulse(&self) -> Pulse {
        self.running.pulse()
    }

    async fn unload(&self) -> Result<(), EngineError> {
        self.running.unload().await
    }
}

impl fmt::Debug for MistralrsEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MistralrsEngine")
            .field("inputs", &self.inputs)
            .field("dead", &self.is_dead())
            .finish_non_exhaustive()
    }
}

/// Names of the quantizations that run on CPU.
fn cpu_quantizations() -> String {
    [Quantization::Float32, Quantization::Float16, Quantization::Int8]
        .map(|quantization| format!("{quantization:?}").to_lowercase())
        .join(", ")
}
