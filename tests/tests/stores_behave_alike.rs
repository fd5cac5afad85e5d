//! One suite for both stores: what a search sees must not depend on where documents live.

use std::sync::Arc;
use std::time::Duration;

use rerank_crds::server_config::{Collection, Embedded, Qdrant, VectorStore};
use rerank_server::store::{
    Candidate, CollectionSpec, Document, DocumentId, Store, StoreError, VectorQuery, open_store,
};
use rerank_tests::qdrant_server::{QdrantServer, ServerOptions};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A store, and what it stands on.
struct Bench {
    store: Arc<dyn Store>,
    _server: Option<QdrantServer>,
    _folder: Option<TempDir>,
}

fn collections() -> Vec<Collection> {
    let collection = |name: &str, vector_name: Option<&str>, text_field: &str| Collection {
        name: name.to_owned(),
        vector_name: vector_name.map(str::to_owned),
        text_field: text_field.to_owned(),
    };
    vec![
        collection("docs", None, "text"),
        collection("named", Some("title"), "body.text"),
        collection("absent", None, "text"),
    ]
}

impl Bench {
    async fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded { path: folder.path().to_owned(), collections: collections() };
        let config = VectorStore { embedded: Some(embedded), ..VectorStore::default() };
        Self { store: open_store(&config, TIMEOUT).await.unwrap(), _server: None, _folder: Some(folder) }
    }

    async fn qdrant() -> Self {
        let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
        let qdrant = Qdrant { url: server.url(), collections: collections(), ..Qdrant::default() };
        let config = VectorStore { qdrant: Some(qdrant), ..VectorStore::default() };
        Self { store: open_store(&config, TIMEOUT).await.unwrap(), _server: Some(server), _folder: None }
    }

    /// A collection with these documents.
    async fn fill(&self, collection: &str, documents: Vec<Document>) {
        self.store.ensure_collection(collection, &spec()).await.unwrap();
        self.store.upsert(collection, documents).await.unwrap();
    }

    async fn search(&self, collection: &str, limit: usize, filter: Option<Value>) -> Vec<Candidate> {
        self.try_search(collection, limit, filter).await.unwrap()
    }

    async fn try_search(
        &self,
        collection: &str,
        limit: usize,
        filter: Option<Value>,
    ) -> Result<Vec<Candidate>, StoreError> {
        let query = VectorQuery { collection: collection.to_owned(), vector: vec![1.0, 0.0, 0.0], limit, filter };
        self.store.search(query).await
    }
}

fn spec() -> CollectionSpec {
    CollectionSpec {
        dimension: 3,
        embedding_model: "maker/model".to_owned(),
        embedding_revision: Some("abc".to_owned()),
    }
}

/// A document whose vector is so many degrees away from the query's.
fn document(id: impl Into<Id>, degrees: f32, payload: Value) -> Document {
    let angle = degrees.to_radians();
    let Value::Object(payload) = payload else { panic!("a payload is an object") };
    Document { id: id.into().0, vector: vec![angle.cos(), angle.sin(), 0.0], payload }
}

struct Id(DocumentId);

impl From<u64> for Id {
    fn from(number: u64) -> Self {
        Self(DocumentId::Number(number))
    }
}

impl From<&str> for Id {
    fn from(text: &str) -> Self {
        Self(DocumentId::Text(text.to_owned()))
    }
}

fn numbers(candidates: &[Candidate]) -> Vec<u64> {
    candidates
        .iter()
        .map(|candidate| match &candidate.id {
            DocumentId::Number(number) => *number,
            DocumentId::Text(text) => panic!("{text} is no number"),
        })
        .collect()
}

async fn the_nearest_come_first_and_equal_scores_by_id(bench: &Bench) {
    let documents = [(9, 10.0), (3, 50.0), (7, 10.0), (1, 90.0), (5, 10.0), (2, 0.0)];
    bench.fill("docs", documents.map(|(id, degrees)| document(id, degrees, json!({}))).to_vec()).await;
    let found = bench.search("docs", 10, None).await;
    assert_eq!(numbers(&found), [2, 5, 7, 9, 3, 1]);
    for (candidate, degrees) in found.iter().zip([0.0_f32, 10.0, 10.0, 10.0, 50.0, 90.0]) {
        assert!((candidate.vector_score - degrees.to_radians().cos()).abs() < 1e-5, "{candidate:?}");
    }
}

