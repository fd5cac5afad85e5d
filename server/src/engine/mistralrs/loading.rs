//! A model's folder to a running mistral.rs engine. Blocking; runs on a thread of its own.
//!
//! Files are handed to the library one by one, so that it never looks anything up: not on the network, not in a hub
//! cache, and not beside the weights, where it would take a chat template or a pickle file. `config.json`, in the form
//! that the library reads, and a tokenizer go through a temporary folder; the model's folder may be read-only.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use mistralrs_core::{
    AdapterPaths, DefaultSchedulerMethod, DeviceMapSetting, EmbeddingLoaderBuilder, EmbeddingLoaderType,
    EmbeddingModelPaths, EmbeddingSpecificConfig, IsqType, Loader, LocalModelPaths, MemoryGpuConfig, MistralRs,
    MistralRsBuilder, ModelDType, ModelPaths, NormalLoaderBuilder, NormalLoaderType, NormalSpecificConfig,
    PagedAttentionConfig, PagedCacheType, Pipeline, Request, SchedulerConfig,
};
use rerank_crds::catalog::Quantization;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::sync::mpsc::Sender;

use super::faults::Fault;
use super::{cpu_quantizations, throughput_logger, tokenizer};
use crate::engine::weights::{self, ModelConfig, WeightsInfo};
use crate::engine::{EngineError, LoadSpec, ModelRole, memory, unsupported};

/// Without paged attention the library reserves keys and values of each prompt in steps of so many tokens.
const RESERVED_TOKENS: usize = 512;
/// Tokens in a block of paged attention: the library's own default.
const BLOCK_TOKENS: usize = 32;

/// Threads that quantise while a model is read: a matrix waits at full precision for each, and [`estimate_memory`] counts
/// on no more.
///
/// [`estimate_memory`]: rerank_crds::catalog::estimate_memory
const QUANTISING_THREADS: usize = 4;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";

/// A model that runs.
pub(super) struct LoadedModel {
    pub(super) engine: Arc<MistralRs>,
    pub(super) requests: Sender<Request>,
    pub(super) pipeline: Arc<Mutex<dyn Pipeline>>,
    pub(super) config: ModelConfig,
    /// Whether keys and values are held in blocks.
    pub(super) paged: bool,
    /// Memory for a prompt is reserved in steps of so many tokens.
    pub(super) reserved_by: usize,
}

/// How weights are held.
#[derive(Clone, Copy)]
pub(super) struct Precision {
    dtype: ModelDType,
    quantized: Option<IsqType>,
}

impl Precision {
    /// Refuses what the device cannot compute: the library would fail in the first batch only.
    pub(super) fn of(quantization: Quantization, device: &Device) -> Result<Self, EngineError> {
        let (dtype, quantized) = match quantization {
            Quantization::Float32 => (ModelDType::F32, None),
            Quantization::Float16 => (ModelDType::F16, None),
            Quantization::Bfloat16 if device.is_cpu() => {
                let allowed = cpu_quantizations();
                return Err(unsupported(format!("quantization bfloat16 does not run on cpu; allowed: {allowed}")));
            }
            Quantization::Bfloat16 => (ModelDType::BF16, None),
            // The layers that stay: 32 bits on CPU, where arithmetic in 16 is no faster.
            Quantization::Int8 if device.is_cpu() => (ModelDType::F32, Some(IsqType::Q8_0)),
            Quantization::Int8 => (ModelDType::F16, Some(IsqType::Q8_0)),
        };
        Ok(Self { dtype, quantized })
    }

    /// Bytes of one key or value.
    fn bytes(self) -> usize {
        if matches!(self.dtype, ModelDType::F32) { 4 } else { 2 }
    }
}

/// Loads a model; a panic of the library becomes an error.
pub(super) fn load_guarded(spec: &LoadSpec, device: &Device, show_progress: bool) -> Result<LoadedModel, EngineError> {
    guarded(&spec.model, || load(spec, device, show_progress))
}

