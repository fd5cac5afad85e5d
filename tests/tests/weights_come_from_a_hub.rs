//! Models that are not there are downloaded, whole or not at all, and every byte of them is known.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rerank_crds::server_config::Hub as HubConfig;
use rerank_server::hub::{Hub, HubError};
use rerank_tests::fault_proxy::FaultProxy;
use rerank_tests::http::{ServerProcess, StartOptions, root, run_server};
use rerank_tests::small_hub::{COMMIT, HubFault, SmallHub, flip_a_byte};
use rustix::process::Signal;
use tokio::time::sleep;

const MODEL: &str = "acme/tiny-reranker";
const LIMIT: Duration = Duration::from_secs(60);

fn tiny_reranker() -> PathBuf {
    root().join("tests/models/tiny-reranker")
}

async fn small_hub() -> SmallHub {
    SmallHub::start(&[(MODEL, &tiny_reranker())]).await.unwrap()
}

fn client(hub: &SmallHub) -> Hub {
    Hub::new(&HubConfig { endpoint: hub.endpoint(), token_file: None }).unwrap()
}

fn snapshot(weights: &Path) -> PathBuf {
    weights.join("models--acme--tiny-reranker/snapshots").join(COMMIT)
}

fn assert_whole(weights: &Path) {
    for file in ["config.json", "tokenizer.json", "model.safetensors", "self-test.json"] {
        let (here, there) = (fs::read(snapshot(weights).join(file)), fs::read(tiny_reranker().join(file)));
        assert!(here.unwrap() == there.unwrap(), "{file}");
    }
}

#[tokio::test]
async fn a_model_is_downloaded_into_a_hub_cache_with_its_commit_and_its_digests() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    let folder = client(&hub).download(weights.path(), MODEL, "main").await.unwrap();
    assert_eq!(folder, snapshot(weights.path()));
    assert_whole(weights.path());
    assert!(!folder.join("README.md").exists(), "only what is needed");
    let reference = fs::read_to_string(weights.path().join("models--acme--tiny-reranker/refs/main")).unwrap();
    assert_eq!(reference, COMMIT);
    let manifest = fs::read_to_string(folder.join("manifest.json")).unwrap();
    assert!(manifest.contains(COMMIT) && manifest.contains("model.safetensors"), "{manifest}");

    let asked = hub.requests().len();
    client(&hub).download(weights.path(), MODEL, COMMIT).await.unwrap();
    assert_eq!(hub.requests().len(), asked + 1, "what is there is not fetched again");
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    hub.set(HubFault::BreakOff { after: 300_000, times: 6 });
    client(&hub).download(weights.path(), MODEL, "main").await.unwrap();
    assert_whole(weights.path());
    let taken_up: Vec<String> = hub.requests().into_iter().filter(|request| request.contains(" from ")).collect();
    assert!(taken_up.len() >= 6, "{taken_up:?}");
}

#[tokio::test]
async fn a_hub_that_only_breaks_off_is_given_up_and_what_came_is_kept_for_the_next_time() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    hub.set(HubFault::BreakOff { after: 0, times: 1_000 });
    let error = client(&hub).download(weights.path(), MODEL, "main").await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(!snapshot(weights.path()).exists(), "nothing that looks whole");
    hub.set(HubFault::None);
    client(&hub).download(weights.path(), MODEL, "main").await.unwrap();
    assert_whole(weights.path());
}

#[tokio::test]
async fn a_file_that_comes_damaged_is_refused_with_both_digests_and_nothing_of_it_is_kept() {
    for (file, digest) in [("model.safetensors", "SHA-256"), ("tokenizer.json", "git blob")] {
        let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
        hub.set(HubFault::FlippedByte(file));
        let error = client(&hub).download(weights.path(), MODEL, "main").await.unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(digest) && error.contains("expected"), "{error}");
        assert!(!snapshot(weights.path()).exists());
        hub.set(HubFault::None);
        client(&hub).download(weights.path(), MODEL, "main").await.unwrap();
        assert_whole(weights.path());
    }
}

