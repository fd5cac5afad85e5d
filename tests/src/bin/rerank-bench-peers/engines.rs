//! Engines in processes of their own, spoken to in lines of JSON.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rerank_tests::http::{collect, read, root};
use rerank_tests::process::Watch;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::kind::Kind;
use crate::peak_rate::PeakRate;
use crate::sets::{Request, Set};

/// Batch sizes are tried on so many prompts, the largest of them, or on fewer where they are long. That warms up, too.
const TRIAL_PROMPTS: usize = 16;
const TRIAL_TOKENS: usize = 2_500;

/// An engine that takes so many times as long as ours is not asked again.
const SLOW: f64 = 4.0;

/// No load and no set takes longer; where ours through mistral.rs does, that is told.
const LIMIT: Duration = Duration::from_secs(900);

/// An engine and what was measured of it. Its process is there during its turns only: not all of them have room at once.
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    is_asked_again: bool,
    /// Prompts that it computes together.
    pub(crate) batch: usize,
    /// Of the first turn.
    pub(crate) log_odds: Vec<f64>,
    /// The largest difference of a probability from ours.
    pub(crate) drift: f64,
    pub(crate) load_seconds: f64,
    /// Resident memory with mapped weights, at most: loading and the first turn.
    pub(crate) peak_bytes: u64,
    /// Of its turns.
    seconds: Vec<f64>,
}

#[derive(Deserialize)]
struct Loaded {
    load_seconds: f64,
}

#[derive(Deserialize)]
struct Answer {
    seconds: f64,
    log_odds: Vec<f64>,
}

impl Engine {
    /// Loads the model, finds the best batch size on a few prompts, and takes the first turn. `ours`: what it is held to.
    pub(crate) async fn start(
        kind: Kind,
        model: &Path,
        threads: usize,
        set: &Set,
        ours: Option<&Self>,
    ) -> Result<Self> {
        let mut process = Talking::start(kind.command(model, threads).await?, threads)?;
        let watch = Watch::start(process.id()?);
        let Loaded { load_seconds } = process.hear().await?;
        let loading = watch.stop()?;
        let batch = process.best_batch(kind, set).await?;
        let watch = Watch::start(process.id()?);
        let Answer { seconds, log_odds } = process.ask(&set.request, batch).await?;
        let answering = watch.stop()?;
        process.end().await?;
        ensure!(log_odds.len() == set.request.prompts.len(), "it answered {} prompts", log_odds.len());
        let expected = ours.map_or(&log_odds, |ours| &ours.log_odds);
        let pairs = || log_odds.iter().zip(expected);
        let difference = pairs().map(|(theirs, ours)| (theirs - ours).abs()).fold(0.0, f64::max);
        ensure!(
            difference <= kind.allowed(),
            "a score differs by {difference:.2e} in log-odds, so its time does not count"
        );
        let probability = |log_odds: f64| 1.0 / (1.0 + (-log_odds).exp());
        let drift = pairs().map(|(theirs, ours)| (probability(*theirs) - probability(*ours)).abs()).fold(0.0, f64::max);
        let peak_bytes = (loading.own + loading.file).max(answering.own + answering.file);
        let is_slow = ours.is_some_and(|ours| seconds > SLOW * ours.seconds());
        eprintln!("{}: {}, {}: {seconds:.1} s at first", set.name, kind.name(), kind.precision());
        Ok(Self {
            kind,
            is_asked_again: !is_slow,
            batch,
            log_odds,
            drift,
            load_seconds,
            peak_bytes,
            seconds: vec![seconds],
        })
    }

    /// Loads the model again, warms up, and answers the set.
    pub(crate) async fn take_a_turn(&mut self, model: &Path, threads: usize, set: &Set) -> Result<()> {
        if !self.is_asked_again {
            return Ok(());
        }
        let mut process = Talking::start(self.kind.command(model, threads).await?, threads)?;
        let Loaded { .. } = process.hear().await?;
        process.ask(&part(set), self.batch).await?;
        let Answer { seconds, .. } = process.ask(&set.request, self.batch).await?;
        self.seconds.push(seconds);
        process.end().await
    }