async fn every_filter_selects_what_it_says(bench: &Bench) {
    let documents = vec![
        document(
            1,
            1.0,
            json!({
                "lang": "en", "year": 1999, "tags": ["a", "b"], "at": "2020-01-01T00:00:00Z", "open": true,
                "place": {"lon": 13.4, "lat": 52.5}, "text": "red fox", "parts": [{"n": 1, "ok": true}, {"n": 2, "ok": false}]
            }),
        ),
        document(
            2,
            2.0,
            json!({
                "lang": "de", "year": 2005, "tags": ["a"], "at": "2021-06-01T12:00:00.5Z", "open": false,
                "place": {"lon": 2.35, "lat": 48.85}, "text": "brown bear", "parts": [{"n": 1, "ok": false}, {"n": 2, "ok": true}]
            }),
        ),
        document(
            3,
            3.0,
            json!({
                "lang": "fr", "year": 2010, "tags": [], "at": "2022-01-01T00:00:00Z", "open": true,
                "place": {"lon": -0.12, "lat": 51.5}, "text": "red panda", "score": 0.5
            }),
        ),
        document(
            4,
            4.0,
            json!({"lang": "en", "year": 2010, "tags": null, "meta": {"a.b": "dotted", "deep": {"x": 7}}}),
        ),
    ];
    bench.fill("docs", documents).await;
    bench.store.upsert("docs", vec![document("doc-5", 5.0, json!({"lang": "xx"}))]).await.unwrap();
    let uuid = "550e8400-e29b-41d4-a716-446655440000";
    bench.store.upsert("docs", vec![document(uuid, 6.0, json!({"lang": "yy"}))]).await.unwrap();

    let all = ["1", "2", "3", "4", "\"doc-5\"", "\"550e8400-e29b-41d4-a716-446655440000\""];
    for (filter, expected) in [
        (json!({}), &all[..]),
        (json!({"must": [{"key": "lang", "match": {"value": "en"}}]}), &["1", "4"]),
        (json!({"must": {"key": "year", "match": {"value": 2010}}}), &["3", "4"]),
        (json!({"must": [{"key": "open", "match": {"value": false}}]}), &["2"]),
        (json!({"must": [{"key": "lang", "match": {"any": ["de", "fr"]}}]}), &["2", "3"]),
        (json!({"must": [{"key": "year", "match": {"any": [1999, 2005]}}]}), &["1", "2"]),
        (json!({"must": [{"key": "lang", "match": {"except": ["en", "xx", "yy"]}}]}), &["2", "3"]),
        (json!({"must": [{"key": "year", "match": {"except": [2010]}}]}), &["1", "2"]),
        (json!({"must": [{"key": "text", "match": {"text": "red"}}]}), &["1", "3"]),
        (json!({"must": [{"key": "year", "range": {"gte": 2005, "lt": 2010}}]}), &["2"]),
        (json!({"must": [{"key": "score", "range": {"gt": 0.4, "lte": 0.5}}]}), &["3"]),
        (
            json!({"must": [{"key": "at", "range": {"gte": "2021-01-01T00:00:00Z", "lt": "2022-01-01T00:00:00Z"}}]}),
            &["2"],
        ),
        (json!({"must": [{"key": "at", "range": {"gt": "2021-06-01T12:00:00.4Z"}}]}), &["2", "3"]),
        (json!({"must": [{"key": "tags", "values_count": {"gte": 2}}]}), &["1"]),
        (json!({"must": [{"is_empty": {"key": "lang"}}]}), &[]),
        (json!({"must": [{"is_null": {"key": "tags"}}]}), &["4"]),
        (json!({"must": [{"key": "tags", "is_empty": true}]}), &["3", "4", all[4], all[5]]),
        (json!({"must": [{"has_id": [2, "doc-5", uuid]}]}), &["2", all[4], all[5]]),
        (
            json!({"must_not": [{"has_id": ["doc-5"]}, {"key": "lang", "match": {"value": "yy"}}]}),
            &["1", "2", "3", "4"],
        ),
        (
            json!({"must": [{"key": "place", "geo_radius":
            {"center": {"lon": 13.0, "lat": 52.0}, "radius": 100_000.0}}]}),
            &["1"],
        ),
        (
            json!({"must": [{"key": "place", "geo_bounding_box":
            {"top_left": {"lon": -1.0, "lat": 53.0}, "bottom_right": {"lon": 3.0, "lat": 48.0}}}]}),
            &["2", "3"],
        ),
        (
            json!({"must": [{"key": "place", "geo_polygon": {"exterior": {"points": [
            {"lon": 10.0, "lat": 50.0}, {"lon": 15.0, "lat": 50.0}, {"lon": 15.0, "lat": 55.0},
            {"lon": 10.0, "lat": 50.0}]}}}]}),
            &["1"],
        ),
        (
            json!({"must": [{"nested": {"key": "parts", "filter": {"must": [
            {"key": "n", "match": {"value": 2}}, {"key": "ok", "match": {"value": true}}]}}}]}),
            &["2"],
        ),
        (json!({"must": [{"key": "parts[].n", "match": {"value": 2}}]}), &["1", "2"]),
        (json!({"must": [{"key": "meta.\"a.b\"", "match": {"value": "dotted"}}]}), &["4"]),
        (json!({"must": [{"key": "meta.deep.x", "range": {"gte": 7}}]}), &["4"]),
        (
            json!({"should": [{"key": "lang", "match": {"value": "fr"}}, {"key": "year", "range": {"lt": 2000}}]}),
            &["1", "3"],
        ),
        (
            json!({"min_should": {"min_count": 2, "conditions": [{"key": "lang", "match": {"value": "en"}},
            {"key": "year", "match": {"value": 2010}}, {"key": "open", "match": {"value": true}}]}}),
            &["1", "3", "4"],
        ),
        (
            json!({"must": [{"should": [{"key": "lang", "match": {"value": "de"}}]}, {"must_not": [{"key": "year",
            "match": {"value": 1999}}]}]}),
            &["2"],
        ),
    ] {
        let found = bench.search("docs", 100, Some(filter.clone())).await;
        let ids: Vec<String> = found.iter().map(|candidate| candidate.id.to_string()).collect();
        assert_eq!(ids, expected, "{filter}");
    }
}

