//! Qdrant's engine in this process, on disk. I/O; all of it runs on blocking threads.
//!
//! ```text
//! <path>/.lock                       held while the store is open, with the holder's process id
//! <path>/<collection>/collection.json   what the collection was made for; written last, so it marks a whole one
//! <path>/<collection>/shard/            Qdrant's files: log, segments, index
//! ```

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rerank_crds::server_config::Embedded;

use self::collection::Collection;
use self::lock::FolderLock;
use super::document::{self, CollectionSettings};
use super::filter;
use super::fit::{self, MissingRecords};
use super::identity::PointKey;
use super::{Candidate, CollectionInfo, CollectionSpec, Document, DocumentId, Store, StoreError, VectorQuery};

mod collection;
mod lock;
mod log;

/// Names that Qdrant takes too, so that a collection can move to a server; and none that leaves its folder.
const FORBIDDEN_IN_NAMES: [char; 11] = ['<', '>', ':', '"', '/', '\\', '|', '?', '*', '\0', '\u{1f}'];
const LONGEST_NAME: usize = 255;

/// A folder of collections.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    missing_records: MissingRecords,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    settings: HashMap<String, CollectionSettings>,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    /// None once the store is closed.
    lock: Option<FolderLock>,
    collections: HashMap<String, Arc<Collection>>,
}

