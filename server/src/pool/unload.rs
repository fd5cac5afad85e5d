//! Gives a model's memory back, and says how much came. I/O: waits for the engine.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::slot::Phase;
use super::{LoadedModel, ModelKey, Shared, load};
use crate::engine::Engine;

/// Longest wait for an engine to end its threads and free its memory; above the waits of the engine itself, which may be
/// two of a minute.
const UNLOAD_LIMIT: Duration = Duration::from_secs(150);
/// Models predicted below it drown in what else comes and goes in the process, so nothing is read from what came back.
const TELLING_BYTES: u64 = 256 << 20;

/// Waits until `attempt`'s model has been idle for the unload timeout, and unloads it. Ends when the model leaves by
/// another way.
pub(super) async fn keep(shared: Arc<Shared>, key: ModelKey, attempt: u64) {
    let Some(timeout) = shared.options.unload_timeout else { return };
    loop {
        let (mut changed, deadline) = match next(&shared, &key, attempt, timeout) {
            Next::End => return,
            Next::Unload(model) => {
                finish(shared, key, model).await;
                return;
            }
            Next::Watch { changed, deadline } => (changed, deadline),
        };
        match deadline {
            Some(deadline) => {
                tokio::select! {
                    () = tokio::time::sleep_until(deadline) => {}
                    _ = changed.changed() => {}
                }
            }
            None => {
                let _ = changed.changed().await;
            }
        }
    }
}

/// What a keeper does next.
enum Next {
    /// The model left by another way.
    End,
    /// The model was idle for long enough and is taken out of its slot.
    Unload(Arc<LoadedModel>),
    /// Look again when the slot changes, or at the deadline of a model that is idle.
    Watch { changed: watch::Receiver<()>, deadline: Option<Instant> },
}

fn next(shared: &Shared, key: &ModelKey, attempt: u64, timeout: Duration) -> Next {
    let mut state = shared.lock();
    let slot = state.slot(key);
    if slot.attempt() != attempt || !matches!(slot.phase, Phase::Ready(_)) {
        return Next::End;
    }
    let changed = slot.changed.subscribe();
    let deadline = (slot.uses == 0).then(|| slot.idle_since + timeout);
    if deadline.is_some_and(|deadline| deadline <= Instant::now())
        && let Some(model) = slot.take_for_unload()
    {
        return Next::Unload(model);
    }
    Next::Watch { changed, deadline }
}

/// Unloads a model taken out of its slot, in a task of its own, so that a caller who leaves does not leave the slot
/// between two states. Answers the bytes that came back.
pub(super) async fn finish_detached(shared: &Arc<Shared>, key: &ModelKey, model: Arc<LoadedModel>) -> u64 {
    let task = tokio::spawn(finish(Arc::clone(shared), key.clone(), model));
    task.await.unwrap_or(0)
}

/// Gets rid of a model whose engine is dead, in a task of its own. Those who wait for the slot go on when it is gone.
pub(super) fn discard(shared: &Arc<Shared>, key: &ModelKey, model: Arc<LoadedModel>) {
    tracing::error!(model = key.model, "An engine is dead, its model is loaded again");
    tokio::spawn(finish(Arc::clone(shared), key.clone(), model));
}

async fn finish(shared: Arc<Shared>, key: ModelKey, model: Arc<LoadedModel>) -> u64 {
    let free_before = shared.loader.memory().map(|memory| memory.free_bytes).ok();
    end_engine(&key, model.engine.as_ref()).await;
    drop(model);
    let free_after = shared.loader.memory().map(|memory| memory.free_bytes).ok();
    let freed_bytes = free_before.zip(free_after).map_or(0, |(before, after)| after.saturating_sub(before));
    let predicted_bytes = {
        let mut state = shared.lock();
        let closed = state.closed;
        let slot = state.slot(&key);
        let predicted_bytes = slot.predicted_bytes;
        slot.freed_bytes = Some(freed_bytes);
        slot.warm_up = None;
        if slot.load_wanted && !closed {
            slot.begin_load();
            load::spawn(&shared, key.clone());
        } else {
            slot.enter(Phase::Standby);
        }
        predicted_bytes
    };
    shared.settled.send_replace(());
    shared.metrics.count_unload(&key.model);
    shared.report_memory();
    if predicted_bytes >= TELLING_BYTES && freed_bytes < predicted_bytes / 2 {
        tracing::warn!(
            model = key.model,
            freed_bytes,
            predicted_bytes,
            "Unloaded a model, but less than half of its predicted memory came back"
        );
    } else {
        tracing::info!(model = key.model, freed_bytes, predicted_bytes, "Unloaded a model");
    }
    freed_bytes
}

/// Ends an engine. One that fails, panics or hangs is logged and given up: the memory check before the next load
/// sees what it still holds.
pub(super) async fn end_engine(key: &ModelKey, engine: &dyn Engine) {
    let unload = AssertUnwindSafe(engine.unload()).catch_unwind();
    match tokio::time::timeout(UNLOAD_LIMIT, unload).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => {
            tracing::error!(model = key.model, error = crate::chain::describe(&error), "Failed to unload a model");
        }
        Ok(Err(panic)) => {
            let panic = crate::chain::describe_panic(panic.as_ref());
            tracing::error!(model = key.model, panic, "An engine panicked while it was unloaded");
        }
        Err(_elapsed) => {
            tracing::error!(
                model = key.model,
                limit_seconds = UNLOAD_LIMIT.as_secs(),
                "An engine did not unload in time"
            );
        }
    }
}
