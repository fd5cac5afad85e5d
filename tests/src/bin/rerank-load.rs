//! `make load`: the server under load, up to four times what it can do. The server has one core, the generator (oha) another.
//! It prints what it measured and fails where a bound is broken.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rerank_tests::corpus::Corpus;
use rerank_tests::http::{ServerProcess, StartOptions, root};
use rerank_tests::process;
use serde_json::{Value, json};
use tokio::process::Command;

/// Documents of one request.
const DOCUMENTS: usize = 15;
/// Documents of the large request.
const MANY_DOCUMENTS: usize = 1_000;
/// Clients that ask one after the other, to find what the server can do. They keep it busy and fill no queue.
const CLOSED_CLIENTS: usize = 8;
/// Requests come in bursts of so many. The generator cannot draw their times at random; such bursts make the queue at 80 % that
/// random arrivals would (the 99th percentile of M/D/1 is about ten requests).
const BURST: u32 = 8;
/// Connections of the open load: what waits does not slow the generator down.
const OPEN_CONNECTIONS: usize = 600;
/// Seconds of each load that are measured.
const SECONDS: u64 = 30;
/// The same at four times what the server can do.
const OVERLOAD_SECONDS: u64 = 60;
/// Seconds before the overload is measured, in which allocators have come to what they need.
const SETTLING_SECONDS: u64 = 20;
const LOADS_PERCENT: [u32; 4] = [50, 80, 100, 400];

/// Of what the server can do, at four times as much.
const GOODPUT: f64 = 0.9;
/// A refusal takes no longer, at the 99th percentile.
const REFUSAL: Duration = Duration::from_millis(50);
/// What is accepted at four times as much takes no longer than so many times what it takes at 80 %.
const ACCEPTED_TIMES: f64 = 2.0;
/// Growth of resident memory while overloaded that counts as none: allocators come and go.
const FLAT_BYTES: u64 = 8 * 1024 * 1024;
/// A large request's peak above the model.
const LARGE_REQUEST_BYTES: u64 = 50 * 1024 * 1024;

