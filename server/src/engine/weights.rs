//! What stands in a model's folder, read before anything is loaded. I/O: reads files, loads nothing.

/// Why a model's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// No such model under the weights directory.
    #[error("model {model:?} is not in {directory:?}")]
    Missing {
        /// Model id.
        model: String,
        /// Where it was looked for.
        directory: std::path::PathBuf,
    },
}
