//! Several searches in one request.

use super::*;

fn batch(queries: &[&str], k: usize) -> BatchSearchRequest {
    BatchSearchRequest {
        queries: queries.iter().map(|query| (*query).to_owned()).collect(),
        template: SearchRequest { k, ..SearchRequest::default() },
    }
}

#[tokio::test(start_paused = true)]
async fn queries_are_embedded_together_and_answered_in_order() {
    let bench = bench();
    let answers = bench.searcher.search_batch(batch(&["one", "two", "three"], 2), &context()).await.unwrap();
    assert_eq!(answers.len(), 3);
    for answer in &answers {
        let response = answer.as_ref().unwrap();
        assert!(response.reranking_used);
        assert_eq!(ids(response), [5, 4]);
    }
    let seen = bench.controls.seen();
    assert_eq!((seen.texts, seen.scores), (vec![3], 3));
}

#[tokio::test(start_paused = true)]
async fn each_query_has_its_own_error() {
    let bench = bench();
    let long = "x".repeat(5_000);
    let answers = bench.searcher.search_batch(batch(&["one", "", &long, "four"], 2), &context()).await.unwrap();
    let outcomes: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Ok(_) => "served",
            Err(SearchError::OutOfRange { field, .. }) => field,
            Err(_) => "another error",
        })
        .collect();
    assert_eq!(outcomes, ["served", "queries", "query", "served"]);
    assert_eq!(bench.controls.seen().texts, [2]);
}

#[tokio::test(start_paused = true)]
async fn a_query_whose_reranking_fails_is_answered_in_vector_order_and_the_others_are_not() {
    let bench = bench();
    bench.controls.fail_score(EngineFault::Failed);
    let answers = bench.searcher.search_batch(batch(&["one", "two", "three"], 2), &context()).await.unwrap();
    let fallbacks = answers.iter().filter(|answer| answer.as_ref().unwrap().fallback.is_some()).count();
    assert_eq!(fallbacks, 1);
}

#[tokio::test(start_paused = true)]
async fn what_concerns_all_queries_is_the_error_of_the_whole() {
    let bench = bench();
    assert!(matches!(
        bench.searcher.search_batch(batch(&[], 2), &context()).await,
        Err(SearchError::OutOfRange { field: "queries", .. })
    ));
    let many = vec!["q"; 65];
    let refused = bench.searcher.search_batch(batch(&many, 2), &context()).await.unwrap_err();
    assert!(matches!(&refused, SearchError::TooLarge { field: "queries", .. }), "{refused}");
    assert!(refused.to_string().contains("64"));
    assert!(matches!(
        bench.searcher.search_batch(batch(&["q"], 0), &context()).await,
        Err(SearchError::OutOfRange { field: "k", .. })
    ));
    bench.controls.fail_embed(EngineFault::Failed);
    assert!(matches!(
        bench.searcher.search_batch(batch(&["q"], 2), &context()).await,
        Err(SearchError::EmbedderUnavailable { .. })
    ));
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_empty_queries_loads_nothing() {
    let bench = bench();
    let answers = bench.searcher.search_batch(batch(&["", " "], 2), &context()).await.unwrap();
    assert!(answers.iter().all(Result::is_err) && answers.len() == 2);
    assert!(bench.controls.seen().loads.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_searches_a_few_queries_at_a_time_and_fills_no_queue() {
    let bench = bench_with(|config| config.api.limits.queue_pairs = 11 * 20);
    bench.store.set_delay(Duration::from_millis(100));
    bench.controls.set_score_time(Duration::from_millis(100));
    let queries = vec!["q"; 64];
    let answers = bench.searcher.search_batch(batch(&queries, 1), &context()).await.unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|response| response.reranking_used)));
    assert_eq!(bench.store.most_at_once(), 8);
    assert_eq!(bench.controls.seen().most_at_once, 1);
}

#[tokio::test(start_paused = true)]
async fn queries_of_one_batch_do_not_refuse_each_other_where_the_queue_is_short() {
    for queue_pairs in [1, 19, 20, 50] {
        let bench = bench_with(|config| config.api.limits.queue_pairs = queue_pairs);
        bench.store.set_delay(Duration::from_millis(100));
        bench.controls.set_score_time(Duration::from_millis(100));
        let answers = bench.searcher.search_batch(batch(&["q"; 12], 1), &context()).await.unwrap();
        for answer in &answers {
            assert!(answer.as_ref().is_ok_and(|response| response.reranking_used), "{queue_pairs}: {answer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_batch_is_one_requests_and_late_queries_fall_back_or_are_refused() {
    let bench = bench_with(|config| config.timeouts.request_seconds = 10);
    bench.controls.set_score_time(Duration::from_secs(4));
    let queries = vec!["q"; 12];
    let begun = Instant::now();
    let answers = bench.searcher.search_batch(batch(&queries, 1), &context()).await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(10));
    let reranked = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|response| response.reranking_used));
    assert_eq!(reranked.count(), 2, "two times four seconds fit into ten");
    for answer in &answers {
        match answer {
            Ok(response) => {
                assert!(matches!(fallback_reason(response), None | Some(FallbackReason::Deadline)));
            }
            Err(error) => assert!(matches!(error, SearchError::DeadlineExceeded), "{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_the_whole_batch() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.set_score_time(Duration::from_secs(5));
    let context = context();
    let leave = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        context.cancel.cancel();
    };
    let queries = vec!["q"; 12];
    let begun = Instant::now();
    let (answers, ()) = tokio::join!(bench.searcher.search_batch(batch(&queries, 1), &context), leave);
    assert!(answers.unwrap().iter().all(|answer| matches!(answer, Err(SearchError::Cancelled))));
    assert_eq!(begun.elapsed().as_secs(), 1);
}
