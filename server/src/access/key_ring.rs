//! API keys that follow their file: a key that is added, taken back or renewed counts without a restart. I/O: reads the
//! file or folder.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::{AccessError, ApiKeys};
use crate::reload::Reload;

/// The keys as last read well.
#[derive(Debug)]
pub struct KeyRing {
    path: PathBuf,
    current: RwLock<Arc<ApiKeys>>,
}

impl KeyRing {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// As [`ApiKeys::load`].
    pub fn load(path: &Path) -> Result<Self, AccessError> {
        let keys = ApiKeys::load(path)?;
        Ok(Self { path: path.to_owned(), current: RwLock::new(Arc::new(keys)) })
    }

    /// The keys that count now.
    pub fn current(&self) -> Arc<ApiKeys> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reload for KeyRing {
    const WHAT: &'static str = "API keys";
    type Error = AccessError;

    fn reload(&self) -> Result<bool, AccessError> {
        let keys = ApiKeys::load(&self.path)?;
        if *self.current() == keys {
            return Ok(false);
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_their_file_and_outlive_one_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "shop: old\n").unwrap();
        let ring = KeyRing::load(&path).unwrap();
        assert!(!ring.reload().unwrap(), "nothing has changed");
        std::fs::write(&path, "shop: new\nblog: other\n").unwrap();
        assert!(ring.reload().unwrap());
        assert_eq!((ring.current().client_of(b"old"), ring.current().client_of(b"new")), (None, Some("shop")));
        std::fs::remove_file(&path).unwrap();
        assert!(ring.reload().is_err());
        assert_eq!(ring.current().client_of(b"new"), Some("shop"));
        std::fs::write(&path, "").unwrap();
        assert!(ring.reload().is_err(), "an empty file would lock everybody out");
        assert_eq!(ring.current().len(), 2);
    }
}
