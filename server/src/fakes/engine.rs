//! A loader and an engine that do as they are told.
//!
//! A document says itself how relevant it is: `relevance=2.5` makes the log-odds 2.5, and without a mark they are 0.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::tokenizer::text_of;
use crate::engine::fatal::FatalSignal;
use crate::engine::heart::{Beat, Heart, Pulse};
use crate::engine::{DeviceMemory, Engine, EngineError, EngineLoader, LoadSpec, ModelRole, PairLogits, ScoreRequest};

/// What goes wrong in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineFault {
    /// [`EngineError::OutOfMemory`].
    OutOfMemory,
    /// [`EngineError::Failed`].
    Failed,
    /// The values are NaN.
    NotFinite,
    /// Fewer values than asked for.
    TooFew,
    /// A panic.
    Panic,
    /// No answer, ever, also after the caller has left.
    Hang,
    /// [`EngineError::DeviceLost`], and the signal is tripped.
    DeviceLost,
}

/// What the fake engines share: what they are told, and what they have seen.
#[derive(Debug)]
pub struct EngineControls {
    inner: Mutex<Inner>,
    fatal: FatalSignal,
}

#[derive(Debug, Default)]
struct Inner {
    total_bytes: u64,
    used_bytes: u64,
    model_bytes: BTreeMap<String, u64>,
    kept_at_unload: u64,
    /// Pairs of one batch; 0: all of a request.
    batch_pairs: usize,
    /// Engines made before the so many-th load are dead.
    dead_before: usize,
    times: Times,
    faults: BTreeMap<Call, VecDeque<EngineFault>>,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    load: Duration,
    score: Duration,
    embed: Duration,
    unload: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Load,
    Score,
    Embed,
    Unload,
}

/// What the engines have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Models whose load was begun, in order.
    pub loads: Vec<String>,
    /// Models that were unloaded, in order.
    pub unloads: Vec<String>,
    /// Score calls begun.
    pub scores: usize,
    /// Pairs of each score call, in order.
    pub pairs: Vec<usize>,
    /// Tokens of each score call, in order.
    pub tokens: Vec<usize>,
    /// Embed calls begun.
    pub embeds: usize,
    /// Texts of each embed call, in order.
    pub texts: Vec<usize>,
    /// Most score calls that ran at the same time.
    pub most_at_once: usize,
    /// Score calls that ended because the client left.
    pub cancelled: usize,
    /// Prompts of the last score call.
    pub last_prompts: Vec<String>,
    running: usize,
}

impl EngineControls {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory of the device, in bytes. Default: 1,000.
    pub fn set_total_bytes(&self, bytes: u64) {
        self.lock().total_bytes = bytes;
    }

    /// What a model takes and is predicted to take, in bytes. Default: 100.
    pub fn set_model_bytes(&self, model: &str, bytes: u64) {
        self.lock().model_bytes.insert(model.to_owned(), bytes);
    }

    /// What a model takes, in bytes.
    pub fn model_bytes(&self, model: &str) -> u64 {
        self.lock().model_bytes.get(model).copied().unwrap_or(100)
    }

    /// Bytes that each unload fails to give back.
    pub fn set_kept_at_unload(&self, bytes: u64) {
        self.lock().kept_at_unload = bytes;
    }

    /// How long a load takes.
    pub fn set_load_time(&self, time: Duration) {
        self.lock().times.load = time;
    }

    /// How long one score call takes.
    pub fn set_score_time(&self, time: Duration) {
        self.lock().times.score = time;
    }

    /// How long one embed call takes.
    pub fn set_embed_time(&self, time: Duration) {
        self.lock().times.embed = time;
    }

    /// How long an unload takes.
    pub fn set_unload_time(&self, time: Duration) {
        self.lock().times.unload = time;
    }

    /// How many pairs run together. Default: all of a request.
    pub fn set_batch_pairs(&self, pairs: usize) {
        self.lock().batch_pairs = pairs;
    }

    /// The next load goes wrong; several are queued.
    pub fn fail_load(&self, fault: EngineFault) {
        self.lock().faults.entry(Call::Load).or_default().push_back(fault);
    }

    /// The next score call goes wrong; several are queued.
    pub fn fail_score(&self, fault: EngineFault) {
        self.lock().faults.entry(Call::Score).or_default().push_back(fault);
    }

    /// The next embed call goes wrong; several are queued.
    pub fn fail_embed(&self, fault: EngineFault) {
        self.lock().faults.entry(Call::Embed).or_default().push_back(fault);
    }

