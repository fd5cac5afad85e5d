//! Weight files and their headers: which files hold the weights, and whether they are whole. I/O: reads headers only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
use serde::Deserialize;

use super::{ModelConfig, WeightsError, read_json};
use crate::engine::ModelRole;

/// Files beside the weights that are read, or say how the model is meant to be used.
pub(crate) const BESIDE_THE_WEIGHTS: [&str; 6] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "self-test.json", INDEX];

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Longest header that is read; the format allows no longer one.
const MAXIMUM_HEADER_BYTES: u64 = 100_000_000;

/// All weight files of a folder.
#[derive(Debug)]
pub(super) struct WeightFiles {
    /// In order of their names.
    pub(super) files: Vec<PathBuf>,
    /// Sum of their sizes.
    pub(super) bytes: u64,
    /// Shape of each tensor by name.
    tensors: BTreeMap<String, Vec<usize>>,
}

/// Reads the headers of all weight files: those of the index, else `model.safetensors`, else every safetensors file.
pub(super) fn read(directory: &Path) -> Result<WeightFiles, WeightsError> {
    let names = names_in(directory)?;
    let with_suffix = |suffixes: &[&str]| -> Vec<String> {
        names.iter().filter(|name| suffixes.iter().any(|suffix| name.ends_with(suffix))).cloned().collect()
    };
    let index = names.contains(INDEX).then(|| read_index(directory)).transpose()?;
    let chosen: Vec<String> = match &index {
        Some(index) => index.weight_map.values().collect::<BTreeSet<_>>().into_iter().cloned().collect(),
        None if names.contains(SINGLE) => vec![SINGLE.to_owned()],
        None => with_suffix(&[".safetensors"]),
    };
    if chosen.is_empty() {
        let pickles = with_suffix(&[".bin", ".pt", ".pth", ".ckpt"]);
        return Err(if pickles.is_empty() {
            WeightsError::MissingFile { directory: directory.to_owned(), file: SINGLE.to_owned() }
        } else {
            WeightsError::Pickle { directory: directory.to_owned(), files: pickles }
        });
    }
    let mut weights = WeightFiles { files: Vec::new(), bytes: 0, tensors: BTreeMap::new() };
    for name in chosen {
        if !names.contains(&name) {
            return Err(WeightsError::MissingFile { directory: directory.to_owned(), file: name });
        }
        weights.add(directory.join(name))?;
    }
    if let Some(index) = index
        && let Some(missing) = index.weight_map.keys().find(|tensor| !weights.tensors.contains_key(*tensor))
    {
        let reason = format!("it lists tensor {missing:?}, which no file holds");
        return Err(WeightsError::Damaged { path: directory.join(INDEX), reason });
    }
    Ok(weights)
}

/// Names of all safetensors files of a folder.
pub(super) fn weight_files(directory: &Path) -> Result<Vec<String>, WeightsError> {
    Ok(names_in(directory)?.into_iter().filter(|name| name.ends_with(".safetensors")).collect())
}

impl WeightFiles {
    fn add(&mut self, path: PathBuf) -> Result<(), WeightsError> {
        let (bytes, tensors) = read_header(&path)?;
        self.bytes += bytes;
        for (name, shape) in tensors {
            if self.tensors.insert(name.clone(), shape).is_some() {
                let reason = format!("it holds tensor {name:?}, which another file of the folder holds too");
                return Err(WeightsError::Damaged { path, reason });
            }
        }
        self.files.push(path);
        Ok(())
    }

    /// Parameters in all tensors.
    pub(super) fn parameters(&self) -> u64 {
        self.tensors.values().map(|shape| shape.iter().map(|size| *size as u64).product::<u64>()).sum()
    }

