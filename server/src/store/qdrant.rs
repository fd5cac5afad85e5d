//! A Qdrant server over gRPC. I/O.
//!
//! Made for stock Qdrant 1.13 and newer: it calls no method and needs no field that is younger. The tests run it
//! against Qdrant's engine behind the same protocol; against a stock server it has not been run.
//!
//! What a collection was made for is recorded in a point of its own, [`RECORD_POINT`], which has a payload and no
//! vector: Qdrant's metadata of collections exists only from 1.16 on, and an older server drops it without a word. A
//! point without a vector cannot be found by any vector search, ours or another client's; it is left out of the count
//! here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use qdrant_client::qdrant as wire;
use qdrant_client::qdrant::collections_client::CollectionsClient;
use qdrant_client::qdrant::points_client::PointsClient;
use qdrant_client::qdrant::qdrant_client::QdrantClient;
use qdrant_client::qdrant::vectors_config::Config as VectorsKind;
use rerank_crds::server_config::Qdrant;
use serde_json::{Map, Value};

use self::connection::{Connection, MAXIMUM_ANSWER_BYTES, Service};
use super::document::{self, CollectionSettings, Point};
use super::filter;
use super::fit::{self, MissingRecords};
use super::identity::{PointKey, RECORD_POINT};
use super::{Candidate, CollectionInfo, CollectionSpec, Document, DocumentId, Store, StoreError, VectorQuery};

mod connection;
mod protobuf;

/// Payload keys of the record.
const MODEL_KEY: &str = "_rerank_embedding_model";
const REVISION_KEY: &str = "_rerank_embedding_revision";

/// Points in one call, at most: with 4,096 dimensions and 8 KiB of payload some 6 MiB.
const BATCH: usize = 256;

/// A Qdrant server.
#[derive(Debug)]
pub struct QdrantStore {
    connection: Connection,
    collections: HashMap<String, CollectionSettings>,
    missing_records: MissingRecords,
}

/// What an embedding model left with a collection.
#[derive(Debug, Default)]
struct Record {
    present: bool,
    embedding_model: Option<String>,
    embedding_revision: Option<String>,
}

impl QdrantStore {
    /// Reads the files that the configuration names; the server is contacted at the first call. Each call, connecting
    /// included, takes at most `timeout`. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] with the setting that cannot be used.
    pub fn connect(config: &Qdrant, timeout: Duration) -> Result<Self, StoreError> {
        Ok(Self {
            connection: Connection::open(config, timeout)?,
            collections: CollectionSettings::read(&config.collections)?.into_iter().collect(),
            missing_records: MissingRecords::default(),
        })
    }

    fn settings(&self, collection: &str) -> Result<&CollectionSettings, StoreError> {
        self.collections
            .get(collection)
            .ok_or_else(|| StoreError::CollectionMissing { collection: collection.to_owned() })
    }