    /// The next unload goes wrong; several are queued.
    pub fn fail_unload(&self, fault: EngineFault) {
        self.lock().faults.entry(Call::Unload).or_default().push_back(fault);
    }

    /// Every engine that is loaded now is dead from now on: it fails each call.
    pub fn kill_engines(&self) {
        let mut inner = self.lock();
        inner.dead_before = inner.seen.loads.len();
    }

    /// What the engines have seen so far.
    pub fn seen(&self) -> Seen {
        self.lock().seen.clone()
    }

    fn fault(&self, call: Call) -> Option<EngineFault> {
        self.lock().faults.get_mut(&call)?.pop_front()
    }

    /// Acts out what a fault says before the call's own work.
    #[expect(clippy::panic, reason = "a panicking engine is what is acted out")]
    async fn act(&self, fault: Option<EngineFault>) -> Result<(), EngineError> {
        match fault {
            Some(EngineFault::OutOfMemory) => Err(EngineError::OutOfMemory { message: "told so".to_owned() }),
            Some(EngineFault::Failed) => Err(EngineError::Failed { message: "told so".to_owned() }),
            Some(EngineFault::Panic) => panic!("told to panic"),
            Some(EngineFault::Hang) => std::future::pending().await,
            Some(EngineFault::DeviceLost) => {
                self.fatal.trip("told so");
                Err(EngineError::DeviceLost { message: "told so".to_owned() })
            }
            Some(EngineFault::NotFinite | EngineFault::TooFew) | None => Ok(()),
        }
    }
}

/// Loads fake engines.
#[derive(Clone, Debug)]
pub struct FakeLoader {
    controls: Arc<EngineControls>,
}

impl Default for FakeLoader {
    fn default() -> Self {
        let inner = Inner { total_bytes: 1_000, ..Inner::default() };
        Self { controls: Arc::new(EngineControls { inner: Mutex::new(inner), fatal: FatalSignal::default() }) }
    }
}

impl FakeLoader {
    /// What its engines are told and have seen.
    pub fn controls(&self) -> Arc<EngineControls> {
        Arc::clone(&self.controls)
    }
}

#[async_trait]
impl EngineLoader for FakeLoader {
    async fn load(&self, spec: LoadSpec) -> Result<Arc<dyn Engine>, EngineError> {
        let (number, time) = {
            let mut inner = self.controls.lock();
            inner.seen.loads.push(spec.model.clone());
            (inner.seen.loads.len() - 1, inner.times.load)
        };
        tokio::time::sleep(time).await;
        self.controls.act(self.controls.fault(Call::Load)).await?;
        let bytes = self.controls.model_bytes(&spec.model);
        self.controls.lock().used_bytes += bytes;
        let controls = Arc::clone(&self.controls);
        Ok(Arc::new(FakeEngine { controls, spec, bytes, number, heart: Arc::default() }))
    }

    fn memory(&self) -> Result<DeviceMemory, EngineError> {
        let inner = self.controls.lock();
        Ok(DeviceMemory {
            device: "fake".to_owned(),
            free_bytes: inner.total_bytes.saturating_sub(inner.used_bytes),
            total_bytes: inner.total_bytes,
        })
    }

    fn fatal(&self) -> &FatalSignal {
        &self.controls.fatal
    }
}

#[derive(Debug)]
struct FakeEngine {
    controls: Arc<EngineControls>,
    spec: LoadSpec,
    bytes: u64,
    /// Of how many loads before it.
    number: usize,
    heart: Arc<Heart>,
}

impl FakeEngine {
    /// The batch's beat; that of one that hangs never ends.
    fn beat(&self, fault: Option<EngineFault>) -> Option<Beat> {
        let beat = self.heart.beat();
        if fault == Some(EngineFault::Hang) {
            std::mem::forget(beat);
            return None;
        }
        Some(beat)
    }

    fn fail_if_dead(&self) -> Result<(), EngineError> {
        if self.is_dead() {
            return Err(EngineError::Failed { message: "the engine is dead".to_owned() });
        }
        Ok(())
    }
}

/// Counts a score call that runs, also where it is dropped.
struct Running<'a>(&'a EngineControls);

