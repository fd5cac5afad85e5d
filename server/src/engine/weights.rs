//! What stands in a model's folder, read before anything is loaded. I/O: reads files, loads nothing.
//!
//! `location` finds the folder, `config` reads `config.json`, `files` reads the headers of the weights. Pickle files
//! are never opened: reading one runs code.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ModelRole;

mod config;
mod files;
mod location;
mod manifest;

pub use config::ModelConfig;
pub(crate) use files::BESIDE_THE_WEIGHTS;
pub use location::{resolve, revision_of};
pub use manifest::{FileDigest, Manifest};

/// Why a model's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A model id or revision that is no name.
    #[error(
        "{field} {name:?} is no valid name; use letters, digits, '.', '_' and '-', with '/' between the parts, such as \
         Qwen/Qwen3-Reranker-0.6B"
    )]
    InvalidName {
        /// `model` or `revision`.
        field: &'static str,
        /// What was given.
        name: String,
    },
    /// No such model under the weights directory.
    #[error("model {model:?} is not in {directory:?}; {}", describe_missing(looked_for, found))]
    Missing {
        /// Model id.
        model: String,
        /// Where it was looked for.
        directory: PathBuf,
        /// Folders that would have been taken.
        looked_for: Vec<PathBuf>,
        /// Models that are there.
        found: Vec<String>,
    },
    /// The hub cache holds the model but not the revision.
    #[error("model {model:?} is in {directory:?} but not at revision {revision:?}; there: {}", list(found))]
    MissingRevision {
        /// Model id.
        model: String,
        /// What was asked for; `main` where nothing was.
        revision: String,
        /// The model's folder in the hub cache.
        directory: PathBuf,
        /// Revisions that are there.
        found: Vec<String>,
    },
    /// A file that every model needs is not there.
    #[error("{directory:?} holds no {file}; copy the whole model folder, as its repository has it")]
    MissingFile {
        /// The model's folder.
        directory: PathBuf,
        /// Name of the file.
        file: String,
    },
    /// The system refused to read a file.
    #[error("failed to read {path:?}; check that it exists and that this user may read it")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// Weights in a format that runs code when it is read.
    #[error(
        "{directory:?} holds pickle weights only ({}), which can run any code when they are read; use a revision of the \
         model with .safetensors files, or convert them where you trust the source: \
         python -c \"from transformers import AutoModel; AutoModel.from_pretrained('.').save_pretrained('converted')\"",
        list(files)
    )]
    Pickle {
        /// The model's folder.
        directory: PathBuf,
        /// The files found.
        files: Vec<String>,
    },
    /// `weights.requirePinned` is set and nothing tells what the folder must hold.
    #[error(
        "{directory:?} has no manifest.json with the digests of its files, which weights.requirePinned asks for; download \
         the model by its commit, or write the manifest where you trust the files (docs/weights.md)"
    )]
    NotPinned {
        /// The model's folder.
        directory: PathBuf,
    },
    /// `weights.requirePinned` is set and the folder holds another commit than the configuration names.
    #[error(
        "{directory:?} holds commit {found:?}, the configuration names {expected:?} and weights.requirePinned is set"
    )]
    OtherRevision {
        /// The model's folder.
        directory: PathBuf,
        /// Of its manifest.
        found: String,
        /// As configured.
        expected: String,
    },
    /// A weights file is cut off or changed.
    #[error("{path:?} is damaged: {reason}; copy or download it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// `config.json` says something that cannot be.
    #[error("{path:?} cannot be used: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Which field, and what would do.
        reason: String,
    },
    /// A kind of model that no engine here runs in this role.
    #[error("model architecture {architecture:?} cannot serve as {role}: {reason}")]
    Architecture {
        /// From `config.json`.
        architecture: String,
        /// `a reranker` or `an embedder`.
        role: &'static str,
        /// Why, and what is supported.
        reason: String,
    },
    /// Weights and `config.json` do not belong together.
    #[error("the weights in {directory:?} do not fit their config.json: {reason}")]
    Tensors {
        /// The model's folder.
        directory: PathBuf,
        /// Which tensor, and what would do.
        reason: String,
    },
}

fn describe_missing(looked_for: &[PathBuf], found: &[String]) -> String {
    let folders: Vec<String> = looked_for.iter().map(|path| path.display().to_string()).collect();
    let found = if found.is_empty() { "no model is there".to_owned() } else { format!("there: {}", list(found)) };
    format!("put its files into {} or name another directory in weights.directory ({found})", folders.join(" or "))
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None if names.is_empty() => "nothing".to_owned(),
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// A model's folder that can be loaded.
#[derive(Clone, Debug)]
pub struct WeightsInfo {
    /// The folder.
    pub directory: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Weight files, all of them safetensors.
    pub files: Vec<PathBuf>,
    /// Sum of their sizes.
    pub bytes: u64,
    /// Parameters in all weight files.
    pub parameters: u64,
    /// What `config.json` says.
    pub config: ModelConfig,
    /// `config.json` in the form that engines read: see [`ModelConfig`].
    pub engine_config: Value,
}

/// Checks a model's folder: every file that is needed is there and whole, and an engine here runs its architecture in
/// this role. Reads `config.json` and the headers of the weights; blocking, a few milliseconds.
pub fn inspect(directory: &Path, role: ModelRole) -> Result<WeightsInfo, WeightsError> {
    let path = directory.join("config.json");
    let config_json = read_json(directory, "config.json")?;
    let config_error = |reason| WeightsError::Config { path: path.clone(), reason };
    let architecture = config::architecture(&config_json).map_err(config_error)?;
    config::check_architecture(&architecture, role)?;
    let config = ModelConfig::parse(&config_json, &architecture).map_err(config_error)?;
    let engine_config = config::for_engines(&config_json, &config).map_err(config_error)?;
    let tokenizer = directory.join("tokenizer.json");
    if !tokenizer.is_file() {
        return Err(WeightsError::MissingFile { directory: directory.to_owned(), file: "tokenizer.json".to_owned() });
    }
    let weights = files::read(directory)?;
    weights
        .check_against(&config, role)
        .map_err(|reason| WeightsError::Tensors { directory: directory.to_owned(), reason })?;
    Ok(WeightsInfo {
        directory: directory.to_owned(),
        tokenizer,
        bytes: weights.bytes,
        parameters: weights.parameters(),
        files: weights.files,
        config,
        engine_config,
    })
}

fn read_json(directory: &Path, file: &str) -> Result<Value, WeightsError> {
    let path = directory.join(file);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(WeightsError::MissingFile { directory: directory.to_owned(), file: file.to_owned() });
        }
        Err(source) => return Err(WeightsError::Unreadable { path, source }),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| WeightsError::Damaged { path, reason: format!("it is no valid JSON: {error}") })
}
