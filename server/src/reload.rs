//! Files that count anew when they change: keys, certificates. I/O: reads them every few seconds.

use std::sync::Arc;
use std::time::Duration;

use crate::chain;

/// How often the files are read. The promise is 10 seconds from a change to its effect.
const READ_EVERY: Duration = Duration::from_secs(5);

/// What can be read again.
pub(crate) trait Reload: Send + Sync + 'static {
    /// What it is, for the log, such as `API keys`.
    const WHAT: &'static str;
    /// Why it cannot be read.
    type Error: std::error::Error + 'static;

    /// Reads it again; answers whether it is another. What counted goes on counting where it cannot be read: a Secret in the
    /// middle of its renewal must not lock everybody out.
    fn reload(&self) -> Result<bool, Self::Error>;
}

/// Reads it every few seconds, for ever. The same failure is told once.
pub(crate) async fn keep_current<R: Reload>(files: Arc<R>) {
    let mut told: Option<String> = None;
    loop {
        tokio::time::sleep(READ_EVERY).await;
        let files = Arc::clone(&files);
        let reading = move || files.reload().map_err(|error| chain::describe(&error));
        let failure = match tokio::task::spawn_blocking(reading).await {
            Ok(Ok(changed)) => {
                if changed {
                    tracing::info!(what = R::WHAT, "Read again, as the files have changed");
                }
                None
            }
            Ok(Err(error)) => Some(error),
            Err(error) => Some(chain::describe(&error)),
        };
        if let Some(error) = failure.as_ref().filter(|failure| told.as_ref() != Some(failure)) {
            tracing::error!(what = R::WHAT, error, "Failed to read again; what was read last goes on counting");
        }
        told = failure;
    }
}