    /// Lets the server stop working on what nobody waits for any more. Whole seconds, at least one.
    fn server_timeout(&self) -> u64 {
        let timeout = self.connection.timeout();
        timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)
    }

    async fn get(
        &self,
        collection: &str,
        keys: &[PointKey],
        with_payload: bool,
    ) -> Result<Vec<wire::RetrievedPoint>, StoreError> {
        let message = wire::GetPoints {
            collection_name: collection.to_owned(),
            ids: keys.iter().copied().map(protobuf::point_id).collect(),
            with_payload: Some(protobuf::with_payload(with_payload)),
            timeout: Some(self.server_timeout()),
            ..wire::GetPoints::default()
        };
        let answer = self
            .connection
            .call(collection, |service| {
                let message = message.clone();
                async move { points(service).get(message).await }
            })
            .await?;
        Ok(answer.result)
    }

    async fn record(&self, collection: &str) -> Result<Record, StoreError> {
        let mut found = self.get(collection, &[PointKey::Uuid(RECORD_POINT)], true).await?;
        let Some(point) = found.pop() else { return Ok(Record::default()) };
        let mut payload = protobuf::json(point.payload);
        let mut text = |key| match payload.remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        Ok(Record { present: true, embedding_model: text(MODEL_KEY), embedding_revision: text(REVISION_KEY) })
    }

    async fn write_record(&self, collection: &str, spec: &CollectionSpec) -> Result<(), StoreError> {
        let mut payload = Map::new();
        payload.insert(MODEL_KEY.to_owned(), Value::String(spec.embedding_model.clone()));
        if let Some(revision) = &spec.embedding_revision {
            payload.insert(REVISION_KEY.to_owned(), Value::String(revision.clone()));
        }
        let point = wire::PointStruct {
            id: Some(protobuf::point_id(PointKey::Uuid(RECORD_POINT))),
            payload: protobuf::payload(payload),
            vectors: Some(protobuf::no_vectors()),
        };
        self.write(collection, vec![point]).await
    }

    async fn write(&self, collection: &str, batch: Vec<wire::PointStruct>) -> Result<(), StoreError> {
        let message = wire::UpsertPoints {
            collection_name: collection.to_owned(),
            // Without it the server answers before the points are in its log and visible.
            wait: Some(true),
            points: batch,
            ..wire::UpsertPoints::default()
        };
        self.connection
            .call(collection, |service| {
                let message = message.clone();
                async move { points(service).upsert(message).await }
            })
            .await
            .map(drop)
    }

    async fn create(&self, collection: &str, spec: &CollectionSpec) -> Result<(), StoreError> {
        let settings = self.settings(collection)?;
        let params = wire::VectorParams {
            size: spec.dimension as u64,
            distance: wire::Distance::Cosine.into(),
            ..wire::VectorParams::default()
        };
        let kind = match &settings.vector_name {
            None => VectorsKind::Params(params),
            Some(name) => {
                VectorsKind::ParamsMap(wire::VectorParamsMap { map: HashMap::from([(name.clone(), params)]) })
            }
        };
        let message = wire::CreateCollection {
            collection_name: collection.to_owned(),
            vectors_config: Some(wire::VectorsConfig { config: Some(kind) }),
            timeout: Some(self.server_timeout()),
            ..wire::CreateCollection::default()
        };
        self.connection
            .call(collection, |service| {
                let message = message.clone();
                async move { collections(service).create(message).await }
            })
            .await
            .map(drop)
    }
}

