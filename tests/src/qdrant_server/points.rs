//! Calls about points.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use qdrant_client::Payload as WirePayload;
use qdrant_client::qdrant as wire;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::points_server;
use qdrant_edge::{
    NamedQuery, Payload, PointId, PointInsertOperations, PointOperations, PointStructPersisted, QueryEnum,
    QueryRequest, ScoringQuery, UpdateOperation, VectorInternal, VectorStructInternal, VectorStructPersisted,
    WithPayloadInterface, WithVector,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::engine::{self, Engine, blocking};
use super::{Behaviour, filter, unimplemented_calls};

#[derive(Debug)]
pub(super) struct Points {
    engine: Arc<Engine>,
    behaviour: Arc<Behaviour>,
}

impl Points {
    pub(super) fn new(engine: Arc<Engine>, behaviour: Arc<Behaviour>) -> Self {
        Self { engine, behaviour }
    }
}

fn bad(message: &str) -> Status {
    Status::invalid_argument(format!("Wrong input: {message}"))
}

fn id_to_engine(id: Option<wire::PointId>) -> Result<PointId, Status> {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Num(number)) => Ok(PointId::NumId(number)),
        Some(PointIdOptions::Uuid(text)) => {
            Uuid::parse_str(&text).map(PointId::Uuid).map_err(|_| bad(&format!("Unable to parse UUID: {text}")))
        }
        None => Err(bad("Empty ID is not allowed")),
    }
}

fn id_from_engine(id: PointId) -> wire::PointId {
    let options = match id {
        PointId::NumId(number) => PointIdOptions::Num(number),
        PointId::Uuid(uuid) => PointIdOptions::Uuid(uuid.to_string()),
    };
    wire::PointId { point_id_options: Some(options) }
}

fn payload_from_engine(payload: Option<Payload>) -> HashMap<String, wire::Value> {
    WirePayload::from(payload.unwrap_or_default().0).into()
}

fn dense(vector: wire::Vector) -> Result<VectorInternal, Status> {
    match vector.vector {
        Some(wire::vector::Vector::Dense(dense)) => Ok(VectorInternal::Dense(dense.data)),
        Some(_) | None => Err(Status::unimplemented("the test server knows dense vectors alone")),
    }
}

fn point_to_engine(point: wire::PointStruct) -> Result<PointStructPersisted, Status> {
    let wire::PointStruct { id, payload, vectors } = point;
    let vectors = match vectors.and_then(|vectors| vectors.vectors_options) {
        Some(wire::vectors::VectorsOptions::Vector(vector)) => {
            VectorStructInternal::Named(HashMap::from([(String::new(), dense(vector)?)]))
        }
        Some(wire::vectors::VectorsOptions::Vectors(named)) => VectorStructInternal::Named(
            named
                .vectors
                .into_iter()
                .map(|(name, vector)| Ok((name, dense(vector)?)))
                .collect::<Result<_, Status>>()?,
        ),
        None => return Err(bad("Expected some vectors")),
    };
    Ok(PointStructPersisted {
        id: id_to_engine(id)?,
        vector: VectorStructPersisted::from(vectors),
        payload: Some(Payload(WirePayload::from(payload).into())),
    })
}

fn query_to_engine(query: wire::QueryPoints) -> Result<QueryRequest, Status> {
    let wire::QueryPoints { query, using, filter, limit, offset, with_payload, .. } = query;
    let Some(wire::query::Variant::Nearest(nearest)) = query.and_then(|query| query.variant) else {
        return Err(Status::unimplemented("the test server knows nearest alone"));
    };
    let Some(wire::vector_input::Variant::Dense(vector)) = nearest.variant else {
        return Err(Status::unimplemented("the test server knows dense vectors alone"));
    };
    let nearest = NamedQuery { query: VectorInternal::Dense(vector.data), using };
    let wants = with_payload.and_then(|selector| selector.selector_options);
    let wants = matches!(wants, Some(wire::with_payload_selector::SelectorOptions::Enable(true)));
    let size = |value: Option<u64>, otherwise: usize| {
        value.map_or(Ok(otherwise), |value| usize::try_from(value).map_err(|error| bad(&error.to_string())))
    };
    Ok(QueryRequest {
        prefetches: Vec::new(),
        query: Some(ScoringQuery::Vector(QueryEnum::Nearest(nearest))),
        filter: filter.map(filter::read).transpose()?,
        score_threshold: None,
        limit: size(limit, 10)?,
        offset: size(offset, 0)?,
        params: None,
        with_vector: WithVector::Bool(false),
        with_payload: WithPayloadInterface::Bool(wants),
    })
}

