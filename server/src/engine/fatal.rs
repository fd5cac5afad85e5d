//! An error after which the device answers no call any more: only a new process helps. Told once, by whoever sees it
//! first.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// The signal of one loader and all its engines. Clones are one signal.
#[derive(Clone, Debug, Default)]
pub struct FatalSignal {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    message: OnceLock<String>,
    tripped: CancellationToken,
}

impl FatalSignal {
    /// Says that the process must end, and why. Only the first reason is kept.
    pub fn trip(&self, message: &str) {
        if self.inner.message.set(message.to_owned()).is_ok() {
            tracing::error!(reason = message, "Only a new process helps; this one will end");
        }
        self.inner.tripped.cancel();
    }

    /// Why the process must end; None while it need not.
    pub fn reason(&self) -> Option<&str> {
        self.inner.message.get().map(String::as_str)
    }

    /// Waits until the process must end.
    ///
    /// # Cancel safety
    /// The signal is not lost when the future is dropped.
    pub async fn tripped(&self) {
        self.inner.tripped.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_first_reason_is_kept_and_whoever_comes_later_hears_it_too() {
        let signal = FatalSignal::default();
        assert_eq!(signal.reason(), None);
        assert!(signal.tripped().now_or_never().is_none());
        signal.clone().trip("the device is lost");
        signal.trip("everything fails now");
        assert_eq!(signal.reason(), Some("the device is lost"));
        assert!(signal.tripped().now_or_never().is_some());
    }
}
