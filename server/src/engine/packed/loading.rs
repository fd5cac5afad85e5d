//! A model's folder to a model in memory. Blocking.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rayon::ThreadPool;
use rerank_crds::catalog::packed_batch_tokens;
use rerank_packed::{LoadError, Model, Output};

use super::support::supported;
use crate::chain::describe;
use crate::engine::batches::Bounds;
use crate::engine::inputs::Inputs;
use crate::engine::weights::{self, WeightsError};
use crate::engine::{EngineError, LoadSpec, ModelRole, memory, unsupported};

/// How often the log is told how far a load is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A model that can run.
pub(super) struct Loaded {
    pub(super) model: Model,
    pub(super) inputs: Inputs,
    pub(super) bounds: Bounds,
}

/// Reads the weights on those threads.
pub(super) fn load(spec: &LoadSpec, threads: &ThreadPool, show_progress: bool) -> Result<Loaded, EngineError> {
    let info = weights::inspect(&spec.directory, spec.role)?;
    let (shape, way) = supported(&info, spec.quantization).map_err(unsupported)?;
    let output = match (spec.role, info.config.tied_embeddings) {
        (ModelRole::Embedder, _) => Output::Vectors,
        (ModelRole::Reranker, true) => Output::TiedHead,
        (ModelRole::Reranker, false) => Output::SeparateHead,
    };
    let most = packed_batch_tokens(&info.config.shape(spec.role));
    let bounds = Bounds {
        prompts: spec.batch_size.max(1),
        tokens: spec.token_budget.min(usize::try_from(most).unwrap_or(usize::MAX)),
        reserved_by: 1,
        further: 0,
        equal_lengths: false,
    };
    let progress = Progress::new(&spec.model, info.bytes, show_progress);
    let read = || Model::load(&info.files, shape, output, way, &|bytes| progress.add(bytes));
    let model = threads.install(read).map_err(|error| load_error(spec, &error))?;
    progress.end();
    // What was needed to load only.
    memory::give_back();
    Ok(Loaded { model, inputs: Inputs::new(spec.role, &info.config), bounds })
}

fn load_error(spec: &LoadSpec, error: &LoadError) -> EngineError {
    let reason = describe(error);
    WeightsError::Tensors { directory: spec.directory.clone(), reason }.into()
}

/// How far a load is: a bar on a terminal, else now and then a line in the log.
struct Progress<'a> {
    model: &'a str,
    bytes: u64,
    bar: ProgressBar,
    told: Mutex<(Instant, u64)>,
}

impl<'a> Progress<'a> {
    fn new(model: &'a str, bytes: u64, show: bool) -> Self {
        let bar = if show { ProgressBar::new(bytes) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{msg} [{bar:40}] {bytes} of {total_bytes}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(format!("Reading {model}"));
        Self { model, bytes, bar, told: Mutex::new((Instant::now(), 0)) }
    }

    fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        let Ok(mut told) = self.told.lock() else { return };
        told.1 += bytes;
        if told.0.elapsed() >= TELL_EVERY && self.bar.is_hidden() {
            tracing::info!(model = self.model, read_bytes = told.1, total_bytes = self.bytes, "Reading weights");
            told.0 = Instant::now();
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
