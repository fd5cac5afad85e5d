//! One collection of an embedded store: its folder, its record, and Qdrant's shard. Blocking I/O.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use qdrant_edge::{
    CountRequest, Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard, EdgeVectorParams, Filter, HnswIndexConfig,
    NamedQuery, OperationError, Payload, PointId, PointInsertOperations, PointOperations, PointStructPersisted,
    QueryEnum, QueryRequest, ScoringQuery, UpdateOperation, VectorInternal, VectorStructPersisted, Vectors, WalOptions,
    WithPayloadInterface, WithVector,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::log;
use crate::store::document::{CollectionSettings, Point};
use crate::store::identity::PointKey;
use crate::store::{CollectionInfo, CollectionSpec, StoreError};

const RECORD_FILE: &str = "collection.json";
const SHARD_FOLDER: &str = "shard";

/// The layout of the folder. A folder of another format is refused, not guessed at.
const FORMAT: u32 = 1;

/// Finished log files at which the log is shortened while the collection is open.
const LOG_FILES: usize = 16;

/// A point with its score and payload.
type FoundPoint = (PointKey, f32, Map<String, Value>);

/// Sizes that a collection is made with.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Vectors above this size get an index; below it, comparing with every vector is as quick.
    indexing_threshold_kilobytes: usize,
    /// One file of the log.
    log_file_bytes: usize,
}

impl Default for Sizes {
    /// The threshold is Qdrant's own. Log files are made at their full size, so Qdrant's own 32 MiB would be what the
    /// smallest collection costs on disk.
    fn default() -> Self {
        Self { indexing_threshold_kilobytes: 10_000, log_file_bytes: 8 * 1024 * 1024 }
    }
}

/// What a collection was made for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    embedding_model: Option<String>,
    embedding_revision: Option<String>,
}

/// An open collection.
pub(super) struct Collection {
    name: String,
    shard_folder: PathBuf,
    vector_name: Option<String>,
    record: Record,
    dimension: usize,
    distance: Distance,
    indexing_threshold_kilobytes: usize,
    /// None once closed. Searches and writes read it, so closing waits for them.
    shard: RwLock<Option<EdgeShard>>,
    /// One write, or one building of the index, at a time. Searches do not wait for it.
    writing: Mutex<()>,
    /// Points written since the index was last built.
    unindexed: AtomicUsize,
}

impl fmt::Debug for Collection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Collection").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Collection {
    /// A store that is dropped without being closed; where the disk is gone by then, that must not be a panic.
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(collection = %self.name, %error, "Failed to close the collection");
        }
    }
}

impl Collection {
    /// Opens a collection that was made before. What was acknowledged is in the segments, also after a crash.
    pub(super) fn open(name: &str, folder: &Path, settings: &CollectionSettings) -> Result<Self, StoreError> {
        let Some(record) = read_record(folder)? else {
            return Err(StoreError::CollectionMissing { collection: name.to_owned() });
        };
        let shard = load(&folder.join(SHARD_FOLDER))?;
        Self::new(name, settings, record, shard)
    }

    /// Makes a collection.
    pub(super) fn create(
        name: &str,
        folder: &Path,
        settings: &CollectionSettings,
        spec: &CollectionSpec,
    ) -> Result<Self, StoreError> {
        Self::create_sized(name, folder, settings, spec, Sizes::default())
    }

