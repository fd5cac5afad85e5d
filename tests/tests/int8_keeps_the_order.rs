//! What int8 does to the answers on a CPU, on the judged corpus and by the engine that a CPU gets: scores, the order they
//! make, vectors, and what they find. Against float32 by the same engine.

use rerank_crds::catalog::Quantization;
use rerank_server::engine::Engine;
use rerank_server::evaluate::measures::{mean, ndcg, recall};
use rerank_server::prompt::Reading;
use rerank_tests::corpus::Corpus;
use rerank_tests::models::{self, GoldenTexts, TINY_EMBEDDER, TINY_RERANKER};
use tokio_util::sync::CancellationToken;

const CANDIDATES: usize = 50;
const LONGEST_PROMPT: usize = 512;
/// Difference of a score from float32's, at the 99th percentile.
const LARGEST_DRIFT: f64 = 0.02;
/// By which measures may differ from float32's, relative to it.
const OF_A_MEASURE: f64 = 0.005;
const LEAST_COSINE: f64 = 0.999;

/// Vectors of documents and of queries.
struct Vectors {
    documents: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
}

impl Vectors {
    async fn of(corpus: &Corpus, quantization: Quantization) -> Self {
        let instruction = models::golden::<GoldenTexts>(TINY_EMBEDDER).instruction;
        let embed = models::embed_prompt();
        let documents = corpus.documents.iter().map(|document| embed.document(&document.text).0);
        let queries = corpus.queries.iter().map(|query| embed.query(&instruction, &query.text).unwrap());
        let engine = models::load(TINY_EMBEDDER, quantization).await.unwrap();
        let mut documents = engine.embed(documents.chain(queries).collect(), &CancellationToken::new()).await.unwrap();
        engine.unload().await.unwrap();
        let queries = documents.split_off(corpus.documents.len());
        Self { documents, queries }
    }

    /// Places of the documents that are nearest to a query.
    fn candidates(&self, query: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.documents.len()).collect();
        let similarity = |at: usize| cosine(&self.documents[at], &self.queries[query]);
        order.sort_by(|a, b| similarity(*b).total_cmp(&similarity(*a)));
        order.truncate(CANDIDATES);
        order
    }

    fn all(&self) -> impl Iterator<Item = &Vec<f32>> {
        self.documents.iter().chain(&self.queries)
    }
}

/// Of vectors of length 1.
fn cosine(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum()
}

/// How far it is from what it should be, relative to that.
fn change(found: f64, expected: f64) -> f64 {
    (found / expected - 1.0).abs()
}

#[tokio::test]
async fn vectors_in_int8_point_where_they_did_and_find_the_same() {
    let corpus = Corpus::read().unwrap();
    let exact = Vectors::of(&corpus, Quantization::Float32).await;
    let rounded = Vectors::of(&corpus, Quantization::Int8).await;
    let least = exact.all().zip(rounded.all()).map(|(exact, rounded)| cosine(exact, rounded)).fold(1.0, f64::min);
    let found = |vectors: &Vectors| {
        mean(corpus.queries.iter().enumerate().map(|(at, query)| {
            let candidates = vectors.candidates(at);
            let grades = candidates.iter().map(|at| corpus.grade(&query.id, &corpus.documents[*at].id));
            recall(&grades.collect::<Vec<u32>>(), &corpus.grades(&query.id), CANDIDATES, 1)
        }))
    };
    let (found_exact, found_rounded) = (found(&exact), found(&rounded));
    println!("least cosine {least:.6}; recall@{CANDIDATES} {found_rounded:.4}, in float32 {found_exact:.4}");
    assert!(exact.all().zip(rounded.all()).any(|(exact, rounded)| exact != rounded), "int8 is another model");
    assert!(least >= LEAST_COSINE, "{least}");
    assert!(change(found_rounded, found_exact) <= OF_A_MEASURE, "{found_rounded} for {found_exact}");
}

/// Scores of candidates, for each query.
async fn scores(engine: &dyn Engine, corpus: &Corpus, candidates: &[Vec<usize>]) -> Vec<Vec<f64>> {
    let instruction = models::golden::<GoldenTexts>(TINY_EMBEDDER).instruction;
    let prompt = models::rerank_prompt(TINY_RERANKER, LONGEST_PROMPT);
    let mut scores = Vec::new();
    for (query, candidates) in corpus.queries.iter().zip(candidates) {
        let texts: Vec<&str> = candidates.iter().map(|at| corpus.documents[*at].text.as_str()).collect();
        let pairs = prompt.encode(&instruction, &query.text, &texts, Reading::default()).unwrap();
        let logits = engine.score(models::score_request(&prompt, pairs), &CancellationToken::new()).await.unwrap();
        scores.push(logits.iter().map(|logits| f64::from(logits.score())).collect());
    }
    scores
}

#[tokio::test]
async fn scores_in_int8_drift_little_and_rank_as_well() {
    let corpus = Corpus::read().unwrap();
    let vectors = Vectors::of(&corpus, Quantization::Float32).await;
    let candidates: Vec<Vec<usize>> = (0..corpus.queries.len()).map(|query| vectors.candidates(query)).collect();
    let mut of = Vec::new();
    for quantization in [Quantization::Float32, Quantization::Int8] {
        let engine = models::load(TINY_RERANKER, quantization).await.unwrap();
        of.push(scores(engine.as_ref(), &corpus, &candidates).await);
        engine.unload().await.unwrap();
    }
    let [exact, rounded] = of.as_slice() else { panic!("two quantizations") };
    let mut drifts: Vec<f64> =
        exact.iter().flatten().zip(rounded.iter().flatten()).map(|(exact, rounded)| (exact - rounded).abs()).collect();
    drifts.sort_by(f64::total_cmp);
    let drift = drifts[drifts.len() * 99 / 100];
    let measured = |scores: &[Vec<f64>]| {
        let of_queries = corpus.queries.iter().zip(&candidates).zip(scores).map(|((query, candidates), scores)| {
            let mut order: Vec<usize> = (0..candidates.len()).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            let grades = order.iter().map(|at| corpus.grade(&query.id, &corpus.documents[candidates[*at]].id));
            ndcg(&grades.collect::<Vec<u32>>(), &corpus.grades(&query.id), 10)
        });
        mean(of_queries)
    };
    let (ranked, ranked_exact) = (measured(rounded), measured(exact));
    println!(
        "{} pairs: drift {drift:.5} at the 99th percentile, {:.5} at most; nDCG@10 {ranked:.4}, in float32 {ranked_exact:.4}",
        drifts.len(),
        drifts[drifts.len() - 1]
    );
    assert!(drifts.iter().any(|drift| *drift > 0.0), "int8 is another model");
    assert!(drift <= LARGEST_DRIFT, "{drift}");
    assert!(change(ranked, ranked_exact) <= OF_A_MEASURE, "{ranked} for {ranked_exact}");
}
