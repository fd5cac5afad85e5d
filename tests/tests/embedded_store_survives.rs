//! The embedded store over the end of its process: a restart, a kill, and a second process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rerank_crds::server_config::{Collection, Embedded};
use rerank_server::store::embedded::EmbeddedStore;
use rerank_server::store::{CollectionSpec, Document, DocumentId, Store, StoreError, VectorQuery};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

const FOLDER: &str = "RERANK_TEST_STORE_FOLDER";
const BATCH: u64 = 10;

fn open(path: &Path) -> Result<EmbeddedStore, StoreError> {
    let collection = Collection { name: "docs".to_owned(), vector_name: None, text_field: "text".to_owned() };
    EmbeddedStore::open(&Embedded { path: path.to_owned(), collections: vec![collection] })
}

fn spec() -> CollectionSpec {
    CollectionSpec { dimension: 8, embedding_model: "maker/model".to_owned(), embedding_revision: None }
}

fn document(number: u64, text: &str) -> Document {
    let mut vector = vec![0.1; 8];
    vector[usize::try_from(number % 8).unwrap()] = 1.0;
    let payload = Map::from_iter([("text".to_owned(), json!(text)), ("number".to_owned(), json!(number))]);
    Document { id: DocumentId::Number(number), vector, payload }
}

async fn texts(store: &EmbeddedStore, number: u64) -> Vec<String> {
    let query = VectorQuery {
        collection: "docs".to_owned(),
        vector: document(number, "").vector,
        limit: 10,
        filter: Some(json!({"must": [{"has_id": [number]}]})),
    };
    store.search(query).await.unwrap().into_iter().map(|candidate| candidate.text).collect()
}

#[tokio::test]
async fn documents_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    store.ensure_collection("docs", &spec()).await.unwrap();
    store.upsert("docs", (0..30).map(|number| document(number, "first")).collect()).await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable { .. })), "a closed store answers");
    assert!(matches!(store.describe("docs").await, Err(StoreError::Unavailable { .. })));

    // Without the first having been dropped, and again without a close.
    for round in 0..3 {
        let store = open(folder.path()).unwrap();
        assert_eq!(store.check("docs", &spec()).await.unwrap().documents, 30 + round);
        assert_eq!(texts(&store, 7).await, [if round == 0 { "first" } else { "replaced" }]);
        store.upsert("docs", vec![document(7, "replaced"), document(100 + round, "new")]).await.unwrap();
        assert_eq!(texts(&store, 7).await, ["replaced"]);
    }
}

#[tokio::test]
async fn a_second_store_on_one_folder_is_refused_with_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    let message = open(folder.path()).unwrap_err().to_string();
    assert!(message.contains(&folder.path().display().to_string()), "{message}");
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    first.close().await.unwrap();
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_a_configuration_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [Path::new(""), &file, &file.join("below")] {
        let error = open(path).unwrap_err();
        assert!(
            matches!(&error, StoreError::Configuration { message } if message.contains("embedded.path")),
            "{error:?}"
        );
    }
    let outside = Collection { name: "../outside".to_owned(), vector_name: None, text_field: "text".to_owned() };
    let config = Embedded { path: folder.path().join("store"), collections: vec![outside] };
    assert!(matches!(EmbeddedStore::open(&config), Err(StoreError::Configuration { .. })));
    assert!(!folder.path().join("outside").exists());
}

/// Runs as a process of its own, see below. Writes until it is killed, and says what was acknowledged.
#[tokio::test]
#[ignore = "the process that the next test kills"]
async fn writes_until_it_is_killed() {
    let folder = std::env::var(FOLDER).unwrap();
    let store = open(Path::new(&folder)).unwrap();
    store.ensure_collection("docs", &spec()).await.unwrap();
    for start in (0..).step_by(usize::try_from(BATCH).unwrap()) {
        store.upsert("docs", (start..start + BATCH).map(|number| document(number, "kept")).collect()).await.unwrap();
        println!("acknowledged {start}");
    }
}

fn start_writer(folder: &Path) -> (Child, tokio::io::Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

fn acknowledged(line: &str) -> Option<u64> {
    line.rsplit_once("acknowledged ")?.1.trim().parse().ok()
}

#[tokio::test]
async fn everything_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let run = async {
        let mut last = None;
        for _ in 0..3 {
            let (mut child, mut lines) = start_writer(folder.path());
            let mut seen = 0;
            while seen < 12 {
                let line = lines.next_line().await.unwrap().expect("the writer ended by itself");
                if let Some(start) = acknowledged(&line) {
                    seen += 1;
                    last = last.max(Some(start));
                }
            }
            let error = open(folder.path()).unwrap_err();
            assert!(error.to_string().contains(&format!("process {}", child.id().unwrap())), "{error}");
            // SIGKILL, in the middle of whatever it is doing.
            child.kill().await.unwrap();
            while let Some(line) = lines.next_line().await.unwrap() {
                last = last.max(acknowledged(&line));
            }

            let documents = last.unwrap() + BATCH;
            let store = open(folder.path()).unwrap();
            let ids: Vec<DocumentId> = (0..documents).map(DocumentId::Number).collect();
            let existing = store.existing("docs", &ids).await.unwrap();
            let lost: Vec<usize> = (0..existing.len()).filter(|index| !existing[*index]).collect();
            assert!(lost.is_empty(), "documents {lost:?} were acknowledged and are gone");
            for number in [0, documents / 2, documents - 1] {
                assert_eq!(texts(&store, number).await, ["kept"]);
            }
            // What is written after the kill counts, too.
            store.upsert("docs", vec![document(3, "after")]).await.unwrap();
            assert_eq!(texts(&store, 3).await, ["after"]);
            store.upsert("docs", vec![document(3, "kept")]).await.unwrap();
            assert_eq!(texts(&store, 3).await, ["kept"]);
            let info = store.check("docs", &spec()).await.unwrap();
            assert!(info.documents >= documents, "{info:?}");
            let all = VectorQuery {
                collection: "docs".to_owned(),
                vector: vec![1.0; 8],
                limit: usize::MAX,
                filter: Some(json!({"must": [{"key": "number", "range": {"lt": documents}}]})),
            };
            let found = store.search(all).await.unwrap();
            assert_eq!(found.len() as u64, documents);
            assert!(found.iter().all(|candidate| candidate.payload.get("text") == Some(&Value::from("kept"))));
        }
    };
    tokio::time::timeout(Duration::from_secs(120), run).await.expect("the test took too long");
}
