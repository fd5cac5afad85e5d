//! The command line: subcommands, flags, exit codes. Pure: it parses and decides nothing.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rerank_crds::server_config::LogFormat;

/// What the process tells its caller by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything was done.
    Success = 0,
    /// Something failed while running: a port taken, a store that does not answer, an engine that does not run.
    Failure = 1,
    /// The command line is not understood. clap exits with it by itself.
    Usage = 2,
    /// The configuration cannot be read or is not valid.
    Configuration = 3,
    /// `preflight` found something that keeps the service from answering.
    Findings = 4,
    /// `serve` lost its device or an engine hangs: only a new process helps.
    EngineLost = 5,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// Two-stage search over HTTP: candidates from a vector store, reranked by a cross-encoder.
#[derive(Debug, Parser)]
#[command(
    name = "rerank-server",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failure, 2 wrong command line, 3 configuration not valid, 4 preflight found something,\n\
                  5 the device is lost or an engine hangs, start it again.\n\
                  Logs go to standard error; RUST_LOG overrides the configured filter."
)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer searches until told to stop (SIGTERM or SIGINT).
    Serve(ServeArguments),
    /// Show two-stage search on the corpus and the tiny models of this repository, then serve them on loopback.
    Demo(DemoArguments),
    /// Embed documents and put them into a collection. Run again after a break, it goes on where it stopped.
    Index(IndexArguments),
    /// Search once and print both orders side by side.
    Search(SearchArguments),
    /// Measure both orders of many queries, against judgements or against each other.
    Evaluate(EvaluateArguments),
    /// Download the deployed models that weights.directory lacks, from the configured hub.
    Download(DownloadArguments),
    /// Check whether `serve` could answer: configuration, weights, memory, keys, store, collections.
    Preflight(PreflightArguments),
    /// Ask a running service once: a search, or with --document the order of texts. Waits while its models load.
    Ask(AskArguments),
}

/// Where the configuration stands.
#[derive(Clone, Debug, Args)]
pub struct ConfigArguments {
    /// Configuration file, YAML.
    #[arg(long, value_name = "FILE", env = "RERANK_CONFIG", default_value = "/etc/rerank/config.yaml")]
    pub config: PathBuf,
}

/// How to log.
#[derive(Clone, Debug, Args)]
pub struct LogArguments {
    /// Format of the log; overrides logging.format of the configuration.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormatName>,
}

/// Log format as a flag spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormatName {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl From<LogFormatName> for LogFormat {
    fn from(name: LogFormatName) -> Self {
        match name {
            LogFormatName::Json => Self::Json,
            LogFormatName::Text => Self::Text,
        }
    }
}

/// `serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
    /// Seconds that the listener stays open after SIGTERM, while readiness already fails: as long as a load balancer
    /// needs to notice. SIGINT does without.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=300))]
    pub drain_delay_seconds: u64,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Folder of the models tiny-embedder and tiny-reranker.
    #[arg(long, value_name = "FOLDER", default_value = "tests/models")]
    pub models: PathBuf,
    /// Folder of corpus.jsonl, queries.jsonl and qrels/test.tsv.
    #[arg(long, value_name = "FOLDER", default_value = "examples/corpus")]
    pub corpus: PathBuf,
    /// Folder for the collection; it is made anew.
    #[arg(long, value_name = "FOLDER", default_value = "target/demo")]
    pub data: PathBuf,
    /// Port on loopback; another one is chosen if it is taken. 0: any free port.
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub port: u16,
    /// Exit once the queries are printed instead of serving.
    #[arg(long)]
    pub once: bool,
    /// Logging. Default: text, warnings only.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `index`.
