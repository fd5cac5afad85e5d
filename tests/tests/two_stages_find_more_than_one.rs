//! The point of it all, on queries that training never saw: the reranked order beats the vector order and BM25. Real
//! parts: the tiny pair, Qdrant's engine on disk, the use case.

use rerank_server::evaluate::measures::{bootstrap, mean, ndcg, recall};
use rerank_server::search::SearchRequest;
use rerank_tests::bm25::Bm25;
use rerank_tests::corpus::Corpus;
use rerank_tests::http::root;
use rerank_tests::models;
use rerank_tests::service::{TinyService, arriving};

const CANDIDATES: usize = 50;
/// Of each, both orders are in a file.
const GOLDEN_QUERIES: usize = 5;
const RESAMPLES: usize = 10_000;
/// As in the models' figures: a document of any grade is relevant.
const RELEVANT_FROM: u32 = 1;
const LEAST_RECALL: f64 = 0.9;
/// How far the service may be from the reference's figures: candidates of nearly one score may change places.
const REFERENCE_TOLERANCE: f64 = 0.01;

#[tokio::test(flavor = "multi_thread")]
async fn reranking_beats_the_vector_order_and_bm25_on_held_out_queries() {
    let corpus = Corpus::read().unwrap();
    assert!(corpus.documents.len() >= 300, "{} documents", corpus.documents.len());
    assert!(corpus.queries.len() >= 80, "{} queries", corpus.queries.len());
    let service = TinyService::open(|config| config.candidates.maximum = 50).await.unwrap();
    service.index(&corpus).await.unwrap();
    let bm25 = Bm25::new(&corpus.documents);

    let (mut found, mut vector, mut reranked, mut lexical) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for query in &corpus.queries {
        let judged = corpus.grades(&query.id);
        assert!(!judged.is_empty(), "{} has no judgement", query.id);
        let request = SearchRequest { query: query.text.clone(), k: CANDIDATES, ..SearchRequest::default() };
        let first = SearchRequest { use_reranker: Some(false), ..request.clone() };
        let grades = async |request| -> Vec<u32> {
            let answer = service.parts.searcher.search(request, &arriving()).await.unwrap();
            assert_eq!(answer.fallback, None);
            answer.results.iter().map(|result| corpus.grade(&query.id, &result.id.in_judgements())).collect()
        };
        let first = grades(first).await;
        found.push(recall(&first, &judged, CANDIDATES, RELEVANT_FROM));
        vector.push(ndcg(&first, &judged, 10));
        reranked.push(ndcg(&grades(request).await, &judged, 10));
        let words: Vec<u32> = bm25
            .search(&query.text)
            .into_iter()
            .map(|index| corpus.grade(&query.id, &corpus.documents[index].id))
            .collect();
        lexical.push(ndcg(&words, &judged, 10));
    }
    service.close().await.unwrap();

    let gain: Vec<f64> = reranked.iter().zip(&vector).map(|(after, before)| after - before).collect();
    let over_words: Vec<f64> = reranked.iter().zip(&lexical).map(|(after, words)| after - words).collect();
    let (gain, over_words) = (bootstrap(&gain, RESAMPLES, 1), bootstrap(&over_words, RESAMPLES, 1));
    let [found, vector, reranked, lexical] = [found, vector, reranked, lexical].map(mean);
    println!("{} documents, {} held-out queries", corpus.documents.len(), corpus.queries.len());
    println!("vector:   recall@{CANDIDATES} {found:.3}, nDCG@10 {vector:.3}");
    println!("BM25:     nDCG@10 {lexical:.3}");
    println!(
        "reranked: nDCG@10 {reranked:.3}, {:+.1} % relative to the vector order",
        100.0 * (reranked / vector - 1.0)
    );
    println!("  over the vector order: {:+.3}, 95 % interval {:+.3} to {:+.3}", gain.mean, gain.low, gain.high);
    println!(
        "  over BM25:             {:+.3}, 95 % interval {:+.3} to {:+.3}",
        over_words.mean, over_words.low, over_words.high
    );
    for (name, measured) in
        [("recall_at_50_vector", found), ("ndcg_at_10_vector", vector), ("ndcg_at_10_reranked", reranked)]
    {
        let published = models::figure(name);
        assert!((measured - published).abs() <= REFERENCE_TOLERANCE, "{name}: {measured}, published {published}");
    }
    assert!(found >= LEAST_RECALL, "recall@{CANDIDATES} is {found}");
    assert!(vector >= 0.35, "the vector order's nDCG@10 is {vector}");
    assert!(reranked >= 1.2 * vector, "reranked {reranked} against {vector}");
    assert!(gain.low > 0.0, "{gain:?}");
    assert!(reranked > lexical && over_words.low > 0.0, "{over_words:?}");
}

/// What a pod in a cluster must answer too. `UPDATE_GOLDEN=1` writes it.
#[tokio::test(flavor = "multi_thread")]
async fn the_orders_of_some_queries_are_golden() {
    let corpus = Corpus::read().unwrap();
    let service = TinyService::open(|_| {}).await.unwrap();
    service.index(&corpus).await.unwrap();
    let mut orders = serde_json::Map::new();
    for query in corpus.queries.iter().step_by(corpus.queries.len() / GOLDEN_QUERIES).take(GOLDEN_QUERIES) {
        let ids = async |use_reranker| -> Vec<String> {
            let request = SearchRequest {
                query: query.text.clone(),
                k: 10,
                use_reranker: Some(use_reranker),
                ..SearchRequest::default()
            };
            let answer = service.parts.searcher.search(request, &arriving()).await.unwrap();
            answer.results.iter().map(|result| result.id.in_judgements()).collect()
        };
        let (reranked, vector) = (ids(true).await, ids(false).await);
        assert_ne!(reranked, vector, "{}: an order that shows nothing", query.text);
        orders.insert(query.text.clone(), serde_json::json!({"reranked": reranked, "vector": vector}));
    }
    service.close().await.unwrap();
    let path = root().join("tests/golden/orders.json");
    let text = format!("{:#}\n", serde_json::Value::from(orders));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(text == golden, "{} is out of date; UPDATE_GOLDEN=1 writes it\n{text}", path.display());
}
