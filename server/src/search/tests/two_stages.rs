//! Searches that go as they should, and requests that are refused.

use rerank_crds::catalog::InstructionTemplate;

use super::*;
use crate::store::{CollectionSpec, StoreError};

#[tokio::test(start_paused = true)]
async fn the_best_k_of_the_candidates_come_back_in_the_rerankers_order() {
    let bench = bench();
    let response = bench.search(ask("which planet is red?", 2)).await.unwrap();
    assert_eq!(ids(&response), [5, 4]);
    assert_eq!(response.num_candidates, 5);
    assert!(response.reranking_used && response.fallback.is_none());
    assert_eq!(
        response.reranker,
        Some(RerankerName { model: RERANKER.to_owned(), quantization: Quantization::Float16 })
    );
    let best = &response.results[0];
    let expected = 1.0 / (1.0 + (-4.0_f32).exp());
    assert_eq!((best.score, best.rerank_score), (expected, Some(expected)));
    assert_eq!((best.vector_rank, best.rank_change), (5, 4));
    assert!((best.vector_score - 0.995).abs() < 1e-6);
    assert_eq!(best.text, "document 5 relevance=4");
    assert_eq!(best.payload["text"], "document 5 relevance=4");
    assert!(!best.truncated);
}

#[tokio::test(start_paused = true)]
async fn ties_keep_the_vector_order() {
    let bench = bench();
    bench.store.set_candidates("docs", documents(&[1.0, 2.0, 1.0, 2.0, 1.0]));
    let response = bench.search(ask("q", 5)).await.unwrap();
    assert_eq!(ids(&response), [2, 4, 1, 3, 5]);
}

#[tokio::test(start_paused = true)]
async fn stage_one_is_asked_for_the_clamped_multiple_of_k_and_for_k_alone_without_the_reranker() {
    let bench = bench();
    for k in [1, 10, 100] {
        bench.search(ask("q", k)).await.unwrap();
    }
    bench.search(SearchRequest { use_reranker: Some(false), ..ask("q", 1_000) }).await.unwrap();
    assert_eq!(bench.store.limits(), [20, 50, 200, 1_000]);
}

#[tokio::test(start_paused = true)]
async fn a_search_without_the_reranker_is_no_fallback_and_loads_none() {
    let bench = bench();
    let response = bench.search(SearchRequest { use_reranker: Some(false), ..ask("q", 2) }).await.unwrap();
    assert_eq!(ids(&response), [1, 2]);
    assert!(!response.reranking_used && response.fallback.is_none() && response.reranker.is_none());
    assert_eq!(response.reranking_time_ms, None);
    let first = &response.results[0];
    assert_eq!((first.score, first.rerank_score, first.rank_change), (first.vector_score, None, 0));
    assert_eq!(bench.controls.seen().loads, [EMBEDDER]);
}

#[tokio::test(start_paused = true)]
async fn a_service_without_reranking_searches_by_vectors_and_never_loads_a_reranker() {
    let bench = bench_with(|config| config.reranker.enabled = false);
    let response = bench.search(ask("q", 300)).await.unwrap();
    assert_eq!(ids(&response), [1, 2, 3, 4, 5]);
    assert!(response.fallback.is_none(), "nobody asked for it");
    let response = bench.search(SearchRequest { use_reranker: Some(true), ..ask("q", 2) }).await.unwrap();
    assert_eq!(fallback_reason(&response), Some(FallbackReason::Disabled));
    assert_eq!(bench.controls.seen().loads, [EMBEDDER]);
}

#[tokio::test(start_paused = true)]
async fn nothing_found_is_an_empty_answer_without_a_rerankers_work() {
    let bench = bench();
    bench.store.set_candidates("docs", Vec::new());
    let response = bench.search(ask("q", 10)).await.unwrap();
    assert!(response.results.is_empty() && !response.reranking_used && response.fallback.is_none());
    assert_eq!(bench.controls.seen().scores, 0);
}

