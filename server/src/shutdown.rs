//! Where the process stands between start and end, as the probes tell it, and the signals that end it.
//!
//! On SIGTERM readiness fails at once while the listener stays open for the drain delay: a load balancer needs that
//! long to learn of it. SIGINT, from a person at a terminal, does without the delay.

use std::time::Duration;

use tokio::sync::watch;

/// Where the process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Stores are being opened or models preloaded.
    Starting {
        /// What is under way, for the probe's answer.
        detail: String,
    },
    /// Requests are welcome.
    Ready,
    /// An engine stalls; requests are better sent elsewhere for now.
    Stalled {
        /// Which, and for how long.
        detail: String,
    },
    /// Only a new process helps; this one ends and answers nothing any more.
    Failed {
        /// Why.
        detail: String,
    },
    /// The process ends; requests under way are finished.
    Draining,
}

/// The phase, shared by the probes and whoever changes it. Clones share one phase.
#[derive(Clone, Debug)]
pub struct Readiness {
    sender: watch::Sender<Phase>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { sender: watch::Sender::new(Phase::Starting { detail: "the process has just started".to_owned() }) }
    }
}

impl Readiness {
    /// Says what the start is waiting for. Ignored once started.
    pub fn starting(&self, detail: &str) {
        self.sender.send_if_modified(|phase| match phase {
            Phase::Starting { detail: old } => {
                detail.clone_into(old);
                true
            }
            Phase::Ready | Phase::Stalled { .. } | Phase::Failed { .. } | Phase::Draining => false,
        });
    }

    /// Requests are welcome from now on, unless the process is already draining.
    pub fn ready(&self) {
        self.sender.send_if_modified(|phase| {
            let starting = matches!(phase, Phase::Starting { .. });
            if starting {
                *phase = Phase::Ready;
            }
            starting
        });
    }

    /// An engine stalls, or none does any more. Ignored before the start and after the end.
    pub fn stalled(&self, detail: Option<String>) {
        self.sender.send_if_modified(|phase| {
            let now = match (&*phase, detail) {
                (Phase::Ready | Phase::Stalled { .. }, Some(detail)) => Phase::Stalled { detail },
                (Phase::Stalled { .. }, None) => Phase::Ready,
                _ => return false,
            };
            match (&*phase, &now) {
                (Phase::Ready, Phase::Stalled { detail }) => tracing::error!(detail, "An engine stalls: not ready"),
                (Phase::Stalled { .. }, Phase::Ready) => tracing::info!("The engine works again: ready"),
                _ => {}
            }
            *phase = now;
            true
        });
    }

    /// Only a new process helps. Does not come back.
    pub fn fail(&self, reason: &str) {
        self.sender.send_replace(Phase::Failed { detail: reason.to_owned() });
    }

    /// Readiness fails from now on and does not come back.
    pub fn drain(&self) {
        self.sender.send_if_modified(|phase| {
            let ends_anyway = matches!(phase, Phase::Failed { .. });
            if !ends_anyway {
                *phase = Phase::Draining;
            }
            !ends_anyway
        });
    }

    /// Where the process stands now.
    pub fn phase(&self) -> Phase {
        self.sender.borrow().clone()
    }

    /// Whether the process is ending.
    pub fn is_draining(&self) -> bool {
        matches!(*self.sender.borrow(), Phase::Draining | Phase::Failed { .. })
    }
}

/// What asked the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: a supervisor, with a load balancer that must first learn of it.
    Terminate,
    /// SIGINT: a person at a terminal.
    Interrupt,
}

impl Signal {
    /// How long the listener stays open after the signal.
    pub fn drain_delay(self, configured: Duration) -> Duration {
        match self {
            Self::Terminate => configured,
            Self::Interrupt => Duration::ZERO,
        }
    }
}

/// Listens for SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes both signals over: from here on they no longer end the process by themselves.
    pub fn register() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    /// A signal is not lost when the future is dropped.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_becomes_ready_and_then_drains_for_good() {
        let readiness = Readiness::default();
        readiness.starting("loading the reranker");
        assert_eq!(readiness.phase(), Phase::Starting { detail: "loading the reranker".to_owned() });
        readiness.ready();
        assert_eq!(readiness.phase(), Phase::Ready);
        readiness.clone().drain();
        readiness.ready();
        readiness.starting("again");
        assert_eq!(readiness.phase(), Phase::Draining);
    }

    #[test]
    fn a_stall_passes_and_a_failure_does_not() {
        let readiness = Readiness::default();
        let stalls = || readiness.stalled(Some("30 s".to_owned()));
        stalls();
        assert!(matches!(readiness.phase(), Phase::Starting { .. }), "what loads is not asked for yet");
        readiness.ready();
        stalls();
        assert_eq!(readiness.phase(), Phase::Stalled { detail: "30 s".to_owned() });
        readiness.stalled(None);
        assert_eq!(readiness.phase(), Phase::Ready);
        readiness.fail("the device is lost");
        stalls();
        readiness.stalled(None);
        readiness.drain();
        assert_eq!(readiness.phase(), Phase::Failed { detail: "the device is lost".to_owned() });
        assert!(readiness.is_draining());
    }

    #[test]
    fn only_a_supervisor_s_signal_waits() {
        assert_eq!(Signal::Terminate.drain_delay(Duration::from_secs(5)), Duration::from_secs(5));
        assert_eq!(Signal::Interrupt.drain_delay(Duration::from_secs(5)), Duration::ZERO);
    }
}
