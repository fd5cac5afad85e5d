//! The pool's behaviour, with fake engines and a clock that stands still until it is awaited.

use std::sync::Arc;
use std::time::Duration;

use rerank_crds::catalog::Quantization;
use rerank_crds::server_config::SelfTest;
use tokio::time::{advance, sleep};

use super::*;
use crate::fakes::{EngineControls, EngineFault, FakeLoader, FakeSource, model_key};

mod self_test;

const NO_UNLOAD: PoolOptions = PoolOptions { unload_timeout: None, warm: false, self_test: SelfTest::Off };
const UNLOAD_AFTER_300: PoolOptions =
    PoolOptions { unload_timeout: Some(Duration::from_secs(300)), warm: false, self_test: SelfTest::Off };

fn reranker(model: &str) -> ModelKey {
    model_key(ModelRole::Reranker, model, Quantization::Float16)
}

fn embedder(model: &str) -> ModelKey {
    model_key(ModelRole::Embedder, model, Quantization::Float16)
}

struct Bench {
    pool: Arc<ModelPool>,
    controls: Arc<EngineControls>,
    source: Arc<FakeSource>,
}

fn bench(options: PoolOptions) -> Bench {
    let loader = FakeLoader::default();
    let controls = loader.controls();
    let keys = [reranker("a"), reranker("b"), reranker("c"), embedder("e")];
    let source = FakeSource::new(keys, Arc::clone(&controls));
    let pool = ModelPool::new(
        options,
        Arc::clone(&source) as Arc<dyn ModelSource>,
        Arc::new(loader),
        Arc::new(Metrics::default()),
    );
    Bench { pool, controls, source }
}

impl Bench {
    /// Loads a model and lets it go at once.
    async fn load(&self, key: &ModelKey) {
        self.pool.lease(key, Waiting::Wait).await.unwrap();
    }

