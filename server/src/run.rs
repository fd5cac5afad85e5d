//! Runs the command line: logging, runtime, subcommand, exit code. I/O.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use rerank_crds::ServerConfig;
use rerank_crds::server_config::LogFormat;

use crate::args::{Command, CommandLine, ExitCode, LogArguments, LogFormatName};
use crate::telemetry::{self, LogOptions};
use crate::traces::Traces;

mod ask;
mod demo;
mod download;
mod evaluate;
mod index;
mod preflight;
mod search;
mod serve;

/// How long the runtime waits for blocking work that nobody waits for any more.
const RUNTIME_END: Duration = Duration::from_secs(2);

/// An end that is no success: its exit code and what to tell.
#[derive(Debug)]
struct Failure {
    code: ExitCode,
    error: anyhow::Error,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: ExitCode::Failure, error }
    }
}

impl Failure {
    fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self { code: ExitCode::Configuration, error: error.into() }
    }
}

/// Runs the command line; answers the exit code.
pub fn main() -> std::process::ExitCode {
    let CommandLine { command } = CommandLine::parse();
    let runtime = match tokio::runtime::Runtime::new().context("failed to start the runtime") {
        Ok(runtime) => runtime,
        Err(error) => return report(Failure::from(error)),
    };
    let result = runtime.block_on(dispatch(command));
    // An engine's thread that does not end must not keep the process.
    runtime.shutdown_timeout(RUNTIME_END);
    match result {
        Ok(code) => code.into(),
        Err(failure) => report(failure),
    }
}

async fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Index(arguments) => index::run(arguments).await,
        Command::Search(arguments) => search::run(arguments).await,
        Command::Evaluate(arguments) => evaluate::run(arguments).await,
        Command::Download(arguments) => download::run(arguments).await,
        Command::Preflight(arguments) => preflight::run(arguments).await,
        Command::Ask(arguments) => ask::run(arguments).await,
    }
}

fn report(Failure { code, error }: Failure) -> std::process::ExitCode {
    // `#` prints the causes in one line.
    eprintln!("error: {error:#}");
    code.into()
}

/// Whether a person sees the bars that loads draw on standard error; in a log they would be noise.
fn progress_is_seen() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// Reads and checks the configuration.
fn read_config(path: &Path) -> Result<Arc<ServerConfig>, Failure> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read the configuration {}", path.display()))
        .map_err(Failure::configuration)?;
    let config = ServerConfig::load(&text)
        .with_context(|| format!("the configuration {} is not valid", path.display()))
        .map_err(Failure::configuration)?;
    Ok(Arc::new(config))
}

/// Logging as the configuration says, for a process that serves.
fn log_as_configured(config: &ServerConfig, arguments: &LogArguments, traces: Option<&Traces>) -> Result<(), Failure> {
    install_log(&config.logging.filter, config.logging.format, arguments, traces)
}

/// Logging for a person at a terminal: warnings, as text.
fn log_for_a_person(arguments: &LogArguments) -> Result<(), Failure> {
    install_log("warn", LogFormat::Text, arguments, None)
}

fn install_log(
    filter: &str,
    format: LogFormat,
    arguments: &LogArguments,
    traces: Option<&Traces>,
) -> Result<(), Failure> {
    let LogArguments { log_format } = arguments;
    let environment = std::env::var("RUST_LOG").ok();
    let options = LogOptions::resolve(filter, format, environment, log_format.map(LogFormatName::into));
    telemetry::install(&options, traces).map_err(Failure::configuration)
}