    fn create_sized(
        name: &str,
        folder: &Path,
        settings: &CollectionSettings,
        spec: &CollectionSpec,
        sizes: Sizes,
    ) -> Result<Self, StoreError> {
        let shard_folder = folder.join(SHARD_FOLDER);
        // Without a record nothing was ever acknowledged: what is here is left of a creation that was cut off.
        if shard_folder.exists() {
            fs::remove_dir_all(&shard_folder).map_err(|error| failed_at("remove", &shard_folder, &error))?;
        }
        fs::create_dir_all(&shard_folder).map_err(|error| failed_at("make", &shard_folder, &error))?;
        // On disk means mapped into memory: the system's cache keeps what is searched often, and gives it back.
        let params = EdgeVectorParams::builder(spec.dimension, Distance::Cosine).on_disk(true).build();
        let config = EdgeConfig::builder()
            .vector(settings.vector_name.clone().unwrap_or_default(), params)
            .on_disk_payload(true)
            .hnsw_config(HnswIndexConfig { on_disk: Some(true), ..HnswIndexConfig::default() })
            .optimizers(EdgeOptimizersConfig {
                indexing_threshold: Some(sizes.indexing_threshold_kilobytes),
                ..EdgeOptimizersConfig::default()
            })
            .wal_options(WalOptions { segment_capacity: sizes.log_file_bytes, ..WalOptions::default() })
            .build();
        let shard = EdgeShard::new(&shard_folder, config).map_err(|error| failed(&error))?;
        flush(&shard)?;
        let record = Record {
            format: FORMAT,
            embedding_model: Some(spec.embedding_model.clone()),
            embedding_revision: spec.embedding_revision.clone(),
        };
        write_record(folder, &record)?;
        Self::new(name, settings, record, shard)
    }

    fn new(name: &str, settings: &CollectionSettings, record: Record, shard: EdgeShard) -> Result<Self, StoreError> {
        let vector_name = settings.vector_name.clone();
        let (dimension, distance, indexing_threshold_kilobytes) = {
            let config = shard.config();
            let Some(params) = config.vectors.get(vector_name.as_deref().unwrap_or_default()) else {
                let mut names: Vec<&str> = config.vectors.keys().map(String::as_str).collect();
                names.sort_unstable();
                return Err(StoreError::Mismatch {
                    collection: name.to_owned(),
                    what: "vector name",
                    found: if names == [""] { "the unnamed one".to_owned() } else { format!("{names:?}") },
                    expected: vector_name.map_or_else(|| "the unnamed one".to_owned(), |name| format!("{name:?}")),
                });
            };
            (params.size, params.distance, config.optimizers.get_indexing_threshold_kb())
        };
        let info = shard.info();
        Ok(Self {
            name: name.to_owned(),
            shard_folder: shard.path().to_owned(),
            vector_name,
            record,
            dimension,
            distance,
            indexing_threshold_kilobytes,
            unindexed: AtomicUsize::new(info.points_count.saturating_sub(info.indexed_vectors_count)),
            shard: RwLock::new(Some(shard)),
            writing: Mutex::new(()),
        })
    }

    fn with_shard<T>(&self, work: impl FnOnce(&EdgeShard) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let shard = self.shard.read().unwrap_or_else(PoisonError::into_inner);
        match shard.as_ref() {
            Some(shard) => work(shard),
            None => Err(super::closed()),
        }
    }

    /// The nearest points with their score and payload.
    pub(super) fn search(
        &self,
        vector: Vec<f32>,
        limit: usize,
        filter: Option<Filter>,
    ) -> Result<Vec<FoundPoint>, StoreError> {
        self.check_dimension(vector.len())?;
        let found = self.with_shard(|shard| {
            // The engine sets room aside for the limit, so a limit beyond the collection must not reach it.
            let limit = limit.min(shard.info().points_count);
            if limit == 0 {
                return Ok(Vec::new());
            }
            let nearest = NamedQuery { query: VectorInternal::Dense(vector), using: self.vector_name.clone() };
            let request = QueryRequest {
                prefetches: Vec::new(),
                query: Some(ScoringQuery::Vector(QueryEnum::Nearest(nearest))),
                filter,
                score_threshold: None,
                limit,
                offset: 0,
                params: None,
                with_vector: WithVector::Bool(false),
                with_payload: WithPayloadInterface::Bool(true),
            };
            shard.query(request).map_err(|error| self.store_error(&error))
        })?;
        Ok(found
            .into_iter()
            .map(|point| (point_key(point.id), point.score, point.payload.unwrap_or_default().0))
            .collect())
    }

