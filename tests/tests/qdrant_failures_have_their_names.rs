//! What the client of a Qdrant server makes of a server that is down, slow, picky or wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rerank_crds::server_config::{Collection, Qdrant, QdrantTls};
use rerank_server::store::qdrant::QdrantStore;
use rerank_server::store::{Candidate, CollectionSpec, Document, DocumentId, Store, StoreError, VectorQuery};
use rerank_tests::qdrant_server::certificates::Authority;
use rerank_tests::qdrant_server::{QdrantServer, ServerOptions, ServerTls};
use serde_json::Map;
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(10);

fn config(url: String) -> Qdrant {
    let collection = Collection { name: "docs".to_owned(), vector_name: None, text_field: "text".to_owned() };
    Qdrant { url, collections: vec![collection], ..Qdrant::default() }
}

fn spec() -> CollectionSpec {
    CollectionSpec { dimension: 2, embedding_model: "maker/model".to_owned(), embedding_revision: None }
}

async fn search(store: &QdrantStore) -> Result<Vec<Candidate>, StoreError> {
    let query = VectorQuery { collection: "docs".to_owned(), vector: vec![1.0, 0.0], limit: 5, filter: None };
    store.search(query).await
}

async fn fill(store: &QdrantStore) -> Result<(), StoreError> {
    store.ensure_collection("docs", &spec()).await?;
    let document = Document { id: DocumentId::Number(1), vector: vec![1.0, 0.0], payload: Map::new() };
    store.upsert("docs", vec![document]).await
}

fn write(folder: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_at_once_and_served_when_it_is_up() {
    let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let address = server.address();
    let store = QdrantStore::connect(&config(server.url()), TIMEOUT).unwrap();
    server.stop().await;

    let started = Instant::now();
    let error = search(&store).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable { .. })));
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());

    let server =
        QdrantServer::start(ServerOptions { address: Some(address), ..ServerOptions::default() }).await.unwrap();
    fill(&store).await.unwrap();
    assert_eq!(search(&store).await.unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_was_replaced_is_found_again_without_an_error() {
    let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let address = server.address();
    let store = QdrantStore::connect(&config(server.url()), TIMEOUT).unwrap();
    // Every connection of the pool is made.
    for _ in 0..6 {
        fill(&store).await.unwrap();
    }
    server.stop().await;
    let _server =
        QdrantServer::start(ServerOptions { address: Some(address), ..ServerOptions::default() }).await.unwrap();
    for _ in 0..6 {
        store.ping().await.unwrap();
    }
    assert!(matches!(search(&store).await, Err(StoreError::CollectionMissing { .. })), "the new server is empty");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_at_the_deadline() {
    let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let timeout = Duration::from_millis(300);
    let store = QdrantStore::connect(&config(server.url()), timeout).unwrap();
    fill(&store).await.unwrap();
    server.set_hanging(true);
    let started = Instant::now();
    let error = search(&store).await.unwrap_err();
    let took = started.elapsed();
    assert!(matches!(error, StoreError::Timeout), "{error:?}");
    assert!(took >= timeout && took < timeout + Duration::from_secs(1), "took {took:?}");
    server.set_hanging(false);
    assert_eq!(search(&store).await.unwrap().len(), 1, "the next request is served");
}

#[tokio::test]
async fn a_port_that_accepts_and_never_speaks_is_given_up_at_the_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let store = QdrantStore::connect(&config(url), Duration::from_millis(300)).unwrap();
    let started = Instant::now();
    assert!(matches!(search(&store).await, Err(StoreError::Timeout)));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_caller_that_goes_away_is_not_waited_for() {
    let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let store = QdrantStore::connect(&config(server.url()), Duration::from_secs(60)).unwrap();
    fill(&store).await.unwrap();
    server.set_hanging(true);
    assert!(tokio::time::timeout(Duration::from_millis(200), search(&store)).await.is_err());
    server.set_hanging(false);
    assert_eq!(search(&store).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_that_is_wrong_or_missing_is_unauthorized_and_a_new_one_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let options = ServerOptions { api_key: Some("right".to_owned()), ..ServerOptions::default() };
    let server = QdrantServer::start(options).await.unwrap();
    let without = QdrantStore::connect(&config(server.url()), TIMEOUT).unwrap();
    assert!(matches!(search(&without).await, Err(StoreError::Unauthorized)));

    let key = write(&folder, "key", "wrong");
    let keyed = Qdrant { api_key_file: Some(key.clone()), allow_insecure: true, ..config(server.url()) };
    let store = QdrantStore::connect(&keyed, TIMEOUT).unwrap();
    let error = search(&store).await.unwrap_err();
    assert!(matches!(error, StoreError::Unauthorized), "{error:?}");
    assert!(!format!("{error:?} {error} {store:?}").contains("wrong"), "the key stands in a message");

    fs::write(&key, "  right\n").unwrap();
    fill(&store).await.unwrap();
    // Both sides change the key while connections stand.
    server.set_api_key(Some("newer"));
    fs::write(&key, "newer").unwrap();
    assert_eq!(search(&store).await.unwrap().len(), 1);
}

#[tokio::test]
async fn scores_that_are_no_numbers_are_an_error() {
    let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let store = QdrantStore::connect(&config(server.url()), TIMEOUT).unwrap();
    fill(&store).await.unwrap();
    server.set_not_finite(true);
    let error = search(&store).await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed { message } if message.contains("not finite")), "{error:?}");
    server.set_not_finite(false);
    assert_eq!(search(&store).await.unwrap().len(), 1, "the next request is served");
}

#[tokio::test]
async fn a_collection_of_another_client_is_taken_only_where_it_fits() {
    let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let store = QdrantStore::connect(&config(server.url()), TIMEOUT).unwrap();
    server.create_collection("docs", &[("", 2, "Euclid")]).unwrap();
    let message = store.check("docs", &spec()).await.unwrap_err().to_string();
    assert_eq!(message, "collection \"docs\" has distance Euclid, but Cosine or Dot is needed");

    for (vectors, found) in [
        (&[("title", 2, "Cosine"), ("body", 2, "Cosine")][..], "[\"body\", \"title\"]"),
        (&[("title", 2, "Cosine")][..], "[\"title\"]"),
    ] {
        let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
        let store = QdrantStore::connect(&config(server.url()), TIMEOUT).unwrap();
        server.create_collection("docs", vectors).unwrap();
        let message = store.check("docs", &spec()).await.unwrap_err().to_string();
        assert!(message.contains(found) && message.contains("the unnamed one is needed"), "{message}");
    }
}

#[tokio::test]
async fn a_collection_without_a_record_is_used_and_an_empty_one_gets_it() {
    let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let store = QdrantStore::connect(&config(server.url()), TIMEOUT).unwrap();
    server.create_collection("docs", &[("", 2, "Dot")]).unwrap();
    let info = store.check("docs", &spec()).await.unwrap();
    assert_eq!((info.distance.as_str(), info.embedding_model), ("Dot", None));

    store.ensure_collection("docs", &spec()).await.unwrap();
    let info = store.describe("docs").await.unwrap();
    assert_eq!((info.documents, info.embedding_model.as_deref()), (0, Some("maker/model")));
    let other = CollectionSpec { embedding_model: "other/one".to_owned(), ..spec() };
    assert!(matches!(store.check("docs", &other).await, Err(StoreError::Mismatch { .. })));
}

#[tokio::test]
async fn a_collection_that_others_filled_is_not_claimed() {
    let server = QdrantServer::start(ServerOptions::default()).await.unwrap();
    let store = QdrantStore::connect(&config(server.url()), TIMEOUT).unwrap();
    server.create_collection("docs", &[("", 2, "Cosine")]).unwrap();
    let document = Document { id: DocumentId::Number(1), vector: vec![1.0, 0.0], payload: Map::new() };
    store.upsert("docs", vec![document]).await.unwrap();
    store.ensure_collection("docs", &spec()).await.unwrap();
    assert_eq!(store.describe("docs").await.unwrap().embedding_model, None);
}

/// Certificates of a private CA, and the server's.
struct Encrypted {
    folder: TempDir,
    authority: Authority,
}

impl Encrypted {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("private CA").unwrap() }
    }

    async fn server(&self, client_ca: Option<&Authority>) -> QdrantServer {
        let certified = self.authority.certify("localhost").unwrap();
        let tls = ServerTls {
            certificate: certified.certificate,
            key: certified.key,
            client_ca: client_ca.map(|authority| authority.certificate().to_owned()),
        };
        QdrantServer::start(ServerOptions { tls: Some(tls), ..ServerOptions::default() }).await.unwrap()
    }

    fn ca_file(&self, authority: &Authority) -> PathBuf {
        write(&self.folder, "ca.pem", authority.certificate())
    }

    fn store(&self, server: &QdrantServer, ca: &Path, client: Option<&Authority>) -> QdrantStore {
        let mut tls = QdrantTls { ca_file: Some(ca.to_owned()), ..QdrantTls::default() };
        if let Some(authority) = client {
            let certified = authority.certify("rerank-server").unwrap();
            tls.certificate_file = Some(write(&self.folder, "client.pem", &certified.certificate));
            tls.key_file = Some(write(&self.folder, "client.key", &certified.key));
        }
        QdrantStore::connect(&Qdrant { tls, ..config(server.url()) }, TIMEOUT).unwrap()
    }
}