async fn a_filter_that_is_wrong_names_its_place(bench: &Bench) {
    bench.fill("docs", vec![document(1, 0.0, json!({}))]).await;
    for (filter, place) in [
        (json!({"must": [{"key": "year", "range": {"ge": 2000}}]}), "filter.must[0].range"),
        (json!({"most": []}), "filter: unknown key \"most\""),
        (json!("lang = en"), "filter: is a string"),
        (json!({"must": [{"nearby": {"key": "place"}}]}), "filter.must[0]"),
    ] {
        let error = bench.try_search("docs", 1, Some(filter)).await.unwrap_err();
        assert!(matches!(error, StoreError::InvalidFilter { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(place) && message.contains("allowed"), "{message}");
    }
    assert_eq!(bench.search("docs", 1, None).await.len(), 1, "the next request is served");
}

async fn a_named_vector_and_a_nested_text_field_are_used(bench: &Bench) {
    let documents = vec![
        document(1, 0.0, json!({"body": {"text": "nested"}, "text": "not this"})),
        document(2, 45.0, json!({"body": {"text": 7}})),
        document(3, 90.0, json!({})),
    ];
    bench.fill("named", documents).await;
    let found = bench.search("named", 10, None).await;
    let texts: Vec<&str> = found.iter().map(|candidate| candidate.text.as_str()).collect();
    assert_eq!(texts, ["nested", "", ""]);
    let filter = json!({"must": [{"has_vector": "title"}]});
    assert_eq!(bench.search("named", 10, Some(filter)).await.len(), 3);
}

async fn a_payload_comes_back_as_it_was(bench: &Bench) {
    let payload = json!({
        "text": "Grüße, 日本語, \u{1f600}, e\u{301}, \u{0} and \"quotes\"\n",
        "null": null, "yes": true, "no": false, "zero": 0, "negative": -1,
        "largest": i64::MAX, "smallest": i64::MIN, "beyond_float": 9_007_199_254_740_993_i64,
        "float": 0.1, "whole_float": 1.0, "tiny": 1e-300, "negative_zero": -0.0,
        "empty": {"object": {}, "list": [], "text": ""},
        "mixed": [1, "two", null, [3.5, {"four": [4]}]],
        "": "empty key", "key.with.dots": 1, "ключ": "значение",
        "deep": (0..20).fold(json!("leaf"), |value, _| json!({ "k": value })),
    });
    bench.fill("docs", vec![document("doc-1", 0.0, payload.clone())]).await;
    let found = bench.search("docs", 1, None).await;
    assert_eq!(Value::Object(found[0].payload.clone()), payload);
    assert_eq!(found[0].text, payload["text"]);
}

async fn ids_of_every_kind_come_back_as_given(bench: &Bench) {
    let ids = [
        DocumentId::Number(0),
        DocumentId::Number(42),
        DocumentId::Number(u64::MAX),
        DocumentId::Text("42".to_owned()),
        DocumentId::Text("550e8400-e29b-41d4-a716-446655440000".to_owned()),
        DocumentId::Text("7B9CF8B4-2A32-4B6B-8B6E-6C4F0E0A8D11".to_owned()),
        DocumentId::Text("doc/with spaces & 日本語".to_owned()),
        DocumentId::Text("x".repeat(2_000)),
    ];
    let documents =
        ids.iter().map(|id| Document { id: id.clone(), vector: vec![1.0, 0.0, 0.0], payload: Map::new() }).collect();
    bench.fill("docs", documents).await;
    let mut expected = ids.to_vec();
    expected.sort();
    let found = bench.search("docs", 100, None).await;
    assert_eq!(found.iter().map(|candidate| candidate.id.clone()).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|candidate| candidate.payload.is_empty()), "a reserved key came out");
    assert_eq!(bench.store.existing("docs", &ids).await.unwrap(), [true; 8]);
}

async fn a_document_with_the_same_id_is_replaced(bench: &Bench) {
    bench.fill("docs", vec![document("a", 80.0, json!({"old": 1})), document("b", 40.0, json!({}))]).await;
    bench.store.upsert("docs", vec![document("a", 0.0, json!({"new": 2}))]).await.unwrap();
    let found = bench.search("docs", 10, None).await;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].id, DocumentId::Text("a".to_owned()));
    assert_eq!(Value::Object(found[0].payload.clone()), json!({"new": 2}));

    // Twice in one batch: the last one counts.
    let twice = vec![document("b", 10.0, json!({"n": 1})), document("b", 10.0, json!({"n": 2}))];
    bench.store.upsert("docs", twice).await.unwrap();
    let found = bench.search("docs", 10, None).await;
    assert_eq!(Value::Object(found[1].payload.clone()), json!({"n": 2}));
    assert_eq!(bench.store.describe("docs").await.unwrap().documents, 2);
}

