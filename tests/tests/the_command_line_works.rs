//! `demo`, `index`, `search` and `preflight` of the real binary, over the tiny pair.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use rerank_tests::http::{Finished, LIMIT, root, run_server, server_binary, tiny_pair};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// A command that must succeed.
async fn run(arguments: &[&str]) -> Finished {
    let finished = run_server(arguments).await.unwrap();
    assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
    finished
}

fn configuration(folder: &Path) -> String {
    let path = folder.join("config.yaml");
    fs::write(&path, tiny_pair(&folder.join("store"))).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_demo_shows_both_orders_of_five_queries() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let finished = run(&["demo", "--once", "--data", data.to_str().unwrap()]).await;
    let said = &finished.stdout;
    assert_eq!(said.matches("Query: ").count(), 5, "{said}");
    assert_eq!(said.matches("reranked order  (+").count(), 5, "{said}");
    assert_eq!(said.matches("vector order  (").count(), 5, "{said}");
    assert!(said.contains("** "), "no relevant document is shown: {said}");
    let first =
        said.lines().find(|line| line.starts_with("First answer")).expect("the time of the first answer is told");
    println!("{first}");
    assert_eq!(finished.stderr, "", "a demo that works has nothing to warn of");
}

/// The commands that a text shows, each as its words.
fn curl_commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let commands = joined.lines().filter_map(|line| line.trim().strip_prefix("curl "));
    commands.map(|command| shlex::split(command).expect("a shell can read it")).collect()
}

/// Does what curl would do with the words that the demo uses.
async fn curl(words: &[String]) -> reqwest::Response {
    let after = |flag: &str| words.iter().skip_while(|word| *word != flag).nth(1);
    let url = words.iter().find(|word| word.starts_with("http://")).expect("a command has an address");
    let client = reqwest::Client::new();
    let request = match after("-d") {
        Some(body) => client.post(url).body(body.clone()),
        None => client.get(url),
    };
    let header = after("-H").and_then(|header| header.split_once(": "));
    let request = header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    request.timeout(LIMIT).send().await.unwrap()
}

