//! A running mistral.rs engine: one batch at a time, cancellation between batches, death, and an end that gives the
//! memory back.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mistralrs_core::{MistralRs, Pipeline, Request};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::channel::EngineChannel;
use super::faults::Fault;
use super::loading::LoadedModel;
use crate::engine::batches::Answers;
use crate::engine::fatal::FatalSignal;
use crate::engine::heart::{Heart, Pulse};
use crate::engine::turn::{Turn, UNLOAD_WAIT};
use crate::engine::{EngineError, memory};

const POLL: Duration = Duration::from_millis(2);

/// What holds the model's memory. Gone after unloading.
struct Held {
    engine: Arc<MistralRs>,
    pipeline: Arc<tokio::sync::Mutex<dyn Pipeline>>,
}

/// A running engine.
pub(super) struct RunningEngine {
    requests: Sender<Request>,
    turn: Turn,
    /// Set once, when the engine's thread or the device is gone. The library would start a new thread on the same
    /// pipeline; here the owner decides, so its sender is taken once and used to the end.
    dead: Arc<AtomicBool>,
    fatal: FatalSignal,
    heart: Arc<Heart>,
    held: Mutex<Option<Held>>,
}

impl RunningEngine {
    pub(super) fn new(loaded: LoadedModel, fatal: FatalSignal) -> Self {
        Self {
            requests: loaded.requests,
            turn: Turn::default(),
            dead: Arc::default(),
            fatal,
            heart: Arc::default(),
            held: Mutex::new(Some(Held { engine: loaded.engine, pipeline: loaded.pipeline })),
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn pulse(&self) -> Pulse {
        self.heart.pulse()
    }

    /// Runs the batches of one request one after another and puts the answers in the request's order.
    pub(super) async fn run_batches<T, F>(
        &self,
        inputs: Vec<Vec<u32>>,
        plan: Vec<Vec<usize>>,
        cancel: &CancellationToken,
        run: impl Fn(EngineChannel, Vec<Vec<u32>>) -> F,
    ) -> Result<Vec<T>, EngineError>
    where
        T: Send + 'static,
        F: Future<Output = Result<Vec<T>, Fault>> + Send + 'static,
    {
        let mut answers = Answers::to(inputs);
        for batch in plan {
            let prompts = answers.take(&batch);
            let turn = self.turn(cancel).await?;
            answers.put(&batch, self.run_one(turn, run(self.channel(), prompts), cancel).await)?;
        }
        answers.all()
    }

    fn channel(&self) -> EngineChannel {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        EngineChannel { requests: self.requests.clone(), pipeline: held.as_ref().map(|held| held.pipeline.clone()) }
    }

    async fn turn(&self, cancel: &CancellationToken) -> Result<OwnedSemaphorePermit, EngineError> {
        let turn = self.turn.take(cancel).await?;
        if self.is_dead() {
            return Err(Fault::engine_gone().into_error());
        }
        Ok(turn)
    }

    /// Runs a batch in a task of its own, which keeps the turn and receives the answers also when nobody waits for them
    /// any more: the library panics on an answer that it cannot deliver.
    async fn run_one<T: Send + 'static>(
        &self,
        turn: OwnedSemaphorePermit,
        batch: impl Future<Output = Result<T, Fault>> + Send + 'static,
        cancel: &CancellationToken,
    ) -> Result<T, EngineError> {
        let (dead, fatal, heart) = (self.dead.clone(), self.fatal.clone(), self.heart.clone());
        let task = tokio::spawn(async move {
            let beat = heart.beat();
            let result = batch.await;
            drop(beat);
            match &result {
                Err(Fault::DeviceLost(message)) => {
                    dead.store(true, Ordering::Release);
                    fatal.trip(message);
                }
                Err(Fault::EngineGone(message)) => {
                    dead.store(true, Ordering::Release);
                    tracing::error!(detail = message, "The engine is gone");
                }
                Ok(_) | Err(Fault::OutOfMemory(_) | Fault::Failed(_) | Fault::NotFinite(_)) => {}
            }
            drop(turn);
            result
        });
        let joined = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(EngineError::Cancelled),
            joined = task => joined,
        };
        match joined {
            Ok(result) => result.map_err(Fault::into_error),
            Err(error) => Err(EngineError::Failed { message: error.to_string() }),
        }
    }