async fn existing_answers_in_the_order_asked(bench: &Bench) {
    bench.fill("docs", vec![document(1, 0.0, json!({})), document("a", 0.0, json!({}))]).await;
    let ids = ["b", "a", "1"].map(|text| DocumentId::Text(text.to_owned()));
    assert_eq!(bench.store.existing("docs", &ids).await.unwrap(), [false, true, false]);
    let ids = [2, 1, 2].map(DocumentId::Number);
    assert_eq!(bench.store.existing("docs", &ids).await.unwrap(), [false, true, false]);
    assert!(bench.store.existing("docs", &[]).await.unwrap().is_empty());
}

async fn a_collection_says_what_it_was_made_for(bench: &Bench) {
    let documents = (0..600).map(|number| document(number, 1.0, json!({}))).collect();
    bench.fill("docs", documents).await;
    bench.store.ensure_collection("docs", &spec()).await.unwrap();
    let info = bench.store.check("docs", &spec()).await.unwrap();
    assert_eq!((info.dimension, info.distance.as_str(), info.documents), (3, "Cosine", 600));
    assert_eq!(info.embedding_model.as_deref(), Some("maker/model"));
    assert_eq!(info.embedding_revision.as_deref(), Some("abc"));
    let everything = bench.search("docs", 1_000, None).await;
    assert_eq!(everything.len(), 600, "the record of the collection is no document");
}