    /// Checks names and shapes that tell whether these weights are what `config.json` says.
    pub(super) fn check_against(&self, config: &ModelConfig, role: ModelRole) -> Result<(), String> {
        let prefix = match role {
            ModelRole::Reranker => "model.",
            ModelRole::Embedder => "",
        };
        let embedding = format!("{prefix}embed_tokens.weight");
        if !self.tensors.contains_key(&embedding) {
            return Err(match role {
                ModelRole::Embedder if self.tensors.contains_key("model.embed_tokens.weight") => {
                    "an embedder's tensors carry no prefix \"model.\"; save the base model \
                     (AutoModel.from_pretrained(...).save_pretrained(...)) instead of the one with an output head"
                        .to_owned()
                }
                ModelRole::Reranker if self.tensors.contains_key("embed_tokens.weight") => {
                    "tensor \"model.embed_tokens.weight\" is missing and \"embed_tokens.weight\" is there: this is a base \
                     model without an output head, such as an embedder; a reranker answers with a token"
                        .to_owned()
                }
                _ => format!("tensor {embedding:?} is missing"),
            });
        }
        let vocabulary = [config.vocabulary_size, config.hidden_size];
        self.check_shape(&embedding, &vocabulary)?;
        if role == ModelRole::Reranker && !config.tied_embeddings {
            self.check_shape("lm_head.weight", &vocabulary)?;
        }
        let layers = format!("{prefix}layers.");
        let held: BTreeSet<usize> = self
            .tensors
            .keys()
            .filter_map(|name| name.strip_prefix(&layers)?.split('.').next()?.parse().ok())
            .collect();
        if held.iter().copied().ne(0..config.layers) {
            return Err(format!("num_hidden_layers is {}, the weights hold {} layers", config.layers, held.len()));
        }
        self.check_shape(&format!("{prefix}norm.weight"), &[config.hidden_size])
    }

    fn check_shape(&self, name: &str, expected: &[usize]) -> Result<(), String> {
        match self.tensors.get(name) {
            Some(shape) if shape == expected => Ok(()),
            Some(shape) => Err(format!("tensor {name:?} has shape {shape:?}, expected {expected:?}")),
            // Some architectures name their last norm otherwise; the engine checks those.
            None if name.ends_with("norm.weight") => Ok(()),
            None => Err(format!("tensor {name:?} is missing")),
        }
    }
}

#[derive(Deserialize)]
struct Index {
    /// Tensor name -> file name.
    weight_map: BTreeMap<String, String>,
}

fn read_index(directory: &Path) -> Result<Index, WeightsError> {
    let damaged = |reason| WeightsError::Damaged { path: directory.join(INDEX), reason };
    let index: Index = serde_json::from_value(read_json(directory, INDEX)?)
        .map_err(|error| damaged(format!("weight_map cannot be read: {error}")))?;
    match index.weight_map.values().find(|name| name.contains(['/', '\\']) || !name.ends_with(".safetensors")) {
        Some(name) => Err(damaged(format!("{name:?} is no safetensors file of this folder"))),
        None if index.weight_map.is_empty() => Err(damaged("weight_map is empty".to_owned())),
        None => Ok(index),
    }
}

/// Name and shape of each tensor.
type Shapes = Vec<(String, Vec<usize>)>;

/// Size of a safetensors file and the shape of each of its tensors. Checks that the file is as long as its header says.
fn read_header(path: &Path) -> Result<(u64, Shapes), WeightsError> {
    let unreadable = |source| WeightsError::Unreadable { path: path.to_owned(), source };
    let damaged = |reason| WeightsError::Damaged { path: path.to_owned(), reason };
    let mut file = File::open(path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => damaged(format!("it has {bytes} bytes and no header")),
        _ => unreadable(error),
    })?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MAXIMUM_HEADER_BYTES || header_bytes.saturating_add(8) > bytes {
        return Err(damaged(format!("its header claims {header_bytes} bytes, the file has {bytes}")));
    }
    let mut header = Vec::new();
    file.take(header_bytes).read_to_end(&mut header).map_err(unreadable)?;
    // Reading it checks that the tensors lie one behind another and are as long as their shapes say.
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| damaged(format!("its header cannot be read: {error}")))?;
    let tensors = metadata.tensors();
    let data_bytes = tensors.values().map(|tensor| tensor.data_offsets.1).max().unwrap_or(0) as u64;
    let expected = header_bytes.saturating_add(8).saturating_add(data_bytes);
    if bytes != expected {
        return Err(damaged(format!("it has {bytes} bytes, its header asks for {expected}")));
    }
    Ok((bytes, tensors.into_iter().map(|(name, tensor)| (name, tensor.shape.clone())).collect()))
}

fn names_in(directory: &Path) -> Result<BTreeSet<String>, WeightsError> {
    let unreadable = |source| WeightsError::Unreadable { path: directory.to_owned(), source };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        if let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() {
            names.insert(name);
        }
    }
    Ok(names)
}
