//! Calls about collections.

use std::collections::HashMap;
use std::sync::Arc;

use qdrant_client::qdrant as wire;
use qdrant_client::qdrant::collections_server;
use qdrant_client::qdrant::vectors_config::Config as VectorsKind;
use qdrant_edge::{CountRequest, EdgeVectorParams};
use tonic::{Request, Response, Status};

use super::engine::{self, Engine, blocking};
use super::{Behaviour, unimplemented_calls};

#[derive(Debug)]
pub(super) struct Collections {
    engine: Arc<Engine>,
    behaviour: Arc<Behaviour>,
}

impl Collections {
    pub(super) fn new(engine: Arc<Engine>, behaviour: Arc<Behaviour>) -> Self {
        Self { engine, behaviour }
    }
}

fn to_engine(params: &wire::VectorParams) -> Result<EdgeVectorParams, Status> {
    engine::vector_params(params.size, params.distance().as_str_name())
}

fn from_engine(params: &EdgeVectorParams) -> wire::VectorParams {
    let distance = wire::Distance::from_str_name(&format!("{:?}", params.distance)).unwrap_or_default();
    wire::VectorParams { size: params.size as u64, distance: distance.into(), ..wire::VectorParams::default() }
}

#[tonic::async_trait]
impl collections_server::Collections for Collections {
    async fn get(
        &self,
        request: Request<wire::GetCollectionInfoRequest>,
    ) -> Result<Response<wire::GetCollectionInfoResponse>, Status> {
        self.behaviour.wait_while_hanging().await;
        let shard = self.engine.shard(&request.into_inner().collection_name)?;
        let (vectors, points) = blocking(move || {
            let vectors = shard.config().vectors.clone();
            let all = CountRequest { filter: None, exact: true };
            let points = shard.count(all).map_err(|error| engine::status(&error))?;
            Ok((vectors, points))
        })
        .await?;
        let kind = match vectors.get("") {
            Some(unnamed) => VectorsKind::Params(from_engine(unnamed)),
            None => VectorsKind::ParamsMap(wire::VectorParamsMap {
                map: vectors.iter().map(|(name, params)| (name.clone(), from_engine(params))).collect(),
            }),
        };
        let params = wire::CollectionParams {
            vectors_config: Some(wire::VectorsConfig { config: Some(kind) }),
            ..wire::CollectionParams::default()
        };
        let info = wire::CollectionInfo {
            config: Some(wire::CollectionConfig { params: Some(params), ..wire::CollectionConfig::default() }),
            points_count: Some(points as u64),
            ..wire::CollectionInfo::default()
        };
        Ok(Response::new(wire::GetCollectionInfoResponse { result: Some(info), time: 0.0 }))
    }

    async fn create(
        &self,
        request: Request<wire::CreateCollection>,
    ) -> Result<Response<wire::CollectionOperationResponse>, Status> {
        self.behaviour.wait_while_hanging().await;
        let wire::CreateCollection { collection_name, vectors_config, .. } = request.into_inner();
        let vectors = match vectors_config.and_then(|vectors| vectors.config) {
            Some(VectorsKind::Params(params)) => HashMap::from([(String::new(), to_engine(&params)?)]),
            Some(VectorsKind::ParamsMap(params)) => params
                .map
                .iter()
                .map(|(name, params)| Ok((name.clone(), to_engine(params)?)))
                .collect::<Result<_, Status>>()?,
            None => return Err(Status::invalid_argument("Wrong input: vectors are missing")),
        };
        let engine = Arc::clone(&self.engine);
        blocking(move || engine.create(&collection_name, vectors)).await?;
        Ok(Response::new(wire::CollectionOperationResponse { result: true, time: 0.0 }))
    }

    unimplemented_calls! {
        list(ListCollectionsRequest) -> ListCollectionsResponse;
        update(UpdateCollection) -> CollectionOperationResponse;
        delete(DeleteCollection) -> CollectionOperationResponse;
        update_aliases(ChangeAliases) -> CollectionOperationResponse;
        list_collection_aliases(ListCollectionAliasesRequest) -> ListAliasesResponse;
        list_aliases(ListAliasesRequest) -> ListAliasesResponse;
        collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse;
        collection_exists(CollectionExistsRequest) -> CollectionExistsResponse;
        update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) -> UpdateCollectionClusterSetupResponse;
        create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse;
        delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse;
        list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse;
    }
}
