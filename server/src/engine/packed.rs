//! Our own forward pass for the Qwen3 family on a CPU as the engine ([`rerank_packed`] is the arithmetic). This file
//! is the two traits; the parts:
//!
//! | file | owns |
//! |---|---|
//! | `support` | which models it runs (pure) |
//! | `loading` | a model's folder -> a model in memory |
//!
//! What quantizations mean here: float32, float16 and bfloat16 say how weights are held, and arithmetic is float32, but for
//! products of bfloat16 where the processor has them. With int8 the products of layers are of 8 bits, their sums of 32; the
//! embedding table is held in 16 bits, and the output head, norms, attention and all else are float32.
//!
//! All models of a process share one pool of threads, as many as the cgroup and the affinity of the process allow, so
//! that two that compute at once do not take more. A batch is a few thousand tokens and takes seconds; its tokens are
//! computed together without padding, the beginning that its prompts share once. When its client is gone it stops
//! within a layer.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rayon::ThreadPool;
use rerank_packed::{Model, RunError};
use tokio_util::sync::CancellationToken;

use super::batches::{Answers, Bounds};
use super::fatal::FatalSignal;
use super::heart::{Heart, Pulse};
use super::inputs::Inputs;
use super::memory::{self, MemoryFiles};
use super::turn::Turn;
use super::{DeviceMemory, Engine, EngineError, EngineLoader, LoadSpec, PairLogits, ScoreRequest};
use crate::chain::{describe, describe_lost_work};

mod loading;
pub mod support;

/// Loads models of the Qwen3 family into the memory of the machine.
#[derive(Clone, Debug)]
pub struct PackedLoader {
    threads: Arc<ThreadPool>,
    show_progress: bool,
    memory_files: MemoryFiles,
    fatal: FatalSignal,
}

impl PackedLoader {
    /// Starts the threads. `show_progress`: a progress bar on stderr while weights are read, for a terminal; else the
    /// log is told now and then.
    pub fn new(show_progress: bool) -> Result<Self, EngineError> {
        memory::keep_little_of_what_is_freed();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("packed-{number}"))
            .build()
            .map_err(|error| EngineError::Failed { message: format!("failed to start threads: {error}") })?;
        let (memory_files, fatal) = (MemoryFiles::default(), FatalSignal::default());
        Ok(Self { threads: Arc::new(threads), show_progress, memory_files, fatal })
    }
}

#[async_trait]
impl EngineLoader for PackedLoader {
    async fn load(&self, spec: LoadSpec) -> Result<Arc<dyn Engine>, EngineError> {
        let (threads, show_progress) = (Arc::clone(&self.threads), self.show_progress);
        let loading = tokio::task::spawn_blocking(move || loading::load(&spec, &threads, show_progress));
        let loaded = loading.await.map_err(|error| EngineError::Failed { message: error.to_string() })??;
        Ok(Arc::new(PackedEngine {
            inputs: loaded.inputs,
            bounds: loaded.bounds,
            threads: Arc::clone(&self.threads),
            model: Mutex::new(Some(Arc::new(loaded.model))),
            turn: Turn::default(),
            heart: Arc::default(),
            ending: Arc::default(),
        }))
    }

    fn memory(&self) -> Result<DeviceMemory, EngineError> {
        self.memory_files.read()
    }

    fn fatal(&self) -> &FatalSignal {
        &self.fatal
    }
}

/// One model in memory.
struct PackedEngine {
    inputs: Inputs,
    bounds: Bounds,
    threads: Arc<ThreadPool>,
    /// Gone after unloading.
    model: Mutex<Option<Arc<Model>>>,
    turn: Turn,
    heart: Arc<Heart>,
    /// It is being unloaded: the batch under way stops.
    ending: Arc<AtomicBool>,
}

impl PackedEngine {
    /// Runs the batches of one request one after another, each in a turn of its own.
    async fn run_batches<T: Send + 'static>(
        &self,
        inputs: Vec<Vec<u32>>,
        cancel: &CancellationToken,
        run: impl Fn(&Model, &[Vec<u32>], Stop<'_>) -> Result<Vec<T>, EngineError> + Clone + Send + Sync + 'static,
    ) -> Result<Vec<T>, EngineError> {
        let lengths: Vec<usize> = inputs.iter().map(Vec::len).collect();
        let mut answers = Answers::to(inputs);
        for batch in self.bounds.plan(&lengths) {
            let prompts = answers.take(&batch);
            answers.put(&batch, self.run_one(prompts, cancel, run.clone()).await)?;
        }
        answers.all()
    }