#[async_trait]
impl Store for QdrantStore {
    async fn search(&self, query: VectorQuery) -> Result<Vec<Candidate>, StoreError> {
        let VectorQuery { collection, vector, limit, filter } = query;
        let settings = self.settings(&collection)?;
        document::check_query(&vector)?;
        let filter = filter.as_ref().map(filter::parse).transpose()?;
        if limit == 0 {
            return Ok(Vec::new());
        }
        let message = wire::QueryPoints {
            collection_name: collection.clone(),
            query: Some(protobuf::nearest(vector)),
            using: settings.vector_name.clone(),
            filter: filter.as_ref().map(protobuf::filter).transpose()?,
            limit: Some(limit as u64),
            with_payload: Some(protobuf::with_payload(true)),
            timeout: Some(self.server_timeout()),
            ..wire::QueryPoints::default()
        };
        let answer = self
            .connection
            .call(&collection, |service| {
                let message = message.clone();
                async move { points(service).query(message).await }
            })
            .await?;
        let mut candidates = answer
            .result
            .into_iter()
            .map(|point| {
                let key = protobuf::point_key(point.id)?;
                document::candidate(key, point.score, protobuf::json(point.payload), &settings.text_field)
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        document::sort(&mut candidates);
        Ok(candidates)
    }

    async fn describe(&self, collection: &str) -> Result<CollectionInfo, StoreError> {
        let settings = self.settings(collection)?;
        let message = wire::GetCollectionInfoRequest { collection_name: collection.to_owned() };
        let answer = self
            .connection
            .call(collection, |service| {
                let message = message.clone();
                async move { collections(service).get(message).await }
            })
            .await?;
        let info = answer.result.ok_or_else(|| unexpected("an empty description"))?;
        let params = vector_params(collection, settings.vector_name.as_deref(), &info)?;
        let record = self.record(collection).await?;
        let points = info.points_count.unwrap_or(0);
        Ok(CollectionInfo {
            dimension: usize::try_from(params.size).map_err(|_| unexpected("a dimension out of range"))?,
            distance: params.distance().as_str_name().to_owned(),
            documents: points.saturating_sub(u64::from(record.present)),
            embedding_model: record.embedding_model,
            embedding_revision: record.embedding_revision,
        })
    }

    async fn check(&self, collection: &str, spec: &CollectionSpec) -> Result<CollectionInfo, StoreError> {
        let info = self.describe(collection).await?;
        fit::compare(collection, &info, spec)?;
        self.missing_records.tell(collection, &info, spec);
        Ok(info)
    }

    async fn ensure_collection(&self, collection: &str, spec: &CollectionSpec) -> Result<(), StoreError> {
        match self.describe(collection).await {
            Err(StoreError::CollectionMissing { .. }) => {
                self.settings(collection)?;
                let created = self.create(collection, spec).await;
                // Whoever else made it meanwhile made it for the same or another purpose; the check tells.
                if let Err(error) = created {
                    return match self.check(collection, spec).await {
                        Ok(_) => Ok(()),
                        Err(_) => Err(error),
                    };
                }
                self.write_record(collection, spec).await
            }
            Err(error) => Err(error),
            Ok(info) => {
                fit::compare(collection, &info, spec)?;
                if info.documents == 0 && info.embedding_model.is_none() {
                    return self.write_record(collection, spec).await;
                }
                self.missing_records.tell(collection, &info, spec);
                Ok(())
            }
        }
    }

    async fn upsert(&self, collection: &str, documents: Vec<Document>) -> Result<(), StoreError> {
        let settings = self.settings(collection)?;
        let name = settings.vector_name.as_deref();
        let mut points = document::prepare_all(documents)?.into_iter().peekable();
        while points.peek().is_some() {
            let batch = points
                .by_ref()
                .take(BATCH)
                .map(|Point { key, vector, payload }| wire::PointStruct {
                    id: Some(protobuf::point_id(key)),
                    payload: protobuf::payload(payload),
                    vectors: Some(protobuf::vectors(name, vector)),
                })
                .collect();
            self.write(collection, batch).await?;
        }
        Ok(())
    }

    async fn existing(&self, collection: &str, ids: &[DocumentId]) -> Result<Vec<bool>, StoreError> {
        self.settings(collection)?;
        let keys: Vec<PointKey> = ids.iter().map(PointKey::of).collect();
        let mut present = HashSet::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            for point in self.get(collection, batch, false).await? {
                present.insert(protobuf::point_key(point.id)?);
            }
        }
        Ok(keys.iter().map(|key| !key.is_record() && present.contains(key)).collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.connection
            .call(
                "",
                |service| async move { QdrantClient::new(service).health_check(wire::HealthCheckRequest {}).await },
            )
            .await
            .map(drop)
    }

    async fn close(&self) -> Result<(), StoreError> {
        // Nothing is open on disk; the connections end with the store.
        Ok(())
    }
}

fn points(service: Service) -> PointsClient<Service> {
    PointsClient::new(service).max_decoding_message_size(MAXIMUM_ANSWER_BYTES)
}

fn collections(service: Service) -> CollectionsClient<Service> {
    CollectionsClient::new(service)
}

fn unexpected(what: &str) -> StoreError {
    StoreError::Failed { message: format!("it answered {what}") }
}

/// The parameters of the configured vector.
fn vector_params(
    collection: &str,
    name: Option<&str>,
    info: &wire::CollectionInfo,
) -> Result<wire::VectorParams, StoreError> {
    let kind = info
        .config
        .as_ref()
        .and_then(|config| config.params.as_ref())
        .and_then(|params| params.vectors_config.as_ref())
        .and_then(|vectors| vectors.config.as_ref());
    let (found, params) = match kind {
        Some(VectorsKind::Params(params)) => ("the unnamed one".to_owned(), name.is_none().then_some(params)),
        Some(VectorsKind::ParamsMap(params)) => {
            let mut names: Vec<&str> = params.map.keys().map(String::as_str).collect();
            names.sort_unstable();
            (format!("{names:?}"), params.map.get(name.unwrap_or_default()))
        }
        None => ("none".to_owned(), None),
    };
    params.copied().ok_or_else(|| StoreError::Mismatch {
        collection: collection.to_owned(),
        what: "vector name",
        found,
        expected: name.map_or_else(|| "the unnamed one".to_owned(), |name| format!("{name:?}")),
    })
}
