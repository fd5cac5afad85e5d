//! Reranking without a store, and embedding for indexing.

use super::*;

fn ask_rerank(documents: &[&str]) -> RerankRequest {
    RerankRequest {
        query: "q".to_owned(),
        documents: documents.iter().map(|document| (*document).to_owned()).collect(),
        ..RerankRequest::default()
    }
}

/// A service without a store.
fn rerank_only() -> Bench {
    bench_with(|config| {
        config.vector_store = None;
        config.embedding.model = None;
    })
}

#[tokio::test(start_paused = true)]
async fn documents_come_back_best_first_with_score_and_log_odds() {
    let bench = rerank_only();
    let response = bench.rerank(ask_rerank(&["relevance=1", "relevance=-2", "relevance=3", ""])).await.unwrap();
    let order: Vec<_> = response.results.iter().map(|result| (result.index, result.log_odds)).collect();
    assert_eq!(order, [(2, 3.0), (0, 1.0), (3, 0.0), (1, -2.0)]);
    assert!((response.results[0].score - 0.952_574_1).abs() < 1e-6);
    assert_eq!(response.reranker.model, RERANKER);
    assert_eq!(bench.controls.seen().tokens, [response.tokens]);
}

#[tokio::test(start_paused = true)]
async fn a_service_without_a_store_reranks_and_does_not_search() {
    let bench = rerank_only();
    assert!(matches!(bench.search(ask("q", 1)).await, Err(SearchError::NotConfigured)));
    let batch = BatchSearchRequest { queries: vec!["q".to_owned()], template: ask("", 1) };
    assert!(matches!(bench.searcher.search_batch(batch, &context()).await, Err(SearchError::NotConfigured)));
    bench.rerank(ask_rerank(&["a"])).await.unwrap();
    let texts = ["a".to_owned()];
    let refused = bench.searcher.embed_documents(&texts, &context()).await.unwrap_err();
    assert!(matches!(refused, SearchError::EmbedderUnavailable { .. }), "{refused}");
    assert_eq!(bench.controls.seen().loads, [RERANKER]);
}

#[tokio::test(start_paused = true)]
async fn no_documents_too_many_and_an_empty_query_are_refused() {
    let bench = bench_with(|config| config.api.limits.documents = 2);
    assert!(matches!(bench.rerank(ask_rerank(&[])).await, Err(SearchError::OutOfRange { field: "documents", .. })));
    assert!(matches!(
        bench.rerank(ask_rerank(&["a", "b", "c"])).await,
        Err(SearchError::TooLarge { field: "documents", .. })
    ));
    let empty = RerankRequest { query: " ".to_owned(), ..ask_rerank(&["a"]) };
    assert!(matches!(bench.rerank(empty).await, Err(SearchError::OutOfRange { field: "query", .. })));
    let stranger = RerankChoice { model: Some("stranger".to_owned()), quantization: None };
    let unknown = RerankRequest { reranker: stranger, ..ask_rerank(&["a"]) };
    assert!(matches!(bench.rerank(unknown).await, Err(SearchError::UnknownModel { field: "model", .. })));
    let long = RerankRequest { query: "x".repeat(5_000), ..ask_rerank(&["a"]) };
    assert!(matches!(bench.rerank(long).await, Err(SearchError::OutOfRange { field: "query", .. })));
    bench.rerank(ask_rerank(&["a", "b"])).await.unwrap();
}