#[tokio::test(start_paused = true)]
async fn a_threshold_leaves_out_what_scores_less_and_never_applies_to_vector_scores() {
    let bench = bench();
    let request = SearchRequest { score_threshold: Some(0.9), ..ask("q", 5) };
    assert_eq!(ids(&bench.search(request.clone()).await.unwrap()), [5, 4], "2 gives 0.88, 3 gives 0.95");
    bench.controls.fail_score(EngineFault::Failed);
    let response = bench.search(request).await.unwrap();
    assert_eq!(ids(&response), [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn the_times_say_where_a_search_spent_them() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.set_embed_time(Duration::from_millis(30));
    bench.store.set_delay(Duration::from_millis(40));
    bench.controls.set_score_time(Duration::from_millis(500));
    let response = bench.search(ask("q", 2)).await.unwrap();
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 3.0, "{found} is not {expected}");
    near(response.embedding_time_ms, 30.0);
    near(response.search_time_ms, 40.0);
    near(response.reranking_time_ms.unwrap(), 500.0);
    assert!(response.timings.score >= Duration::from_millis(500));
    assert!(response.timings.total >= Duration::from_millis(570));
}

#[tokio::test(start_paused = true)]
async fn the_time_in_the_queue_is_told_apart_from_the_engines() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.set_score_time(Duration::from_secs(2));
    let (first, second) = tokio::join!(bench.search(ask("a", 1)), bench.search(ask("b", 1)));
    let queued = [first.unwrap(), second.unwrap()].map(|response| response.timings.queue.as_secs());
    assert_eq!(queued.iter().sum::<u64>(), 2, "one waited for the other: {queued:?}");
    assert_eq!(bench.controls.seen().most_at_once, 1);
}