const SERVER_CORE: usize = 0;
const GENERATOR_CORE: usize = 1;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(broken) if broken.is_empty() => ExitCode::SUCCESS,
        Ok(broken) => {
            for bound in broken {
                eprintln!("broken: {bound}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What one load came to.
#[derive(Debug)]
struct Measured {
    offered: Option<f64>,
    accepted_per_second: f64,
    accepted: Percentiles,
    refused_per_second: f64,
    refused: Option<Percentiles>,
    /// Statuses that are neither success nor refusal, and connections that broke.
    other: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Percentiles {
    p50: f64,
    p99: f64,
    p999: f64,
}

async fn run() -> Result<Vec<String>> {
    ensure!(
        std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2),
        "this needs two cores, one for the server and one for the generator"
    );
    let oha = PathBuf::from(std::env::args().nth(1).context("the first argument is the path of oha; run `make load`")?);
    let corpus = Corpus::read()?;
    let texts: Vec<&str> = corpus.documents.iter().map(|document| document.text.as_str()).collect();
    let query = corpus.queries.first().context("the corpus has no queries")?.text.clone();
    let folder = tempfile::tempdir()?;
    let body = folder.path().join("body.json");
    std::fs::write(&body, request(&query, &texts, DOCUMENTS))?;

    let server = start("", Some(SERVER_CORE)).await?;
    let id = server.id().context("the server has ended")?;
    let url = format!("http://{}/v1/rerank", server.api);
    let mut broken = Vec::new();

    let generator = Generator { oha: &oha, url: &url, body: &body };
    let closed = generator.closed(CLOSED_CLIENTS).await?;
    let peak = closed.accepted_per_second;
    println!(
        "Rerank requests of {DOCUMENTS} documents on the tiny pair, the server on one core and oha on another; times in ms.\n\
         {CLOSED_CLIENTS} clients, one request after the other: {peak:.1} requests/s, p50 {:.0}, p99 {:.0}\n\n\
         load    offered/s  done/s    p50    p99  p99.9  refused/s  p99 of refusals  other",
        closed.accepted.p50, closed.accepted.p99
    );
    ensure!(closed.other.is_empty(), "the unloaded server answered {:?}", closed.other);

    let mut at_80 = None;
    for percent in LOADS_PERCENT {
        let rate = peak * f64::from(percent) / 100.0;
        if percent > 100 {
            generator.open(rate, SETTLING_SECONDS).await?;
        }
        let before = process::memory(id)?.resident();
        let measured = generator.open(rate, if percent > 100 { OVERLOAD_SECONDS } else { SECONDS }).await?;
        let after = process::memory(id)?.resident();
        println!("{}", line(percent, &measured));
        if !measured.other.is_empty() {
            broken.push(format!("at {percent} %: {}", measured.other.join(", ")));
        }
        match percent {
            80 => at_80 = Some(measured.accepted),
            400 => {
                let goodput = measured.accepted_per_second / peak;
                let grown = after.saturating_sub(before);
                println!(
                    "\nat 400 %: goodput {:.0} % of the peak, resident memory {:+.1} MB in {OVERLOAD_SECONDS} s",
                    goodput * 100.0,
                    signed_megabytes(before, after)
                );
                if goodput < GOODPUT {
                    broken.push(format!("goodput at 400 % is {:.0} % of the peak, less than 90 %", goodput * 100.0));
                }
                if measured.refused.is_none_or(|refused| refused.p99 > REFUSAL.as_secs_f64() * 1e3) {
                    broken.push("refusals at 400 % take longer than 50 ms (p99), or there are none".to_owned());
                }
                if grown > FLAT_BYTES {
                    broken.push(format!("memory grew by {grown} bytes at 400 %"));
                }
                if let Some(at_80) = at_80 {
                    let times = measured.accepted.p99 / at_80.p99;
                    println!("p99 of what is accepted: {times:.2} x that at 80 %");
                    if times > ACCEPTED_TIMES {
                        broken.push(format!("p99 of what is accepted at 400 % is {times:.2} x that at 80 %"));
                    }
                }
            }
            _ => {}
        }
    }

    drop(server);
    let above = large_request(&request(&query, &texts, MANY_DOCUMENTS)).await?;
    println!("a request of {MANY_DOCUMENTS} documents: peak {:.1} MB above the loaded model", megabytes(above));
    if above > LARGE_REQUEST_BYTES {
        broken.push(format!("a request of {MANY_DOCUMENTS} documents took {above} bytes above the model"));
    }
    Ok(broken)
}

/// The tiny reranker, loaded. `more`: further settings.
async fn start(more: &str, core: Option<usize>) -> Result<ServerProcess> {
    let models = root().join("tests/models");
    let config = format!(
        "reranker: {{model: tiny-reranker, quantization: float32, maxLength: 1024}}\n\
         lifecycle: {{loading: Preload, unloadTimeoutSeconds: 0}}\n\
         {more}\
         weights: {{directory: '{}'}}\n",
        models.display()
    );
    // The line that tells the ports is at level info.
    let log_filter = Some("error,rerank_server::run=info".to_owned());
    let server = ServerProcess::start(StartOptions { config, core, log_filter, ..StartOptions::default() }).await?;
    server.wait_ready().await?;
    Ok(server)
}

fn request(query: &str, texts: &[&str], documents: usize) -> String {
    let documents: Vec<&str> = texts.iter().copied().cycle().take(documents).collect();
    json!({"query": query, "documents": documents, "top_n": 5, "return_documents": false}).to_string()
}

/// Peak of resident memory above that before the request.
async fn large_request(body: &str) -> Result<u64> {
    // On a slow machine a thousand documents take longer than the usual deadline.
    let server = start("timeouts: {requestSeconds: 300, rerankSeconds: 300}\n", None).await?;
    let id = server.id().context("the server has ended")?;
    let before = process::memory(id)?.resident();
    process::reset_peak(id)?;
    let answer = server.post("/v1/rerank", body.to_owned()).await?;
    ensure!(answer.status == 200, "the large request was answered {}: {}", answer.status, answer.text);
    Ok(process::memory(id)?.peak.saturating_sub(before))
}

fn line(percent: u32, measured: &Measured) -> String {
    let Measured { offered, accepted_per_second, accepted, refused_per_second, refused, other } = measured;
    let refused = refused.map_or_else(|| "-".to_owned(), |refused| format!("{:.1}", refused.p99));
    let other = if other.is_empty() { "none".to_owned() } else { other.join(", ") };
    format!(
        "{percent:>4} %  {:>9.1}  {accepted_per_second:>6.1}  {:>5.0}  {:>5.0}  {:>5.0}  {refused_per_second:>9.1}  {refused:>15}  {other}",
        offered.unwrap_or_default(),
        accepted.p50,
        accepted.p99,
        accepted.p999
    )
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn signed_megabytes(before: u64, after: u64) -> f64 {
    megabytes(after) - megabytes(before)
}

/// oha, on a core of its own.
struct Generator<'a> {
    oha: &'a Path,
    url: &'a str,
    body: &'a Path,
}

impl Generator<'_> {
    /// Clients that ask one after the other.
    async fn closed(&self, clients: usize) -> Result<Measured> {
        self.run(None, clients, SECONDS).await
    }

    /// So many requests a second, whatever becomes of them.
    async fn open(&self, rate: f64, seconds: u64) -> Result<Measured> {
        self.run(Some(rate), OPEN_CONNECTIONS, seconds).await
    }

    async fn run(&self, rate: Option<f64>, connections: usize, seconds: u64) -> Result<Measured> {
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(GENERATOR_CORE.to_string()).arg(self.oha);
        command.args(["--no-tui", "--output-format", "json", "--stats-success-breakdown", "--method", "POST"]);
        command.args(["-H", "content-type: application/json", "-D"]).arg(self.body);
        command.arg("-z").arg(format!("{seconds}s")).arg("-c").arg(connections.to_string());
        command.arg("--wait-ongoing-requests-after-deadline");
        if let Some(rate) = rate {
            let pause = Duration::from_secs_f64(f64::from(BURST) / rate);
            command.arg("--burst-delay").arg(format!("{}ms", pause.as_millis()));
            command.arg("--burst-rate").arg(BURST.to_string()).arg("--latency-correction");
        }
        command.arg(self.url).kill_on_drop(true);
        let output = command.output().await.context("failed to run oha by taskset")?;
        if !output.status.success() {
            bail!("oha ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let report: Value = serde_json::from_slice(&output.stdout).context("oha's report cannot be read")?;
        measured(&report, rate)
    }
}

/// oha's report: statuses, and percentiles of successes and of the rest apart.
fn measured(report: &Value, offered: Option<f64>) -> Result<Measured> {
    let seconds = report["summary"]["total"].as_f64().context("oha tells no total")?;
    let mut accepted = 0.0;
    let mut refused = 0.0;
    let mut other = Vec::new();
    for (status, count) in report["statusCodeDistribution"].as_object().into_iter().flatten() {
        let count = count.as_f64().unwrap_or_default();
        match status.as_str() {
            "200" => accepted += count,
            "429" | "503" => refused += count,
            _ => other.push(format!("{count} x {status}")),
        }
    }
    for (error, count) in report["errorDistribution"].as_object().into_iter().flatten() {
        other.push(format!("{count} x {error}"));
    }
    let percentiles = |name: &str| {
        let of = |percent: &str| report[name][percent].as_f64().map(|seconds| seconds * 1e3);
        Some(Percentiles { p50: of("p50")?, p99: of("p99")?, p999: of("p99.9")? })
    };
    Ok(Measured {
        offered,
        accepted_per_second: accepted / seconds,
        accepted: percentiles("latencyPercentilesSuccessful").context("nothing was answered")?,
        refused_per_second: refused / seconds,
        refused: percentiles("latencyPercentilesNotSuccessful").filter(|_| refused > 0.0),
        other,
    })
}
