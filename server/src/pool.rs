//! The model pool: one slot for each (role, model, quantization); one load however many wait; idle models are
//! unloaded, never under a request.
//!
//! This file owns the pool's words and its face. `slot` holds the states and what follows from them (pure), `memory`
//! decides what fits and what would help (pure), `source` says what is to be loaded, `load` does it, `unload` gives
//! the memory back, `warmup` makes the largest batch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rerank_crds::catalog::{Quantization, SelectionReason};
use rerank_crds::server_config::{Lifecycle, SelfTest};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::fatal::FatalSignal;
use crate::engine::heart::Pulse;
use crate::engine::{Engine, EngineLoader, ModelRole};
use crate::metrics::Metrics;
use crate::prompt::{EmbedPrompt, RerankPrompt};

mod load;
mod memory;
mod self_test;
mod slot;
mod source;
mod unload;
mod warmup;

#[cfg(test)]
mod tests;

pub use self_test::{SelfTestOutcome, SelfTestReport};
pub use source::{ModelPlan, ModelSource, SourceError};

use slot::{Slot, Step};

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelKey {
    /// Embedder or reranker.
    pub role: ModelRole,
    /// Model id.
    pub model: String,
    /// How weights are held.
    pub quantization: Quantization,
}

/// State of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, utoipa::ToSchema)]
pub enum ModelState {
    /// Nothing is loaded.
    Standby,
    /// Weights are being read.
    Loading,
    /// The largest batch is being run.
    Warming,
    /// It answers.
    Ready,
    /// Memory is being given back.
    Unloading,
    /// The last load failed; it is tried again after a pause.
    Failed,
}

/// One line of the control port's model list.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelStatus {
    /// Why this reranker is the deployed one; None for every other model. The pool does not know it.
    pub selection_reason: Option<SelectionReason>,
    /// Model id.
    pub name: String,
    /// `embedder` or `reranker`.
    pub role: &'static str,
    /// How weights are held.
    pub quantization: Quantization,
    /// Commit that its weights come from, once its folder was read and where it is known.
    pub revision: Option<String>,
    /// State of the slot.
    pub state: ModelState,
    /// Why the last load failed.
    pub failure: Option<String>,
    /// What the load is predicted to take, in bytes; 0 before its folder was first read.
    pub predicted_memory_bytes: u64,
    /// What came back when it was last unloaded, in bytes.
    pub freed_memory_bytes: Option<u64>,
    /// What the largest batch took after the last load.
    pub warm_up: Option<WarmUp>,
    /// What the self-test after the last load came to.
    pub self_test: Option<SelfTestReport>,
}

/// A model that answers.
#[derive(Debug)]
pub struct LoadedModel {
    /// What it is.
    pub key: ModelKey,
    /// Runs it.
    pub engine: Arc<dyn Engine>,
    /// Makes its inputs.
    pub input: ModelInput,
}

/// Makes a model's inputs, by role.
#[derive(Debug)]
pub enum ModelInput {
    /// Of an embedder.
    Embed(EmbedPrompt),
    /// Of a reranker.
    Rerank(RerankPrompt),
}

/// Whether a caller waits for a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Until it is ready; the caller's deadline drops the future.
    Wait,
    /// Not at all: the load is started and [`PoolError::Loading`] comes back.
    StartOnly,
}

/// A fix that would help against too little memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryFix {
    /// A smaller model.
    SmallerModel,
    /// `int8`.
    Int8,
    /// A smaller batch size or token budget.
    SmallerBatch,
    /// A shorter unload timeout, so that idle models leave sooner.
    ShorterUnloadTimeout,
}

/// Why no model can be leased.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// Memory does not suffice; nothing was touched.
    #[error("loading {model} needs {needed_bytes} bytes on {device}, {free_bytes} are free; {}", describe_fixes(fixes))]
    InsufficientMemory {
        /// Model id.
        model: String,
        /// Predicted peak.
        needed_bytes: u64,
        /// Free now.
        free_bytes: u64,
        /// `cpu` or `cuda:0`.
        device: String,
        /// What would help.
        fixes: Vec<MemoryFix>,
    },
    /// It is loading and the caller does not wait.
    #[error("{model} is loading")]
    Loading {
        /// Model id.
        model: String,
    },
    /// The last load failed and the pause before the next try is not over.
    #[error("failed to load {model}: {message}")]
    LoadFailed {
        /// Model id.
        model: String,
        /// Why.
        message: String,
        /// Seconds until the next try.
        retry_after_seconds: u64,
    },
    /// The model does not score as its reference does, and the pause before the next try is not over.
    #[error("{model} failed its self-test: {message}")]
    SelfTestFailed {
        /// Model id.
        model: String,
        /// What is off.
        message: String,
        /// Seconds until the next try.
        retry_after_seconds: u64,
    },
    /// The pool is closed.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// The fixes as half a sentence, for the end of a message.
fn describe_fixes(fixes: &[MemoryFix]) -> String {
    if fixes.is_empty() {
        return "no smaller model, precision or batch would fit either".to_owned();
    }
    let words: Vec<&str> = fixes.iter().map(|fix| fix.describe()).collect();
    format!("what would help: {}", words.join("; "))
}