/// What our checks cannot see, the library may answer with a panic.
fn guarded<T>(model: &str, load: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|panic| {
        let message = format!("loading {model} panicked: {}", panic_text(panic.as_ref()));
        Err(Fault::from_message(message).into_error())
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

fn load(spec: &LoadSpec, device: &Device, show_progress: bool) -> Result<LoadedModel, EngineError> {
    let info = weights::inspect(&spec.directory, spec.role)?;
    let precision = Precision::of(spec.quantization, device)?;
    let folder = tempfile::tempdir().map_err(|error| no_folder(&error))?;
    write_json(folder.path(), CONFIG, &info.engine_config)?;
    write_json(folder.path(), TOKENIZER, &tokenizer::of_single_bytes())?;
    let (loader, paths) = match spec.role {
        ModelRole::Reranker => reranker(&info, folder.path(), &spec.model)?,
        ModelRole::Embedder => embedder(&info, folder.path(), &spec.model)?,
    };
    let paged = device.is_cuda() && spec.role == ModelRole::Reranker;
    let paged_attention = paged.then(|| paged_attention(spec, &info.config, precision)).transpose()?;
    let read = || {
        loader.load_model_from_path(
            &paths,
            &precision.dtype,
            device,
            !show_progress,
            DeviceMapSetting::dummy(),
            precision.quantized,
            paged_attention,
        )
    };
    // The library quantises on as many threads as the pool has that it is called in.
    let threads = rayon::current_num_threads().min(QUANTISING_THREADS);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| no_threads(&error))?;
    let pipeline = pool
        .install(read)
        .map_err(|error| Fault::from_message(format!("loading {} failed: {error:#}", spec.model)).into_error())?;
    let loaded = start(pipeline, spec, info.config)?;
    // What was needed to load only.
    memory::give_back();
    Ok(loaded)
}

/// What loads a model, and where its files are.
type LibraryLoader = (Box<dyn Loader>, Box<dyn ModelPaths>);

fn reranker(info: &WeightsInfo, folder: &Path, model: &str) -> Result<LibraryLoader, EngineError> {
    let kind = NormalLoaderType::from_causal_lm_name(&info.config.architecture)
        .map_err(|error| unsupported(error.to_string()))?;
    let loader =
        NormalLoaderBuilder::new(NormalSpecificConfig::default(), None, None, Some(model.to_owned()), false, None)
            .build(Some(kind))
            .map_err(|error| unsupported(error.to_string()))?;
    let paths = LocalModelPaths {
        tokenizer_filename: folder.join(TOKENIZER),
        config_filename: folder.join(CONFIG),
        template_filename: None,
        filenames: info.files.clone(),
        adapter_paths: AdapterPaths::None,
        gen_conf: None,
        preprocessor_config: None,
        processor_config: None,
        chat_template_json_filename: None,
    };
    Ok((loader, Box::new(paths)))
}

fn embedder(info: &WeightsInfo, folder: &Path, model: &str) -> Result<LibraryLoader, EngineError> {
    let pooling = json!({
        "word_embedding_dimension": info.config.hidden_size,
        "pooling_mode_cls_token": false,
        "pooling_mode_mean_tokens": false,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
        "pooling_mode_weightedmean_tokens": false,
        "pooling_mode_lasttoken": true,
        "include_prompt": true,
    });
    write_json(folder, "pooling.json", &pooling)?;
    let loader = EmbeddingLoaderBuilder::new(EmbeddingSpecificConfig::default(), None, Some(model.to_owned()))
        .build(Some(EmbeddingLoaderType::Qwen3Embedding));
    // The type of a module cannot be named outside the library, but it can be read.
    let modules = json!([
        {"Transformer": {"path": ""}},
        {"Pooling": {"path": "1_Pooling", "config": folder.join("pooling.json")}},
    ]);
    let paths = EmbeddingModelPaths {
        tokenizer_filename: folder.join(TOKENIZER),
        config_filename: folder.join(CONFIG),
        modules: serde_json::from_value(modules).map_err(|error| unsupported(error.to_string()))?,
        filenames: info.files.clone(),
        adapter_paths: AdapterPaths::None,
    };
    Ok((loader, Box::new(paths)))
}

/// Memory for the keys and values of one batch, in whole blocks for each prompt.
fn paged_attention(
    spec: &LoadSpec,
    config: &ModelConfig,
    precision: Precision,
) -> Result<PagedAttentionConfig, EngineError> {
    let tokens = spec.token_budget.max(spec.max_length) + (spec.batch_size + 1) * BLOCK_TOKENS;
    let bytes = tokens * 2 * config.layers * config.key_value_heads * config.head_dimension * precision.bytes();
    PagedAttentionConfig::new(
        Some(BLOCK_TOKENS),
        MemoryGpuConfig::MbAmount(bytes.div_ceil(1024 * 1024) + 1),
        PagedCacheType::Auto,
    )
    .map_err(|error| unsupported(error.to_string()))
}

fn start(
    pipeline: Arc<Mutex<dyn Pipeline + Send + Sync>>,
    spec: &LoadSpec,
    config: ModelConfig,
) -> Result<LoadedModel, EngineError> {
    let pipeline: Arc<Mutex<dyn Pipeline>> = pipeline;
    let failed = |message: String| EngineError::Failed { message };
    let blocks = match pipeline.try_lock() {
        Ok(pipeline) => pipeline.get_metadata().cache_config.clone(),
        Err(error) => return Err(failed(error.to_string())),
    };
    let paged = blocks.is_some();
    let most = spec.batch_size.max(1);
    let scheduler = match blocks {
        Some(config) => SchedulerConfig::PagedAttentionMeta { max_num_seqs: most, config },
        None => SchedulerConfig::DefaultScheduler {
            method: DefaultSchedulerMethod::Fixed(most.try_into().map_err(|_| failed("batch size is 0".to_owned()))?),
        },
    };
    // A runtime of one thread: on another the library first runs a prompt of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| failed(error.to_string()))?;
    let builder = MistralRsBuilder::new(pipeline.clone(), scheduler, false, None)
        // Without paged attention the cache of prefixes grows with every request and is never emptied on CPU.
        .with_no_prefix_cache(!paged);
    let engine = runtime.block_on(builder.build());
    throughput_logger::wake(&engine);
    let requests = engine.get_sender(None).map_err(|error| failed(error.to_string()))?;
    let reserved_by = match spec.role {
        // No keys and values outlive the pass.
        ModelRole::Embedder => 1,
        ModelRole::Reranker if paged => BLOCK_TOKENS,
        ModelRole::Reranker => RESERVED_TOKENS,
    };
    Ok(LoadedModel { engine, requests, pipeline, config, paged, reserved_by })
}

fn write_json(folder: &Path, file: &str, value: &serde_json::Value) -> Result<(), EngineError> {
    std::fs::write(folder.join(file), value.to_string()).map_err(|error| no_folder(&error))
}

fn no_threads(error: &rayon::ThreadPoolBuildError) -> EngineError {
    unsupported(format!("failed to start the threads that read a model: {error}"))
}

fn no_folder(error: &io::Error) -> EngineError {
    let folder = std::env::temp_dir();
    unsupported(format!(
        "failed to write a temporary folder in {}: {error}; mount a writable one there or set TMPDIR",
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_library_is_an_error_from_a_pool_of_threads_too() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let panic = || pool.install(|| -> Result<(), EngineError> { panic!("index out of bounds") });
        let error = guarded("acme/reranker", panic).unwrap_err();
        assert!(matches!(error, EngineError::Failed { .. }), "{error}");
        assert!(error.to_string().contains("loading acme/reranker panicked: index out of bounds"), "{error}");
    }
}
