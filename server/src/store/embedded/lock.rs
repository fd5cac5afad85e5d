//! One process at a time: the lock of an embedded store's folder. I/O.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::store::StoreError;

const LOCK_FILE: &str = ".lock";

/// Held until dropped, or until the process ends in any way.
#[derive(Debug)]
pub(super) struct FolderLock {
    /// The lock belongs to the open file.
    _file: File,
}

impl FolderLock {
    /// Takes the lock without waiting.
    pub(super) fn acquire(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(LOCK_FILE);
        let failed = |error: std::io::Error| StoreError::Configuration {
            message: format!("embedded.path: failed to lock {}: {error}", path.display()),
        };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Unavailable {
                    message: format!(
                        "folder {} is in use by {}; an embedded store has one process at a time",
                        folder.display(),
                        holder(&mut file)
                    ),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // For the message above only; the lock holds without it.
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if text.parse::<u32>().is_ok() => format!("process {text}"),
        Ok(_) | Err(_) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_until_the_lock_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let message = FolderLock::acquire(folder.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(lock);
        assert!(FolderLock::acquire(folder.path()).is_ok());
    }
}
