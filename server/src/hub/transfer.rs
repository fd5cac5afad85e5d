//! One file from the hub: goes on where it was broken off, and is compared with what the hub says of it. I/O.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use reqwest::StatusCode;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::download::check_space;
use super::pace::{LEAST_BYTES, Pace};
use super::{ATTEMPTS, FIRST_PAUSE, Hub, HubDigest, HubError, HubFile, MAXIMUM_UNTOLD_BYTES, repo};
use crate::engine::weights::FileDigest;

/// How often the log tells how far a file is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A file of a model at one commit.
pub(super) struct Wanted<'a> {
    pub(super) model: &'a str,
    pub(super) commit: &'a str,
    pub(super) file: &'a HubFile,
}

impl Wanted<'_> {
    /// What to say of more bytes than there may be: where the listing tells the length, the file is damaged, as is seen
    /// when it is compared.
    fn too_long(&self, maximum_bytes: u64) -> Result<(), HubError> {
        match self.file.bytes {
            Some(_) => Ok(()),
            None => {
                Err(HubError::Endless { model: self.model.to_owned(), file: self.file.name.clone(), maximum_bytes })
            }
        }
    }
}

impl Hub {
    /// Fetches a file to `target`, which lies in a folder of its own until it is whole. Answers its digest.
    pub(super) async fn fetch(&self, wanted: &Wanted<'_>, target: &Path) -> Result<FileDigest, HubError> {
        let mut first_damage = None;
        loop {
            let digest = self.fetch_to_the_end(wanted, target).await?;
            match damage(wanted, &digest, target).await? {
                None => return Ok(digest),
                Some(damage) => {
                    fs::remove_file(target).await.map_err(|source| write_error(target, source))?;
                    // What was broken off may have been damaged by others; what came whole and wrong twice is wrong.
                    if first_damage.replace(()).is_some() {
                        return Err(damage);
                    }
                    tracing::warn!(error = %damage, "A file came damaged and is fetched once more");
                }
            }
        }
    }

    async fn fetch_to_the_end(&self, wanted: &Wanted<'_>, target: &Path) -> Result<FileDigest, HubError> {
        let mut failures = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let before = length(target).await;
            match self.fetch_on(wanted, target).await {
                Ok(digest) => return Ok(digest),
                Err(error) if error.may_pass() => {
                    if length(target).await >= before + LEAST_BYTES {
                        (failures, pause) = (0, FIRST_PAUSE);
                    }
                    failures += 1;
                    if failures >= ATTEMPTS {
                        return Err(error);
                    }
                    tracing::warn!(
                        model = wanted.model,
                        file = wanted.file.name,
                        error = crate::chain::describe(&error),
                        "A transfer broke off and is taken up again"
                    );
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Fetches what is left of a file.
    async fn fetch_on(&self, wanted: &Wanted<'_>, target: &Path) -> Result<FileDigest, HubError> {
        let (mut hash, mut bytes) = hash_of(target).await?;
        if wanted.file.bytes.is_some_and(|expected| bytes >= expected) {
            return Ok(FileDigest { bytes, sha256: hex::encode(hash.finalize()) });
        }
        let url = format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint(),
            repo(wanted.model, wanted.commit).url(),
            wanted.commit,
            wanted.file.name
        );
        let from = (bytes > 0).then_some(bytes);
        let response = match self.get(&url, wanted.model, wanted.commit, from).await {
            // What is there goes beyond the end of the file, so it is not the beginning of this one.
            Err(HubError::Status { status: 416, .. }) if from.is_some() => {
                fs::remove_file(target).await.map_err(|source| write_error(target, source))?;
                (hash, bytes) = (Sha256::new(), 0);
                self.get(&url, wanted.model, wanted.commit, None).await?
            }
            outcome => outcome?,
        };
        let goes_on = response.status() == StatusCode::PARTIAL_CONTENT;
        if !goes_on {
            (hash, bytes) = (Sha256::new(), 0);
        }
        let maximum_bytes = match (wanted.file.bytes, response.content_length()) {
            (Some(told), _) => told,
            (None, Some(rest)) => {
                check_space(wanted.model, target, rest)?;
                bytes + rest
            }
            (None, None) => MAXIMUM_UNTOLD_BYTES,
        };
        let mut options = OpenOptions::new();
        options.create(true).write(true).append(goes_on).truncate(!goes_on);
        let mut file = options.open(target).await.map_err(|source| write_error(target, source))?;
        let mut stream = response.bytes_stream();
        let mut pace = Pace::new(Instant::now());
        let mut told = Instant::now();
        let outcome = loop {
            match stream.next().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(self.unreachable(error)),
                Some(Ok(chunk)) => {
                    bytes += chunk.len() as u64;
                    hash.update(&chunk);
                    file.write_all(&chunk).await.map_err(|source| write_error(target, source))?;
                    if told.elapsed() >= TELL_EVERY {
                        told = Instant::now();
                        let (model, file) = (wanted.model, &wanted.file.name);
                        tracing::info!(model, file, bytes, of_bytes = wanted.file.bytes, "Still downloading");
                    }
                    if bytes > maximum_bytes {
                        break wanted.too_long(maximum_bytes);
                    }
                    if !pace.came(chunk.len() as u64, Instant::now()) {
                        break Err(HubError::Crawls { model: wanted.model.to_owned(), file: wanted.file.name.clone() });
                    }
                }
            }
        };
        file.sync_all().await.map_err(|source| write_error(target, source))?;
        if let Err(HubError::Endless { .. }) = outcome {
            fs::remove_file(target).await.map_err(|source| write_error(target, source))?;
        }
        outcome.map(|()| FileDigest { bytes, sha256: hex::encode(hash.finalize()) })
    }
}

/// What is wrong with a file that came whole.
async fn damage(wanted: &Wanted<'_>, came: &FileDigest, path: &Path) -> Result<Option<HubError>, HubError> {
    let HubFile { name, bytes, digest } = wanted.file;
    let (what, found, expected) = match (bytes, digest) {
        (Some(expected), _) if *expected != came.bytes => {
            ("its length is", came.bytes.to_string(), expected.to_string())
        }
        (_, Some(HubDigest::Sha256(expected))) => ("its SHA-256 is", came.sha256.clone(), expected.clone()),
        (_, Some(HubDigest::GitBlob(expected))) => {
            let content = fs::read(path).await.map_err(|source| write_error(path, source))?;
            ("its git blob is", git_blob(&content), expected.clone())
        }
        (_, None) => return Ok(None),
    };
    if found == expected {
        return Ok(None);
    }
    Ok(Some(HubError::Damaged { model: wanted.model.to_owned(), file: name.clone(), what, found, expected }))
}

/// Git's name of a file's content.
fn git_blob(content: &[u8]) -> String {
    let hash = Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content);
    hex::encode(hash.finalize())
}

async fn length(path: &Path) -> u64 {
    fs::metadata(path).await.map_or(0, |metadata| metadata.len())
}

/// Hash and length of what is there already.
async fn hash_of(path: &Path) -> Result<(Sha256, u64), HubError> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let Ok(mut file) = File::open(path).await else { return Ok((hash, bytes)) };
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let read = file.read(&mut buffer).await.map_err(|source| write_error(path, source))?;
        let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { return Ok((hash, bytes)) };
        hash.update(chunk);
        bytes += read as u64;
    }
}

pub(super) fn write_error(path: &Path, source: std::io::Error) -> HubError {
    HubError::Write { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_have_gits_names() {
        // `git hash-object` of an empty file, and of "hello\n".
        assert_eq!(git_blob(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(git_blob(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
