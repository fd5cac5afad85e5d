//! Scores and embeddings of the engine against golden files of the reference (transformers and torch, float32).

use std::collections::BTreeMap;
use std::sync::Arc;

use rerank_crds::catalog::{EngineKind, Quantization};
use rerank_server::engine::{Engine, PairLogits, ScoreRequest};
use rerank_server::evaluate::measures::spearman;
use rerank_server::prompt::Reading;
use rerank_tests::corpus::{Corpus, Query};
use rerank_tests::models::{
    self, GoldenPairs, GoldenTexts, GoldenTokenization, RERANKERS, TINY_EMBEDDER, TINY_RERANKER,
};
use tokio_util::sync::CancellationToken;

/// Largest difference of a score or of a component of an embedding in float32.
const TOLERANCE: f64 = 1e-5;
/// Largest difference of a score between two engines in float32.
const BETWEEN_ENGINES: f32 = 2e-5;
/// Least rank correlation of a quantized model with float32 on the corpus.
const RANK_CORRELATION: f64 = 0.98;
/// Queries of the corpus that the quantized models are measured on, and candidates of each.
const QUERIES: usize = 24;
const CANDIDATES: usize = 16;

#[test]
fn token_ids_equal_the_reference() {
    for name in RERANKERS {
        let golden: GoldenPairs = models::golden(name);
        let prompt = models::rerank_prompt(name, golden.max_length);
        assert_eq!((prompt.yes_token, prompt.no_token), (golden.token_yes, golden.token_no), "{name}");
        assert_eq!(prompt.prefix_ids(), golden.prefix_ids, "{name}");
        assert_eq!(prompt.suffix_ids(), golden.suffix_ids, "{name}");
        assert_eq!(golden.pairs.len(), 40, "{name}");
        assert!(golden.pairs.iter().any(|pair| pair.truncated), "{name}: a cut is among the pairs");
        for pair in &golden.pairs {
            let encoded = prompt.encode(&pair.instruction, &pair.query, &[&pair.document], Reading::default()).unwrap();
            assert_eq!(encoded.prompts, std::slice::from_ref(&pair.token_ids), "{name}: {}", pair.name);
            assert_eq!(encoded.truncated, [pair.truncated], "{name}: {}", pair.name);
        }
    }
}

#[test]
fn embedder_inputs_equal_the_reference() {
    let golden: GoldenTexts = models::golden(TINY_EMBEDDER);
    let prompt = models::embed_prompt();
    assert_eq!(golden.texts.len(), 40);
    for text in &golden.texts {
        let ids = match text.kind.as_str() {
            "query" => prompt.query(&golden.instruction, &text.text).unwrap(),
            "document" => prompt.document(&text.text).0,
            other => panic!("unknown kind {other}"),
        };
        assert_eq!(ids, text.token_ids, "{}", text.name);
    }
}

#[test]
fn user_text_is_tokenized_as_by_the_reference() {
    let golden: GoldenTokenization = models::golden("tokenization");
    let encoder = models::encoder(TINY_RERANKER);
    assert!(golden.strings.len() >= 200);
    for string in &golden.strings {
        assert_eq!(encoder.user_text_ids(&string.text), string.ids_without_control, "{:?}", string.text);
    }
}