    /// Ends the engine's thread and frees the model. A second call does nothing.
    pub(super) async fn unload(&self) -> Result<(), EngineError> {
        let Some(Held { engine, pipeline }) = self.held.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        self.turn.end().await;
        let _ = self.requests.try_send(Request::Terminate);
        drop(engine);
        let deadline = Instant::now() + UNLOAD_WAIT;
        while Arc::strong_count(&pipeline) > 1 {
            if Instant::now() >= deadline {
                return Err(EngineError::Failed {
                    message: format!("the engine did not end within {} s and holds its memory", UNLOAD_WAIT.as_secs()),
                });
            }
            sleep(POLL).await;
        }
        let freed = tokio::task::spawn_blocking(move || {
            drop(pipeline);
            memory::give_back();
        });
        freed.await.map_err(|error| EngineError::Failed { message: error.to_string() })
    }
}

impl fmt::Debug for RunningEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RunningEngine").field("dead", &self.is_dead()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::{Semaphore, mpsc};
    use tokio::time::timeout;

    use super::*;

    /// An engine of which only the turns are real.
    fn running() -> RunningEngine {
        let (requests, _) = mpsc::channel(1);
        RunningEngine {
            requests,
            turn: Turn::default(),
            dead: Arc::default(),
            fatal: FatalSignal::default(),
            heart: Arc::default(),
            held: Mutex::new(None),
        }
    }

    fn inputs(count: u32) -> Vec<Vec<u32>> {
        (0..count).map(|at| vec![at]).collect()
    }

    /// Answers each input with its first token.
    fn first_tokens(inputs: Vec<Vec<u32>>) -> Ready<Result<Vec<u32>, Fault>> {
        ready(Ok(inputs.into_iter().filter_map(|input| input.first().copied()).collect()))
    }

    #[tokio::test]
    async fn answers_are_put_in_the_order_of_the_request() {
        let plan = vec![vec![3, 0], vec![2], vec![1]];
        let cancel = CancellationToken::new();
        let answers = running().run_batches(inputs(4), plan, &cancel, |_, batch| first_tokens(batch)).await.unwrap();
        assert_eq!(answers, [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn a_value_that_is_no_number_names_its_place_in_the_request() {
        let plan = vec![vec![1], vec![3, 2, 0]];
        let run = |_, batch: Vec<Vec<u32>>| async move {
            if batch.len() == 1 { first_tokens(batch).await } else { Err(Fault::NotFinite(1)) }
        };
        let error = running().run_batches(inputs(4), plan, &CancellationToken::new(), run).await.unwrap_err();
        assert!(matches!(error, EngineError::NotFinite { index: 2 }), "{error}");
    }

    #[tokio::test]
    async fn an_answer_short_of_the_request_is_an_error() {
        let run = |_, _| async { Ok(vec![7_u32]) };
        let error =
            running().run_batches(inputs(2), vec![vec![0, 1]], &CancellationToken::new(), run).await.unwrap_err();
        assert!(error.to_string().contains("fewer inputs"), "{error}");
    }

    #[tokio::test]
    async fn a_dead_engine_says_so_and_fails_every_further_request_at_once() {
        let engine = running();
        let cancel = CancellationToken::new();
        let dying = |_, _| async { Err::<Vec<u32>, _>(Fault::engine_gone()) };
        assert!(engine.run_batches(inputs(1), vec![vec![0]], &cancel, dying).await.is_err());
        assert!(engine.is_dead());
        let never = |_, _| async { std::future::pending::<Result<Vec<u32>, Fault>>().await };
        let error = engine.run_batches(inputs(1), vec![vec![0]], &cancel, never).await.unwrap_err();
        assert!(error.to_string().contains("the engine's thread has ended"), "{error}");
    }

    #[tokio::test]
    async fn a_lost_device_is_told_to_the_whole_process_also_where_the_client_has_left() {
        let engine = running();
        let cancel = CancellationToken::new();
        let lost = |_, _| async {
            tokio::task::yield_now().await;
            Err::<Vec<u32>, _>(Fault::from_message("CUDA_ERROR_ILLEGAL_ADDRESS".to_owned()))
        };
        let leaves = async { cancel.cancel() };
        let (outcome, ()) = tokio::join!(engine.run_batches(inputs(1), vec![vec![0]], &cancel, lost), leaves);
        assert!(matches!(outcome, Err(EngineError::Cancelled)));
        engine.fatal.tripped().await;
        assert_eq!(engine.fatal.reason(), Some("CUDA_ERROR_ILLEGAL_ADDRESS"));
        assert!(engine.is_dead());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_felt_until_it_is_done_and_not_only_while_somebody_waits_for_it() {
        let engine = running();
        let cancel = CancellationToken::new();
        let slow = |_, batch| async {
            sleep(Duration::from_secs(5)).await;
            first_tokens(batch).await
        };
        let began = Instant::now();
        let waited = timeout(Duration::from_secs(1), engine.run_batches(inputs(1), vec![vec![0]], &cancel, slow)).await;
        assert!(waited.is_err());
        assert_eq!(engine.pulse().running_since, Some(began));
        sleep(Duration::from_secs(5)).await;
        let pulse = engine.pulse();
        assert_eq!((pulse.running_since, pulse.longest_of_late), (None, Some(Duration::from_secs(5))));
    }

    #[tokio::test]
    async fn a_failed_batch_leaves_the_engine_alive() {
        let engine = running();
        let cancel = CancellationToken::new();
        let failing = |_, _| async { Err::<Vec<u32>, _>(Fault::OutOfMemory("full".to_owned())) };
        let error = engine.run_batches(inputs(1), vec![vec![0]], &cancel, failing).await.unwrap_err();
        assert!(matches!(error, EngineError::OutOfMemory { .. }) && !engine.is_dead());
        assert!(engine.run_batches(inputs(1), vec![vec![0]], &cancel, |_, batch| first_tokens(batch)).await.is_ok());
    }

    #[tokio::test]
    async fn a_gone_client_costs_the_batch_under_way_and_no_other() {
        let engine = running();
        let (started, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Batches may go on one by one.
        let gate = Arc::new(Semaphore::new(1));
        let run = |_, batch| {
            let (started, finished, gate) = (started.clone(), finished.clone(), gate.clone());
            async move {
                started.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("it is never closed").forget();
                finished.fetch_add(1, Ordering::SeqCst);
                first_tokens(batch).await
            }
        };
        let plan: Vec<Vec<usize>> = (0..5).map(|at| vec![at]).collect();
        let cancel = CancellationToken::new();
        let second_batch = async {
            while started.load(Ordering::SeqCst) < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = engine.run_batches(inputs(5), plan, &cancel, run) => panic!("the second batch does not pass the gate"),
            () = second_batch => {}
        }
        gate.add_permits(10);
        let next = engine.run_batches(inputs(1), vec![vec![0]], &cancel, |_, batch| first_tokens(batch)).await;
        assert_eq!(next.unwrap(), [0]);
        assert_eq!((started.load(Ordering::SeqCst), finished.load(Ordering::SeqCst)), (2, 2), "drained, not dropped");
    }

    #[tokio::test]
    async fn cancelling_returns_at_once_also_while_another_has_the_turn() {
        let engine = running();
        let _held = engine.turn.take(&CancellationToken::new()).await.unwrap();
        let cancel = CancellationToken::new();
        let waiting = engine.run_batches(inputs(1), vec![vec![0]], &cancel, |_, batch| first_tokens(batch));
        let (result, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            cancel.cancel();
        });
        assert!(matches!(result, Err(EngineError::Cancelled)));
    }
}
