//! Loads one model in a task of its own: plan, memory check, weights, warm-up. I/O. A load that fails or panics
//! leaves a slot that says so and can be tried again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use rerank_crds::server_config::SelfTest;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::memory::{self, Holdings, Verdict};
use super::slot::{LoadFailure, LoadStep, Phase};
use super::{
    LoadedModel, ModelInput, ModelKey, ModelPlan, PoolError, SelfTestOutcome, SelfTestReport, Shared, SourceError,
    WarmUp, self_test, unload, warmup,
};
use crate::chain;
use crate::engine::{Engine, EngineError};
use crate::metrics::LoadOutcome;
use crate::traces::spans;

/// Starts the load of a slot that has just entered Loading. The task then stays as the model's keeper.
pub(super) fn spawn(shared: &Arc<Shared>, key: ModelKey) {
    // Made here and not in the task: it belongs to the trace of whoever asked first.
    let span = spans::load(&key);
    tokio::spawn(run(Arc::clone(shared), key, span));
}

async fn run(shared: Arc<Shared>, key: ModelKey, span: Span) {
    let started = Instant::now();
    tracing::info!(model = key.model, quantization = ?key.quantization, role = ?key.role, "Loading a model");
    let work = AssertUnwindSafe(load(&shared, &key)).catch_unwind().instrument(span.clone());
    let outcome = work.await.unwrap_or_else(|panic| {
        let message = format!("the load panicked: {}", chain::describe_panic(panic.as_ref()));
        Err(failed(&key, message))
    });
    let took = started.elapsed();
    let metric = match &outcome {
        Ok(_) => LoadOutcome::Ready,
        Err(
            LoadFailure::Refused(PoolError::InsufficientMemory { .. })
            | LoadFailure::Failed(PoolError::InsufficientMemory { .. }),
        ) => LoadOutcome::InsufficientMemory,
        Err(LoadFailure::Failed(PoolError::SelfTestFailed { .. })) => LoadOutcome::SelfTestFailed,
        Err(_) => LoadOutcome::Failed,
    };
    shared.metrics.observe_load(&key.model, metric, took);
    spans::loaded(&span, metric);
    // The task lives on as the model's keeper.
    drop(span);
    let attempt = settle(&shared, &key, outcome, took.as_secs_f64());
    shared.settled.send_replace(());
    shared.report_memory();
    if let Some(attempt) = attempt {
        unload::keep(shared, key, attempt).await;
    }
}

/// Enters Ready or Failed; answers the load's number where it ended well.
fn settle(
    shared: &Shared,
    key: &ModelKey,
    outcome: Result<(LoadedModel, Option<WarmUp>), LoadFailure>,
    seconds: f64,
) -> Option<u64> {
    let mut state = shared.lock();
    let slot = state.slot(key);
    match outcome {
        Ok((model, warm_up)) => {
            slot.warm_up = warm_up;
            slot.become_ready(Arc::new(model), Instant::now());
            let attempt = slot.attempt();
            drop(state);
            tracing::info!(model = key.model, quantization = ?key.quantization, seconds, "Loaded a model");
            Some(attempt)
        }
        Err(failure) => {
            let (LoadFailure::Refused(error) | LoadFailure::Failed(error)) = &failure;
            let error = error.to_string();
            slot.become_failed(failure, Instant::now());
            drop(state);
            tracing::error!(model = key.model, quantization = ?key.quantization, seconds, error, "Did not load a model");
            None
        }
    }
}

async fn load(shared: &Arc<Shared>, key: &ModelKey) -> Result<(LoadedModel, Option<WarmUp>), LoadFailure> {
    fetch_where_missing(shared, key).await?;
    let source = Arc::clone(&shared.source);
    let plan = off_the_async_threads(key, {
        let key = key.clone();
        move || source.describe(&key)
    })
    .await?;
    {
        let mut state = shared.lock();
        let slot = state.slot(key);
        slot.predicted_bytes = plan.predicted_bytes;
        slot.revision.clone_from(&plan.revision);
    }
    // Memory first: reading all files for a load that does not fit would cost a disk's time at every request.
    reserve_memory(shared, key, &plan).await?;
    verify(shared, key, &plan).await?;

    // The tokenizer first: it is cheap, and a broken one must not cost a load.
    let source = Arc::clone(&shared.source);
    let input = off_the_async_threads(key, {
        let (key, plan) = (key.clone(), plan.clone());
        move || source.input(&key, &plan)
    })
    .await?;
    let engine =
        shared.loader.load(plan.spec.clone()).await.map_err(|error| engine_failure(shared, key, &plan, &error))?;
    {
        let mut state = shared.lock();
        state.engines.push((key.clone(), Arc::downgrade(&engine)));
        state.slot(key).enter(Phase::Warming);
    }
    let input = Arc::new(input);
    match AssertUnwindSafe(prove(shared, key, &plan, &engine, &input)).catch_unwind().await {
        Ok(Ok(warm_up)) => {
            let input =
                Arc::into_inner(input).ok_or_else(|| failed(key, "the warm-up kept the tokenizer".to_owned()))?;
            Ok((LoadedModel { key: key.clone(), engine, input }, warm_up))
        }
        Ok(Err(failure)) => {
            unload::end_engine(key, engine.as_ref()).await;
            Err(failure)
        }
        Err(panic) => {
            unload::end_engine(key, engine.as_ref()).await;
            Err(failed(key, format!("the warm-up panicked: {}", chain::describe_panic(panic.as_ref()))))
        }
    }
}