async fn a_collection_that_does_not_fit_is_refused_with_both_values(bench: &Bench) {
    bench.store.ensure_collection("docs", &spec()).await.unwrap();
    for (other, found, needed) in [
        (CollectionSpec { dimension: 4, ..spec() }, "dimension 3", "4 is needed"),
        (
            CollectionSpec { embedding_model: "other/one".to_owned(), ..spec() },
            "embedding model maker/model",
            "other/one is needed",
        ),
        (
            CollectionSpec { embedding_revision: Some("def".to_owned()), ..spec() },
            "embedding revision abc",
            "def is needed",
        ),
    ] {
        for error in [
            bench.store.check("docs", &other).await.unwrap_err(),
            bench.store.ensure_collection("docs", &other).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Mismatch { .. }), "{error:?}");
            let message = error.to_string();
            assert!(message.contains(found) && message.contains(needed), "{message}");
        }
    }
    assert!(bench.store.check("docs", &CollectionSpec { embedding_revision: None, ..spec() }).await.is_ok());
}

async fn a_collection_that_is_absent_is_named(bench: &Bench) {
    for name in ["absent", "not configured at all", "../docs"] {
        let errors = [
            bench.try_search(name, 1, None).await.unwrap_err(),
            bench.store.describe(name).await.unwrap_err(),
            bench.store.check(name, &spec()).await.unwrap_err(),
            bench.store.existing(name, &[DocumentId::Number(1)]).await.unwrap_err(),
            bench.store.upsert(name, vec![document(1, 0.0, json!({}))]).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(&error, StoreError::CollectionMissing { collection } if collection == name), "{error:?}");
        }
    }
}

async fn limits_below_and_beyond_the_collection_are_served(bench: &Bench) {
    bench.fill("docs", (0..5).map(|number| document(number, 1.0, json!({}))).collect()).await;
    assert!(bench.search("docs", 0, None).await.is_empty());
    assert_eq!(bench.search("docs", 3, None).await.len(), 3);
    assert_eq!(bench.search("docs", 1_000_000_000, None).await.len(), 5);
}

async fn an_empty_collection_has_no_candidates(bench: &Bench) {
    bench.store.ensure_collection("docs", &spec()).await.unwrap();
    bench.store.upsert("docs", Vec::new()).await.unwrap();
    assert!(bench.search("docs", 10, None).await.is_empty());
    assert_eq!(bench.store.describe("docs").await.unwrap().documents, 0);
}

async fn a_vector_that_cannot_be_compared_is_refused(bench: &Bench) {
    bench.fill("docs", vec![document(1, 0.0, json!({}))]).await;
    let ask = |vector: Vec<f32>| {
        let query = VectorQuery { collection: "docs".to_owned(), vector, limit: 1, filter: None };
        bench.store.search(query)
    };
    let error = ask(vec![1.0, 0.0]).await.unwrap_err();
    assert_eq!(error.to_string(), "collection \"docs\" has dimension 3, but 2 is needed");
    for vector in [vec![], vec![1.0, f32::NAN, 0.0], vec![f32::INFINITY, 0.0, 0.0]] {
        assert!(matches!(ask(vector).await, Err(StoreError::Failed { .. })));
    }
    assert_eq!(ask(vec![0.0, 0.0, 0.0]).await.unwrap().len(), 1, "the next request is served");
}

