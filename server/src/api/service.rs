//! What the API needs behind it: one small trait, so that routes are tested without a model.

use std::fmt;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::pool::{ModelKey, ModelStatus};
use crate::search::{
    BatchSearchRequest, EmbedRequest, EmbedResponse, ModelLoad, RequestContext, RerankChoice, RerankRequest,
    RerankResponse, SearchError, SearchRequest, SearchResponse,
};
use crate::store::DocumentId;

/// One document to be embedded and stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDocument {
    /// The client's id.
    pub id: DocumentId,
    /// What is embedded; stored at the collection's text field.
    pub text: String,
    /// Further payload, without the text.
    pub payload: Map<String, Value>,
}

/// Documents for one collection.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexRequest {
    /// Default: the first configured.
    pub collection: Option<String>,
    /// Not empty.
    pub documents: Vec<NewDocument>,
}

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexResponse {
    /// Collection they went to.
    pub collection: String,
    /// How many documents.
    pub indexed: usize,
}

/// The use cases that the API offers.
///
/// # Cancel safety
/// Dropping a future or firing the context's token stops the work; documents already stored stay.
#[async_trait]
pub trait Service: Send + Sync + fmt::Debug {
    /// One search.
    async fn search(&self, request: SearchRequest, context: &RequestContext) -> Result<SearchResponse, SearchError>;

    /// Several searches; one result or error for each query, in order.
    async fn search_batch(
        &self,
        request: BatchSearchRequest,
        context: &RequestContext,
    ) -> Result<Vec<Result<SearchResponse, SearchError>>, SearchError>;

    /// Scores documents that come with the request.
    async fn rerank(&self, request: RerankRequest, context: &RequestContext) -> Result<RerankResponse, SearchError>;

    /// Vectors of texts that come with the request.
    async fn embed(&self, request: EmbedRequest, context: &RequestContext) -> Result<EmbedResponse, SearchError>;

    /// Embeds documents and stores them; durable when it returns.
    async fn index(&self, request: IndexRequest, context: &RequestContext) -> Result<IndexResponse, SearchError>;

    /// Loads a model and waits for it a while.
    async fn load_model(&self, choice: &RerankChoice, context: &RequestContext) -> Result<ModelLoad, SearchError>;

    /// Unloads a model that no request uses; answers the bytes that came back, none where it was not loaded.
    async fn unload_model(&self, choice: &RerankChoice) -> Result<(ModelKey, Option<u64>), SearchError>;

    /// Every model's state.
    fn models(&self) -> Vec<ModelStatus>;
}