    fn failure(&self, key: &ModelKey) -> Option<String> {
        let statuses = self.pool.statuses();
        statuses.into_iter().find(|status| status.name == key.model).and_then(|status| status.failure)
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_first_requests_cause_one_load() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_load_time(Duration::from_secs(5));
    let callers = (0..100).map(|_| {
        let pool = Arc::clone(&bench.pool);
        tokio::spawn(async move { pool.lease(&reranker("a"), Waiting::Wait).await.map(drop) })
    });
    for caller in futures::future::join_all(callers).await {
        caller.unwrap().unwrap();
    }
    assert_eq!(bench.controls.seen().loads, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_first_requests_of_a_load_that_fails_are_all_answered_after_one_try() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_load_time(Duration::from_secs(5));
    bench.controls.fail_load(EngineFault::Failed);
    let callers = (0..100).map(|_| {
        let pool = Arc::clone(&bench.pool);
        tokio::spawn(async move { pool.lease(&reranker("a"), Waiting::Wait).await.map(drop) })
    });
    for caller in futures::future::join_all(callers).await {
        assert!(matches!(caller.unwrap(), Err(PoolError::LoadFailed { .. })));
    }
    assert_eq!(bench.controls.seen().loads, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_does_not_end_the_load() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_load_time(Duration::from_secs(5));
    let left = tokio::time::timeout(Duration::from_secs(1), bench.pool.lease(&reranker("a"), Waiting::Wait)).await;
    assert!(left.is_err(), "the load takes longer than the caller waits");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.pool.state(&reranker("a")), ModelState::Ready);
    bench.load(&reranker("a")).await;
    assert_eq!(bench.controls.seen().loads, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_wait_starts_the_load_and_is_told_that_it_runs() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_load_time(Duration::from_secs(5));
    let key = reranker("a");
    let refused = bench.pool.lease(&key, Waiting::StartOnly).await.unwrap_err();
    assert!(matches!(refused, PoolError::Loading { .. }), "{refused}");
    assert_eq!(bench.pool.state(&key), ModelState::Loading);
    sleep(Duration::from_secs(6)).await;
    bench.pool.lease(&key, Waiting::StartOnly).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_wait_hears_at_once_that_memory_does_not_suffice() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_model_bytes("a", 1_001);
    let refused = bench.pool.lease(&reranker("a"), Waiting::StartOnly).await.unwrap_err();
    assert!(matches!(refused, PoolError::InsufficientMemory { .. }), "{refused}");
}

#[tokio::test]
async fn a_caller_that_does_not_wait_is_not_held_up_by_the_comparison_with_digests() {
    let bench = bench(NO_UNLOAD);
    let key = reranker("a");
    let release = bench.source.hold_verification();
    for _ in 0..3 {
        let asked = bench.pool.lease(&key, Waiting::StartOnly);
        let refused =
            tokio::time::timeout(Duration::from_secs(20), asked).await.expect("an answer at once").unwrap_err();
        assert!(matches!(refused, PoolError::Loading { .. }), "{refused}");
    }
    drop(release);
    bench.load(&key).await;
    assert_eq!(bench.source.verifications(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_memory_does_not_suffice_no_file_is_read() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_model_bytes("a", 1_001);
    for _ in 0..3 {
        bench.pool.lease(&reranker("a"), Waiting::Wait).await.unwrap_err();
    }
    assert_eq!(bench.source.verifications(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_model_is_unloaded_after_its_timeout_and_its_memory_is_back() {
    let bench = bench(UNLOAD_AFTER_300);
    let key = reranker("a");
    bench.load(&key).await;
    sleep(Duration::from_secs(299)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Ready);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Standby);
    assert_eq!(bench.controls.seen().unloads, ["a"]);
    let status = bench.pool.statuses().into_iter().find(|status| status.name == "a").unwrap();
    assert_eq!(status.freed_memory_bytes, Some(100));
    bench.load(&key).await;
    assert_eq!(bench.controls.seen().loads, ["a", "a"], "it is loaded again when asked for");
}

#[tokio::test(start_paused = true)]
async fn the_timeout_counts_from_the_end_of_the_last_lease() {
    let bench = bench(UNLOAD_AFTER_300);
    let key = reranker("a");
    let first = bench.pool.lease(&key, Waiting::Wait).await.unwrap();
    let second = first.clone();
    drop(first);
    sleep(Duration::from_secs(10_000)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Ready, "a clone of the lease holds it too");
    drop(second);
    sleep(Duration::from_secs(200)).await;
    bench.load(&key).await;
    sleep(Duration::from_secs(200)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Ready, "400 s after the first use, 200 s after the last");
    sleep(Duration::from_secs(101)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Standby);
}

#[tokio::test(start_paused = true)]
async fn a_hold_loads_nothing_and_keeps_what_another_loads() {
    let bench = bench(UNLOAD_AFTER_300);
    let key = reranker("a");
    let hold = bench.pool.hold(&key);
    assert_eq!(bench.pool.state(&key), ModelState::Standby);
    bench.load(&key).await;
    sleep(Duration::from_secs(1_000)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Ready);
    assert_eq!(bench.pool.unload(&key).await, UnloadOutcome::InUse);
    drop(hold);
    sleep(Duration::from_secs(301)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Standby);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_means_never() {
    let lifecycle = Lifecycle { unload_timeout_seconds: 0, warm: false, ..Lifecycle::default() };
    let bench = bench(PoolOptions::from_config(&lifecycle, SelfTest::Off));
    bench.load(&reranker("a")).await;
    sleep(Duration::from_secs(3_600_000)).await;
    assert_eq!(bench.pool.state(&reranker("a")), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_during_an_unload_waits_and_loads_again() {
    let bench = bench(UNLOAD_AFTER_300);
    bench.controls.set_unload_time(Duration::from_secs(10));
    let key = reranker("a");
    bench.load(&key).await;
    sleep(Duration::from_secs(305)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Unloading);
    let lease = bench.pool.lease(&key, Waiting::Wait).await.unwrap();
    assert_eq!(lease.key, key);
    assert_eq!(bench.controls.seen().loads, ["a", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_wait_for_an_unload_has_the_model_loaded_after_it() {
    let bench = bench(UNLOAD_AFTER_300);
    bench.controls.set_unload_time(Duration::from_secs(10));
    let key = reranker("a");
    bench.load(&key).await;
    sleep(Duration::from_secs(305)).await;
    let refused = bench.pool.lease(&key, Waiting::StartOnly).await.unwrap_err();
    assert!(matches!(refused, PoolError::Loading { .. }), "{refused}");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn under_memory_pressure_the_least_recently_used_idle_model_leaves_first() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_total_bytes(250);
    bench.load(&reranker("a")).await;
    advance(Duration::from_secs(1)).await;
    bench.load(&reranker("b")).await;
    advance(Duration::from_secs(1)).await;
    bench.load(&reranker("a")).await;
    advance(Duration::from_secs(1)).await;
    bench.load(&reranker("c")).await;
    assert_eq!(bench.controls.seen().unloads, ["b"], "a was used after b");
    assert_eq!(bench.pool.state(&reranker("a")), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_model_in_use_never_leaves_under_memory_pressure() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_total_bytes(250);
    let held = bench.pool.lease(&reranker("a"), Waiting::Wait).await.unwrap();
    advance(Duration::from_secs(1)).await;
    bench.load(&reranker("b")).await;
    bench.load(&reranker("c")).await;
    assert_eq!(bench.controls.seen().unloads, ["b"], "a is older but in use");
    let _also_held = bench.pool.lease(&reranker("c"), Waiting::Wait).await.unwrap();
    let refused = bench.pool.lease(&reranker("b"), Waiting::Wait).await.unwrap_err();
    assert!(matches!(refused, PoolError::InsufficientMemory { .. }), "{refused}");
    assert_eq!(bench.controls.seen().unloads, ["b"]);
    drop(held);
    bench.load(&reranker("b")).await;
    assert_eq!(bench.controls.seen().unloads, ["b", "a"], "memory that comes free is used at the next request");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_sent_away_for_a_load_that_would_not_fit_anyway() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_model_bytes("b", 5_000);
    bench.load(&reranker("a")).await;
    bench.pool.lease(&reranker("b"), Waiting::Wait).await.unwrap_err();
    assert_eq!(bench.pool.state(&reranker("a")), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_does_not_fit_touches_no_weights_and_names_needed_free_device_and_fixes() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_model_bytes("b", 1_500);
    bench.source.set_alternatives(vec![
        (MemoryFix::SmallerModel, 300),
        (MemoryFix::Int8, 901),
        (MemoryFix::SmallerBatch, 900),
    ]);
    let _held = bench.pool.lease(&reranker("a"), Waiting::Wait).await.unwrap();
    let refused = bench.pool.lease(&reranker("b"), Waiting::Wait).await.unwrap_err();
    let PoolError::InsufficientMemory { needed_bytes, free_bytes, device, fixes, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!((*needed_bytes, *free_bytes, device.as_str()), (1_500, 900, "fake"));
    assert_eq!(*fixes, [MemoryFix::SmallerModel, MemoryFix::SmallerBatch]);
    assert_eq!(
        refused.to_string(),
        "loading b needs 1500 bytes on fake, 900 are free; what would help: a smaller model (reranker.model); a \
         smaller batch (reranker.tokenBudget, reranker.batchSize)"
    );
    assert_eq!(bench.controls.seen().loads, ["a"]);
    assert_eq!(bench.failure(&reranker("b")), Some(refused.to_string()));
}

#[tokio::test(start_paused = true)]
async fn what_a_load_under_way_was_promised_is_not_given_to_another() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_total_bytes(150);
    bench.controls.set_load_time(Duration::from_secs(5));
    let (key_a, key_b) = (reranker("a"), reranker("b"));
    let (first, second) =
        tokio::join!(bench.pool.lease(&key_a, Waiting::Wait), bench.pool.lease(&key_b, Waiting::Wait));
    // Which of the two comes first is not fixed.
    let winner = if first.is_ok() { "a" } else { "b" };
    let ((Ok(_), Err(refused)) | (Err(refused), Ok(_))) = (first, second) else { panic!("one of the two has room") };
    assert!(matches!(refused, PoolError::InsufficientMemory { free_bytes: 50, .. }), "{refused}");
    assert_eq!(bench.controls.seen().loads, [winner]);
}

#[tokio::test(start_paused = true)]
async fn a_load_waits_for_an_unload_that_will_give_it_room() {
    let bench = bench(UNLOAD_AFTER_300);
    bench.controls.set_total_bytes(150);
    bench.controls.set_unload_time(Duration::from_secs(10));
    bench.load(&reranker("a")).await;
    sleep(Duration::from_secs(305)).await;
    assert_eq!(bench.pool.state(&reranker("a")), ModelState::Unloading);
    bench.load(&reranker("b")).await;
    assert_eq!(bench.pool.state(&reranker("b")), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_wait_is_not_held_up_by_a_load_that_waits_for_memory() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_total_bytes(150);
    bench.controls.set_load_time(Duration::from_secs(5));
    bench.pool.lease(&reranker("a"), Waiting::StartOnly).await.unwrap_err();
    let asked = tokio::time::Instant::now();
    for key in [reranker("b"), reranker("c")] {
        let refused = bench.pool.lease(&key, Waiting::StartOnly).await.unwrap_err();
        assert!(matches!(refused, PoolError::Loading { .. }), "{refused}");
    }
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_backs_off_and_says_when_to_come_back() {
    let bench = bench(NO_UNLOAD);
    let key = reranker("a");
    for fault in [EngineFault::Failed, EngineFault::Panic, EngineFault::Failed] {
        bench.controls.fail_load(fault);
    }
    for (tries, pause) in [(1, 1), (2, 2), (3, 4)] {
        let refused = bench.pool.lease(&key, Waiting::Wait).await.unwrap_err();
        assert_eq!(refused.retry_after_seconds(), pause, "{refused}");
        let again = bench.pool.lease(&key, Waiting::StartOnly).await.unwrap_err();
        assert!(matches!(again, PoolError::LoadFailed { .. }), "{again}");
        assert_eq!(bench.controls.seen().loads.len(), tries, "no load during the pause");
        assert_eq!(bench.pool.state(&key), ModelState::Failed);
        advance(Duration::from_secs(pause)).await;
    }
    bench.load(&key).await;
    assert_eq!(bench.pool.state(&key), ModelState::Ready);
    assert_eq!(bench.failure(&key), None);
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_the_series_of_pauses() {
    let bench = bench(UNLOAD_AFTER_300);
    let key = reranker("a");
    for pause in [1, 2] {
        bench.controls.fail_load(EngineFault::Failed);
        bench.pool.lease(&key, Waiting::Wait).await.unwrap_err();
        advance(Duration::from_secs(pause)).await;
    }
    bench.load(&key).await;
    assert_eq!(bench.pool.unload(&key).await, UnloadOutcome::Unloaded { freed_bytes: 100 });
    bench.controls.fail_load(EngineFault::Failed);
    let refused = bench.pool.lease(&key, Waiting::Wait).await.unwrap_err();
    assert_eq!(refused.retry_after_seconds(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_runs_out_of_memory_during_a_load_is_insufficient_memory_and_backs_off() {
    let bench = bench(NO_UNLOAD);
    bench.controls.fail_load(EngineFault::OutOfMemory);
    let key = reranker("a");
    for _ in 0..2 {
        let refused = bench.pool.lease(&key, Waiting::Wait).await.unwrap_err();
        assert!(matches!(refused, PoolError::InsufficientMemory { needed_bytes: 100, .. }), "{refused}");
    }
    assert_eq!(bench.controls.seen().loads, ["a"], "weights were touched: the next try waits");
    advance(Duration::from_secs(1)).await;
    bench.load(&key).await;
}

#[tokio::test(start_paused = true)]
async fn a_tokenizer_that_cannot_be_used_fails_the_load_before_weights_are_read() {
    let bench = bench(NO_UNLOAD);
    bench.source.break_tokenizer("a");
    let refused = bench.pool.lease(&reranker("a"), Waiting::Wait).await.unwrap_err();
    assert_eq!(refused.to_string(), "failed to load a: the tokenizer (tokenizer.json) cannot be used: told so");
    assert!(bench.controls.seen().loads.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_configured_is_refused() {
    let bench = bench(NO_UNLOAD);
    let refused = bench.pool.lease(&reranker("stranger"), Waiting::Wait).await.unwrap_err();
    assert!(refused.to_string().contains("is not configured"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_runs_the_largest_batch_before_the_first_lease() {
    let bench = bench(PoolOptions { unload_timeout: None, warm: true, self_test: SelfTest::Off });
    bench.load(&reranker("a")).await;
    let seen = bench.controls.seen();
    assert_eq!(seen.pairs, [4], "the batch size");
    assert!((4 * 500..=2_048).contains(&seen.tokens[0]), "the token budget is 2,048, found {:?}", seen.tokens);
    assert!(seen.last_prompts[0].contains("<Document>: word word"), "{}", seen.last_prompts[0]);
    let status = bench.pool.statuses().into_iter().find(|status| status.name == "a").unwrap();
    assert_eq!(status.warm_up.map(|warm_up| warm_up.pairs), Some(4));
    bench.load(&embedder("e")).await;
    assert_eq!(bench.controls.seen().texts, [4]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_warms_says_so() {
    let bench = bench(PoolOptions { unload_timeout: None, warm: true, self_test: SelfTest::Off });
    bench.controls.set_score_time(Duration::from_secs(3));
    let key = reranker("a");
    bench.pool.lease(&key, Waiting::StartOnly).await.unwrap_err();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Warming);
    let refused = bench.pool.lease(&key, Waiting::StartOnly).await.unwrap_err();
    assert!(matches!(refused, PoolError::Loading { .. }), "{refused}");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(bench.pool.state(&key), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_that_fails_or_panics_fails_the_load_and_gives_the_memory_back() {
    for fault in [EngineFault::Failed, EngineFault::NotFinite, EngineFault::Panic, EngineFault::OutOfMemory] {
        let bench = bench(PoolOptions { unload_timeout: None, warm: true, self_test: SelfTest::Off });
        bench.controls.fail_score(fault);
        let refused = bench.pool.lease(&reranker("a"), Waiting::Wait).await.unwrap_err();
        let out_of_memory = matches!(refused, PoolError::InsufficientMemory { .. });
        assert_eq!(out_of_memory, fault == EngineFault::OutOfMemory, "{refused}");
        assert_eq!(bench.controls.seen().unloads, ["a"], "{fault:?}");
        advance(Duration::from_secs(1)).await;
        bench.load(&reranker("a")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_that_never_ends_is_given_up_and_the_model_used() {
    let bench = bench(PoolOptions { unload_timeout: None, warm: true, self_test: SelfTest::Off });
    bench.controls.fail_score(EngineFault::Hang);
    bench.load(&reranker("a")).await;
    assert_eq!(bench.pool.state(&reranker("a")), ModelState::Ready);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_fails_panics_or_hangs_while_it_is_unloaded_leaves_a_slot_that_loads_again() {
    for fault in [EngineFault::Failed, EngineFault::Panic, EngineFault::Hang] {
        let bench = bench(NO_UNLOAD);
        let key = reranker("a");
        bench.load(&key).await;
        bench.controls.fail_unload(fault);
        assert!(matches!(bench.pool.unload(&key).await, UnloadOutcome::Unloaded { .. }), "{fault:?}");
        assert_eq!(bench.pool.state(&key), ModelState::Standby);
        bench.load(&key).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_engine_is_replaced_also_while_others_hold_it() {
    let bench = bench(UNLOAD_AFTER_300);
    let key = reranker("a");
    let held = bench.pool.lease(&key, Waiting::Wait).await.unwrap();
    bench.controls.kill_engines();
    let fresh = bench.pool.lease(&key, Waiting::Wait).await.unwrap();
    assert!(held.engine.is_dead() && !fresh.engine.is_dead());
    assert_eq!(bench.controls.seen().loads, ["a", "a"]);
    drop((held, fresh));
    sleep(Duration::from_secs(301)).await;
    assert_eq!(bench.controls.seen().unloads, ["a", "a"], "each engine was ended once");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_back_is_reported_and_seen_by_the_next_memory_check() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_total_bytes(150);
    bench.controls.set_kept_at_unload(90);
    bench.load(&reranker("a")).await;
    assert_eq!(bench.pool.unload(&reranker("a")).await, UnloadOutcome::Unloaded { freed_bytes: 10 });
    let refused = bench.pool.lease(&reranker("b"), Waiting::Wait).await.unwrap_err();
    assert!(matches!(refused, PoolError::InsufficientMemory { free_bytes: 60, .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_model_in_use_is_not_unloaded_on_request() {
    let bench = bench(NO_UNLOAD);
    let key = reranker("a");
    assert_eq!(bench.pool.unload(&key).await, UnloadOutcome::NotLoaded);
    let lease = bench.pool.lease(&key, Waiting::Wait).await.unwrap();
    assert_eq!(bench.pool.unload(&key).await, UnloadOutcome::InUse);
    drop(lease);
    assert_eq!(bench.pool.unload(&key).await, UnloadOutcome::Unloaded { freed_bytes: 100 });
}

#[tokio::test(start_paused = true)]
async fn every_configured_model_has_a_status_before_anything_is_loaded() {
    let bench = bench(NO_UNLOAD);
    let statuses = bench.pool.statuses();
    let listed: Vec<_> = statuses.iter().map(|status| (status.role, status.name.as_str(), status.state)).collect();
    assert_eq!(
        listed,
        [
            ("embedder", "e", ModelState::Standby),
            ("reranker", "a", ModelState::Standby),
            ("reranker", "b", ModelState::Standby),
            ("reranker", "c", ModelState::Standby),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn preloading_ends_with_the_first_model_that_cannot_be_loaded() {
    let bench = bench(NO_UNLOAD);
    bench.pool.preload(&[embedder("e"), reranker("a")]).await.unwrap();
    assert_eq!(bench.controls.seen().loads, ["e", "a"]);
    bench.controls.set_model_bytes("b", 5_000);
    let refused = bench.pool.preload(&[reranker("b"), reranker("c")]).await.unwrap_err();
    assert!(matches!(refused, PoolError::InsufficientMemory { .. }), "{refused}");
    assert_eq!(bench.controls.seen().loads, ["e", "a"]);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_leases_refuses_new_ones_and_unloads_everything() {
    let bench = bench(NO_UNLOAD);
    bench.load(&reranker("b")).await;
    let lease = bench.pool.lease(&reranker("a"), Waiting::Wait).await.unwrap();
    let pool = Arc::clone(&bench.pool);
    let shutdown = tokio::spawn(async move { pool.shutdown().await });
    sleep(Duration::from_secs(10)).await;
    assert!(!shutdown.is_finished(), "a lease lives");
    assert_eq!(bench.controls.seen().unloads, ["b"], "what nobody uses leaves at once");
    let refused = bench.pool.lease(&reranker("c"), Waiting::Wait).await.unwrap_err();
    assert!(matches!(refused, PoolError::ShuttingDown), "{refused}");
    drop(lease);
    tokio::time::timeout(Duration::from_secs(1), shutdown).await.unwrap().unwrap();
    assert_eq!(bench.controls.seen().unloads, ["b", "a"]);
}

#[tokio::test(start_paused = true)]
async fn shutdown_sends_waiting_callers_away_and_unloads_what_was_still_loading() {
    let bench = bench(NO_UNLOAD);
    bench.controls.set_load_time(Duration::from_secs(5));
    let pool = Arc::clone(&bench.pool);
    let caller = tokio::spawn(async move { pool.lease(&reranker("a"), Waiting::Wait).await.map(drop) });
    sleep(Duration::from_secs(1)).await;
    tokio::time::timeout(Duration::from_secs(10), bench.pool.shutdown()).await.unwrap();
    assert!(matches!(caller.await.unwrap(), Err(PoolError::ShuttingDown)));
    assert_eq!(bench.controls.seen().unloads, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_rounds_of_load_and_unload_leave_no_memory_and_no_task_behind() {
    let bench = bench(UNLOAD_AFTER_300);
    let key = reranker("a");
    for _ in 0..1_000 {
        bench.load(&key).await;
        assert_eq!(bench.pool.unload(&key).await, UnloadOutcome::Unloaded { freed_bytes: 100 });
    }
    assert_eq!(bench.controls.seen().loads.len(), 1_000);
    sleep(Duration::from_secs(1)).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(tasks <= 1, "{tasks} tasks are alive");
    bench.controls.set_model_bytes("b", 1_000);
    bench.load(&reranker("b")).await;
}