/// Logits of all golden pairs, in one request.
async fn score_golden(engine: &Arc<dyn Engine>, golden: &GoldenPairs) -> Vec<PairLogits> {
    let request = ScoreRequest {
        prompts: golden.pairs.iter().map(|pair| pair.token_ids.clone()).collect(),
        shared_prefix_tokens: 0,
        yes_token: golden.token_yes,
        no_token: golden.token_no,
    };
    engine.score(request, &CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn float32_scores_equal_the_reference() {
    for name in RERANKERS {
        let golden: GoldenPairs = models::golden(name);
        let mut of_engines = Vec::new();
        for kind in models::ENGINES {
            let engine = models::load_by(kind, name, Quantization::Float32).await.unwrap();
            let logits = score_golden(&engine, &golden).await;
            let mut largest = 0.0_f64;
            for (pair, logits) in golden.pairs.iter().zip(&logits) {
                let (score, expected) = (logits.score(), pair.score);
                let difference = (f64::from(score) - expected).abs();
                assert!(difference <= TOLERANCE, "{kind}, {name}: {}: {score} against {expected}", pair.name);
                largest = largest.max((f64::from(logits.log_odds()) - pair.log_odds).abs());
            }
            println!("{kind}, {name}: largest difference in log-odds {largest:.2e}");
            assert!(largest <= 1e-4, "{kind}, {name}: log-odds differ by {largest}");
            engine.unload().await.unwrap();
            of_engines.push(logits);
        }
        for (pair, [ours, theirs]) in golden.pairs.iter().zip(pairwise(&of_engines)) {
            let difference = (ours.score() - theirs.score()).abs();
            assert!(difference <= BETWEEN_ENGINES, "{name}: {}: {difference} between engines", pair.name);
        }
    }
}

fn pairwise(of_engines: &[Vec<PairLogits>]) -> impl Iterator<Item = [PairLogits; 2]> {
    let [ours, theirs] = of_engines else { panic!("two engines") };
    ours.iter().zip(theirs).map(|(ours, theirs)| [*ours, *theirs])
}

#[tokio::test]
async fn float32_embeddings_equal_the_reference() {
    let golden: GoldenTexts = models::golden(TINY_EMBEDDER);
    for kind in models::ENGINES {
        let engine = models::load_by(kind, TINY_EMBEDDER, Quantization::Float32).await.unwrap();
        let texts = golden.texts.iter().map(|text| text.token_ids.clone()).collect();
        let embeddings = engine.embed(texts, &CancellationToken::new()).await.unwrap();
        let mut largest = 0.0_f64;
        for (text, embedding) in golden.texts.iter().zip(&embeddings) {
            assert_eq!(embedding.len(), text.embedding.len());
            for (ours, reference) in embedding.iter().zip(&text.embedding) {
                largest = largest.max(f64::from((ours - reference).abs()));
                assert!(largest <= TOLERANCE, "{kind}, {}: {ours} against {reference}", text.name);
            }
        }
        println!("{kind}: largest difference of a component {largest:.2e}");
        engine.unload().await.unwrap();
    }
}

#[tokio::test]
async fn a_text_of_one_token_has_an_embedding() {
    let golden: GoldenTexts = models::golden(TINY_EMBEDDER);
    let end = *golden.texts[0].token_ids.last().unwrap();
    for kind in models::ENGINES {
        let engine = models::load_by(kind, TINY_EMBEDDER, Quantization::Float32).await.unwrap();
        let cancel = CancellationToken::new();
        let once = engine.embed(vec![vec![end]], &cancel).await.unwrap();
        // Three copies are another way to the same vector: every position sees equal values only.
        let thrice = engine.embed(vec![vec![end; 3]], &cancel).await.unwrap();
        for (once, thrice) in once[0].iter().zip(&thrice[0]) {
            assert!((once - thrice).abs() < 1e-5, "{kind}: {once} against {thrice}");
        }
        engine.unload().await.unwrap();
    }
}

/// A model loaded in float32 after a quantized one in the same process still computes in float32.
#[tokio::test]
async fn a_quantized_load_does_not_quantize_the_next() {
    let golden: GoldenPairs = models::golden(TINY_RERANKER);
    for _ in 0..2 {
        let quantized = models::load_by(EngineKind::Mistralrs, TINY_RERANKER, Quantization::Int8).await.unwrap();
        let exact = models::load_by(EngineKind::Mistralrs, TINY_RERANKER, Quantization::Float32).await.unwrap();
        let quantized_logits = score_golden(&quantized, &golden).await;
        let exact_logits = score_golden(&exact, &golden).await;
        let distance = |logits: &[PairLogits]| {
            let pairs = golden.pairs.iter().zip(logits);
            pairs.map(|(pair, logits)| (f64::from(logits.score()) - pair.score).abs()).fold(0.0, f64::max)
        };
        assert!(distance(&exact_logits) <= TOLERANCE);
        assert!(distance(&quantized_logits) > 0.0, "int8 is another model");
        quantized.unload().await.unwrap();
        exact.unload().await.unwrap();
    }
}

/// Queries with the documents that the embedder puts first, as prompts.
async fn corpus_requests() -> Vec<ScoreRequest> {
    let Corpus { documents, queries, .. } = Corpus::read().unwrap();
    let documents: Vec<String> = documents.into_iter().map(|document| document.text).collect();
    let step = queries.len() / QUERIES;
    let queries: Vec<&Query> = queries.iter().step_by(step).take(QUERIES).collect();
    let instruction = models::golden::<GoldenTexts>(TINY_EMBEDDER).instruction;
    let embed = models::embed_prompt();
    let texts = documents.iter().map(|document| embed.document(document).0);
    let texts = texts.chain(queries.iter().map(|query| embed.query(&instruction, &query.text).unwrap())).collect();
    let engine = models::load(TINY_EMBEDDER, Quantization::Float32).await.unwrap();
    let vectors = engine.embed(texts, &CancellationToken::new()).await.unwrap();
    engine.unload().await.unwrap();
    let (document_vectors, query_vectors) = vectors.split_at(documents.len());
    let prompt = models::rerank_prompt(TINY_RERANKER, 512);
    let mut requests = Vec::new();
    for (query, vector) in queries.iter().zip(query_vectors) {
        let similarity = |at: &usize| document_vectors[*at].iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
        let mut order: Vec<usize> = (0..documents.len()).collect();
        order.sort_by(|a, b| similarity(b).total_cmp(&similarity(a)));
        let candidates: Vec<&str> = order.iter().take(CANDIDATES).map(|at| documents[*at].as_str()).collect();
        let pairs = prompt.encode(&instruction, &query.text, &candidates, Reading::default()).unwrap();
        requests.push(models::score_request(&prompt, pairs));
    }
    requests
}

/// Packed's int8 has a test of its own, `int8_keeps_the_order`.
#[tokio::test]
async fn float16_and_int8_of_mistralrs_keep_the_order_on_the_corpus() {
    let requests = corpus_requests().await;
    let cancel = CancellationToken::new();
    let mut log_odds: BTreeMap<Quantization, Vec<f64>> = BTreeMap::new();
    for quantization in [Quantization::Float32, Quantization::Float16, Quantization::Int8] {
        let engine = models::load_by(EngineKind::Mistralrs, TINY_RERANKER, quantization).await.unwrap();
        let start = std::time::Instant::now();
        for request in &requests {
            let logits = engine.score(request.clone(), &cancel).await.unwrap();
            log_odds.entry(quantization).or_default().extend(logits.iter().map(|logits| f64::from(logits.log_odds())));
        }
        println!("{quantization:?}: {} pairs in {:.2?}", log_odds[&quantization].len(), start.elapsed());
        engine.unload().await.unwrap();
    }
    let exact = &log_odds[&Quantization::Float32];
    assert_eq!(exact.len(), QUERIES * CANDIDATES);
    for quantization in [Quantization::Float16, Quantization::Int8] {
        let ours = &log_odds[&quantization];
        let correlation = spearman(exact, ours);
        let drift = exact.iter().zip(ours).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("{quantization:?}: rank correlation {correlation:.5}, largest drift in log-odds {drift:.4}");
        assert!(correlation >= RANK_CORRELATION, "{quantization:?}: {correlation}");
    }
}
