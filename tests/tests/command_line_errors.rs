//! The command line tells what is wrong, and its exit code says of what kind.

use std::path::Path;

use rerank_tests::http::{Finished, run_server, without_models};
use serde_json::Value;

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn assert_ended(finished: &Finished, code: i32, says: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for text in says {
        assert!(finished.stderr.contains(text), "{text:?} is not in {finished:?}");
    }
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
}

#[tokio::test]
async fn a_wrong_command_line_exits_with_2_and_the_usage() {
    for arguments in [
        &["search"][..],
        &["search", "-k", "0", "q"],
        &["index", "--collection", "docs"],
        &["serve", "--drain-delay-seconds", "soon"],
        &["serve", "--log-format", "xml"],
        &["fly"],
    ] {
        assert_ended(&run_server(arguments).await.unwrap(), 2, &["--help"]);
    }
}

#[tokio::test]
async fn help_names_the_exit_codes() {
    let finished = run_server(&["--help"]).await.unwrap();
    assert_eq!(finished.code, Some(0));
    assert!(finished.stdout.contains("Exit codes: 0 done, 1 failure"), "{finished:?}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_exits_with_3_and_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.yaml").to_str().unwrap().to_owned();
    let cases = [
        (absent.clone(), vec!["failed to read the configuration", "absent.yaml"]),
        (write(folder.path(), "typo.yaml", "rerankr: {}\n"), vec!["rerankr", "did you mean", "reranker"]),
        (write(folder.path(), "type.yaml", "reranker: {maxLength: long}\n"), vec!["reranker.maxLength"]),
        (write(folder.path(), "yaml.yaml", "reranker: [\n"), vec!["not valid"]),
        (
            write(folder.path(), "filter.yaml", &format!("{}logging: {{filter: 'a=b=c'}}\n", without_models())),
            vec!["logging.filter"],
        ),
        (
            write(folder.path(), "keys.yaml", &format!("{}access: {{apiKeysFile: /no/such/keys}}\n", without_models())),
            vec!["access.apiKeysFile", "/no/such/keys"],
        ),
    ];
    for (config, says) in cases {
        let finished = run_server(&["serve", "--config", &config]).await.unwrap();
        assert_ended(&finished, 3, &says);
    }
    for arguments in [
        &["search", "--config", &absent, "q"][..],
        &["index", "--config", &absent, "--collection", "docs", "x.jsonl"],
        &["preflight", "--config", &absent, "--print-config"],
    ] {
        assert_ended(&run_server(arguments).await.unwrap(), 3, &["absent.yaml"]);
    }
}

#[tokio::test]
async fn preflight_finds_missing_weights_and_keys_and_says_so_in_bounded_json() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let text = format!("{}access: {{apiKeysFile: '{}'}}\n", without_models(), keys.display());
    let config = write(folder.path(), "config.yaml", &text);
    let termination_log = folder.path().join("termination-log");
    let termination_log = termination_log.to_str().unwrap();
    let finished =
        run_server(&["preflight", "--config", &config, "--json", "--termination-log", termination_log]).await.unwrap();
    assert_eq!(finished.code, Some(4), "{finished:?}");
    let json: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(json["ok"], false);
    let checks: Vec<&str> =
        json["findings"].as_array().unwrap().iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    assert!(checks.contains(&"weights") && checks.contains(&"api_keys"), "{checks:?}");
    let written = std::fs::read_to_string(termination_log).unwrap();
    assert!(written.len() <= 4_096);
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), json);

    let for_people = run_server(&["preflight", "--config", &config]).await.unwrap();
    assert_eq!(for_people.code, Some(4));
    assert!(for_people.stdout.contains("ERROR    weights"), "{for_people:?}");
}

#[tokio::test]
async fn preflight_reports_a_configuration_that_is_not_valid_as_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "config.yaml", "rerankr: {}\n");
    let finished = run_server(&["preflight", "--config", &config, "--json"]).await.unwrap();
    assert_eq!(finished.code, Some(3), "{finished:?}");
    let json: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(json["findings"][0]["check"], "configuration");
    assert!(json["findings"][0]["message"].as_str().unwrap().contains("rerankr"));
}

#[tokio::test]
async fn the_printed_configuration_shows_every_default_and_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "config.yaml", &without_models());
    let printed = run_server(&["preflight", "--config", &config, "--print-config"]).await.unwrap();
    assert_eq!(printed.code, Some(0), "{printed:?}");
    for setting in ["apiAddress: 0.0.0.0:8000", "maxLength: 8192", "unloadTimeoutSeconds: 300", "bodyBytes: 2097152"] {
        assert!(printed.stdout.contains(setting), "{setting} is not in {}", printed.stdout);
    }
    let again = write(folder.path(), "again.yaml", &printed.stdout);
    let reprinted = run_server(&["preflight", "--config", &again, "--print-config"]).await.unwrap();
    assert_eq!(reprinted.stdout, printed.stdout);
}

#[tokio::test]
async fn index_and_search_need_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "config.yaml", &without_models());
    let documents = write(folder.path(), "docs.jsonl", "{\"id\": 1, \"text\": \"a\"}\n");
    let index = run_server(&["index", "--config", &config, "--collection", "docs", &documents]).await.unwrap();
    assert_ended(&index, 1, &["vectorStore"]);
    let search = run_server(&["search", "--config", &config, "q"]).await.unwrap();
    assert_ended(&search, 1, &["no vector store"]);
}