impl MemoryFix {
    /// What to do, with the name of the setting.
    pub fn describe(self) -> &'static str {
        match self {
            Self::SmallerModel => "a smaller model (reranker.model)",
            Self::Int8 => "int8 weights (quantization: int8)",
            Self::SmallerBatch => "a smaller batch (reranker.tokenBudget, reranker.batchSize)",
            Self::ShorterUnloadTimeout => "a shorter lifecycle.unloadTimeoutSeconds, so that other models leave sooner",
        }
    }
}

impl PoolError {
    /// Seconds after which asking again makes sense, at least 1.
    pub fn retry_after_seconds(&self) -> u64 {
        match self {
            Self::LoadFailed { retry_after_seconds, .. } | Self::SelfTestFailed { retry_after_seconds, .. } => {
                (*retry_after_seconds).max(1)
            }
            Self::InsufficientMemory { .. } => 10,
            Self::Loading { .. } | Self::ShuttingDown => 2,
        }
    }
}

/// How the pool treats its models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Idle time after which a model is unloaded, counted from the end of its last lease. `None`: never.
    pub unload_timeout: Option<Duration>,
    /// Whether the largest batch is run after each load.
    pub warm: bool,
    /// What the self-test after each load means.
    pub self_test: SelfTest,
}

impl PoolOptions {
    /// As `lifecycle` and `reranker.selfTest` say; an unload timeout of 0 means never.
    pub fn from_config(lifecycle: &Lifecycle, self_test: SelfTest) -> Self {
        let seconds = u64::try_from(lifecycle.unload_timeout_seconds).unwrap_or(0);
        Self { unload_timeout: (seconds > 0).then(|| Duration::from_secs(seconds)), warm: lifecycle.warm, self_test }
    }
}

/// What became of a request to unload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnloadOutcome {
    /// The model is gone and so many bytes came back, as the device counts them.
    Unloaded {
        /// Free memory after, less free memory before.
        freed_bytes: u64,
    },
    /// Requests use it or wait for it.
    InUse,
    /// Nothing was loaded.
    NotLoaded,
}

/// What the largest batch took.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct WarmUp {
    /// Pairs, or texts of an embedder.
    pub pairs: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Seconds.
    pub seconds: f64,
}

/// A loaded model that stays loaded while this, or a clone of it, lives.
#[derive(Clone, Debug)]
pub struct ModelLease {
    model: Arc<LoadedModel>,
    _held: Arc<Use>,
}

impl std::ops::Deref for ModelLease {
    type Target = LoadedModel;
    fn deref(&self) -> &LoadedModel {
        &self.model
    }
}

/// A claim on a model that need not be loaded yet: while this, or a clone of it, lives, the model is not unloaded once it
/// is there.
#[derive(Clone, Debug)]
pub struct ModelHold {
    _held: Arc<Use>,
}

/// All slots.
#[derive(Debug)]
pub struct ModelPool {
    shared: Arc<Shared>,
}