#[tokio::test(start_paused = true)]
async fn the_instruction_is_the_requests_or_the_configured_one() {
    let bench = bench();
    let instruction = |choice| SearchRequest { instruction: Some(choice), ..ask("how to sort", 1) };
    let code = InstructionChoice::Template(InstructionTemplate::Code);
    let own = InstructionChoice::Text("Find the recipe.".to_owned());
    for (request, expected) in [
        (ask("how to sort", 1), "Given the query and document, determine"),
        (instruction(code), "Determine if this code snippet"),
        (instruction(own), "Find the recipe."),
    ] {
        bench.search(request).await.unwrap();
        let prompt = bench.controls.seen().last_prompts[0].clone();
        assert!(prompt.contains(&format!("<Instruct>: {expected}")), "{prompt}");
        assert!(prompt.contains("<Query>: how to sort\n<Document>: document 1 relevance=0"), "{prompt}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_over_the_limit_is_said_to_be_cut() {
    let bench = bench();
    let long = format!("relevance=3 {}", "long ".repeat(1_000));
    bench.store.set_candidates("docs", vec![candidate(1, "relevance=1"), candidate(2, &long)]);
    let response = bench.search(ask("q", 2)).await.unwrap();
    let cut: Vec<bool> = response.results.iter().map(|result| result.truncated).collect();
    assert_eq!((ids(&response), cut), (vec![2, 1], vec![true, false]));
}

#[tokio::test(start_paused = true)]
async fn a_request_may_ask_for_an_allowed_override_and_hears_which_reranker_answered() {
    let bench = bench();
    let choice = RerankChoice { model: Some(LARGE_RERANKER.to_owned()), quantization: Some(Quantization::Int8) };
    let response = bench.search(SearchRequest { reranker: choice, ..ask("q", 1) }).await.unwrap();
    assert_eq!(
        response.reranker,
        Some(RerankerName { model: LARGE_RERANKER.to_owned(), quantization: Quantization::Int8 })
    );
    assert_eq!(bench.controls.seen().loads, [EMBEDDER, LARGE_RERANKER], "the deployed one is not touched");
}

#[tokio::test(start_paused = true)]
async fn requests_that_cannot_be_served_are_refused_before_anything_is_loaded() {
    let bench = bench();
    let model = |name: &str| RerankChoice { model: Some(name.to_owned()), quantization: None };
    for request in [
        ask("", 10),
        ask(" \n", 10),
        ask("q", 0),
        ask("q", 1_001),
        ask("q", 1_000_000_000),
        ask("q", 201),
        SearchRequest { score_threshold: Some(f32::NAN), ..ask("q", 1) },
        SearchRequest { instruction: Some(InstructionChoice::Text(String::new())), ..ask("q", 1) },
    ] {
        let refused = bench.search(request.clone()).await.unwrap_err();
        assert!(matches!(refused, SearchError::OutOfRange { .. }), "{request:?}: {refused}");
    }
    let unknown = SearchRequest { reranker: model("stranger"), ..ask("q", 1) };
    let even_unused = SearchRequest { use_reranker: Some(false), ..unknown.clone() };
    for request in [unknown, even_unused] {
        assert!(matches!(bench.search(request).await, Err(SearchError::UnknownModel { .. })));
    }
    let unknown = SearchRequest { collection: Some("stranger".to_owned()), ..ask("q", 1) };
    assert!(matches!(bench.search(unknown).await, Err(SearchError::UnknownCollection { .. })));
    assert!(bench.controls.seen().loads.is_empty());
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_query_that_is_too_long_is_refused_and_the_next_one_served() {
    let bench = bench();
    let refused = bench.search(ask(&"x".repeat(5_000), 1)).await.unwrap_err();
    let SearchError::OutOfRange { field, allowed, .. } = &refused else { panic!("{refused}") };
    assert_eq!((*field, allowed.as_str()), ("query", "at most 1024 tokens of query and instruction"));
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn an_instruction_too_long_for_the_reranker_is_refused_rather_than_answered_in_vector_order() {
    let bench = bench();
    let instruction = InstructionChoice::Text("x".repeat(4_000));
    let refused = bench.search(SearchRequest { instruction: Some(instruction), ..ask("q", 1) }).await.unwrap_err();
    assert!(matches!(refused, SearchError::OutOfRange { field: "query", .. }), "{refused}");
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_nul_byte_is_text() {
    let bench = bench();
    bench.store.set_candidates("docs", vec![candidate(1, "a\0b relevance=1")]);
    let response = bench.search(ask("nul \0 byte", 1)).await.unwrap();
    assert!(response.reranking_used);
    assert!(bench.controls.seen().last_prompts[0].contains("<Query>: nul \0 byte\n<Document>: a\0b"));
}

#[tokio::test(start_paused = true)]
async fn a_collection_is_named_or_the_first() {
    let bench = bench();
    bench.store.set_candidates("faq", vec![candidate(77, "relevance=1")]);
    let response = bench.search(SearchRequest { collection: Some("faq".to_owned()), ..ask("q", 1) }).await.unwrap();
    assert_eq!(ids(&response), [77]);
}

#[tokio::test(start_paused = true)]
async fn a_collection_is_checked_once_and_again_after_an_error() {
    let bench = bench();
    for _ in 0..3 {
        bench.assert_serves().await;
    }
    assert_eq!(bench.store.checks(), 1);
    bench.store.fail(StoreError::Unavailable { message: "gone".to_owned() });
    let refused = bench.search(ask("q", 1)).await.unwrap_err();
    assert!(matches!(refused, SearchError::Store(StoreError::Unavailable { .. })), "{refused}");
    bench.assert_serves().await;
    assert_eq!(bench.store.checks(), 2);
}

#[tokio::test(start_paused = true)]
async fn every_search_of_a_collection_that_another_model_indexed_is_refused() {
    let bench = bench();
    let spec = |dimension, model: &str| CollectionSpec {
        dimension,
        embedding_model: model.to_owned(),
        embedding_revision: None,
    };
    for (bad, what) in [(spec(8, "another"), "embedding model"), (spec(1_024, EMBEDDER), "dimension")] {
        bench.store.set_spec("docs", bad);
        for _ in 0..2 {
            let refused = bench.search(ask("q", 1)).await.unwrap_err();
            let SearchError::Store(StoreError::Mismatch { what: found, .. }) = &refused else { panic!("{refused}") };
            assert_eq!(*found, what);
        }
    }
    bench.store.set_spec("docs", spec(8, EMBEDDER));
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_given_up_at_its_deadline() {
    let bench = bench();
    bench.assert_serves().await;
    bench.store.set_delay(Duration::from_secs(3_600));
    let begun = Instant::now();
    let refused = bench.search(ask("q", 1)).await.unwrap_err();
    assert!(matches!(refused, SearchError::Store(StoreError::Timeout)), "{refused}");
    assert_eq!(begun.elapsed().as_secs(), 5);
    bench.store.set_delay(Duration::ZERO);
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn the_requests_deadline_counts_from_its_arrival() {
    let bench = bench();
    bench.controls.set_embed_time(Duration::from_secs(60));
    let begun = Instant::now();
    let context = context();
    tokio::time::advance(Duration::from_secs(10)).await;
    let refused = bench.searcher.search(ask("q", 1), &context).await.unwrap_err();
    assert!(matches!(refused, SearchError::DeadlineExceeded), "{refused}");
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn an_embedder_that_cannot_run_is_an_error_with_the_time_to_come_back() {
    for fault in
        [EngineFault::Failed, EngineFault::OutOfMemory, EngineFault::NotFinite, EngineFault::TooFew, EngineFault::Panic]
    {
        let bench = bench();
        bench.controls.fail_embed(fault);
        let refused = bench.search(ask("q", 1)).await.unwrap_err();
        assert!(matches!(refused, SearchError::EmbedderUnavailable { retry_after_seconds: 1, .. }), "{refused}");
        bench.assert_serves().await;
    }
    let bench = bench();
    bench.controls.set_model_bytes(EMBEDDER, 5_000);
    let refused = bench.search(ask("q", 1)).await.unwrap_err();
    assert!(refused.to_string().contains("needs 5000 bytes on fake, 1000 are free"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn an_embedder_that_loads_is_waited_for_even_where_the_reranker_is_not() {
    let bench = bench_with(|config| config.lifecycle.while_loading = WhileLoading::Fallback);
    bench.controls.set_load_time(Duration::from_secs(5));
    let response = bench.search(ask("q", 1)).await.unwrap();
    assert_eq!(fallback_reason(&response), Some(FallbackReason::Loading));
    assert!((5_000.0..5_100.0).contains(&response.embedding_time_ms), "{}", response.embedding_time_ms);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_the_work_in_the_engine() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.set_score_time(Duration::from_secs(10));
    let context = context();
    let begun = Instant::now();
    let leave = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        context.cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(bench.searcher.search(ask("q", 1), &context), leave);
    assert!(matches!(outcome, Err(SearchError::Cancelled)));
    assert_eq!(begun.elapsed().as_secs(), 1);
    bench.controls.set_score_time(Duration::ZERO);
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_search_that_would_overfill_the_queue_is_refused_at_once() {
    // Too few also for the five pairs that the first turns out to have and the twenty that the second may have.
    let bench = bench_with(|config| config.api.limits.queue_pairs = 24);
    bench.assert_serves().await;
    bench.controls.set_score_time(Duration::from_secs(2));
    let (first, second) = tokio::join!(bench.search(ask("a", 1)), bench.search(ask("b", 1)));
    assert!(first.unwrap().reranking_used);
    assert!(matches!(second, Err(SearchError::Overloaded { retry_after_seconds: 1 })), "{second:?}");
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_concurrent_first_searches_load_each_model_once() {
    let bench = bench();
    bench.controls.set_load_time(Duration::from_secs(5));
    let searches = (0..100).map(|_| bench.search(ask("q", 1)));
    for response in futures::future::join_all(searches).await {
        assert!(response.unwrap().reranking_used);
    }
    assert_eq!(bench.controls.seen().loads, [EMBEDDER, RERANKER]);
}

#[tokio::test(start_paused = true)]
async fn models_stay_while_a_search_uses_them_and_leave_after_it() {
    let bench = bench_with(|config| config.lifecycle.unload_timeout_seconds = 1);
    bench.controls.set_score_time(Duration::from_secs(15));
    let response = bench.search(ask("q", 1)).await.unwrap();
    assert!(response.reranking_used, "{:?}", response.fallback);
    assert!(!bench.controls.seen().unloads.contains(&RERANKER.to_owned()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut unloads = bench.controls.seen().unloads;
    unloads.sort();
    assert_eq!(unloads, [EMBEDDER, RERANKER]);
    assert!(bench.pool.statuses().iter().all(|status| status.state == crate::pool::ModelState::Standby));
}

#[tokio::test(start_paused = true)]
async fn a_reranker_that_loads_during_stage_one_is_not_sent_away_before_stage_two() {
    let bench = bench();
    bench.controls.set_model_bytes(RERANKER, 500);
    bench.controls.set_model_bytes(LARGE_RERANKER, 500);
    bench.controls.set_load_time(Duration::from_secs(1));
    bench.store.set_delay(Duration::from_secs(4));
    let other = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let large = RerankChoice { model: Some(LARGE_RERANKER.to_owned()), quantization: Some(Quantization::Int8) };
        bench.search(SearchRequest { reranker: large, ..ask("q", 3) }).await.unwrap()
    };
    let (first, other) = tokio::join!(bench.search(ask("q", 3)), other);
    assert!(first.unwrap().reranking_used);
    // Once the first search is over its reranker may go, so the other one gets its own then.
    assert!(other.reranking_used, "{:?}", other.fallback);
    assert_eq!(bench.controls.seen().loads, [EMBEDDER, RERANKER, LARGE_RERANKER]);
}
