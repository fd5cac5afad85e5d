//! Every reason of the closed list that can arise: the vector order, and why.

use super::*;

#[track_caller]
fn assert_vector_order(response: &SearchResponse, reason: FallbackReason, words: &str) {
    assert_eq!(fallback_reason(response), Some(reason), "{:?}", response.fallback);
    let message = &response.fallback.as_ref().unwrap().message;
    assert!(message.contains(words), "{message:?} does not say {words:?}");
    assert_eq!(ids(response), [1, 2, 3]);
    assert!(!response.reranking_used && response.reranker.is_none());
    for result in &response.results {
        assert_eq!((result.score, result.rerank_score, result.rank_change), (result.vector_score, None, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn insufficient_memory_for_the_load() {
    let bench = bench();
    bench.controls.set_model_bytes(RERANKER, 5_000);
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_vector_order(&response, FallbackReason::InsufficientMemory, "needs 5000 bytes on fake, 900 are free");
    assert_eq!(bench.controls.seen().loads, [EMBEDDER]);
    bench.controls.set_model_bytes(RERANKER, 100);
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn insufficient_memory_is_told_at_once_also_where_loads_are_not_waited_for() {
    let bench = bench_with(|config| config.lifecycle.while_loading = WhileLoading::Fallback);
    bench.controls.set_model_bytes(RERANKER, 5_000);
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_vector_order(&response, FallbackReason::InsufficientMemory, "5000 bytes");
}

#[tokio::test(start_paused = true)]
async fn insufficient_memory_for_a_batch_and_for_its_halves() {
    let bench = bench();
    bench.assert_serves().await;
    let scored = bench.controls.seen().pairs.len();
    bench.controls.fail_score(EngineFault::OutOfMemory);
    bench.assert_serves().await;
    assert_eq!(bench.controls.seen().pairs[scored..], [5, 2, 3], "the batch, then its halves");

    bench.controls.fail_score(EngineFault::OutOfMemory);
    bench.controls.fail_score(EngineFault::OutOfMemory);
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_vector_order(&response, FallbackReason::InsufficientMemory, "reranker.tokenBudget");
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_of_which_one_in_twenty_runs_out_of_memory_hang_nowhere_and_are_scored_right_or_not_at_all()
{
    let bench = bench_with(|config| config.api.limits.queue_pairs = 1_000_000);
    bench.assert_serves().await;
    bench.controls.set_batch_pairs(4);
    let mut refused = 0;
    for round in 0..100 {
        if round % 2 == 0 {
            bench.controls.fail_score(EngineFault::OutOfMemory);
        }
        if round % 10 == 0 {
            bench.controls.fail_score(EngineFault::OutOfMemory);
        }
        let requests = (0..10).map(|number| {
            let documents = (0..=number).map(|at| format!("relevance={}.{}", at % 3, at)).collect();
            bench.rerank(RerankRequest { query: format!("q{number}"), documents, ..RerankRequest::default() })
        });
        for (number, outcome) in futures::future::join_all(requests).await.into_iter().enumerate() {
            match outcome {
                Ok(response) => {
                    assert_eq!(response.results.len(), number + 1);
                    for ranked in response.results {
                        let at = ranked.index;
                        let expected: f32 = format!("{}.{at}", at % 3).parse().unwrap();
                        assert!((ranked.log_odds - expected).abs() < 1e-6, "{ranked:?}");
                    }
                }
                Err(SearchError::RerankerUnavailable { reason: FallbackReason::InsufficientMemory, .. }) => {
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    // Of sixty faults: those that met a single pair, or a half.
    assert!((1..60).contains(&refused), "{refused}");
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn loading() {
    let bench = bench_with(|config| config.lifecycle.while_loading = WhileLoading::Fallback);
    bench.search(SearchRequest { use_reranker: Some(false), ..ask("q", 1) }).await.unwrap();
    bench.controls.set_load_time(Duration::from_secs(5));
    let begun = Instant::now();
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_vector_order(&response, FallbackReason::Loading, "is loading");
    assert!(begun.elapsed() < Duration::from_millis(20), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(6)).await;
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_load_is_waited_for_where_the_configuration_says_so() {
    let bench = bench();
    bench.controls.set_load_time(Duration::from_secs(8));
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn engine_failed_by_its_load() {
    let bench = bench();
    bench.search(SearchRequest { use_reranker: Some(false), ..ask("q", 1) }).await.unwrap();
    bench.controls.fail_load(EngineFault::Failed);
    for _ in 0..2 {
        let response = bench.search(ask("q", 3)).await.unwrap();
        assert_vector_order(
            &response,
            FallbackReason::EngineFailed,
            "the reranker could not be loaded; the server's log",
        );
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn engine_failed_in_stage_two() {
    for fault in [EngineFault::Failed, EngineFault::NotFinite, EngineFault::TooFew, EngineFault::Panic] {
        let bench = bench();
        bench.controls.fail_score(fault);
        let response = bench.search(ask("q", 3)).await.unwrap();
        // What the library said can name files, so the log alone has it.
        let message = "the engine failed to score; the server's log tells why";
        assert_vector_order(&response, FallbackReason::EngineFailed, message);
        bench.assert_serves().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_engine_is_loaded_again_by_the_next_search() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.kill_engines();
    bench.assert_serves().await;
    assert_eq!(bench.controls.seen().loads.len(), 4, "embedder and reranker, twice");
}

#[tokio::test(start_paused = true)]
async fn deadline_of_an_engine_that_is_too_slow_or_hangs() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.fail_score(EngineFault::Hang);
    let begun = Instant::now();
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_vector_order(&response, FallbackReason::Deadline, "timeouts.rerankSeconds: 20");
    let took = begun.elapsed();
    assert!((20_000..=20_020).contains(&took.as_millis()), "{took:?}");
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn deadline_of_a_load_that_takes_longer_than_stage_two_may() {
    let bench = bench();
    bench.search(SearchRequest { use_reranker: Some(false), ..ask("q", 1) }).await.unwrap();
    bench.controls.set_load_time(Duration::from_secs(60));
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_vector_order(&response, FallbackReason::Deadline, "timeouts.rerankSeconds");
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.assert_serves().await;
    assert_eq!(bench.controls.seen().loads, [EMBEDDER, RERANKER], "the load went on");
}

#[tokio::test(start_paused = true)]
async fn the_vector_order_is_answered_before_the_requests_own_deadline() {
    let bench = bench_with(|config| config.timeouts.request_seconds = 10);
    bench.controls.fail_score(EngineFault::Hang);
    let begun = Instant::now();
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_vector_order(&response, FallbackReason::Deadline, "deadline");
    assert!((9_700..9_900).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_in_the_queue_past_its_deadline_never_reaches_the_engine() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.set_score_time(Duration::from_secs(19));
    let before = bench.controls.seen().scores;
    let responses = futures::future::join_all((0..3).map(|_| bench.search(ask("q", 3)))).await;
    let reasons: Vec<_> = responses.iter().map(|response| fallback_reason(response.as_ref().unwrap())).collect();
    assert_eq!(reasons.iter().filter(|reason| reason.is_none()).count(), 1, "{reasons:?}");
    assert_eq!(bench.controls.seen().scores - before, 1, "the others would not have ended in time");
}

#[tokio::test(start_paused = true)]
async fn disabled() {
    let bench = bench_with(|config| config.reranker.enabled = false);
    let response = bench.search(SearchRequest { use_reranker: Some(true), ..ask("q", 3) }).await.unwrap();
    assert_vector_order(&response, FallbackReason::Disabled, "reranker.enabled: false");
    assert_eq!(response.reranking_time_ms, None);
}

#[tokio::test(start_paused = true)]
async fn breaker_open_after_five_failures_in_a_row_until_one_request_is_answered_again() {
    let bench = bench();
    bench.assert_serves().await;
    for _ in 0..5 {
        bench.controls.fail_score(EngineFault::Failed);
        let response = bench.search(ask("q", 3)).await.unwrap();
        assert_vector_order(&response, FallbackReason::EngineFailed, "log");
    }
    let asked = bench.controls.seen().scores;
    let begun = Instant::now();
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_vector_order(&response, FallbackReason::BreakerOpen, "5 times in a row");
    assert!(begun.elapsed() < Duration::from_millis(20), "{:?}", begun.elapsed());
    let refused = bench.rerank(RerankRequest {
        query: "q".to_owned(),
        documents: vec!["a".to_owned()],
        ..RerankRequest::default()
    });
    assert!(matches!(
        refused.await,
        Err(SearchError::RerankerUnavailable { reason: FallbackReason::BreakerOpen, retry_after_seconds: 5, .. })
    ));
    assert_eq!(bench.controls.seen().scores, asked, "the engine is spared");

    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.assert_serves().await;
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn breaker_open_for_an_engine_that_hangs_but_not_for_one_that_others_keep_busy() {
    let bench = bench_with(|config| config.timeouts.rerank_seconds = 2);
    bench.assert_serves().await;
    bench.controls.set_score_time(Duration::from_secs(3_600));
    for _ in 0..5 {
        let response = bench.search(ask("q", 3)).await.unwrap();
        assert_vector_order(&response, FallbackReason::Deadline, "rerankSeconds");
    }
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_vector_order(&response, FallbackReason::BreakerOpen, "in a row");

    let busy = bench_with(|config| config.timeouts.rerank_seconds = 2);
    busy.assert_serves().await;
    busy.controls.set_batch_pairs(1);
    busy.controls.set_score_time(Duration::from_secs(1));
    let answers = futures::future::join_all((0..12).map(|_| busy.search(ask("q", 3)))).await;
    for answer in answers {
        assert_eq!(fallback_reason(&answer.unwrap()), Some(FallbackReason::Deadline), "there was progress, or no turn");
    }
    busy.controls.set_score_time(Duration::ZERO);
    busy.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_used_up_the_time_is_no_failure_of_the_engine() {
    let bench = bench_with(|config| config.timeouts.rerank_seconds = 10);
    bench.controls.set_score_time(Duration::from_secs(3));
    for round in 0..6 {
        // Eight seconds of the ten are the load's, so the engine is cut off in the middle of its first batch.
        bench.controls.set_load_time(Duration::ZERO);
        bench.search(SearchRequest { use_reranker: Some(false), ..ask("q", 1) }).await.unwrap();
        bench.controls.set_load_time(Duration::from_secs(8));
        let response = bench.search(ask("q", 3)).await.unwrap();
        assert_vector_order(&response, FallbackReason::Deadline, "rerankSeconds");
        bench
            .searcher
            .unload_model(&RerankChoice { model: Some(RERANKER.to_owned()), quantization: None })
            .await
            .unwrap();
        assert_eq!(bench.controls.seen().loads.iter().filter(|model| *model == RERANKER).count(), round + 1);
    }
}
