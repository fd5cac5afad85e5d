//! The contract of an engine, on each of them: order, cancellation, bad input, concurrency, and use after its end.

use std::sync::Arc;
use std::time::Duration;

use rerank_crds::catalog::{EngineKind, Quantization};
use rerank_server::engine::{Engine, EngineError, EngineLoader, ScoreRequest};
use rerank_tests::models::{self, GoldenPairs, MAXIMUM_POSITIONS, RANDOM_TIED, TINY_EMBEDDER};
use tokio_util::sync::CancellationToken;

/// The same model by each engine.
async fn engines() -> Vec<Arc<dyn Engine>> {
    let mut engines = Vec::new();
    for kind in models::ENGINES {
        engines.push(models::load_by(kind, RANDOM_TIED, Quantization::Float32).await.unwrap());
    }
    engines
}

fn request(prompts: Vec<Vec<u32>>) -> ScoreRequest {
    ScoreRequest { prompts, shared_prefix_tokens: 0, yes_token: 1, no_token: 2 }
}

/// A request of many batches.
fn long_request() -> ScoreRequest {
    request((0..200).map(|at| (0..300 + at).map(|token| token % 4000).collect()).collect())
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_request_whatever_the_lengths() {
    for engine in engines().await {
        let cancel = CancellationToken::new();
        let prompts: Vec<Vec<u32>> =
            [40, 3, 900, 3, 512, 513, 1, 40].iter().map(|length| (7..7 + length).collect()).collect();
        let together = engine.score(request(prompts.clone()), &cancel).await.unwrap();
        for (prompt, together) in prompts.into_iter().zip(together) {
            let alone = engine.score(request(vec![prompt]), &cancel).await.unwrap();
            assert!((alone[0].yes - together.yes).abs() < 1e-5 && (alone[0].no - together.no).abs() < 1e-5);
        }
        assert!(engine.score(request(Vec::new()), &cancel).await.unwrap().is_empty());
        engine.unload().await.unwrap();
    }
}

#[tokio::test]
async fn concurrent_requests_get_their_own_answers() {
    for engine in engines().await {
        let golden: GoldenPairs = models::golden(RANDOM_TIED);
        let tasks: Vec<_> = golden
            .pairs
            .iter()
            .cloned()
            .map(|pair| {
                let (engine, yes_token, no_token) = (engine.clone(), golden.token_yes, golden.token_no);
                tokio::spawn(async move {
                    let request =
                        ScoreRequest { prompts: vec![pair.token_ids], shared_prefix_tokens: 0, yes_token, no_token };
                    let logits = engine.score(request, &CancellationToken::new()).await.unwrap();
                    assert!((f64::from(logits[0].score()) - pair.score).abs() <= 1e-5, "{}", pair.name);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        engine.unload().await.unwrap();
    }
}

#[tokio::test]
async fn a_cancelled_request_stops_and_the_next_is_answered() {
    for engine in engines().await {
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert!(matches!(engine.score(long_request(), &cancelled).await, Err(EngineError::Cancelled)));
        let cancel = CancellationToken::new();
        let (scored, ()) = tokio::join!(engine.score(long_request(), &cancel), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            cancel.cancel();
        });
        assert!(matches!(scored, Err(EngineError::Cancelled)));
        let answered = engine.score(request(vec![vec![5, 6]]), &CancellationToken::new()).await.unwrap();
        assert_eq!(answered.len(), 1);
        engine.unload().await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_request_stops_and_the_next_is_answered() {
    for engine in engines().await {
        for _ in 0..5 {
            let cancel = CancellationToken::new();
            let dropped = tokio::time::timeout(Duration::from_millis(10), engine.score(long_request(), &cancel)).await;
            assert!(dropped.is_err(), "the request is longer than that");
            let next = engine.score(request(vec![vec![5, 6], vec![7]]), &cancel);
            let answered = tokio::time::timeout(Duration::from_secs(60), next).await;
            assert_eq!(answered.expect("at most one batch is before it").unwrap().len(), 2);
        }
        assert!(!engine.is_dead());
        engine.unload().await.unwrap();
    }
}

#[tokio::test]
async fn bad_input_is_refused_and_the_next_request_is_answered() {
    for engine in engines().await {
        let cancel = CancellationToken::new();
        let too_long = vec![3; MAXIMUM_POSITIONS + 1];
        let vocabulary = models::vocabulary(RANDOM_TIED);
        let mut bad_answer = request(vec![vec![1]]);
        bad_answer.yes_token = vocabulary;
        for (bad, expected) in [
            (request(vec![vec![1], vec![]]), "input 1 has no tokens"),
            (request(vec![too_long]), "input 0 has 2049 tokens, the model reads 2048 at most"),
            (
                request(vec![vec![1, vocabulary]]),
                &format!("token {vocabulary} is outside the model's vocabulary of {vocabulary}"),
            ),
            (bad_answer, &format!("token {vocabulary} is outside")),
        ] {
            let error = engine.score(bad, &cancel).await.unwrap_err();
            assert!(
                matches!(error, EngineError::Unsupported { .. }) && error.to_string().contains(expected),
                "{error}"
            );
        }
        let error = engine.embed(vec![vec![1]], &cancel).await.unwrap_err().to_string();
        assert!(error.contains("loaded as Reranker and cannot serve as Embedder"), "{error}");
        let longest = vec![3; MAXIMUM_POSITIONS];
        assert_eq!(engine.score(request(vec![longest]), &cancel).await.unwrap().len(), 1);
        engine.unload().await.unwrap();
    }
}

#[tokio::test]
async fn the_embedder_does_not_score() {
    for kind in models::ENGINES {
        let engine = models::load_by(kind, TINY_EMBEDDER, Quantization::Float32).await.unwrap();
        let error = engine.score(request(vec![vec![1]]), &CancellationToken::new()).await.unwrap_err().to_string();
        assert!(error.contains("loaded as Embedder"), "{error}");
        assert!(engine.embed(Vec::new(), &CancellationToken::new()).await.unwrap().is_empty());
        engine.unload().await.unwrap();
    }
}

#[tokio::test]
async fn what_an_engine_does_not_hold_is_refused_with_what_is_allowed() {
    let error = models::load_by(EngineKind::Mistralrs, RANDOM_TIED, Quantization::Bfloat16).await.unwrap_err();
    assert!(matches!(error, EngineError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("bfloat16 does not run on cpu; allowed: float32, float16, int8"), "{error}");
}

#[tokio::test]
async fn an_unloaded_engine_refuses_and_a_second_unload_does_nothing() {
    for engine in engines().await {
        engine.unload().await.unwrap();
        engine.unload().await.unwrap();
        let error = engine.score(request(vec![vec![1]]), &CancellationToken::new()).await.unwrap_err().to_string();
        assert!(error.contains("the model is unloaded"), "{error}");
    }
}

#[tokio::test]
async fn unloading_waits_for_the_batch_that_a_gone_client_left() {
    for engine in engines().await {
        let cancel = CancellationToken::new();
        let left = tokio::time::timeout(Duration::from_millis(10), engine.score(long_request(), &cancel)).await;
        assert!(left.is_err());
        tokio::time::timeout(Duration::from_secs(60), engine.unload()).await.expect("bounded").unwrap();
    }
}

#[test]
fn the_loader_tells_the_memory_of_its_device() {
    let memory = models::engines().memory().unwrap();
    assert!(memory.free_bytes > 0 && memory.free_bytes <= memory.total_bytes, "{memory:?}");
}
