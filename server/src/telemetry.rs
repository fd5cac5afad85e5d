//! Logs: JSON or text on standard error, filtered. I/O: installs the process's subscriber and panic hook.
//!
//! Spans of traces and those of the log do not see each other: what a line carries does not leave the process, and no line
//! has the names of spans instead of its request's id.
//!
//! Queries and documents never stand above debug level. A panic's message can quote them, so the hook logs where it
//! happened as an error and what it said at debug level.

use rerank_crds::server_config::LogFormat;
use tracing::Metadata;
use tracing_subscriber::filter::{FilterExt, FilterFn, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::traces::{Recorder, Traces, spans};

/// Libraries whose warnings speak to those who build on them: on a sound server they warn at every start and load. Stands
/// before the user's filter, which overrides it by naming the library.
const LIBRARIES: &str = "mistralrs_core=error,mistralrs_quant=error,qdrant_edge=error";

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not `RUST_LOG` syntax.
    #[error("the log filter {filter:?} ({setting}) is not valid; use for example `info` or `info,rerank_server=debug`")]
    Filter {
        /// As given.
        filter: String,
        /// `RUST_LOG` or `logging.filter`.
        setting: &'static str,
        /// What is wrong.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else has installed a subscriber.
    #[error("failed to start logging")]
    Install(#[source] tracing_subscriber::util::TryInitError),
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Filter in `RUST_LOG` syntax.
    pub filter: String,
    /// Where the filter stands, for errors.
    pub setting: &'static str,
    /// JSON or text.
    pub format: LogFormat,
}

impl LogOptions {
    /// The environment's filter wins over the configuration's, the flag's format over the configuration's.
    pub fn resolve(
        configured_filter: &str,
        configured_format: LogFormat,
        environment: Option<String>,
        flag: Option<LogFormat>,
    ) -> Self {
        let format = flag.unwrap_or(configured_format);
        match environment.filter(|filter| !filter.trim().is_empty()) {
            Some(filter) => Self { filter, setting: "RUST_LOG", format },
            None => Self { filter: configured_filter.to_owned(), setting: "logging.filter", format },
        }
    }
}

/// Starts logging for the whole process, and recording spans where there are traces.
pub(crate) fn install(options: &LogOptions, traces: Option<&Traces>) -> Result<(), TelemetryError> {
    let lines = lines_to(std::io::stderr, options)?;
    let spans = traces.map(|traces| spans_to(traces.recorder()));
    let registry = tracing_subscriber::registry();
    // Before all other layers, which never see what it ends.
    #[cfg(feature = "mistralrs")]
    let registry = registry.with(crate::engine::mistralrs::end_throughput_loggers());
    registry.with(lines).with(spans).try_init().map_err(TelemetryError::Install)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "Panicked");
        let payload = panic.payload();
        let message =
            payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        tracing::debug!(place, detail = message, "Panic message");
    }));
    Ok(())
}

/// Writes log lines. The spans of traces do not exist for them.
pub(crate) fn lines_to<S, W>(writer: W, options: &LogOptions) -> Result<impl Layer<S> + use<S, W>, TelemetryError>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match options.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
    };
    Ok(lines.with_filter(filter(options)?.and(FilterFn::new(|metadata| !is_of_a_trace(metadata)))))
}

/// Hands the spans of traces over, whatever the log's filter, and nothing else: an event can hold what a log line holds.
pub(crate) fn spans_to<S>(recorder: Recorder) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(recorder)
        .with_location(false)
        .with_level(false)
        .with_target(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(FilterFn::new(is_of_a_trace).with_max_level_hint(LevelFilter::INFO))
}

fn is_of_a_trace(metadata: &Metadata<'_>) -> bool {
    metadata.target() == spans::TARGET && metadata.is_span()
}

/// The user's filter over the libraries' levels. Values of fields are compared as texts: of a regular expression a small one could take
/// all memory.
fn filter(options: &LogOptions) -> Result<EnvFilter, TelemetryError> {
    let filter = format!("{LIBRARIES},{}", options.filter);
    let parsed = EnvFilter::builder().with_regex(false).parse(filter);
    parsed.map_err(|source| TelemetryError::Filter { filter: options.filter.clone(), setting: options.setting, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_s_filter_and_the_flag_s_format_win() {
        let from_config = LogOptions::resolve("warn", LogFormat::Json, None, None);
        assert_eq!((from_config.filter.as_str(), from_config.setting), ("warn", "logging.filter"));
        assert_eq!(from_config.format, LogFormat::Json);

        let overridden = LogOptions::resolve("warn", LogFormat::Json, Some("debug".to_owned()), Some(LogFormat::Text));
        assert_eq!((overridden.filter.as_str(), overridden.setting), ("debug", "RUST_LOG"));
        assert_eq!(overridden.format, LogFormat::Text);
    }

    #[test]
    fn an_empty_variable_is_no_filter() {
        assert_eq!(LogOptions::resolve("warn", LogFormat::Json, Some("  ".to_owned()), None).filter, "warn");
    }

    #[test]
    fn a_filter_that_is_none_is_refused_with_where_it_stands() {
        let options = LogOptions { filter: "a=b=c".to_owned(), setting: "logging.filter", format: LogFormat::Json };
        let message = install(&options, None).unwrap_err().to_string();
        assert!(message.contains("logging.filter") && message.contains("a=b=c"), "{message}");
    }

    #[test]
    fn values_in_a_filter_are_texts() {
        // As a regular expression the one is none, and the other an automaton of 2^20 states, which takes minutes and gigabytes.
        for text in ["[x{y=(}]=info".to_owned(), format!("[x{{y=(a|b)*a{}}}]=info", "(a|b)".repeat(20))] {
            let options = LogOptions { filter: text, setting: "logging.filter", format: LogFormat::Json };
            super::filter(&options).unwrap();
        }
    }

    #[test]
    fn libraries_tell_errors_alone_unless_the_filter_names_them() {
        let filter = |text: &str| {
            let options = LogOptions { filter: text.to_owned(), setting: "logging.filter", format: LogFormat::Json };
            super::filter(&options).unwrap().to_string()
        };
        let quiet = filter("debug");
        assert!(quiet.contains("mistralrs_core=error") && quiet.contains("debug"), "{quiet}");
        let named = filter("info,mistralrs_core=debug");
        assert!(named.contains("mistralrs_core=debug") && !named.contains("mistralrs_core=error"), "{named}");
        assert!(named.contains("qdrant_edge=error"), "{named}");
    }
}