impl EmbeddedStore {
    /// Makes the folder where it is absent, locks it and opens the configured collections that are in it. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] for a folder or name that cannot be used; [`StoreError::Unavailable`] where
    /// another process has the folder open; [`StoreError::Failed`] for files that cannot be read.
    pub fn open(config: &Embedded) -> Result<Self, StoreError> {
        if config.path.as_os_str().is_empty() {
            return Err(StoreError::Configuration { message: "embedded.path is empty; allowed: a folder".to_owned() });
        }
        let settings = CollectionSettings::read(&config.collections)?;
        for (name, _) in &settings {
            check_name(name)?;
        }
        fs::create_dir_all(&config.path).map_err(|error| StoreError::Configuration {
            message: format!("embedded.path: failed to make {}: {error}", config.path.display()),
        })?;
        let lock = FolderLock::acquire(&config.path)?;
        let shared = Shared {
            path: config.path.clone(),
            settings: settings.into_iter().collect(),
            open: Mutex::new(Open { lock: Some(lock), collections: HashMap::new() }),
        };
        for name in shared.settings.keys() {
            match shared.collection(name) {
                Ok(_) | Err(StoreError::CollectionMissing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { shared: Arc::new(shared), missing_records: MissingRecords::default() })
    }

    /// Runs blocking work. Where the caller goes away the work is still finished; it is short, or it is a write.
    async fn run<T, Work>(&self, work: Work) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Work: FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .unwrap_or_else(|error| Err(StoreError::Failed { message: format!("its work did not finish: {error}") }))
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self, collection: &str) -> Result<&CollectionSettings, StoreError> {
        self.settings.get(collection).ok_or_else(|| StoreError::CollectionMissing { collection: collection.to_owned() })
    }

    /// The collection, opened where it was not yet.
    fn collection(&self, name: &str) -> Result<Arc<Collection>, StoreError> {
        let settings = self.settings(name)?;
        let mut open = self.open();
        if open.lock.is_none() {
            return Err(closed());
        }
        if let Some(collection) = open.collections.get(name) {
            return Ok(Arc::clone(collection));
        }
        let collection = Arc::new(Collection::open(name, &self.path.join(name), settings)?);
        open.collections.insert(name.to_owned(), Arc::clone(&collection));
        Ok(collection)
    }

    /// Makes the collection; where another call made it meanwhile, that one stays.
    fn create(&self, name: &str, spec: &CollectionSpec) -> Result<(), StoreError> {
        let settings = self.settings(name)?;
        let mut open = self.open();
        if open.lock.is_none() {
            return Err(closed());
        }
        if !open.collections.contains_key(name) {
            let collection = Collection::create(name, &self.path.join(name), settings, spec)?;
            open.collections.insert(name.to_owned(), Arc::new(collection));
        }
        Ok(())
    }

    fn close(&self) -> Result<(), StoreError> {
        let mut open = self.open();
        let collections = std::mem::take(&mut open.collections);
        let mut outcome = Ok(());
        for collection in collections.into_values() {
            outcome = outcome.and(collection.close());
        }
        // Last: whoever takes the folder over finds it flushed.
        open.lock = None;
        outcome
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { message: "the embedded store is closed".to_owned() }
}

fn check_name(name: &str) -> Result<(), StoreError> {
    let allowed = name.len() <= LONGEST_NAME
        && !name.is_empty()
        && !name.starts_with('.')
        && !name.chars().any(|character| FORBIDDEN_IN_NAMES.contains(&character));
    if allowed {
        Ok(())
    } else {
        Err(StoreError::Configuration {
            message: format!(
                "collection name {name:?} cannot be used; allowed: 1 to {LONGEST_NAME} bytes that do not start with a \
                 dot and hold none of < > : \" / \\ | ? *"
            ),
        })
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn search(&self, query: VectorQuery) -> Result<Vec<Candidate>, StoreError> {
        self.run(move |shared| {
            let VectorQuery { collection, vector, limit, filter } = query;
            let text_field = &shared.settings(&collection)?.text_field;
            document::check_query(&vector)?;
            let filter = filter.as_ref().map(filter::parse).transpose()?;
            let found = shared.collection(&collection)?.search(vector, limit, filter)?;
            let mut candidates = found
                .into_iter()
                .map(|(key, score, payload)| document::candidate(key, score, payload, text_field))
                .collect::<Result<Vec<_>, StoreError>>()?;
            document::sort(&mut candidates);
            Ok(candidates)
        })
        .await
    }

    async fn describe(&self, collection: &str) -> Result<CollectionInfo, StoreError> {
        let collection = collection.to_owned();
        self.run(move |shared| shared.collection(&collection)?.describe()).await
    }

    async fn check(&self, collection: &str, spec: &CollectionSpec) -> Result<CollectionInfo, StoreError> {
        let info = self.describe(collection).await?;
        fit::compare(collection, &info, spec)?;
        self.missing_records.tell(collection, &info, spec);
        Ok(info)
    }

    async fn ensure_collection(&self, collection: &str, spec: &CollectionSpec) -> Result<(), StoreError> {
        match self.check(collection, spec).await {
            Err(StoreError::CollectionMissing { .. }) => {
                let (name, wanted) = (collection.to_owned(), spec.clone());
                self.run(move |shared| shared.create(&name, &wanted)).await?;
                self.check(collection, spec).await.map(drop)
            }
            outcome => outcome.map(drop),
        }
    }

    async fn upsert(&self, collection: &str, documents: Vec<Document>) -> Result<(), StoreError> {
        let name = collection.to_owned();
        let due = self
            .run(move |shared| {
                let points = document::prepare_all(documents)?;
                let collection = shared.collection(&name)?;
                let due = collection.upsert(points)?;
                Ok(due.then_some(collection))
            })
            .await?;
        if let Some(collection) = due {
            // The index is built beside searches; nobody who indexes waits for it.
            tokio::task::spawn_blocking(move || collection.optimise());
        }
        Ok(())
    }

    async fn existing(&self, collection: &str, ids: &[DocumentId]) -> Result<Vec<bool>, StoreError> {
        let name = collection.to_owned();
        let keys: Vec<PointKey> = ids.iter().map(PointKey::of).collect();
        self.run(move |shared| shared.collection(&name)?.existing(&keys)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        if self.shared.open().lock.is_some() { Ok(()) } else { Err(closed()) }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.run(Shared::close).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        for name in ["", ".", "..", "../other", "a/b", "a\\b", "/etc", ".lock", "a\0b", &"x".repeat(256)] {
            let message = check_name(name).unwrap_err().to_string();
            assert!(message.contains("allowed"), "{message}");
        }
        for name in ["docs", "docs-2", "a.b", "日本語", "with space"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}