async fn a_batch_with_a_document_that_cannot_be_kept_writes_nothing(bench: &Bench) {
    bench.store.ensure_collection("docs", &spec()).await.unwrap();
    let wrong_length = Document { vector: vec![1.0], ..document(2, 0.0, json!({})) };
    for (wrong, words) in [
        (document(2, 0.0, json!({"n": u64::MAX})), "payload field \"n\""),
        (document(2, 0.0, json!({"_rerank_id": "x"})), "reserved"),
        (Document { vector: vec![f32::NAN, 0.0, 0.0], ..document(2, 0.0, json!({})) }, "not finite"),
        (wrong_length.clone(), "its vector has 1 values, the first of its batch 3"),
    ] {
        let error = bench.store.upsert("docs", vec![document(1, 0.0, json!({})), wrong]).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(bench.search("docs", 10, None).await.is_empty(), "a part of the batch was written");
    }
    let error = bench.store.upsert("docs", vec![wrong_length]).await.unwrap_err();
    assert_eq!(error.to_string(), "collection \"docs\" has dimension 3, but 1 is needed");
    bench.store.upsert("docs", vec![document(1, 0.0, json!({}))]).await.unwrap();
    assert_eq!(bench.store.describe("docs").await.unwrap().documents, 1, "the next batch is written");
}

async fn searches_run_side_by_side_with_writes(bench: &Bench) {
    let degrees = |number: u64| f32::from(u8::try_from(number).unwrap());
    bench.fill("docs", (0..50).map(|number| document(number, degrees(number), json!({}))).collect()).await;
    let searches = futures::future::join_all((0..64).map(|_| bench.search("docs", 10, None)));
    let writes = futures::future::join_all((0..8_u64).map(|batch| {
        let documents = (0..10).map(|number| document(1_000 + batch * 10 + number, 80.0, json!({}))).collect();
        bench.store.upsert("docs", documents)
    }));
    let (searched, written) = futures::future::join(searches, writes).await;
    for found in searched {
        assert_eq!(numbers(&found), (0..10).collect::<Vec<_>>());
    }
    for outcome in written {
        outcome.unwrap();
    }
    assert_eq!(bench.store.describe("docs").await.unwrap().documents, 130);
}

async fn a_store_that_stands_answers_a_ping(bench: &Bench) {
    bench.store.ping().await.unwrap();
    bench.store.close().await.unwrap();
}

macro_rules! for_both_stores {
    ($($behaviour:ident)*) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(&super::Bench::embedded().await).await;
                }
            )*
        }
        mod qdrant {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(&super::Bench::qdrant().await).await;
                }
            )*
        }
    };
}

for_both_stores! {
    the_nearest_come_first_and_equal_scores_by_id
    every_filter_selects_what_it_says
    a_filter_that_is_wrong_names_its_place
    a_named_vector_and_a_nested_text_field_are_used
    a_payload_comes_back_as_it_was
    ids_of_every_kind_come_back_as_given
    a_document_with_the_same_id_is_replaced
    existing_answers_in_the_order_asked
    a_collection_says_what_it_was_made_for
    a_collection_that_does_not_fit_is_refused_with_both_values
    a_collection_that_is_absent_is_named
    limits_below_and_beyond_the_collection_are_served
    an_empty_collection_has_no_candidates
    a_vector_that_cannot_be_compared_is_refused
    a_batch_with_a_document_that_cannot_be_kept_writes_nothing
    searches_run_side_by_side_with_writes
    a_store_that_stands_answers_a_ping
}

#[tokio::test]
async fn exactly_one_store_is_opened() {
    let embedded = Some(Embedded::default());
    let qdrant = Some(Qdrant { url: "http://127.0.0.1:1".to_owned(), ..Qdrant::default() });
    for config in [VectorStore::default(), VectorStore { embedded, qdrant, ..VectorStore::default() }] {
        let message = open_store(&config, TIMEOUT).await.unwrap_err().to_string();
        assert!(message.contains("exactly one of: qdrant, embedded"), "{message}");
    }
}