#[tokio::test]
async fn a_file_without_an_end_is_given_up_and_one_whose_length_only_the_answer_tells_is_taken() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    hub.set(HubFault::Endless("tokenizer.json"));
    let error = client(&hub).download(weights.path(), MODEL, "main").await.unwrap_err();
    assert!(matches!(&error, HubError::Endless { file, .. } if file == "tokenizer.json"), "{error}");
    assert!(!snapshot(weights.path()).exists());
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    hub.set(HubFault::Endless("no such file"));
    client(&hub).download(weights.path(), MODEL, "main").await.unwrap();
    assert_whole(weights.path());
}

#[tokio::test]
async fn a_hub_that_answers_another_commit_than_was_asked_for_is_not_believed() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    hub.set(HubFault::OtherCommit);
    let asked = "f".repeat(40);
    let error = client(&hub).download(weights.path(), MODEL, &asked).await.unwrap_err().to_string();
    assert!(error.contains(&asked) && error.contains(COMMIT), "{error}");
    assert!(!snapshot(weights.path()).exists());
    client(&hub).download(weights.path(), MODEL, COMMIT).await.unwrap();
}

#[tokio::test]
async fn what_a_hub_refuses_says_what_would_do() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    let outcome = |model: &'static str| {
        let (client, weights) = (client(&hub), weights.path().to_owned());
        async move { client.download(&weights, model, "main").await.unwrap_err().to_string() }
    };
    assert!(outcome("acme/absent").await.contains("the hub has no \"acme/absent\" at revision \"main\""));
    for (fault, says) in [
        (HubFault::Status(401), "name a file with a token in weights.hub.tokenFile"),
        (HubFault::Status(403), "gated"),
        (HubFault::Status(429), "answered 429"),
        (HubFault::Status(500), "answered 500"),
        (HubFault::PicklesOnly, "pickle weights only (pytorch_model.bin)"),
    ] {
        hub.set(fault);
        let error = outcome(MODEL).await;
        assert!(error.contains(says), "{fault:?}: {error}");
    }
    for target in [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://metadata.google.internal/",
    ] {
        hub.set(HubFault::Redirect(target));
        let error = client(&hub).download(weights.path(), MODEL, "main").await.unwrap_err();
        let words = rerank_server::chain::describe(&error);
        assert!(words.contains("metadata service"), "{target}: {words}");
    }
    assert!(hub.requests().iter().all(|request| !request.contains("resolve")), "not a byte of weights was asked for");
    assert!(!snapshot(weights.path()).exists());
    drop(hub);
    let gone = Hub::new(&HubConfig { endpoint: "http://127.0.0.1:1".to_owned(), token_file: None }).unwrap();
    let error = gone.download(weights.path(), MODEL, "main").await.unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:1 (weights.hub.endpoint) cannot be reached"), "{error}");
}

#[tokio::test]
async fn a_token_is_sent_to_the_hub_and_to_no_other_host() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    hub.require_token("hf_canary");
    let token_file = weights.path().join("token");
    fs::write(&token_file, "hf_wrong\n").unwrap();
    let with_token = Hub::new(&HubConfig { endpoint: hub.endpoint(), token_file: Some(token_file.clone()) }).unwrap();
    let error = with_token.download(weights.path(), MODEL, "main").await.unwrap_err().to_string();
    assert!(error.contains("holds a token that may not read it") && !error.contains("hf_wrong"), "{error}");
    fs::write(&token_file, "hf_canary\n").unwrap();
    with_token.download(weights.path(), MODEL, "main").await.unwrap();
    assert_whole(weights.path());
    assert!(hub.requests().iter().any(|request| request.contains("signature")), "weights lie on another host");
    assert_eq!(hub.tokens_at_storage(), 0);
    fs::write(&token_file, "two words").unwrap();
    let error = with_token.list(MODEL, "main").await.unwrap_err().to_string();
    assert!(error.contains("weights.hub.tokenFile") && !error.contains("words\""), "{error}");
}