#[tokio::test]
async fn a_private_ca_is_trusted_and_no_other() {
    let encrypted = Encrypted::new();
    let server = encrypted.server(None).await;
    let store = encrypted.store(&server, &encrypted.ca_file(&encrypted.authority), None);
    fill(&store).await.unwrap();
    assert_eq!(search(&store).await.unwrap().len(), 1);

    let other = Authority::new("another CA").unwrap();
    let store = encrypted.store(&server, &encrypted.ca_file(&other), None);
    let error = search(&store).await.unwrap_err();
    let StoreError::Unavailable { message } = &error else { panic!("{error:?}") };
    assert!(message.to_lowercase().contains("certificate"), "{message}");
}

#[tokio::test]
async fn a_server_that_asks_for_a_client_certificate_takes_only_its_own() {
    let encrypted = Encrypted::new();
    let server = encrypted.server(Some(&encrypted.authority)).await;
    let ca = encrypted.ca_file(&encrypted.authority);
    let store = encrypted.store(&server, &ca, Some(&encrypted.authority));
    fill(&store).await.unwrap();
    assert_eq!(search(&store).await.unwrap().len(), 1);

    let stranger = Authority::new("another CA").unwrap();
    for client in [None, Some(&stranger)] {
        let store = encrypted.store(&server, &ca, client);
        let error = search(&store).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_key_travels_over_tls_without_further_leave() {
    let encrypted = Encrypted::new();
    let server = encrypted.server(None).await;
    server.set_api_key(Some("secret"));
    let key = write(&encrypted.folder, "key", "secret\n");
    let ca_file = Some(encrypted.ca_file(&encrypted.authority));
    let keyed =
        Qdrant { api_key_file: Some(key), tls: QdrantTls { ca_file, ..QdrantTls::default() }, ..config(server.url()) };
    fill(&QdrantStore::connect(&keyed, TIMEOUT).unwrap()).await.unwrap();
}
