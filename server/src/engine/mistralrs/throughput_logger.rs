//! The end of a thread that the library leaves behind.
//!
//! Every load starts a thread that sleeps for 5 s, logs the throughput if there was any, and begins anew: it outlives the
//! model, cannot be told to stop, and so every unload would leave one thread more (mistralrs-core 0.8.1,
//! `src/engine/logger.rs`). The one thing of ours that it runs is the subscriber of its log line: there it is unwound,
//! which ends that thread and nothing else.

use mistralrs_core::MistralRs;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Module of the library that logs from that thread, and from no other.
const MODULE: &str = "mistralrs_core::engine::logger";

/// Makes the logger of a new engine log when it wakes, whether or not the model is used until then.
pub(super) fn wake(engine: &MistralRs) {
    if let Ok(logger) = engine.get_logger(None) {
        logger.enable_logging();
        logger.add_new_sequence();
        logger.add_tokens_processed(1);
    }
}

/// A layer that ends the thread of each throughput logger at its first line, for a place before all other layers.
pub(crate) fn end_throughput_loggers<S>() -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let its_lines = FilterFn::new(|metadata| metadata.target() == MODULE && metadata.is_event());
    EndThread.with_filter(its_lines.with_max_level_hint(LevelFilter::INFO))
}

struct EndThread;

impl<S: Subscriber> Layer<S> for EndThread {
    fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
        // Where a panic ends the process, the thread stays.
        if cfg!(panic = "unwind") {
            // Unlike a panic this calls no hook: nothing is wrong, and nothing is logged.
            std::panic::resume_unwind(Box::new("the throughput logger is not needed"));
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_loggers_line_ends_its_thread_and_other_lines_do_not() {
        let logging = |line: fn()| {
            std::thread::spawn(move || {
                let subscriber = tracing_subscriber::registry().with(end_throughput_loggers());
                tracing::subscriber::with_default(subscriber, line);
            })
            .join()
        };
        assert!(logging(|| tracing::info!("Something else")).is_ok());
        assert!(logging(|| tracing::info!(target: MODULE, "Throughput")).is_err());
    }
}
