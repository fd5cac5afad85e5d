//! When a search is answered in vector order, and in which words. Pure.

use std::time::Duration;

use super::{Fallback, FallbackReason, SearchError};
use crate::breaker;
use crate::engine::EngineError;
use crate::pool::PoolError;

impl FallbackReason {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::InsufficientMemory,
        Self::Loading,
        Self::EngineFailed,
        Self::Deadline,
        Self::BreakerOpen,
        Self::Disabled,
        Self::SelfTestFailed,
    ];

    /// The word in answers, headers and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InsufficientMemory => "insufficient_memory",
            Self::Loading => "loading",
            Self::EngineFailed => "engine_failed",
            Self::Deadline => "deadline",
            Self::BreakerOpen => "breaker_open",
            Self::Disabled => "disabled",
            Self::SelfTestFailed => "self_test_failed",
        }
    }
}

impl std::fmt::Display for FallbackReason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Why stage 2 has no order.
#[derive(Debug)]
pub(super) enum StageFailure {
    /// The reranker cannot run: vector order for a search, 503 where there is none.
    NoReranker { fallback: Fallback, retry_after_seconds: u64 },
    /// The request itself cannot be answered, by whatever order.
    Refused(SearchError),
}

impl StageFailure {
    pub(super) fn new(reason: FallbackReason, message: String, retry_after_seconds: u64) -> Self {
        Self::NoReranker { fallback: Fallback { reason, message }, retry_after_seconds }
    }

    /// `reranker.enabled` is false.
    pub(super) fn disabled() -> Self {
        let message = "reranking is switched off (reranker.enabled: false)".to_owned();
        // It comes back with another configuration, not by itself.
        Self::new(FallbackReason::Disabled, message, 300)
    }

    /// The engine failed too often of late and is not asked for so long.
    pub(super) fn breaker_open(left: Duration) -> Self {
        let message = format!(
            "the reranker failed {} times in a row and is not asked for a while; the server's log tells why",
            breaker::FAILURES
        );
        Self::new(FallbackReason::BreakerOpen, message, left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }

    /// Whether time ran out: nothing is wrong with the reranker.
    pub(super) fn is_deadline(&self) -> bool {
        matches!(self, Self::NoReranker { fallback, .. } if fallback.reason == FallbackReason::Deadline)
    }

    /// `timeouts.rerankSeconds` ran out.
    pub(super) fn deadline(rerank_seconds: i32) -> Self {
        let message = format!(
            "reranking did not end within its deadline (timeouts.rerankSeconds: {rerank_seconds}); a smaller k, shorter \
             documents or a smaller model would be quicker"
        );
        Self::new(FallbackReason::Deadline, message, 1)
    }
}

impl From<PoolError> for StageFailure {
    fn from(error: PoolError) -> Self {
        let reason = match &error {
            PoolError::InsufficientMemory { .. } => FallbackReason::InsufficientMemory,
            PoolError::Loading { .. } => FallbackReason::Loading,
            PoolError::SelfTestFailed { .. } => FallbackReason::SelfTestFailed,
            PoolError::LoadFailed { .. } | PoolError::ShuttingDown => FallbackReason::EngineFailed,
        };
        // What a library or a weights file says can name folders; it stands in the log and in `preflight`.
        let message = match &error {
            PoolError::LoadFailed { .. } => {
                "the reranker could not be loaded; the server's log and `rerank-server preflight` tell why".to_owned()
            }
            PoolError::InsufficientMemory { .. }
            | PoolError::Loading { .. }
            | PoolError::SelfTestFailed { .. }
            | PoolError::ShuttingDown => error.to_string(),
        };
        Self::new(reason, message, error.retry_after_seconds())
    }
}

impl From<EngineError> for StageFailure {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::Cancelled => Self::Refused(SearchError::Cancelled),
            EngineError::OutOfMemory { .. } => {
                let message = "the device ran out of memory while scoring; what would help: a smaller batch \
                               (reranker.tokenBudget, reranker.batchSize), int8 weights, a smaller model";
                Self::new(FallbackReason::InsufficientMemory, message.to_owned(), 1)
            }
            EngineError::Weights(_)
            | EngineError::Unsupported { .. }
            | EngineError::NotFinite { .. }
            | EngineError::DeviceLost { .. }
            | EngineError::Failed { .. } => {
                let message = "the engine failed to score; the server's log tells why";
                Self::new(FallbackReason::EngineFailed, message.to_owned(), 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(failure: StageFailure) -> Option<FallbackReason> {
        match failure {
            StageFailure::NoReranker { fallback, .. } => Some(fallback.reason),
            StageFailure::Refused(_) => None,
        }
    }

    #[test]
    fn every_reason_is_written_alike_in_json_and_in_headers() {
        for reason in FallbackReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn each_failure_has_its_reason() {
        let model = "m".to_owned();
        let pool = [
            (
                PoolError::InsufficientMemory {
                    model: model.clone(),
                    needed_bytes: 2,
                    free_bytes: 1,
                    device: "cpu".to_owned(),
                    fixes: Vec::new(),
                },
                FallbackReason::InsufficientMemory,
            ),
            (PoolError::Loading { model: model.clone() }, FallbackReason::Loading),
            (
                PoolError::LoadFailed { model, message: "x".to_owned(), retry_after_seconds: 7 },
                FallbackReason::EngineFailed,
            ),
            (PoolError::ShuttingDown, FallbackReason::EngineFailed),
        ];
        for (error, expected) in pool {
            assert_eq!(reason(error.into()), Some(expected));
        }
        let message = || "x".to_owned();
        let engine = [
            (EngineError::OutOfMemory { message: message() }, Some(FallbackReason::InsufficientMemory)),
            (EngineError::Unsupported { message: message() }, Some(FallbackReason::EngineFailed)),
            (EngineError::NotFinite { index: 0 }, Some(FallbackReason::EngineFailed)),
            (EngineError::Failed { message: message() }, Some(FallbackReason::EngineFailed)),
            (EngineError::DeviceLost { message: message() }, Some(FallbackReason::EngineFailed)),
            (EngineError::Cancelled, None),
        ];
        for (error, expected) in engine {
            assert_eq!(reason(error.into()), expected);
        }
        assert_eq!(reason(StageFailure::disabled()), Some(FallbackReason::Disabled));
        assert_eq!(reason(StageFailure::deadline(20)), Some(FallbackReason::Deadline));
    }

    #[test]
    fn a_failed_load_tells_when_to_come_back() {
        let error = PoolError::LoadFailed { model: "m".to_owned(), message: "x".to_owned(), retry_after_seconds: 7 };
        let StageFailure::NoReranker { retry_after_seconds, .. } = error.into() else { panic!("a fallback") };
        assert_eq!(retry_after_seconds, 7);
    }
}