async fn fetch_where_missing(shared: &Arc<Shared>, key: &ModelKey) -> Result<(), LoadFailure> {
    let source = Arc::clone(&shared.source);
    let asked = key.clone();
    if off_the_async_threads(key, move || Ok(source.is_missing(&asked))).await? {
        shared.lock().slot(key).enter(Phase::Loading(LoadStep::Downloading));
        tokio::select! {
            () = shared.closing.cancelled() => return Err(LoadFailure::Failed(PoolError::ShuttingDown)),
            fetched = shared.source.fetch(key) => fetched.map_err(|error| failed(key, chain::describe(&error)))?,
        }
    }
    Ok(())
}

/// Reads all of the model's files, which takes as long as the disk needs; the load then finds them in memory.
async fn verify(shared: &Arc<Shared>, key: &ModelKey, plan: &ModelPlan) -> Result<(), LoadFailure> {
    let source = Arc::clone(&shared.source);
    let (asked, plan) = (key.clone(), plan.clone());
    off_the_async_threads(key, move || source.verify(&asked, &plan)).await
}

/// Waits until the load fits, sending idle models away where that suffices, and reserves its bytes.
async fn reserve_memory(shared: &Arc<Shared>, key: &ModelKey, plan: &ModelPlan) -> Result<(), LoadFailure> {
    let enter = |step| shared.lock().slot(key).enter(Phase::Loading(step));
    // Held across the wait on purpose: whoever asked first is served first.
    let _turn = match shared.preflight.try_lock() {
        Ok(turn) => turn,
        Err(_taken) => {
            enter(LoadStep::WaitingForMemory);
            shared.preflight.lock().await
        }
    };
    loop {
        let mut settled = shared.settled.subscribe();
        // Promises are read before free memory: a load that ends in between is then counted twice, never not at all.
        let before = Holdings::without(&shared.lock(), key);
        let memory = shared.loader.memory().map_err(|error| failed(key, chain::describe(&error)))?;
        let verdict = memory::judge(plan.predicted_bytes, memory.free_bytes, &before);
        match verdict {
            Verdict::Fits => {
                enter(LoadStep::Reading);
                return Ok(());
            }
            Verdict::Evict(victim) => {
                enter(LoadStep::WaitingForMemory);
                let taken = shared.lock().slot(&victim).take_for_unload();
                if let Some(model) = taken {
                    tracing::info!(
                        model = victim.model,
                        in_favour_of = key.model,
                        "Unloading the least recently used model to make room"
                    );
                    unload::finish_detached(shared, &victim, model).await;
                }
            }
            Verdict::WaitForOthers => {
                enter(LoadStep::WaitingForMemory);
                let _ = settled.changed().await;
            }
            Verdict::DoesNotFit => {
                let available = memory.free_bytes.saturating_sub(before.reserved_bytes);
                return Err(LoadFailure::Refused(PoolError::InsufficientMemory {
                    model: key.model.clone(),
                    needed_bytes: plan.predicted_bytes,
                    free_bytes: available,
                    device: memory.device,
                    fixes: memory::fixes_that_help(
                        plan.predicted_bytes,
                        available,
                        &plan.alternatives,
                        before.used_bytes,
                    ),
                }));
            }
        }
    }
}

/// Runs the largest batch and the self-test, as far as the configuration wants them.
async fn prove(
    shared: &Shared,
    key: &ModelKey,
    plan: &ModelPlan,
    engine: &Arc<dyn Engine>,
    input: &Arc<ModelInput>,
) -> Result<Option<WarmUp>, LoadFailure> {
    let warm_up = if shared.options.warm {
        warm(shared, key, plan, engine, input).instrument(spans::warm_up(&key.model)).await?
    } else {
        None
    };
    if shared.options.self_test != SelfTest::Off {
        test(shared, key, plan, engine, input).instrument(spans::self_test(&key.model)).await?;
    }
    Ok(warm_up)
}

