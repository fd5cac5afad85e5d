//! The digests of a model's files, written when it is downloaded and compared before each load. I/O: reads whole files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{WeightsError, files};

/// Its name in a model's folder.
const FILE: &str = "manifest.json";

/// What a model's folder held when it was downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Model id.
    pub model: String,
    /// Commit of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Every file by its name.
    pub files: BTreeMap<String, FileDigest>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileDigest {
    /// Length.
    pub bytes: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// The manifest of a folder; None where it has none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Self>, WeightsError> {
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(WeightsError::Unreadable { path, source }),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| WeightsError::Damaged { path, reason: format!("it is no manifest: {error}") })
    }

    /// Writes it into a folder.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        fs::write(directory.join(FILE), text)
    }

    /// Compares every file with its digest. Answers the bytes that were read.
    ///
    /// # Errors
    /// The first file that is missing, changed or unknown.
    pub fn verify(&self, directory: &Path) -> Result<u64, WeightsError> {
        let beside = files::BESIDE_THE_WEIGHTS.into_iter().map(str::to_owned);
        let there = beside.filter(|name| directory.join(name).exists());
        for name in there.chain(files::weight_files(directory)?) {
            if !self.files.contains_key(&name) {
                let reason = format!("{FILE} does not know it");
                return Err(WeightsError::Damaged { path: directory.join(name), reason });
            }
        }
        let mut sum = 0;
        for (name, expected) in &self.files {
            // A name that leads elsewhere is none of a model's files.
            if name.contains(['/', '\\']) || name.starts_with('.') {
                let reason = format!("{name:?} is no name of a file of this folder");
                return Err(WeightsError::Damaged { path: directory.join(FILE), reason });
            }
            let found = digest(directory, name)?;
            sum += found.bytes;
            if found != *expected {
                return Err(WeightsError::Damaged {
                    path: directory.join(name),
                    reason: format!(
                        "it has {} bytes and the SHA-256 {}, {FILE} says {} bytes and {}",
                        found.bytes, found.sha256, expected.bytes, expected.sha256
                    ),
                });
            }
        }
        Ok(sum)
    }
}

fn digest(directory: &Path, name: &str) -> Result<FileDigest, WeightsError> {
    let path = directory.join(name);
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => WeightsError::MissingFile { directory: directory.to_owned(), file: name.to_owned() },
        _ => WeightsError::Unreadable { path: path.clone(), source },
    };
    let mut file = File::open(&path).map_err(unreadable)?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let read = file.read(&mut buffer).map_err(unreadable)?;
        let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
        hash.update(chunk);
        bytes += read as u64;
    }
    Ok(FileDigest { bytes, sha256: hex::encode(hash.finalize()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        let mut files = BTreeMap::new();
        for (name, content) in [("config.json", "{}"), ("model.safetensors", "weights")] {
            fs::write(folder.path().join(name), content).unwrap();
            files.insert(name.to_owned(), digest(folder.path(), name).unwrap());
        }
        let manifest = Manifest { model: "a/b".to_owned(), revision: Some("abc".to_owned()), files };
        manifest.write(folder.path()).unwrap();
        (folder, manifest)
    }

    fn refusal(folder: &Path) -> String {
        Manifest::read(folder).unwrap().unwrap().verify(folder).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_as_it_was_downloaded_is_accepted() {
        let (folder, manifest) = folder();
        assert_eq!(Manifest::read(folder.path()).unwrap(), Some(manifest.clone()));
        assert_eq!(manifest.verify(folder.path()).unwrap(), 9);
        assert_eq!(Manifest::read(&folder.path().join("nowhere")).unwrap(), None);
    }

    #[test]
    fn one_flipped_byte_a_missing_file_and_one_too_many_are_refused() {
        let (folder, _) = folder();
        let weights = folder.path().join("model.safetensors");
        fs::write(&weights, "weightt").unwrap();
        let error = refusal(folder.path());
        assert!(error.contains("model.safetensors") && error.contains("SHA-256") && error.contains("again"), "{error}");
        fs::remove_file(&weights).unwrap();
        assert!(refusal(folder.path()).contains("holds no model.safetensors"));
        fs::write(&weights, "weights").unwrap();
        for added in ["more.safetensors", "self-test.json"] {
            let path = folder.path().join(added);
            fs::write(&path, "x").unwrap();
            let error = refusal(folder.path());
            assert!(error.contains("manifest.json does not know it") && error.contains(added), "{error}");
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_manifest_that_is_none_or_leads_elsewhere_is_refused() {
        let (folder, manifest) = folder();
        let elsewhere = manifest.files.values().next().unwrap().clone();
        let files = BTreeMap::from([("../secret".to_owned(), elsewhere)]);
        for file in manifest.files.keys() {
            fs::remove_file(folder.path().join(file)).unwrap();
        }
        Manifest { files, ..manifest }.write(folder.path()).unwrap();
        assert!(refusal(folder.path()).contains("no name of a file"));
        fs::write(folder.path().join(FILE), "{}").unwrap();
        assert!(Manifest::read(folder.path()).unwrap_err().to_string().contains("no manifest"));
    }
}
