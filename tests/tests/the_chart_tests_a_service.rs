//! What `helm test` runs, run against a real server: it passes where a search is answered, and says why where it is not.

use std::fs;
use std::process::Stdio;

use rerank_tests::api_server::binaries;
use rerank_tests::http::{
    Finished, LIMIT, ServerProcess, StartOptions, root, run_server, server_binary, tiny_pair, without_models,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

/// Runs the container of `helm test` as the chart renders it with these values, a key in its environment.
async fn tested(values: &Value, key: Option<&str>) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.json");
    fs::write(&file, json!({ "test": values }).to_string()).unwrap();
    let helm = binaries::folder(|name| std::env::var_os(name)).unwrap().join("helm");
    let mut command = Command::new(&helm);
    command.args(["template", "rerank-operator"]).arg(root().join("charts/rerank-operator")).arg("--values").arg(file);
    command.env("HOME", folder.path()).stdin(Stdio::null());
    let rendered: Finished = command.output().await.expect("make api-server builds helm").into();
    assert_eq!(rendered.code, Some(0), "{rendered:?}");
    let mut documents =
        serde_yaml::Deserializer::from_str(&rendered.stdout).map(|one| Value::deserialize(one).unwrap());
    let pod = documents.find(|document| document["kind"] == "Pod").unwrap();
    let container = &pod["spec"]["containers"][0];
    let arguments: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
    let mut command = Command::new(server_binary().unwrap());
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    if let (Some(key), Some(variable)) = (key, container["env"][0]["name"].as_str()) {
        command.env(variable, key);
    }
    timeout(LIMIT, command.output()).await.unwrap().unwrap().into()
}

#[tokio::test]
async fn one_search_passes_and_waits_for_its_models() {
    let folder = tempfile::tempdir().unwrap();
    let (path, keys) = (folder.path().join("config.yaml"), folder.path().join("keys"));
    fs::write(&keys, "helm: the-key-of-helm-test-0123456789\n").unwrap();
    let config = tiny_pair(&folder.path().join("store"));
    fs::write(&path, &config).unwrap();
    let corpus = root().join("examples/corpus/corpus.jsonl");
    let index = ["index", "--config", path.to_str().unwrap(), "--collection", "corpus", corpus.to_str().unwrap()];
    let indexed = run_server(&index).await.unwrap();
    assert_eq!(indexed.code, Some(0), "{indexed:?}");
    let config = format!("{config}access: {{apiKeysFile: '{}'}}\n", keys.display());
    let server = ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await.unwrap();
    let url = format!("http://{}", server.api);
    let values =
        json!({"url": url, "query": "must my pool be fenced", "apiKeySecret": {"name": "keys", "key": "helm"}});
    let key = "the-key-of-helm-test-0123456789";
    let passed = tested(&values, Some(key)).await;
    assert_eq!(passed.code, Some(0), "{passed:?}");
    assert!(passed.stdout.contains("3 of ") && passed.stdout.contains("reranked by \"tiny-reranker\""), "{passed:?}");
    // Without a vector store texts would be ordered instead.
    let mut texts = values.clone();
    texts["documents"] = json!(["A fence, with a gate.", "Bread: flour, \"salt\"."]);
    let passed = tested(&texts, Some(key)).await;
    assert_eq!((passed.code, passed.stdout.starts_with("2 texts in order")), (Some(0), true), "{passed:?}");
    let refused = tested(&values, Some("another")).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("401 unauthorized"), "{refused:?}");
    assert!(!format!("{refused:?}{passed:?}").contains(key), "the key is told to nobody");
}

#[tokio::test]
async fn what_is_wrong_is_said_with_what_to_do() {
    let nothing = tested(&json!({}), None).await;
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    for words in ["--url \"\"", "helm upgrade rerank-operator", "--set test.rerankDeployment=NAME"] {
        assert!(nothing.stderr.contains(words), "{nothing:?}");
    }
    let options = StartOptions { config: without_models(), ..StartOptions::default() };
    let server = ServerProcess::start(options).await.unwrap();
    let url = format!("http://{}", server.api);
    let only_reranks = tested(&json!({"url": url, "rerankDeployment": "docs"}), None).await;
    assert!(only_reranks.code == Some(1) && only_reranks.stderr.contains("--document"), "{only_reranks:?}");
    let values = json!({"url": url, "rerankDeployment": "docs", "documents": ["a"], "timeoutSeconds": 5});
    let without = tested(&values, None).await;
    assert_eq!(without.code, Some(1), "{without:?}");
    for words in ["503 reranker_unavailable", "after 5 s", "kubectl describe rrd/docs -n default"] {
        assert!(without.stderr.contains(words), "{without:?}");
    }
}
