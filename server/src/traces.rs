//! Traces: what a request did, stage by stage, as spans for an OpenTelemetry collector. Off unless
//! `tracing.otlpEndpoint` names one.
//!
//! `spans` holds every span with its attributes: a closed list, since text of a request must never leave this way.
//! `propagation` reads and writes the W3C headers, `sampling` decides which traces are kept, `recorder` makes spans of
//! OpenTelemetry's API out of those of the `tracing` crate, `wire` writes them as OTLP, `export` sends them. Only `export`
//! does I/O.

use rerank_crds::server_config::Tracing;

mod export;
pub mod propagation;
mod recorder;
mod sampling;
pub(crate) mod spans;
#[cfg(test)]
pub(crate) mod testing;
pub mod wire;

pub(crate) use export::TracesError;
pub(crate) use recorder::Recorder;
pub use spans::documentation;

use export::Exporter;
use sampling::Share;

/// Traces under way. Dropping it loses what was not sent yet; [`Traces::finish`] sends it.
#[derive(Debug)]
pub(crate) struct Traces {
    recorder: Recorder,
    exporter: Exporter,
}

impl Traces {
    /// Begins to export, where the configuration names a collector. It is not contacted before there is something to send.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// Where the system's certificates, which an `https://` endpoint needs, cannot be used.
    pub(crate) fn start(config: &Tracing) -> Result<Option<Self>, TracesError> {
        let Tracing { otlp_endpoint, sample_ratio_percent } = config;
        let Some(endpoint) = otlp_endpoint else { return Ok(None) };
        let (queue, exporter) = Exporter::start(endpoint)?;
        Ok(Some(Self { recorder: Recorder::new(Share::of_percent(*sample_ratio_percent), queue), exporter }))
    }

    /// What turns spans into records.
    pub(crate) fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Sends what is left, within a bounded time.
    pub(crate) async fn finish(self) {
        self.exporter.finish().await;
    }
}
