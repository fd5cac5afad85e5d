//! Loading and unloading by request.

use super::*;
use crate::search::ModelLoad;

fn named(model: &str) -> RerankChoice {
    RerankChoice { model: Some(model.to_owned()), quantization: None }
}

#[tokio::test(start_paused = true)]
async fn a_model_is_loaded_and_unloaded_by_its_name() {
    let bench = bench();
    for model in [RERANKER, EMBEDDER] {
        let loaded = bench.searcher.load_model(&named(model), &context()).await.unwrap();
        assert!(matches!(&loaded, ModelLoad::Ready(key) if key.model == model), "{loaded:?}");
        assert_eq!(bench.controls.seen().loads.last().map(String::as_str), Some(model));
        let (key, freed) = bench.searcher.unload_model(&named(model)).await.unwrap();
        assert_eq!((key.model.as_str(), freed), (model, Some(100)));
        assert_eq!(bench.searcher.unload_model(&named(model)).await.unwrap().1, None, "nothing is left to unload");
    }
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_takes_longer_than_the_request_goes_on() {
    let bench = bench_with(|config| config.timeouts.request_seconds = 30);
    bench.controls.set_load_time(Duration::from_secs(20));
    let loaded = bench.searcher.load_model(&named(RERANKER), &context()).await.unwrap();
    assert!(matches!(loaded, ModelLoad::Loading(_)), "{loaded:?}");
    let refused = bench.searcher.unload_model(&named(RERANKER)).await;
    assert!(matches!(refused, Err(SearchError::ModelInUse { .. })), "{refused:?}");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let loaded = bench.searcher.load_model(&named(RERANKER), &context()).await.unwrap();
    assert!(matches!(loaded, ModelLoad::Ready(_)), "{loaded:?}");
    assert_eq!(bench.controls.seen().loads, [RERANKER], "one load");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_configured_does_not_fit_or_is_in_use_is_refused() {
    let bench = bench();
    let load = async |choice: RerankChoice| bench.searcher.load_model(&choice, &context()).await;
    assert!(matches!(load(named("stranger")).await, Err(SearchError::UnknownModel { field: "model", .. })));
    let precision = RerankChoice { quantization: Some(Quantization::Int8), ..named(EMBEDDER) };
    assert!(matches!(load(precision).await, Err(SearchError::UnknownModel { field: "quantization", .. })));
    bench.controls.set_model_bytes(RERANKER, 5_000);
    assert!(matches!(
        load(named(RERANKER)).await,
        Err(SearchError::RerankerUnavailable { reason: FallbackReason::InsufficientMemory, .. })
    ));
    bench.controls.set_model_bytes(EMBEDDER, 5_000);
    assert!(matches!(load(named(EMBEDDER)).await, Err(SearchError::EmbedderUnavailable { .. })));

    bench.controls.set_model_bytes(RERANKER, 100);
    bench.controls.set_model_bytes(EMBEDDER, 100);
    bench.controls.set_score_time(Duration::from_secs(2));
    let unload = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.searcher.unload_model(&named(RERANKER)).await
    };
    let (answered, refused) = tokio::join!(bench.search(ask("q", 1)), unload);
    assert!(answered.unwrap().reranking_used);
    assert!(matches!(refused, Err(SearchError::ModelInUse { .. })), "{refused:?}");
}
