//! A whole model from the hub into a hub cache. Files come into a folder beside the snapshots; the snapshot appears by one
//! rename, whole and with the digests of its files. I/O.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use tokio::fs;
use tokio::time::{Instant, sleep};

use super::transfer::{Wanted, write_error};
use super::{Hub, HubError, Listing, repo};
use crate::engine::weights::Manifest;

/// How often somebody looks who waits for another process to end its download.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Hub {
    /// Downloads a model, or what is left of it, and answers the folder of its snapshot. Where another process downloads
    /// the same model, it is waited for.
    ///
    /// # Cancel safety
    /// Dropping the future breaks off; the next download goes on from there.
    pub async fn download(&self, weights: &Path, model: &str, revision: &str) -> Result<PathBuf, HubError> {
        let cache = weights.join(repo(model, revision).folder_name());
        fs::create_dir_all(&cache).await.map_err(|source| write_error(&cache, source))?;
        let _lock = lock(&cache.join(".download.lock")).await?;
        let listing = self.list(model, revision).await?;
        let is_commit = revision.len() == 40 && revision.chars().all(|digit| digit.is_ascii_hexdigit());
        if is_commit && !revision.eq_ignore_ascii_case(&listing.commit) {
            let message = format!("asked for the commit {revision} of {model}, it answers {}", listing.commit);
            return Err(HubError::Protocol { endpoint: self.endpoint().to_owned(), message });
        }
        let snapshot = cache.join("snapshots").join(&listing.commit);
        if Manifest::read(&snapshot).is_ok_and(|manifest| manifest.is_some()) {
            // Another process was quicker.
            set_reference(weights, model, revision, &listing.commit)?;
            return Ok(snapshot);
        }
        let folder = cache.join(".download").join(&listing.commit);
        fs::create_dir_all(&folder).await.map_err(|source| write_error(&folder, source))?;
        check_space(model, &folder, left_to_fetch(&folder, &listing).await)?;
        let begun = Instant::now();
        tracing::info!(
            model,
            commit = listing.commit,
            bytes = listing.bytes(),
            endpoint = self.endpoint(),
            "Downloading a model"
        );
        let mut files = BTreeMap::new();
        for file in &listing.files {
            let wanted = Wanted { model, commit: &listing.commit, file };
            let digest = self.fetch(&wanted, &folder.join(&file.name)).await?;
            files.insert(file.name.clone(), digest);
        }
        let manifest = Manifest { model: model.to_owned(), revision: Some(listing.commit.clone()), files };
        manifest.write(&folder).map_err(|source| write_error(&folder, source))?;
        put_in_place(&folder, &snapshot).await?;
        set_reference(weights, model, revision, &listing.commit)?;
        tracing::info!(model, commit = listing.commit, seconds = begun.elapsed().as_secs_f64(), "Downloaded a model");
        Ok(snapshot)
    }
}

/// Waits for the lock; it ends with the file, also where the process dies.
async fn lock(path: &Path) -> Result<File, HubError> {
    let file = File::create(path).map_err(|source| write_error(path, source))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    tracing::info!(?path, "Another process downloads this model; waiting for it");
                    told = true;
                }
                sleep(LOOK_EVERY).await;
            }
            Err(TryLockError::Error(source)) => return Err(write_error(path, source)),
        }
    }
}

async fn left_to_fetch(folder: &Path, listing: &Listing) -> u64 {
    let mut there = 0;
    for file in &listing.files {
        there += fs::metadata(folder.join(&file.name)).await.map_or(0, |metadata| metadata.len());
    }
    listing.bytes().saturating_sub(there)
}

/// Refuses what would fill the disk, before it is fetched. `place`: a folder, or a file in it.
pub(super) fn check_space(model: &str, place: &Path, needed_bytes: u64) -> Result<(), HubError> {
    let folder = if place.is_dir() { place } else { place.parent().unwrap_or(place) };
    // Where the system does not say, the write will.
    let Ok(space) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
    if needed_bytes <= free_bytes {
        return Ok(());
    }
    Err(HubError::NoSpace { model: model.to_owned(), directory: folder.to_owned(), needed_bytes, free_bytes })
}

async fn put_in_place(folder: &Path, snapshot: &Path) -> Result<(), HubError> {
    if let Some(parent) = snapshot.parent() {
        fs::create_dir_all(parent).await.map_err(|source| write_error(parent, source))?;
    }
    if fs::try_exists(snapshot).await.unwrap_or(false) {
        // It is not whole, else nothing would be downloaded; what is in it may be somebody's all the same.
        let aside = folder.with_extension("replaced");
        match fs::remove_dir_all(&aside).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(write_error(&aside, error)),
            Ok(()) | Err(_) => {}
        }
        fs::rename(snapshot, &aside).await.map_err(|source| write_error(snapshot, source))?;
        tracing::warn!(?snapshot, ?aside, "An incomplete snapshot was put aside");
    }
    fs::rename(folder, snapshot).await.map_err(|source| write_error(snapshot, source))
}

fn set_reference(weights: &Path, model: &str, revision: &str, commit: &str) -> Result<(), HubError> {
    if revision == commit {
        return Ok(());
    }
    let cache = Cache::new(weights.to_owned()).repo(repo(model, revision));
    cache.create_ref(commit).map_err(|source| write_error(weights, source))
}