    /// What the collection says of itself.
    pub(super) fn describe(&self) -> Result<CollectionInfo, StoreError> {
        let all = CountRequest { filter: None, exact: true };
        let documents = self.with_shard(|shard| shard.count(all).map_err(|error| failed(&error)))?;
        Ok(CollectionInfo {
            dimension: self.dimension,
            distance: format!("{:?}", self.distance),
            documents: documents as u64,
            embedding_model: self.record.embedding_model.clone(),
            embedding_revision: self.record.embedding_revision.clone(),
        })
    }

    /// Writes points; on disk when it returns. Answers whether building the index is due.
    pub(super) fn upsert(&self, points: Vec<Point>) -> Result<bool, StoreError> {
        if points.is_empty() {
            return Ok(false);
        }
        // Checked before anything reaches the log, where a refused write would be tried again at each start.
        for point in &points {
            self.check_dimension(point.vector.len())?;
        }
        let written = points.len();
        let points = points.into_iter().map(|point| self.persisted(point)).collect();
        let operation =
            UpdateOperation::PointOperation(PointOperations::UpsertPoints(PointInsertOperations::PointsList(points)));
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.with_shard(|shard| {
            shard.update(operation).map_err(|error| self.store_error(&error))?;
            flush(shard)
        })?;
        if log::finished_files(&self.shard_folder).is_ok_and(|files| files >= LOG_FILES) {
            self.reload()?;
        }
        let unindexed = self.unindexed.fetch_add(written, Ordering::Relaxed) + written;
        let kilobytes = unindexed.saturating_mul(self.dimension).saturating_mul(size_of::<f32>()) / 1024;
        Ok(kilobytes >= self.indexing_threshold_kilobytes)
    }

    /// Builds the index over what was written since it was last built.
    pub(super) fn optimise(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Another call may have done it while this one waited.
        if self.unindexed.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        let built = self.with_shard(|shard| {
            let built = shard.optimize().map_err(|error| failed(&error))?;
            flush(shard)?;
            Ok(built)
        });
        match built {
            Ok(built) => tracing::debug!(collection = %self.name, built, "Vector index is up to date"),
            // Searches are right without the index, only slower.
            Err(error) => tracing::warn!(collection = %self.name, %error, "Failed to build the vector index"),
        }
    }

    /// Which points are there.
    pub(super) fn existing(&self, keys: &[PointKey]) -> Result<Vec<bool>, StoreError> {
        let ids: Vec<PointId> = keys.iter().copied().map(point_id).collect();
        let without = Some(WithPayloadInterface::Bool(false));
        let found = self.with_shard(|shard| shard.retrieve(&ids, without, None).map_err(|error| failed(&error)))?;
        let present: HashSet<PointKey> = found.into_iter().map(|point| point_key(point.id)).collect();
        Ok(keys.iter().map(|key| present.contains(key)).collect())
    }

    /// Writes everything to disk and lets the files go, after the calls under way.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = self.shard.write().unwrap_or_else(PoisonError::into_inner).take();
        shard.map_or(Ok(()), release)
    }

    /// Closes the shard, shortens its log and opens it again. Searches wait meanwhile.
    fn reload(&self) -> Result<(), StoreError> {
        let mut place = self.shard.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(shard) = place.take() {
            release(shard)?;
            *place = Some(load(&self.shard_folder)?);
        }
        Ok(())
    }

    fn persisted(&self, point: Point) -> PointStructPersisted {
        let Point { key, vector, payload } = point;
        let vectors = match &self.vector_name {
            None => Vectors::from(vector),
            Some(name) => Vectors::new_named([(name.clone(), vector)]),
        };
        PointStructPersisted {
            id: point_id(key),
            vector: VectorStructPersisted::from(vectors.0),
            payload: Some(Payload(payload)),
        }
    }

    fn check_dimension(&self, dimension: usize) -> Result<(), StoreError> {
        if dimension == self.dimension {
            return Ok(());
        }
        Err(StoreError::Mismatch {
            collection: self.name.clone(),
            what: "dimension",
            found: self.dimension.to_string(),
            expected: dimension.to_string(),
        })
    }

    fn store_error(&self, error: &OperationError) -> StoreError {
        match error {
            OperationError::WrongVectorDimension { expected_dim, received_dim } => StoreError::Mismatch {
                collection: self.name.clone(),
                what: "dimension",
                found: expected_dim.to_string(),
                expected: received_dim.to_string(),
            },
            other => failed(other),
        }
    }
}

