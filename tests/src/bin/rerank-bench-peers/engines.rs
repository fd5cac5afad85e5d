//! Engines in processes of their own, spoken to in lines of JSON.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rerank_tests::http::{collect, read, root};
use rerank_tests::peers::TRANSFORMERS;
use rerank_tests::process::Watch;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::sets::Set;

/// No load and no set takes longer; where ours through mistral.rs does, that is told.
const LIMIT: Duration = Duration::from_secs(900);

/// An engine, and how it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours.
    Packed { held_as: &'static str },
    /// Ours, through mistral.rs.
    Mistralrs,
    /// transformers on torch.
    Torch { dtype: &'static str, batch: usize },
}

impl Kind {
    /// In the order in which they start; the first is what the others are held to.
    pub(crate) fn all() -> Vec<Self> {
        let torch =
            ["float32", "bfloat16"].into_iter().flat_map(|dtype| [1, 4, 16].map(|batch| Self::Torch { dtype, batch }));
        [Self::Packed { held_as: "float32" }, Self::Packed { held_as: "bfloat16" }, Self::Mistralrs]
            .into_iter()
            .chain(torch)
            .collect()
    }

    /// In the published figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Packed { held_as: "float32" } => "packed",
            Self::Packed { .. } => "packed, weights held as bfloat16",
            Self::Mistralrs => "mistralrs",
            Self::Torch { dtype: "float32", .. } => "torch",
            Self::Torch { .. } => "torch, bfloat16",
        }
    }

    /// Of its arithmetic.
    pub(crate) fn precision(self) -> &'static str {
        match self {
            Self::Packed { .. } | Self::Mistralrs => "float32",
            Self::Torch { dtype, .. } => dtype,
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Packed { .. } | Self::Mistralrs)
    }

    /// Whether what the prompts share is computed once.
    pub(crate) fn reuses_prefix(self) -> bool {
        matches!(self, Self::Packed { .. })
    }

    /// How far its log-odds may be from ours: sums in another order, or arithmetic of three digits.
    fn allowed(self) -> f64 {
        if self.precision() == "float32" { 1e-3 } else { 0.3 }
    }

    async fn command(self, model: &Path, threads: usize) -> Result<Command> {
        let ours = |engine: &str, quantization: &str| -> Result<Command> {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["ours", engine, quantization]).arg(model);
            Ok(command)
        };
        match self {
            Self::Packed { held_as } => ours("Packed", held_as),
            Self::Mistralrs => ours("Mistralrs", "float32"),
            Self::Torch { dtype, batch } => {
                let mut command = Command::new(TRANSFORMERS.python().await?);
                command.arg(root().join("tests/peers/engines/torch_engine.py")).arg("--model").arg(model);
                command.args(["--dtype", dtype, "--batch", &batch.to_string(), "--threads", &threads.to_string()]);
                Ok(command)
            }
        }
    }
}

/// A running engine and what was measured of it.
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    process: Talking,
    /// Of the first answer.
    pub(crate) log_odds: Vec<f64>,
    pub(crate) first_seconds: f64,
    /// The largest difference of a probability from ours.
    pub(crate) drift: f64,
    pub(crate) load_seconds: f64,
    /// Of own memory, loading and the first answer.
    pub(crate) peak_bytes: u64,
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
    /// Loads the model and answers the set once, which counts for memory and scores and not for time.
    pub(crate) async fn start(
        kind: Kind,
        model: &Path,
        threads: usize,
        set: &Set,
        expected: Option<&[f64]>,
    ) -> Result<Self> {
        let mut process = Talking::start(kind.command(model, threads).await?, threads)?;
        let watch = Watch::start(process.child.id().context("it has ended")?);
        let Loaded { load_seconds } = process.hear().await?;
        let Answer { seconds, log_odds } = process.ask(set).await?;
        let peak_bytes = watch.stop()?.own;
        ensure!(log_odds.len() == set.request.prompts.len(), "it answered {} prompts", log_odds.len());
        let pairs = || log_odds.iter().zip(expected.unwrap_or(&log_odds));
        let difference = pairs().map(|(theirs, ours)| (theirs - ours).abs()).fold(0.0, f64::max);
        ensure!(
            difference <= kind.allowed(),
            "a score differs by {difference:.2e} in log-odds, so its time does not count"
        );
        let probability = |log_odds: f64| 1.0 / (1.0 + (-log_odds).exp());
        let drift = pairs().map(|(theirs, ours)| (probability(*theirs) - probability(*ours)).abs()).fold(0.0, f64::max);
        Ok(Self {
            kind,
            process,
            log_odds,
            first_seconds: seconds,
            drift,
            load_seconds,
            peak_bytes,
            seconds: Vec::new(),
        })
    }

    pub(crate) async fn take_a_turn(&mut self, set: &Set) -> Result<()> {
        let Answer { seconds, .. } = self.process.ask(set).await?;
        self.seconds.push(seconds);
        Ok(())
    }

    /// How far its turns are apart, as a part of their median.
    pub(crate) fn spread(&self) -> f64 {
        let (low, high) = self
            .seconds
            .iter()
            .fold((f64::MAX, 0.0_f64), |(low, high), seconds| (low.min(*seconds), high.max(*seconds)));
        (high - low) / self.seconds()
    }

    /// The median of its turns.
    pub(crate) fn seconds(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// GFLOP/s of products alone.
pub(crate) async fn peak_rate() -> Result<f64> {
    let output = Command::new(std::env::current_exe()?).arg("peak-rate").output().await?;
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the rate of products could not be measured")
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

    async fn ask(&mut self, set: &Set) -> Result<Answer> {
        let mut line = serde_json::to_vec(&set.request)?;
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