#[tokio::test]
async fn the_demo_then_serves_the_commands_that_it_prints() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(server_binary().unwrap());
    command.args(["demo", "--port", "0", "--data"]).arg(folder.path()).current_dir(root());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let mut demo = command.spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut printed = String::new();
    while !printed.contains("Stop with") {
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        printed = printed + &line.expect("the demo ended before it served") + "\n";
    }
    let commands = curl_commands(&printed);
    assert_eq!(commands.len(), 6, "{printed}");
    for words in &commands {
        let response = curl(words).await;
        let status = response.status().as_u16();
        assert_eq!(status, 200, "{words:?}: {}", response.text().await.unwrap());
    }
    // A second demo leaves the collections of the first alone.
    let second = run_server(&["demo", "--once", "--data", folder.path().to_str().unwrap()]).await.unwrap();
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("another demo uses this folder"), "{second:?}");
    assert_eq!(curl(&commands[0]).await.status().as_u16(), 200);

    let id = Pid::from_raw(i32::try_from(demo.id().unwrap()).unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    assert_eq!(timeout(LIMIT, demo.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn what_is_indexed_is_found_and_a_second_run_skips_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(folder.path());
    let documents = folder.path().join("documents.jsonl");
    let lines = [
        r#"{"id": "bread", "text": "Sourdough bread rises slowly in a cold kitchen.", "page": 3}"#,
        r#"{"id": 7, "text": "The brake pads of a bicycle squeal in the rain."}"#,
        r#"{"id": "stars", "text": "A telescope shows the moons of Jupiter."}"#,
    ];
    fs::write(&documents, lines.join("\n")).unwrap();
    let index = ["index", "--config", &config, "--collection", "corpus", documents.to_str().unwrap()];
    let first = run(&index).await;
    assert!(first.stdout.contains("3 indexed"), "{first:?}");
    let second = run(&index).await;
    assert!(second.stdout.contains("0 indexed, 3 already there"), "{second:?}");

    let found = run(&["search", "--config", &config, "-k", "2", "--json", "my sourdough bread does not rise"]).await;
    let answer: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(answer["reranking_used"], true, "{answer}");
    assert_eq!(answer["num_candidates"], 3);
    assert_eq!(answer["results"].as_array().unwrap().len(), 2);

    let vector =
        ["search", "--config", &config, "-k", "1", "--no-rerank", "--json", "my sourdough bread does not rise"];
    let answer: Value = serde_json::from_str(&run(&vector).await.stdout).unwrap();
    assert_eq!(answer["results"][0]["id"], "bread", "{answer}");
    assert_eq!(answer["results"][0]["payload"]["page"], 3);
    assert_eq!(answer["reranking_used"], false);
}

#[tokio::test]
async fn a_document_without_text_is_told_with_its_line_and_nothing_is_indexed() {
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(folder.path());
    let documents = folder.path().join("documents.jsonl");
    fs::write(&documents, "{\"id\": 1, \"text\": \"a\"}\n{\"id\": 2}\n").unwrap();
    let arguments = ["index", "--config", &config, "--collection", "corpus", documents.to_str().unwrap()];
    let finished = run_server(&arguments).await.unwrap();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("line 2") && finished.stderr.contains("text"), "{finished:?}");

    let other = ["index", "--config", &config, "--collection", "other", documents.to_str().unwrap()];
    let finished = run_server(&other).await.unwrap();
    assert!(finished.stderr.contains("configured: corpus"), "{finished:?}");
}

#[tokio::test]
async fn preflight_finds_nothing_wrong_with_the_tiny_pair() {
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(folder.path());
    let finished = run(&["preflight", "--config", &config]).await;
    println!("{}", finished.stdout);
    for found in ["ok       weights        tiny-reranker", "ok       memory", "ok       store"] {
        assert!(finished.stdout.contains(found), "{found:?} is not in {finished:?}");
    }
    assert!(!finished.stdout.contains("error"), "{finished:?}");
}

/// The corpus with so many of its queries.
fn small_corpus(folder: &Path, queries: usize) -> String {
    let (from, to) = (root().join("examples").join("corpus"), folder.join("corpus"));
    fs::create_dir_all(to.join("qrels")).unwrap();
    for file in ["corpus.jsonl", "qrels/test.tsv"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let all = fs::read_to_string(from.join("queries.jsonl")).unwrap();
    let some: Vec<&str> = all.lines().take(queries).collect();
    fs::write(to.join("queries.jsonl"), some.join("\n")).unwrap();
    to.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn both_orders_are_measured_against_judgements() {
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(folder.path());
    let corpus = small_corpus(folder.path(), 12);
    let (json, html) = (folder.path().join("report.json"), folder.path().join("report.html"));

    let without = run_server(&["evaluate", "--config", &config, "--corpus", &corpus]).await.unwrap();
    assert_eq!(without.code, Some(1), "{without:?}");
    assert!(without.stderr.contains("does not exist"), "{without:?}");

    let files = ["--json", json.to_str().unwrap(), "--html", html.to_str().unwrap()];
    let arguments = [&["evaluate", "--config", &config, "--corpus", &corpus, "--index"][..], &files].concat();
    let said = run(&arguments).await.stdout;
    println!("{said}");
    assert!(
        said.starts_with("12 queries on corpus: tiny-embedder (float32) against tiny-reranker (float32)"),
        "{said}"
    );
    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let ndcg = &report["quality"]["ndcg_at_10"];
    assert!(ndcg["reranked"].as_f64() > ndcg["vector"].as_f64() && ndcg["vector"].as_f64() > Some(0.2), "{ndcg}");
    assert!(said.contains(&format!("{:.3}", ndcg["reranked"].as_f64().unwrap())), "{said}");
    assert_eq!((report["queries"].as_u64(), report["fallbacks"].as_u64()), (Some(12), Some(0)));
    assert_eq!(report["per_query"].as_array().unwrap().len(), 12);
    let page = fs::read_to_string(html).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.matches("<svg").count() == 3, "{page}");
}

#[tokio::test]
async fn logged_queries_are_compared_without_judgements_and_one_that_cannot_be_asked_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(folder.path());
    let documents = folder.path().join("documents.jsonl");
    fs::write(&documents, "{\"id\": 1, \"text\": \"Bread rises.\"}\n{\"id\": 2, \"text\": \"Brakes squeal.\"}\n")
        .unwrap();
    run(&["index", "--config", &config, "--collection", "corpus", documents.to_str().unwrap()]).await;
    let log = folder.path().join("log.jsonl");
    fs::write(&log, "{\"q\": \"bread\", \"k\": 5}\n{\"query\": \" \"}\n{\"text\": \"brakes\"}\n").unwrap();
    let html = folder.path().join("report.html");
    let arguments =
        ["evaluate", "--config", &config, "--shadow", log.to_str().unwrap(), "--html", html.to_str().unwrap()];
    let finished = run(&arguments).await;
    assert!(finished.stdout.starts_with("2 queries on corpus"), "{finished:?}");
    assert!(finished.stdout.contains("queries with another first result"), "{finished:?}");
    assert!(!finished.stdout.contains("nDCG"), "{finished:?}");
    assert!(finished.stderr.contains("query 2 is left out: query is empty"), "{finished:?}");
    let page = fs::read_to_string(html).unwrap();
    assert!(page.matches("<svg").count() == 2 && !page.contains("nDCG"), "{page}");
}