fn point_id(key: PointKey) -> PointId {
    match key {
        PointKey::Number(number) => PointId::NumId(number),
        PointKey::Uuid(uuid) => PointId::Uuid(uuid),
    }
}

fn point_key(id: PointId) -> PointKey {
    match id {
        PointId::NumId(number) => PointKey::Number(number),
        PointId::Uuid(uuid) => PointKey::Uuid(uuid),
    }
}

fn failed(error: &OperationError) -> StoreError {
    StoreError::Failed { message: error.to_string() }
}

fn failed_at(verb: &str, path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Failed { message: format!("failed to {verb} {}: {error}", path.display()) }
}

/// Opens the shard of a folder, with a log that is no longer than it must be.
fn load(folder: &Path) -> Result<EdgeShard, StoreError> {
    log::trim(folder).map_err(|error| failed_at("shorten the log of", folder, &error))?;
    EdgeShard::load(folder, None).map_err(|error| failed(&error))
}

/// Writes everything to disk. The engine panics where it cannot, such as on a full disk; the caller gets an error.
fn flush(shard: &EdgeShard) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(|| shard.flush())).map_err(|_| not_flushed(shard.path()))
}

/// Flushes and closes.
fn release(shard: EdgeShard) -> Result<(), StoreError> {
    let path = shard.path().to_owned();
    catch_unwind(AssertUnwindSafe(|| drop(shard))).map_err(|_| not_flushed(&path))
}

fn not_flushed(folder: &Path) -> StoreError {
    StoreError::Failed { message: format!("failed to write {} to disk; is the disk full?", folder.display()) }
}

/// The record, or nothing where there is no collection.
fn read_record(folder: &Path) -> Result<Option<Record>, StoreError> {
    let path = folder.join(RECORD_FILE);
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed_at("read", &path, &error)),
    };
    let record: Record = serde_json::from_slice(&content)
        .map_err(|error| StoreError::Failed { message: format!("failed to read {}: {error}", path.display()) })?;
    if record.format == FORMAT {
        Ok(Some(record))
    } else {
        Err(StoreError::Failed {
            message: format!("{} has format {}, but this version reads {FORMAT}", path.display(), record.format),
        })
    }
}