    /// How far its turns are apart, as a part of their median; `None` where it was measured once.
    pub(crate) fn spread(&self) -> Option<f64> {
        let (low, high) = self
            .seconds
            .iter()
            .fold((f64::MAX, 0.0_f64), |(low, high), seconds| (low.min(*seconds), high.max(*seconds)));
        (self.seconds.len() > 1).then(|| (high - low) / self.seconds())
    }

    /// The median of its turns.
    pub(crate) fn seconds(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// The part of a set that batch sizes are tried on, and that warms up.
fn part(set: &Set) -> Request {
    let prompts = &set.request.prompts;
    let (mut tokens, step) = (0, (prompts.len() / TRIAL_PROMPTS).max(1));
    let chosen = prompts.iter().step_by(step).take(TRIAL_PROMPTS).take_while(|prompt| {
        tokens += prompt.len();
        tokens <= TRIAL_TOKENS
    });
    Request { prompts: chosen.cloned().collect(), ..set.request.clone() }
}

/// An engine that is asked alone.
pub(crate) struct Lone(Talking);

impl Lone {
    /// Loads the model. Answers how many seconds that took.
    pub(crate) async fn start(kind: Kind, model: &Path, threads: usize) -> Result<(Self, f64)> {
        let mut process = Talking::start(kind.command(model, threads).await?, threads)?;
        let Loaded { load_seconds } = process.hear().await?;
        Ok((Self(process), load_seconds))
    }

    /// Seconds of an answer.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<f64> {
        Ok(self.0.ask(request, 1).await?.seconds)
    }
}

/// Of products alone.
pub(crate) async fn peak_rate() -> Result<PeakRate> {
    let output = Command::new(std::env::current_exe()?).arg("peak-rate").output().await?;
    serde_json::from_slice(&output.stdout).context("the rate of products could not be measured")
}

/// A process that is asked and answers in lines. Dropping it ends it.
struct Talking {
    child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    log: Arc<Mutex<String>>,
}

impl Talking {
    fn start(mut command: Command, threads: usize) -> Result<Self> {
        command.current_dir(root().join("target")).env("OMP_NUM_THREADS", threads.to_string());
        command.env("HF_HUB_OFFLINE", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("failed to start")?;
        let log = Arc::new(Mutex::new(String::new()));
        tokio::spawn(collect(child.stderr.take().context("no standard error")?, Arc::clone(&log)));
        let requests = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { child, requests, answers, log })
    }

    fn id(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Ends it, so that its memory is free.
    async fn end(mut self) -> Result<()> {
        self.child.kill().await.context("it does not end")
    }

    /// The batch size that answers a part of the set fastest.
    async fn best_batch(&mut self, kind: Kind, set: &Set) -> Result<usize> {
        let part = part(set);
        let first = Request { prompts: set.request.prompts.iter().take(1).cloned().collect(), ..part.clone() };
        self.ask(&first, 1).await?;
        let mut fastest = (f64::MAX, 1);
        for batch in kind.batches() {
            let Answer { seconds, .. } = self.ask(&part, *batch).await?;
            if seconds < fastest.0 {
                fastest = (seconds, *batch);
            }
        }
        Ok(fastest.1)
    }

    async fn ask(&mut self, request: &Request, batch: usize) -> Result<Answer> {
        let mut request = serde_json::to_value(request)?;
        request["batch"] = json!(batch);
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        self.requests.write_all(&line).await.context("it does not listen")?;
        self.hear().await
    }

    async fn hear<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T> {
        let line = timeout(LIMIT, self.answers.next_line()).await;
        match line.with_context(|| format!("it did not finish within {} s", LIMIT.as_secs()))?? {
            Some(line) => serde_json::from_str(&line).with_context(|| format!("it said {line:?}")),
            None => bail!("it ended; its log:\n{}", read(&self.log)),
        }
    }
}
