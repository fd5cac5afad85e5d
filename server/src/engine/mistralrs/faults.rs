//! What an error text of mistral.rs or CUDA means. Pure.
//!
//! The library hands out texts, not kinds, so they are matched by the words that the CUDA driver, cuBLAS and the
//! allocator use.

use mistralrs_core::Response;

use crate::engine::EngineError;

/// What went wrong in a load or a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Memory ran out; a smaller batch may pass.
    OutOfMemory(String),
    /// The device is gone; every further call of any engine would fail.
    DeviceLost(String),
    /// The engine's thread is gone; every further call to it would fail.
    EngineGone(String),
    /// This call failed.
    Failed(String),
    /// An answer is no number; position in the batch.
    NotFinite(usize),
}

const OUT_OF_MEMORY: [&str; 5] =
    ["out of memory", "out_of_memory", "alloc_failed", "failed to allocate", "num gpu blocks is 0"];

/// After one of these a CUDA context answers every call with the same error.
const FATAL: [&str; 9] = [
    "illegal_address",
    "illegal memory access",
    "launch_failed",
    "unspecified launch failure",
    "misaligned_address",
    "misaligned address",
    "ecc_uncorrectable",
    "uncorrectable ecc",
    "device-side assert",
];

impl Fault {
    /// Sorts an error by its text.
    pub(super) fn from_message(message: String) -> Self {
        let lower = message.to_lowercase();
        if FATAL.iter().any(|words| lower.contains(words)) {
            Self::DeviceLost(message)
        } else if OUT_OF_MEMORY.iter().any(|words| lower.contains(words)) {
            Self::OutOfMemory(message)
        } else {
            Self::Failed(message)
        }
    }

    /// The fault in a response that is not the one expected. None at all means that the engine is gone.
    pub(super) fn from_response(response: Option<Response>) -> Self {
        match response {
            None => Self::engine_gone(),
            Some(Response::InternalError(error) | Response::ValidationError(error)) => {
                Self::from_message(error.to_string())
            }
            Some(Response::CompletionModelError(message, _) | Response::ModelError(message, _)) => {
                Self::from_message(message)
            }
            Some(_) => Self::Failed("the engine answered something else than was asked for".to_owned()),
        }
    }

    /// The engine's thread ended.
    pub(super) fn engine_gone() -> Self {
        Self::EngineGone("the engine's thread has ended; the model must be loaded again".to_owned())
    }

    /// As an error of the trait. A position that [`Fault::NotFinite`] holds is kept.
    pub(super) fn into_error(self) -> EngineError {
        match self {
            Self::OutOfMemory(message) => EngineError::OutOfMemory { message },
            Self::DeviceLost(message) => EngineError::DeviceLost { message },
            Self::EngineGone(message) | Self::Failed(message) => EngineError::Failed { message },
            Self::NotFinite(index) => EngineError::NotFinite { index },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_driver_and_the_allocator_mean_out_of_memory() {
        for text in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "Failed to allocate preallocated KV cache.",
        ] {
            assert!(matches!(Fault::from_message(text.to_owned()), Fault::OutOfMemory(_)), "{text}");
        }
    }

    #[test]
    fn a_broken_device_is_fatal_also_where_memory_is_named() {
        for text in ["CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered", "CUDA_ERROR_LAUNCH_FAILED"]
        {
            assert!(matches!(Fault::from_message(text.to_owned()), Fault::DeviceLost(_)), "{text}");
        }
    }

    #[test]
    fn anything_else_fails_the_call_alone() {
        let fault = Fault::from_message("unsupported dtype BF16 for op matmul".to_owned());
        assert!(matches!(fault, Fault::Failed(_)));
        let error = fault.into_error().to_string();
        assert_eq!(error, "failed to run the model: unsupported dtype BF16 for op matmul");
    }
}