/// Writes the record so that it is there as a whole or not at all.
fn write_record(folder: &Path, record: &Record) -> Result<(), StoreError> {
    let path = folder.join(RECORD_FILE);
    let draft: PathBuf = folder.join(format!("{RECORD_FILE}.draft"));
    let content = serde_json::to_vec_pretty(record).expect("a record of text and numbers has a form in JSON");
    let write = || {
        let mut file = fs::File::create(&draft)?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error| failed_at("write", &path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::document::TextField;

    fn settings() -> CollectionSettings {
        CollectionSettings { vector_name: None, text_field: TextField::parse("text").unwrap() }
    }

    fn spec() -> CollectionSpec {
        CollectionSpec { dimension: 64, embedding_model: "maker/model".to_owned(), embedding_revision: None }
    }

    fn points(numbers: std::ops::Range<u64>) -> Vec<Point> {
        numbers
            .map(|number| {
                let mut state = number.wrapping_add(1);
                let vector = (0..64)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let bits = u16::try_from(state >> 48).unwrap();
                        f32::from(bits) / 32_768.0 - 1.0
                    })
                    .collect();
                Point { key: PointKey::Number(number), vector, payload: Map::new() }
            })
            .collect()
    }

    #[test]
    fn an_index_is_built_once_enough_was_written_and_answers_stay_right() {
        let folder = tempfile::tempdir().unwrap();
        // 64 dimensions are 256 bytes: 100 kilobytes are 400 points.
        let sizes = Sizes { indexing_threshold_kilobytes: 100, ..Sizes::default() };
        let collection = Collection::create_sized("docs", folder.path(), &settings(), &spec(), sizes).unwrap();
        assert!(!collection.upsert(points(0..300)).unwrap());
        assert!(collection.upsert(points(300..2_000)).unwrap());
        collection.optimise();
        let indexed = collection.with_shard(|shard| Ok(shard.info().indexed_vectors_count)).unwrap();
        assert!(indexed > 0, "no vector is in the index");
        assert_eq!(collection.describe().unwrap().documents, 2_000);
        for point in points(0..20) {
            let found = collection.search(point.vector, 1, None).unwrap();
            assert_eq!(found[0].0, point.key);
        }
        assert!(!collection.upsert(points(2_000..2_100)).unwrap(), "building is not due again at once");
    }

    #[test]
    fn the_log_is_shortened_while_open_and_later_writes_still_count() {
        let folder = tempfile::tempdir().unwrap();
        let sizes = Sizes { log_file_bytes: 64 * 1024, ..Sizes::default() };
        let collection = Collection::create_sized("docs", folder.path(), &settings(), &spec(), sizes).unwrap();
        let text = Value::String("x".repeat(sizes.log_file_bytes));
        let mut longest = 0;
        for number in 0..u64::try_from(LOG_FILES).unwrap() + 3 {
            let mut batch = points(number..number + 1);
            batch[0].payload.insert("text".to_owned(), text.clone());
            collection.upsert(batch).unwrap();
            longest = longest.max(log::finished_files(&collection.shard_folder).unwrap());
        }
        assert!(longest >= LOG_FILES - 1, "the log never grew: {longest} files");
        assert!(log::finished_files(&collection.shard_folder).unwrap() < LOG_FILES / 2);
        // A write that is numbered too low would be dropped without an error.
        let mut replaced = points(0..1);
        replaced[0].payload.insert("text".to_owned(), Value::String("new".to_owned()));
        collection.upsert(replaced.clone()).unwrap();
        let found = collection.search(replaced[0].vector.clone(), 1, None).unwrap();
        assert_eq!(found[0].2["text"], "new");
        assert_eq!(collection.describe().unwrap().documents, u64::try_from(LOG_FILES).unwrap() + 3);
    }

    #[test]
    fn what_is_left_of_a_creation_that_was_cut_off_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let collection = Collection::create("docs", folder.path(), &settings(), &spec()).unwrap();
        collection.upsert(points(0..3)).unwrap();
        collection.close().unwrap();
        fs::remove_file(folder.path().join(RECORD_FILE)).unwrap();
        let missing = Collection::open("docs", folder.path(), &settings());
        assert!(matches!(missing, Err(StoreError::CollectionMissing { .. })));
        let collection = Collection::create("docs", folder.path(), &settings(), &spec()).unwrap();
        assert_eq!(collection.describe().unwrap().documents, 0);
    }

    #[test]
    fn a_disk_that_is_gone_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let collection = Collection::create("docs", folder.path(), &settings(), &spec()).unwrap();
        collection.upsert(points(0..3)).unwrap();
        fs::remove_dir_all(folder.path()).unwrap();
        let message = collection.upsert(points(3..6)).unwrap_err().to_string();
        assert!(message.contains("to disk"), "{message}");
        drop(collection);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["", "{}", "{\"format\": 2, \"embedding_model\": null, \"embedding_revision\": null}"] {
            fs::write(folder.path().join(RECORD_FILE), content).unwrap();
            let message = Collection::open("docs", folder.path(), &settings()).unwrap_err().to_string();
            assert!(message.contains("collection.json"), "{message}");
        }
    }

    #[test]
    fn another_vector_name_is_refused_with_both_names() {
        let folder = tempfile::tempdir().unwrap();
        Collection::create("docs", folder.path(), &settings(), &spec()).unwrap().close().unwrap();
        let named = CollectionSettings { vector_name: Some("title".to_owned()), ..settings() };
        let message = Collection::open("docs", folder.path(), &named).unwrap_err().to_string();
        assert!(message.contains("the unnamed one") && message.contains("title"), "{message}");
    }
}