#[track_caller]
fn assert_unavailable(outcome: Result<RerankResponse, SearchError>, expected: FallbackReason) -> u64 {
    match outcome.unwrap_err() {
        SearchError::RerankerUnavailable { reason, retry_after_seconds, .. } => {
            assert_eq!(reason, expected);
            assert!(retry_after_seconds >= 1);
            retry_after_seconds
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_no_vector_order_to_fall_back_to_so_each_reason_is_an_error() {
    let disabled = bench_with(|config| config.reranker.enabled = false);
    assert_unavailable(disabled.rerank(ask_rerank(&["a"])).await, FallbackReason::Disabled);

    let bench = bench_with(|config| config.lifecycle.while_loading = WhileLoading::Fallback);
    bench.controls.set_load_time(Duration::from_secs(5));
    assert_unavailable(bench.rerank(ask_rerank(&["a"])).await, FallbackReason::Loading);
    tokio::time::sleep(Duration::from_secs(6)).await;
    bench.rerank(ask_rerank(&["a"])).await.unwrap();

    let bench = rerank_only();
    bench.controls.set_model_bytes(RERANKER, 5_000);
    assert_unavailable(bench.rerank(ask_rerank(&["a"])).await, FallbackReason::InsufficientMemory);
    bench.controls.set_model_bytes(RERANKER, 100);
    bench.controls.fail_load(EngineFault::Failed);
    assert_eq!(assert_unavailable(bench.rerank(ask_rerank(&["a"])).await, FallbackReason::EngineFailed), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    for fault in [EngineFault::Failed, EngineFault::NotFinite, EngineFault::TooFew, EngineFault::Panic] {
        bench.controls.fail_score(fault);
        assert_unavailable(bench.rerank(ask_rerank(&["a"])).await, FallbackReason::EngineFailed);
    }
    bench.rerank(ask_rerank(&["a"])).await.unwrap();
    bench.controls.fail_score(EngineFault::OutOfMemory);
    assert_unavailable(bench.rerank(ask_rerank(&["a"])).await, FallbackReason::InsufficientMemory);
    bench.controls.fail_score(EngineFault::Hang);
    assert!(matches!(bench.rerank(ask_rerank(&["a"])).await, Err(SearchError::DeadlineExceeded)));
    bench.rerank(ask_rerank(&["a"])).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_missed_deadline_is_one_answer_whichever_deadline_it_is() {
    for (request_seconds, rerank_seconds) in [(10, 20), (10, 10), (20, 10)] {
        let bench = bench_with(|config| {
            config.timeouts.request_seconds = request_seconds;
            config.timeouts.rerank_seconds = rerank_seconds;
        });
        bench.rerank(ask_rerank(&["a"])).await.unwrap();
        bench.controls.set_score_time(Duration::from_secs(60));
        for _ in 0..3 {
            let outcome = bench.rerank(ask_rerank(&["a"])).await;
            assert!(
                matches!(outcome, Err(SearchError::DeadlineExceeded)),
                "{request_seconds} {rerank_seconds} {outcome:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_would_overfill_the_queue_is_refused_at_once() {
    let bench = bench_with(|config| config.api.limits.queue_pairs = 3);
    bench.controls.set_score_time(Duration::from_secs(1));
    let (first, second) = tokio::join!(bench.rerank(ask_rerank(&["a", "b"])), bench.rerank(ask_rerank(&["c", "d"])));
    first.unwrap();
    assert!(matches!(second, Err(SearchError::Overloaded { .. })), "{second:?}");
    bench.rerank(ask_rerank(&["a", "b", "c", "d"])).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn first_come_first_served() {
    let bench = rerank_only();
    bench.rerank(ask_rerank(&["a"])).await.unwrap();
    bench.controls.set_score_time(Duration::from_secs(1));
    let finished = std::sync::Mutex::new(Vec::new());
    let requests = (0..5_u64).map(|number| {
        let (bench, finished) = (&bench, &finished);
        async move {
            tokio::time::sleep(Duration::from_millis(number * 10)).await;
            bench.rerank(ask_rerank(&["a"])).await.unwrap();
            finished.lock().unwrap().push(number);
        }
    });
    futures::future::join_all(requests).await;
    assert_eq!(*finished.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_the_work() {
    let bench = rerank_only();
    bench.controls.set_score_time(Duration::from_secs(10));
    let context = context();
    let leave = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        context.cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(bench.searcher.rerank(ask_rerank(&["a"]), &context), leave);
    assert!(matches!(outcome, Err(SearchError::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn documents_are_embedded_in_order_and_in_turns() {
    let bench = bench();
    let texts: Vec<String> = (0..70).map(|number| format!("text {number}")).collect();
    let vectors = bench.searcher.embed_documents(&texts, &context()).await.unwrap();
    assert_eq!((vectors.len(), bench.controls.seen().texts), (70, vec![32, 32, 6]));
    let again = bench.searcher.embed_documents(&texts[69..], &context()).await.unwrap();
    assert_eq!(vectors[69], again[0]);
    for vector in &vectors {
        let length: f32 = vector.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    assert!(bench.searcher.embed_documents(&[], &context()).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_short_request_waits_for_a_batch_of_a_long_one_and_not_for_all_of_it() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.set_batch_pairs(2);
    bench.controls.set_score_time(Duration::from_secs(1));
    let before = bench.controls.seen().pairs.len();
    let timed = |documents: usize, delay: u64| {
        let bench = &bench;
        async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            let begun = Instant::now();
            let request = RerankRequest {
                query: "q".to_owned(),
                documents: (0..documents).map(|at| format!("relevance={}.{}", at / 4, at % 4)).collect(),
                ..RerankRequest::default()
            };
            let response = bench.rerank(request).await.unwrap();
            let order: Vec<usize> = response.results.iter().map(|result| result.index).collect();
            assert_eq!(order, (0..documents).rev().collect::<Vec<_>>());
            (begun.elapsed().as_millis(), response.timings)
        }
    };
    let (long, short) = tokio::join!(timed(20, 0), timed(2, 100));
    assert_eq!(long.0, 11_000, "ten batches of its own and one of the other");
    assert_eq!(short.0, 1_900, "what was left of the batch under way, and one of its own");
    assert_eq!((short.1.queue.as_millis(), short.1.score.as_millis()), (900, 1_000));
    assert_eq!((long.1.queue.as_millis(), long.1.score.as_millis()), (1_000, 10_000));
    let seen = bench.controls.seen();
    assert_eq!(seen.pairs.len() - before, 11);
    assert_eq!(seen.most_at_once, 1);
}

fn pairs_counted(bench: &Bench) -> u64 {
    let text = bench.searcher.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix("rerank_scored_pairs_total "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_between_two_batches_leaves_the_others_alone() {
    let bench = bench_with(|config| config.timeouts.rerank_seconds = 3);
    bench.assert_serves().await;
    bench.controls.set_batch_pairs(1);
    bench.controls.set_score_time(Duration::from_secs(2));
    let before = bench.controls.seen().scores;
    let pairs_before = pairs_counted(&bench);
    let response = bench.search(ask("q", 3)).await.unwrap();
    assert_eq!(fallback_reason(&response), Some(FallbackReason::Deadline));
    assert_eq!(pairs_counted(&bench) - pairs_before, 1, "the work done counts, whether or not it was of use");
    assert_eq!(response.timings.score.as_secs(), 3, "also what was not finished was spent");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.controls.seen().scores - before, 2, "of five batches");
    bench.controls.set_score_time(Duration::ZERO);
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_can_be_served_in_time_are_served_one_after_the_other_and_not_all_too_late() {
    let bench = bench_with(|config| config.timeouts.rerank_seconds = 12);
    bench.assert_serves().await;
    bench.controls.set_batch_pairs(1);
    bench.controls.set_score_time(Duration::from_secs(1));
    let answers = futures::future::join_all((0..6).map(|_| bench.search(ask("q", 3)))).await;
    let reranked = answers.into_iter().filter(|answer| answer.as_ref().unwrap().reranking_used).count();
    assert_eq!(reranked, 2, "five pairs of a second each, twelve seconds");
}