#[tokio::test]
async fn two_processes_download_one_model_once() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    let (first, second) = (client(&hub), client(&hub));
    let (left, right) =
        tokio::join!(first.download(weights.path(), MODEL, "main"), second.download(weights.path(), MODEL, "main"));
    assert_eq!(left.unwrap(), right.unwrap());
    let fetched = hub.requests().iter().filter(|request| request.contains("model.safetensors?signature")).count();
    assert_eq!(fetched, 1, "{:?}", hub.requests());
}

fn config(hub: &SmallHub, weights: &Path, more: &str) -> String {
    format!(
        "reranker: {{model: {MODEL}, quantization: float32, maxLength: 1024}}\n\
         lifecycle: {{unloadTimeoutSeconds: 1}}\n\
         weights: {{directory: '{}', hub: {{endpoint: '{}'}}{more}}}\n",
        weights.display(),
        hub.endpoint()
    )
}

async fn rerank(server: &ServerProcess) -> rerank_tests::http::Answer {
    server.post("/v1/rerank", r#"{"query": "q", "documents": ["a"]}"#).await.unwrap()
}

async fn state(server: &ServerProcess) -> serde_json::Value {
    server.control("/v1/models").await.unwrap().json()["data"][0]["quantizations"][0].clone()
}

#[tokio::test]
async fn the_server_downloads_at_first_use_goes_on_after_its_death_and_refuses_one_flipped_byte() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    hub.set(HubFault::Stall);
    let options = || StartOptions { config: config(&hub, weights.path(), ""), ..StartOptions::default() };
    let server = ServerProcess::start(options()).await.unwrap();
    server.wait_ready().await.unwrap();
    let part = weights.path().join("models--acme--tiny-reranker/.download").join(COMMIT).join("model.safetensors");
    let asked = async { server.post("/v1/rerank", r#"{"query": "q", "documents": ["a"]}"#).await };
    let stalled = async {
        let begun = Instant::now();
        while fs::metadata(&part).map_or(0, |metadata| metadata.len()) == 0 {
            assert!(begun.elapsed() < LIMIT, "{}", server.log());
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(state(&server).await["state"], "Loading");
    };
    tokio::select! {
        answer = asked => panic!("answered without weights: {answer:?}"),
        () = stalled => {}
    }
    server.signal(Signal::KILL).unwrap();
    server.ended().await.unwrap();

    hub.set(HubFault::None);
    let server = ServerProcess::start(options()).await.unwrap();
    server.wait_ready().await.unwrap();
    let answer = rerank(&server).await;
    assert_eq!(answer.status, 200, "{answer:?} {}", server.log());
    assert!(hub.requests().iter().any(|request| request.contains(" from 1000")), "{:?}", hub.requests());
    assert_whole(weights.path());
    assert_eq!(state(&server).await["revision"], COMMIT);
    assert!(server.log().contains("Compared a model's files with their digests"), "{}", server.log());
    assert!(!server.log().contains("canary"), "a signed address is in the log");

    flip_a_byte(&snapshot(weights.path()).join("model.safetensors")).unwrap();
    let begun = Instant::now();
    while state(&server).await["state"] != "Standby" {
        assert!(begun.elapsed() < LIMIT, "{}", server.log());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rerank(&server).await.status, 503);
    let failure = state(&server).await["failure"].as_str().unwrap_or_default().to_owned();
    assert!(failure.contains("model.safetensors") && failure.contains("SHA-256"), "{failure}");
}

#[tokio::test]
async fn preflight_says_what_would_be_downloaded_and_what_a_hub_lacks() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    let path = weights.path().join("config.yaml");
    let path_text = path.to_str().unwrap();
    fs::write(&path, config(&hub, weights.path(), "")).unwrap();
    let fine = run_server(&["preflight", "--config", path_text]).await.unwrap();
    assert_eq!(fine.code, Some(0), "{fine:?}");
    assert!(fine.stdout.contains("will be downloaded from") && fine.stdout.contains(COMMIT), "{fine:?}");
    fs::write(&path, config(&hub, weights.path(), "").replace("tiny-reranker", "absent")).unwrap();
    let absent = run_server(&["preflight", "--config", path_text]).await.unwrap();
    assert_eq!(absent.code, Some(4), "{absent:?}");
    assert!(absent.stdout.contains("the hub has no \"acme/absent\""), "{absent:?}");
}

#[tokio::test]
async fn the_command_downloads_what_is_missing_once_and_leaves_why_it_failed_as_its_last_words() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    let path = weights.path().join("config.yaml");
    let words = weights.path().join("termination-log");
    let arguments = ["download", "--config", path.to_str().unwrap(), "--termination-log", words.to_str().unwrap()];
    fs::write(&path, config(&hub, weights.path(), "").replace("tiny-reranker", "absent")).unwrap();
    let absent = run_server(&arguments).await.unwrap();
    assert_eq!(absent.code, Some(1), "{absent:?}");
    assert!(fs::read_to_string(&words).unwrap().contains("the hub has no \"acme/absent\""));

    fs::write(&path, config(&hub, weights.path(), "")).unwrap();
    let fetched = run_server(&arguments).await.unwrap();
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    assert_whole(weights.path());
    let asked = hub.requests().len();
    let again = run_server(&arguments).await.unwrap();
    assert!(again.code == Some(0) && again.stderr.contains("Nothing to download"), "{again:?}");
    assert_eq!(hub.requests().len(), asked);
}

#[tokio::test]
async fn where_pinning_is_asked_for_a_folder_without_digests_is_refused() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    let pinned = config(&hub, weights.path(), ", requirePinned: true")
        .replace("maxLength: 1024", &format!("maxLength: 1024, revision: {COMMIT}"));
    let server = ServerProcess::start(StartOptions { config: pinned, ..StartOptions::default() }).await.unwrap();
    server.wait_ready().await.unwrap();
    assert_eq!(rerank(&server).await.status, 200, "{}", server.log());
    drop(server);

    let models = root().join("tests/models");
    let unpinned = format!(
        "reranker: {{model: tiny-reranker, quantization: float32, maxLength: 1024}}\n\
         weights: {{directory: '{}', requirePinned: true}}\n",
        models.display()
    );
    let server = ServerProcess::start(StartOptions { config: unpinned, ..StartOptions::default() }).await.unwrap();
    server.wait_ready().await.unwrap();
    assert_eq!(rerank(&server).await.status, 503);
    assert!(state(&server).await["failure"].as_str().unwrap().contains("weights.requirePinned"), "{}", server.log());
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_used() {
    let (hub, weights) = (small_hub().await, tempfile::tempdir().unwrap());
    // `hub.invalid` has no address, so whatever arrives came through the proxy.
    let address = hub.endpoint().trim_start_matches("http://").parse().unwrap();
    let proxy = FaultProxy::start(address).await.unwrap();
    let config = config(&hub, weights.path(), "").replace(&hub.endpoint(), "http://hub.invalid");
    let options = StartOptions {
        config,
        environment: vec![
            ("HTTP_PROXY".to_owned(), format!("http://{}", proxy.address())),
            ("NO_PROXY".to_owned(), "127.0.0.1".to_owned()),
        ],
        ..StartOptions::default()
    };
    let server = ServerProcess::start(options).await.unwrap();
    server.wait_ready().await.unwrap();
    let answer = rerank(&server).await;
    assert_eq!(answer.status, 200, "{answer:?} {}", server.log());
    assert_whole(weights.path());
}