#[derive(Debug, Args)]
pub struct IndexArguments {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Collection of the configuration.
    #[arg(long, value_name = "NAME")]
    pub collection: String,
    /// Replace documents that are already there instead of leaving them as they are.
    #[arg(long)]
    pub replace: bool,
    /// Files with one JSON object a line: `id`, `text`, and any payload.
    #[arg(value_name = "DOCS.jsonl", required = true)]
    pub files: Vec<PathBuf>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `search`.
#[derive(Debug, Args)]
pub struct SearchArguments {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// What to search for.
    #[arg(value_name = "QUERY")]
    pub query: String,
    /// Results, 1 to 1000.
    #[arg(short, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub k: u16,
    /// Collection of the configuration. Default: the first.
    #[arg(long, value_name = "NAME")]
    pub collection: Option<String>,
    /// Stop at the vector order.
    #[arg(long)]
    pub no_rerank: bool,
    /// Print the API's answer as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArguments {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Folder in BEIR's layout: queries.jsonl, qrels/test.tsv, and for --index corpus.jsonl.
    #[arg(long, value_name = "FOLDER", required_unless_present = "shadow", conflicts_with = "shadow")]
    pub corpus: Option<PathBuf>,
    /// Logged queries without judgements, one JSON object a line (`text`, `query` or `q`): how far do the orders differ?
    #[arg(long, value_name = "QUERIES.jsonl")]
    pub shadow: Option<PathBuf>,
    /// Put corpus.jsonl into the collection first; what is there already stays.
    #[arg(long, requires = "corpus", conflicts_with = "shadow")]
    pub index: bool,
    /// Collection of the configuration. Default: the first.
    #[arg(long, value_name = "NAME")]
    pub collection: Option<String>,
    /// Also write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write the report as one HTML page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `download`.
#[derive(Debug, Args)]
pub struct DownloadArguments {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Also write why it failed to this file, as Kubernetes reads it from a container that ended.
    #[arg(long, value_name = "PATH")]
    pub termination_log: Option<PathBuf>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `preflight`.
#[derive(Debug, Args)]
pub struct PreflightArguments {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Print findings as JSON instead of text.
    #[arg(long)]
    pub json: bool,
    /// Also write the findings as JSON, at most 4,096 bytes, to this file, as Kubernetes reads it from a container that
    /// ended.
    #[arg(long, value_name = "PATH")]
    pub termination_log: Option<PathBuf>,
    /// Print the configuration with every default and exit.
    #[arg(long, conflicts_with_all = ["json", "termination_log"])]
    pub print_config: bool,
    /// Logging.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `ask`.
#[derive(Debug, Args)]
pub struct AskArguments {
    /// What to ask.
    #[arg(value_name = "QUERY")]
    pub query: String,
    /// Where the service answers.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// A text to order by the query instead of a search; once for each.
    #[arg(long = "document", value_name = "TEXT")]
    pub documents: Vec<String>,
    /// Key, where the service asks for one. Others on this machine can read a command line, not its environment.
    #[arg(long, value_name = "KEY", env = "RERANK_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// PEM file of what vouches for the service's certificate. Default: the system's roots.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// How long is tried while the service starts, is busy or loads models.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
    /// Said beside the error where it fails: what to look at.
    #[arg(long, value_name = "TEXT")]
    pub advice: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_flag_and_subcommand_says_what_it_is_for() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no text", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no text", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&CommandLine::command());
    }

    #[test]
    fn serve_has_defaults_for_everything() {
        let line = CommandLine::try_parse_from(["rerank-server", "serve"]).unwrap();
        let Command::Serve(ServeArguments { config, log, drain_delay_seconds }) = line.command else {
            panic!("serve was parsed as something else")
        };
        assert_eq!(drain_delay_seconds, 5);
        assert!(log.log_format.is_none());
        assert_eq!(config.config, PathBuf::from("/etc/rerank/config.yaml"));
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        for line in [["rerank-server", "search", "-k", "0", "q"], ["rerank-server", "search", "-k", "1001", "q"]] {
            let error = CommandLine::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains("1..=1000"), "{error}");
        }
    }
}