/// Runs the self-test. A model that fails what is known of it is refused where that is to be enforced.
async fn test(
    shared: &Shared,
    key: &ModelKey,
    plan: &ModelPlan,
    engine: &Arc<dyn Engine>,
    input: &Arc<ModelInput>,
) -> Result<(), LoadFailure> {
    let expectations = off_the_async_threads(key, {
        let (source, key, plan) = (Arc::clone(&shared.source), key.clone(), plan.clone());
        move || Ok(source.expectations(&key, &plan))
    });
    let report = match expectations.await? {
        Ok(expectations) => self_test::run(key, engine, input, expectations)
            .await
            .map_err(|error| engine_failure(shared, key, plan, &error))?,
        Err(error) => SelfTestReport::unusable(&error),
    };
    let SelfTestReport { outcome, message } = report.clone();
    let message = message.unwrap_or_default();
    shared.lock().slot(key).self_test = Some(report);
    match outcome {
        SelfTestOutcome::Passed | SelfTestOutcome::Plausible => {
            tracing::info!(model = key.model, ?outcome, "Tested a model");
            Ok(())
        }
        SelfTestOutcome::Failed if shared.options.self_test == SelfTest::Enforce => {
            Err(LoadFailure::Failed(PoolError::SelfTestFailed {
                model: key.model.clone(),
                message,
                retry_after_seconds: 1,
            }))
        }
        SelfTestOutcome::Failed | SelfTestOutcome::Implausible | SelfTestOutcome::NotRun => {
            tracing::warn!(
                model = key.model,
                ?outcome,
                message,
                "A model did not pass its self-test and is used all the same"
            );
            Ok(())
        }
    }
}

async fn warm(
    shared: &Shared,
    key: &ModelKey,
    plan: &ModelPlan,
    engine: &Arc<dyn Engine>,
    input: &Arc<ModelInput>,
) -> Result<Option<WarmUp>, LoadFailure> {
    let batch = off_the_async_threads(key, {
        let (input, spec) = (Arc::clone(input), plan.spec.clone());
        move || warmup::largest_batch(&input, &spec).map_err(SourceError::from)
    })
    .await?;
    match warmup::run(engine.as_ref(), batch).await {
        Ok(Some(warm_up)) => {
            tracing::info!(
                model = key.model,
                pairs = warm_up.pairs,
                tokens = warm_up.tokens,
                seconds = warm_up.seconds,
                "Warmed a model"
            );
            Ok(Some(warm_up))
        }
        Ok(None) => {
            tracing::warn!(
                model = key.model,
                limit_seconds = warmup::WARM_UP_LIMIT.as_secs(),
                "The largest batch did not end in time, the model is used all the same"
            );
            Ok(None)
        }
        Err(error) => Err(engine_failure(shared, key, plan, &error)),
    }
}

/// Runs blocking work of the source. Its panic is a failure of the load.
async fn off_the_async_threads<T: Send + 'static>(
    key: &ModelKey,
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, LoadFailure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(key, chain::describe(&error))),
        Err(error) => Err(failed(key, chain::describe(&error))),
    }
}

/// An engine's error in the middle of a load or a warm-up. Weights were touched, so even one for want of memory waits
/// before the next try.
fn engine_failure(shared: &Shared, key: &ModelKey, plan: &ModelPlan, error: &EngineError) -> LoadFailure {
    let EngineError::OutOfMemory { .. } = error else { return failed(key, chain::describe(error)) };
    let Ok(memory) = shared.loader.memory() else { return failed(key, chain::describe(error)) };
    tracing::error!(model = key.model, error = chain::describe(error), "The device ran out of memory during a load");
    let used_bytes = Holdings::without(&shared.lock(), key).used_bytes;
    LoadFailure::Failed(PoolError::InsufficientMemory {
        model: key.model.clone(),
        needed_bytes: plan.predicted_bytes,
        free_bytes: memory.free_bytes,
        fixes: memory::fixes_that_help(plan.predicted_bytes, memory.free_bytes, &plan.alternatives, used_bytes),
        device: memory.device,
    })
}

fn failed(key: &ModelKey, message: String) -> LoadFailure {
    LoadFailure::Failed(PoolError::LoadFailed { model: key.model.clone(), message, retry_after_seconds: 1 })
}
