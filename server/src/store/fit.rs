//! Whether a collection fits what the server needs. Pure, but for the warnings that are given once.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::{CollectionInfo, CollectionSpec, StoreError};

/// Distances whose order is the cosine's for vectors of length 1, which is what the embedding models give.
const DISTANCES: [&str; 2] = ["Cosine", "Dot"];

/// Compares what a collection says of itself with what is needed.
///
/// # Errors
/// [`StoreError::Mismatch`] with both values, for the first of dimension, distance, embedding model and embedding
/// revision that does not fit.
pub fn compare(collection: &str, info: &CollectionInfo, spec: &CollectionSpec) -> Result<(), StoreError> {
    let mismatch = |what, found: &str, expected: &str| StoreError::Mismatch {
        collection: collection.to_owned(),
        what,
        found: found.to_owned(),
        expected: expected.to_owned(),
    };
    if info.dimension != spec.dimension {
        return Err(mismatch("dimension", &info.dimension.to_string(), &spec.dimension.to_string()));
    }
    if !DISTANCES.contains(&info.distance.as_str()) {
        return Err(mismatch("distance", &info.distance, &DISTANCES.join(" or ")));
    }
    if let Some(recorded) = &info.embedding_model
        && *recorded != spec.embedding_model
    {
        return Err(mismatch("embedding model", recorded, &spec.embedding_model));
    }
    if let (Some(recorded), Some(needed)) = (&info.embedding_revision, &spec.embedding_revision)
        && recorded != needed
    {
        return Err(mismatch("embedding revision", recorded, needed));
    }
    Ok(())
}

/// Remembers for which collections the missing record was told, so that the log has it once.
#[derive(Debug, Default)]
pub(crate) struct MissingRecords {
    told: Mutex<HashSet<String>>,
}

impl MissingRecords {
    /// Warns the first time that a collection without a record is seen.
    pub(crate) fn tell(&self, collection: &str, info: &CollectionInfo, spec: &CollectionSpec) {
        if info.embedding_model.is_none() && self.is_new(collection) {
            tracing::warn!(
                collection,
                embedding_model = %spec.embedding_model,
                "Collection does not record its embedding model, so it is taken to be the configured one"
            );
        }
    }

    fn is_new(&self, collection: &str) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(collection.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> CollectionSpec {
        CollectionSpec {
            dimension: 4,
            embedding_model: "maker/model".to_owned(),
            embedding_revision: Some("abc".to_owned()),
        }
    }

    fn info() -> CollectionInfo {
        CollectionInfo {
            dimension: 4,
            distance: "Cosine".to_owned(),
            documents: 0,
            embedding_model: Some("maker/model".to_owned()),
            embedding_revision: Some("abc".to_owned()),
        }
    }

    fn message(info: &CollectionInfo) -> String {
        compare("docs", info, &spec()).unwrap_err().to_string()
    }

    #[test]
    fn a_collection_that_fits_is_accepted() {
        assert!(compare("docs", &info(), &spec()).is_ok());
        assert!(compare("docs", &CollectionInfo { distance: "Dot".to_owned(), ..info() }, &spec()).is_ok());
        assert!(compare("docs", &CollectionInfo { embedding_model: None, ..info() }, &spec()).is_ok());
        assert!(compare("docs", &CollectionInfo { embedding_revision: None, ..info() }, &spec()).is_ok());
    }

    #[test]
    fn a_mismatch_names_both_values() {
        for (info, found, expected) in [
            (CollectionInfo { dimension: 8, ..info() }, "dimension 8", "4 is needed"),
            (CollectionInfo { distance: "Euclid".to_owned(), ..info() }, "distance Euclid", "Cosine or Dot is needed"),
            (
                CollectionInfo { embedding_model: Some("other/one".to_owned()), ..info() },
                "embedding model other/one",
                "maker/model is needed",
            ),
            (
                CollectionInfo { embedding_revision: Some("def".to_owned()), ..info() },
                "embedding revision def",
                "abc is needed",
            ),
        ] {
            let message = message(&info);
            assert!(message.contains(found) && message.contains(expected) && message.contains("docs"), "{message}");
        }
    }

    #[test]
    fn a_missing_record_is_told_once_for_each_collection() {
        let missing = MissingRecords::default();
        assert!(missing.is_new("one"));
        assert!(!missing.is_new("one"));
        assert!(missing.is_new("two"));
    }
}