    /// Runs a batch on a thread of its own, which keeps the turn until it is done or has stopped, also when nobody
    /// waits for it any more.
    async fn run_one<T: Send + 'static>(
        &self,
        prompts: Vec<Vec<u32>>,
        cancel: &CancellationToken,
        run: impl Fn(&Model, &[Vec<u32>], Stop<'_>) -> Result<Vec<T>, EngineError> + Send + Sync + 'static,
    ) -> Result<Vec<T>, EngineError> {
        let turn = self.turn.take(cancel).await?;
        let model = self.model.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let model = model.ok_or_else(|| EngineError::Failed { message: "the model is unloaded".to_owned() })?;
        let gone = Gone::default();
        let stop = Arc::clone(&gone.0);
        let (threads, heart, ending) = (Arc::clone(&self.threads), Arc::clone(&self.heart), Arc::clone(&self.ending));
        let batch = tokio::task::spawn_blocking(move || {
            let beat = heart.beat();
            // It is asked between the tiles of each layer: a sign of life, however long a prompt is.
            let stop = || {
                heart.step();
                stop.load(Ordering::Relaxed) || ending.load(Ordering::Relaxed)
            };
            let results = threads.install(|| run(&model, &prompts, &stop));
            // Whoever is next begins when the turn is free, and whoever unloads then holds the model alone.
            drop(beat);
            drop(model);
            drop(turn);
            results
        });
        let joined = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(EngineError::Cancelled),
            joined = batch => joined,
        };
        joined.map_err(|error| EngineError::Failed { message: describe_lost_work(&error).to_owned() })?
    }
}

/// Whether a batch is to stop.
type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// Tells a batch that nobody waits for it any more, by being dropped.
#[derive(Default)]
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Engine for PackedEngine {
    fn batches(&self, lengths: &[usize]) -> Vec<Vec<usize>> {
        self.bounds.plan(lengths)
    }

    async fn score(&self, request: ScoreRequest, cancel: &CancellationToken) -> Result<Vec<PairLogits>, EngineError> {
        self.inputs.check_pairs(&request)?;
        let (shared, answers) = (request.shared_prefix_tokens, [request.yes_token, request.no_token]);
        self.run_batches(request.prompts, cancel, move |model, prompts, stop| {
            let logits = model.score(prompts, shared, answers, stop).map_err(|error| engine_error(&error))?;
            finite(logits, |logits| logits.iter().all(|logit| logit.is_finite()))
                .map(|logits| logits.into_iter().map(|[yes, no]| PairLogits { yes, no }).collect())
        })
        .await
    }

    async fn embed(&self, texts: Vec<Vec<u32>>, cancel: &CancellationToken) -> Result<Vec<Vec<f32>>, EngineError> {
        self.inputs.check_texts(&texts)?;
        self.run_batches(texts, cancel, |model, texts, stop| {
            let vectors = model.embed(texts, stop).map_err(|error| engine_error(&error))?;
            finite(vectors, |vector| vector.iter().all(|value| value.is_finite()))
        })
        .await
    }

    fn pulse(&self) -> Pulse {
        self.heart.pulse()
    }

    async fn unload(&self) -> Result<(), EngineError> {
        self.ending.store(true, Ordering::Relaxed);
        self.turn.end().await;
        let Some(model) = self.model.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let model = Arc::into_inner(model).ok_or_else(|| EngineError::Failed {
            message: "the batch under way did not stop in time and holds the model's memory".to_owned(),
        })?;
        let freed = tokio::task::spawn_blocking(move || {
            drop(model);
            memory::give_back();
        });
        freed.await.map_err(|error| EngineError::Failed { message: error.to_string() })
    }
}

fn engine_error(error: &RunError) -> EngineError {
    match error {
        RunError::Stopped => EngineError::Cancelled,
        RunError::Head(_) => EngineError::Failed { message: describe(error) },
    }
}

/// The answers, all of which are numbers.
fn finite<T>(answers: Vec<T>, is_finite: impl Fn(&T) -> bool) -> Result<Vec<T>, EngineError> {
    match answers.iter().position(|answer| !is_finite(answer)) {
        None => Ok(answers),
        Some(index) => Err(EngineError::NotFinite { index }),
    }
}

impl fmt::Debug for PackedEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PackedEngine").field("inputs", &self.inputs).finish_non_exhaustive()
    }
}