impl<'a> Running<'a> {
    fn begin(controls: &'a EngineControls) -> Self {
        let mut inner = controls.lock();
        inner.seen.running += 1;
        inner.seen.most_at_once = inner.seen.most_at_once.max(inner.seen.running);
        drop(inner);
        Self(controls)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().seen.running -= 1;
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn batches(&self, lengths: &[usize]) -> Vec<Vec<usize>> {
        let pairs = match self.controls.lock().batch_pairs {
            0 => lengths.len().max(1),
            pairs => pairs,
        };
        let positions: Vec<usize> = (0..lengths.len()).collect();
        // Not in the order given, as a real engine begins with the shortest.
        positions.chunks(pairs).rev().map(<[usize]>::to_vec).collect()
    }

    async fn score(&self, request: ScoreRequest, cancel: &CancellationToken) -> Result<Vec<PairLogits>, EngineError> {
        assert_eq!(self.spec.role, ModelRole::Reranker, "only a reranker scores");
        let prompts: Vec<String> = request.prompts.iter().map(|prompt| text_of(prompt)).collect();
        let time = {
            let mut inner = self.controls.lock();
            inner.seen.scores += 1;
            inner.seen.pairs.push(prompts.len());
            inner.seen.tokens.push(request.prompts.iter().map(Vec::len).sum());
            inner.seen.last_prompts.clone_from(&prompts);
            inner.times.score
        };
        let _running = Running::begin(&self.controls);
        let fault = self.controls.fault(Call::Score);
        let _beat = self.beat(fault);
        let work = async {
            self.fail_if_dead()?;
            tokio::time::sleep(time).await;
            self.controls.act(fault).await
        };
        tokio::select! {
            outcome = work => outcome?,
            () = cancel.cancelled() => {
                self.controls.lock().seen.cancelled += 1;
                return Err(EngineError::Cancelled);
            }
        }
        let mut logits: Vec<PairLogits> =
            prompts.iter().map(|prompt| PairLogits { yes: relevance(prompt), no: 0.0 }).collect();
        match fault {
            Some(EngineFault::NotFinite) => logits.iter_mut().for_each(|pair| pair.yes = f32::NAN),
            Some(EngineFault::TooFew) => drop(logits.pop()),
            _ => {}
        }
        Ok(logits)
    }

    async fn embed(&self, texts: Vec<Vec<u32>>, cancel: &CancellationToken) -> Result<Vec<Vec<f32>>, EngineError> {
        assert_eq!(self.spec.role, ModelRole::Embedder, "only an embedder embeds");
        let time = {
            let mut inner = self.controls.lock();
            inner.seen.embeds += 1;
            inner.seen.texts.push(texts.len());
            inner.times.embed
        };
        let fault = self.controls.fault(Call::Embed);
        let _beat = self.beat(fault);
        let work = async {
            self.fail_if_dead()?;
            tokio::time::sleep(time).await;
            self.controls.act(fault).await
        };
        tokio::select! {
            outcome = work => outcome?,
            () = cancel.cancelled() => return Err(EngineError::Cancelled),
        }
        let mut vectors: Vec<Vec<f32>> = texts.iter().map(|text| vector_of(text)).collect();
        match fault {
            Some(EngineFault::NotFinite) => vectors.iter_mut().flatten().for_each(|value| *value = f32::NAN),
            Some(EngineFault::TooFew) => drop(vectors.pop()),
            _ => {}
        }
        Ok(vectors)
    }

    fn is_dead(&self) -> bool {
        self.number < self.controls.lock().dead_before
    }

    fn pulse(&self) -> Pulse {
        self.heart.pulse()
    }

    async fn unload(&self) -> Result<(), EngineError> {
        let time = self.controls.lock().times.unload;
        tokio::time::sleep(time).await;
        let fault = self.controls.fault(Call::Unload);
        {
            let mut inner = self.controls.lock();
            inner.seen.unloads.push(self.spec.model.clone());
            let kept = inner.kept_at_unload.min(self.bytes);
            inner.used_bytes -= self.bytes - kept;
        }
        self.controls.act(fault).await
    }
}

/// The number behind `relevance=` in the document of a prompt.
fn relevance(prompt: &str) -> f32 {
    let document = prompt.rsplit("<Document>: ").next().unwrap_or_default();
    let Some((_, rest)) = document.split_once("relevance=") else { return 0.0 };
    let number: String = rest.chars().take_while(|character| matches!(character, '0'..='9' | '.' | '-')).collect();
    number.parse().unwrap_or(0.0)
}

/// How often each of eight classes of bytes occurs, at length 1.
fn vector_of(tokens: &[u32]) -> Vec<f32> {
    let mut vector = vec![0.0_f32; super::source::DIMENSION];
    for (place, value) in vector.iter_mut().enumerate() {
        let class = tokens.iter().filter(|token| usize::try_from(**token).is_ok_and(|token| token % 8 == place));
        *value = class.map(|_| 1.0_f32).sum::<f32>() + 0.01;
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.into_iter().map(|value| value / length).collect()
}