#[tonic::async_trait]
impl points_server::Points for Points {
    async fn upsert(
        &self,
        request: Request<wire::UpsertPoints>,
    ) -> Result<Response<wire::PointsOperationResponse>, Status> {
        self.behaviour.wait_while_hanging().await;
        let wire::UpsertPoints { collection_name, points, .. } = request.into_inner();
        let shard = self.engine.shard(&collection_name)?;
        let points = points.into_iter().map(point_to_engine).collect::<Result<_, Status>>()?;
        let upsert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(points));
        blocking(move || shard.update(UpdateOperation::PointOperation(upsert)).map_err(|error| engine::status(&error)))
            .await?;
        let result =
            wire::UpdateResult { status: wire::UpdateStatus::Completed.into(), ..wire::UpdateResult::default() };
        Ok(Response::new(wire::PointsOperationResponse { result: Some(result), time: 0.0, usage: None }))
    }

    async fn get(&self, request: Request<wire::GetPoints>) -> Result<Response<wire::GetResponse>, Status> {
        self.behaviour.wait_while_hanging().await;
        let wire::GetPoints { collection_name, ids, .. } = request.into_inner();
        let shard = self.engine.shard(&collection_name)?;
        let ids = ids.into_iter().map(|id| id_to_engine(Some(id))).collect::<Result<Vec<_>, Status>>()?;
        let found = blocking(move || {
            let with_payload = Some(WithPayloadInterface::Bool(true));
            shard.retrieve(&ids, with_payload, None).map_err(|error| engine::status(&error))
        })
        .await?;
        let result = found
            .into_iter()
            .map(|point| wire::RetrievedPoint {
                id: Some(id_from_engine(point.id)),
                payload: payload_from_engine(point.payload),
                ..wire::RetrievedPoint::default()
            })
            .collect();
        Ok(Response::new(wire::GetResponse { result, time: 0.0, usage: None }))
    }

    async fn query(&self, request: Request<wire::QueryPoints>) -> Result<Response<wire::QueryResponse>, Status> {
        self.behaviour.wait_while_hanging().await;
        let query = request.into_inner();
        let shard = self.engine.shard(&query.collection_name)?;
        let mut query = query_to_engine(query)?;
        let found = blocking(move || {
            query.limit = query.limit.min(shard.info().points_count.max(1));
            shard.query(query).map_err(|error| engine::status(&error))
        })
        .await?;
        let not_finite = self.behaviour.not_finite.load(Ordering::Relaxed);
        let result = found
            .into_iter()
            .map(|point| wire::ScoredPoint {
                id: Some(id_from_engine(point.id)),
                payload: payload_from_engine(point.payload),
                score: if not_finite { f32::NAN } else { point.score },
                ..wire::ScoredPoint::default()
            })
            .collect();
        Ok(Response::new(wire::QueryResponse { result, time: 0.0, usage: None }))
    }

    unimplemented_calls! {
        delete(DeletePoints) -> PointsOperationResponse;
        update_vectors(UpdatePointVectors) -> PointsOperationResponse;
        delete_vectors(DeletePointVectors) -> PointsOperationResponse;
        set_payload(SetPayloadPoints) -> PointsOperationResponse;
        overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
        delete_payload(DeletePayloadPoints) -> PointsOperationResponse;
        clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
        create_field_index(CreateFieldIndexCollection) -> PointsOperationResponse;
        delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse;
        create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
        delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
        search(SearchPoints) -> SearchResponse;
        search_batch(SearchBatchPoints) -> SearchBatchResponse;
        search_groups(SearchPointGroups) -> SearchGroupsResponse;
        scroll(ScrollPoints) -> ScrollResponse;
        recommend(RecommendPoints) -> RecommendResponse;
        recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
        recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
        discover(DiscoverPoints) -> DiscoverResponse;
        discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
        count(CountPoints) -> CountResponse;
        update_batch(UpdateBatchPoints) -> UpdateBatchResponse;
        query_batch(QueryBatchPoints) -> QueryBatchResponse;
        query_groups(QueryPointGroups) -> QueryGroupsResponse;
        facet(FacetCounts) -> FacetResponse;
        search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
        search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
    }
}
