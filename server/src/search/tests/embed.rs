//! Vectors of texts that come with the request.

use super::*;
use crate::search::{EmbedInput, EmbedRequest, TextKind};

fn texts(texts: &[&str]) -> EmbedRequest {
    let inputs = texts.iter().map(|text| EmbedInput::Text((*text).to_owned())).collect();
    EmbedRequest { inputs, ..EmbedRequest::default() }
}

async fn embed(bench: &Bench, request: EmbedRequest) -> Result<EmbedResponse, SearchError> {
    bench.searcher.embed(request, &context()).await
}

#[tokio::test(start_paused = true)]
async fn a_text_has_the_vector_that_indexing_gives_it_and_a_query_another() {
    let bench = bench();
    let response = embed(&bench, texts(&["bread", "rain"])).await.unwrap();
    assert_eq!(response.model, EMBEDDER);
    assert_eq!(response.tokens, "bread".len() + "rain".len() + 2, "with the end tokens");
    let indexed = bench.searcher.embed_documents(&["bread".to_owned()], &context()).await.unwrap();
    assert_eq!(response.vectors[0], indexed[0]);
    let query = embed(&bench, EmbedRequest { kind: TextKind::Query, ..texts(&["bread"]) }).await.unwrap();
    assert_ne!(query.vectors[0], indexed[0], "the instruction stands before it");
    let tokens =
        EmbedRequest { inputs: vec![EmbedInput::Tokens("bread".bytes().map(u32::from).collect())], ..texts(&[]) };
    assert_eq!(embed(&bench, tokens).await.unwrap().vectors[0], indexed[0]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_embedded_is_refused_with_the_field() {
    let bench = bench_with(|config| config.api.limits.documents = 2);
    assert!(matches!(embed(&bench, texts(&[])).await, Err(SearchError::OutOfRange { field: "input", .. })));
    assert!(matches!(embed(&bench, texts(&["a", "b", "c"])).await, Err(SearchError::TooLarge { field: "input", .. })));
    let other = EmbedRequest { model: Some(RERANKER.to_owned()), ..texts(&["a"]) };
    assert!(matches!(embed(&bench, other).await, Err(SearchError::UnknownModel { field: "model", .. })));
    for dimensions in [0, 1_000_000] {
        let request = EmbedRequest { dimensions: Some(dimensions), ..texts(&["a"]) };
        assert!(matches!(embed(&bench, request).await, Err(SearchError::OutOfRange { field: "dimensions", .. })));
    }
    let long = "x".repeat(100_000);
    assert!(matches!(embed(&bench, texts(&[&long])).await, Err(SearchError::TooLarge { .. })), "and never cut");
    embed(&bench, texts(&[""])).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn texts_wait_in_the_same_bounded_queue_as_pairs() {
    let bench = bench_with(|config| config.api.limits.queue_pairs = 3);
    embed(&bench, texts(&["a"])).await.unwrap();
    bench.controls.set_embed_time(Duration::from_secs(2));
    let (first, second) = tokio::join!(embed(&bench, texts(&["a", "b"])), embed(&bench, texts(&["c", "d"])));
    first.unwrap();
    assert!(matches!(second, Err(SearchError::Overloaded { .. })), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_without_a_store_embeds_where_a_model_is_configured() {
    let bench = bench_with(|config| config.vector_store = None);
    embed(&bench, texts(&["a"])).await.unwrap();
    let none = bench_with(|config| {
        config.vector_store = None;
        config.embedding.model = None;
    });
    assert!(matches!(embed(&none, texts(&["a"])).await, Err(SearchError::EmbedderUnavailable { .. })));
}

#[tokio::test(start_paused = true)]
async fn vectors_are_shortened_and_have_length_one_again() {
    let bench = bench();
    let whole = embed(&bench, texts(&["bread"])).await.unwrap().vectors.remove(0);
    let short =
        embed(&bench, EmbedRequest { dimensions: Some(2), ..texts(&["bread"]) }).await.unwrap().vectors.remove(0);
    assert_eq!(short.len(), 2);
    assert!((short.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
    assert!((short[0] * whole[1] - short[1] * whole[0]).abs() < 1e-5, "in the same direction");
}

#[tokio::test(start_paused = true)]
async fn a_batch_for_which_memory_does_not_suffice_is_halved_once_and_the_vectors_stay_in_order() {
    let bench = bench();
    let words = ["bread", "rain", "stone", "river", "night"];
    let expected = embed(&bench, texts(&words)).await.unwrap().vectors;
    bench.controls.fail_embed(EngineFault::OutOfMemory);
    assert_eq!(embed(&bench, texts(&words)).await.unwrap().vectors, expected);
    assert_eq!(bench.controls.seen().texts, [5, 5, 2, 3], "the batch, then its halves");

    for _ in 0..2 {
        bench.controls.fail_embed(EngineFault::OutOfMemory);
    }
    let refused = embed(&bench, texts(&words)).await;
    assert!(matches!(refused, Err(SearchError::EmbedderUnavailable { .. })), "{refused:?}");
    assert_eq!(bench.controls.seen().texts[4..], [5, 2, 1], "a half fails, then one short text is embedded");
    assert_eq!(bench.pool.fatal().reason(), None, "it was, so the process goes on");
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn an_embedder_that_runs_no_short_text_after_running_out_of_memory_ends_the_process() {
    let bench = bench();
    for fault in [EngineFault::OutOfMemory, EngineFault::Failed] {
        bench.controls.fail_embed(fault);
    }
    embed(&bench, texts(&["bread"])).await.unwrap_err();
    assert!(bench.pool.fatal().reason().unwrap().contains("does not run one short prompt"));
}