impl ModelPool {
    /// An empty pool: every model that `source` names is in Standby.
    pub fn new(
        options: PoolOptions,
        source: Arc<dyn ModelSource>,
        loader: Arc<dyn EngineLoader>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let slots = source.keys().into_iter().map(|key| (key, Slot::new(now))).collect();
        let shared = Shared {
            options,
            source,
            loader,
            metrics,
            state: Mutex::new(State { slots, engines: Vec::new(), closed: false }),
            settled: watch::Sender::new(()),
            closing: CancellationToken::new(),
            preflight: tokio::sync::Mutex::new(()),
        };
        // So that the first scrape tells what there is, and not that there is nothing.
        shared.report_memory();
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// Leases a model, loading it where needed. Work counts from this call on: the model is not unloaded while the
    /// caller waits or holds the lease.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the caller's place alone; the load goes on.
    pub async fn lease(&self, key: &ModelKey, waiting: Waiting) -> Result<ModelLease, PoolError> {
        let held = Arc::new(Use::begin(&self.shared, key));
        let mut joined = None;
        loop {
            let mut changed = {
                let mut state = self.shared.lock();
                if state.closed {
                    return Err(PoolError::ShuttingDown);
                }
                let slot = state.slot(key);
                let changed = slot.changed.subscribe();
                match slot.next_step(key, waiting, joined, Instant::now()) {
                    Step::Lease(model) => return Ok(ModelLease { model, _held: held }),
                    Step::Refuse(error) => return Err(error),
                    Step::Wait => {}
                    Step::Join(attempt) => {
                        joined.get_or_insert(attempt);
                    }
                    Step::Discard => {
                        if let Some(model) = slot.discard() {
                            unload::discard(&self.shared, key, model);
                        }
                    }
                    Step::Begin => {
                        joined = Some(slot.begin_load());
                        load::spawn(&self.shared, key.clone());
                    }
                }
                changed
            };
            // The sender lives in the slot, and slots are never removed.
            let _ = changed.changed().await;
        }
    }

    /// Keeps a model from being unloaded from now on, whether or not it is loaded yet. Loads nothing.
    pub fn hold(&self, key: &ModelKey) -> ModelHold {
        ModelHold { _held: Arc::new(Use::begin(&self.shared, key)) }
    }

    /// Loads models one after the other, and ends with the first that cannot be loaded.
    pub async fn preload(&self, keys: &[ModelKey]) -> Result<(), PoolError> {
        for key in keys {
            self.lease(key, Waiting::Wait).await?;
        }
        Ok(())
    }

    /// Unloads a model now, unless a request uses it or waits for it, or it is loading or leaving already.
    pub async fn unload(&self, key: &ModelKey) -> UnloadOutcome {
        let taken = {
            let mut state = self.shared.lock();
            let slot = state.slot(key);
            if slot.uses > 0 || slot.is_busy() {
                return UnloadOutcome::InUse;
            }
            slot.take_for_unload()
        };
        match taken {
            Some(model) => {
                UnloadOutcome::Unloaded { freed_bytes: unload::finish_detached(&self.shared, key, model).await }
            }
            None => UnloadOutcome::NotLoaded,
        }
    }

    /// Every slot's state, by key: what is configured, whether loaded or not.
    pub fn statuses(&self) -> Vec<ModelStatus> {
        self.shared.lock().slots.iter().map(|(key, slot)| slot.status(key)).collect()
    }

    /// The batches under way, by model.
    pub fn pulses(&self) -> Vec<(ModelKey, Pulse)> {
        let mut state = self.shared.lock();
        state.engines.retain(|(_, engine)| engine.strong_count() > 0);
        let living = state.engines.iter().filter_map(|(key, engine)| Some((key.clone(), engine.upgrade()?.pulse())));
        living.collect()
    }

    /// Tripped when the device is lost.
    pub fn fatal(&self) -> &FatalSignal {
        self.shared.loader.fatal()
    }

    /// The state of one slot; Standby where nothing was ever asked of it.
    pub fn state(&self, key: &ModelKey) -> ModelState {
        self.shared.lock().slots.get(key).map_or(ModelState::Standby, Slot::state)
    }

    /// Refuses further leases, waits for those that live and for loads under way, unloads everything. The caller
    /// bounds the wait by dropping the future.
    pub async fn shutdown(&self) {
        self.shared.closing.cancel();
        {
            let mut state = self.shared.lock();
            state.closed = true;
            for slot in state.slots.values() {
                slot.changed.send_replace(());
            }
        }
        loop {
            let mut settled = self.shared.settled.subscribe();
            let (taken, pending) = {
                let mut state = self.shared.lock();
                let mut taken = Vec::new();
                let mut pending = false;
                for (key, slot) in &mut state.slots {
                    if slot.uses > 0 || slot.is_busy() {
                        pending = true;
                    } else if let Some(model) = slot.take_for_unload() {
                        taken.push((key.clone(), model));
                    }
                }
                (taken, pending)
            };
            for (key, model) in taken {
                unload::finish_detached(&self.shared, &key, model).await;
            }
            if !pending {
                return;
            }
            let _ = settled.changed().await;
        }
    }
}

/// What the pool's face and its tasks share.
#[derive(Debug)]
struct Shared {
    options: PoolOptions,
    source: Arc<dyn ModelSource>,
    loader: Arc<dyn EngineLoader>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Fires when a load or an unload ended, and when a slot became idle.
    settled: watch::Sender<()>,
    /// Fires when the pool is closed: downloads break off.
    closing: CancellationToken,
    /// One memory decision at a time.
    preflight: tokio::sync::Mutex<()>,
}

impl Shared {
    /// No code of others runs under this lock, so a poisoned one still holds whole states.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the metrics what the device holds and what the loaded models are predicted to take.
    fn report_memory(&self) {
        let predicted = self.lock().slots.values().map(Slot::held_bytes).sum();
        if let Ok(memory) = self.loader.memory() {
            self.metrics.set_device_memory(memory.free_bytes, memory.total_bytes, predicted);
        }
    }
}

#[derive(Debug)]
struct State {
    slots: BTreeMap<ModelKey, Slot>,
    /// Every engine that lives, also while it is warmed or unloaded.
    engines: Vec<(ModelKey, Weak<dyn Engine>)>,
    closed: bool,
}

impl State {
    fn slot(&mut self, key: &ModelKey) -> &mut Slot {
        self.slots.entry(key.clone()).or_insert_with(|| Slot::new(Instant::now()))
    }
}

/// One caller's claim on a slot, from its arrival to the end of its lease.
#[derive(Debug)]
struct Use {
    shared: Arc<Shared>,
    key: ModelKey,
}

impl Use {
    fn begin(shared: &Arc<Shared>, key: &ModelKey) -> Self {
        shared.lock().slot(key).uses += 1;
        Self { shared: Arc::clone(shared), key: key.clone() }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let idle = {
            let mut state = self.shared.lock();
            let slot = state.slot(&self.key);
            slot.uses -= 1;
            slot.idle_since = Instant::now();
            if slot.uses == 0 {
                slot.changed.send_replace(());
            }
            slot.uses == 0
        };
        if idle {
            self.shared.settled.send_replace(());
        }
    }
}
