//! Text to vector. Waits for the embedder and its turn.

use std::time::Duration;

use super::{RequestContext, SearchError, Searcher};
use crate::chain;
use crate::engine::EngineError;
use crate::metrics::Stage;
use crate::pool::{ModelInput, ModelLease, Waiting};
use crate::prompt::PromptError;
use crate::stages::{Part, during};
use crate::traces::spans;
use tokio::time::Instant;
use tracing::Instrument;

use super::admission::Admitted;
use super::batches::{Batches, Canary, caught};
use super::deadlines::Deadlines;
use super::demand::Demand;
use super::searcher::bounded;

/// Texts of one turn of the embedder, so that indexing does not hold up searches for long.
const TEXTS_IN_A_TURN: usize = 32;

impl Searcher {
    /// Embeds documents (no instruction), in order, for indexing. The request's deadline holds for all of them.
    pub async fn embed_documents(
        &self,
        texts: &[String],
        context: &RequestContext,
    ) -> Result<Vec<Vec<f32>>, SearchError> {
        let deadlines = Deadlines::new(context.arrival, &self.config.timeouts);
        let demand = Demand::of_texts(0, texts.iter().map(String::len), usize::MAX);
        let admitted = self.admit_texts(demand, deadlines.request, context)?;
        let work = async {
            let embedder = self.lease_embedder().await?;
            let encode = |input: &ModelInput, _: usize, text: &String| match input {
                ModelInput::Embed(prompt) => Ok(prompt.document(text).0),
                ModelInput::Rerank(_) => Err(not_an_embedder()),
            };
            let (vectors, _) = self.embed_in_turns(&embedder, texts.to_vec(), encode, admitted, context).await?;
            Ok(vectors)
        };
        bounded(context, deadlines.request, work).await
    }

    /// Takes a place in the queue for texts that the embedder shall read.
    pub(super) fn admit_texts(
        &self,
        demand: Demand,
        deadline: Instant,
        context: &RequestContext,
    ) -> Result<Admitted, SearchError> {
        let client = &context.caller.client;
        let Some(key) = self.served.embedder() else { return self.admission.admit(client, demand) };
        self.admission.foresee(client, key, demand.pairs, deadline)?;
        let mut admitted = self.admission.admit(client, demand)?;
        admitted.enter(key, demand.pairs);
        Ok(admitted)
    }

    /// Embeds texts in order, some in each turn of the embedder; a text that cannot be encoded is the error of all.
    /// `encode` is told the text's position. `admitted`: their place in the queue, given back when they are embedded. Answers the tokens read, too.
    pub(super) async fn embed_in_turns<Text: Send + 'static>(
        &self,
        embedder: &ModelLease,
        texts: Vec<Text>,
        encode: impl Fn(&ModelInput, usize, &Text) -> Result<Vec<u32>, PromptError> + Send + 'static,
        admitted: Admitted,
        context: &RequestContext,
    ) -> Result<(Vec<Vec<f32>>, usize), SearchError> {
        let span = spans::embed(&embedder.key.model, texts.len());
        let work = self.embed_turn_by_turn(embedder, texts, encode, admitted, context);
        during(Part::Stage(Stage::Embed), work).instrument(span).await
    }

    async fn embed_turn_by_turn<Text: Send + 'static>(
        &self,
        embedder: &ModelLease,
        texts: Vec<Text>,
        encode: impl Fn(&ModelInput, usize, &Text) -> Result<Vec<u32>, PromptError> + Send + 'static,
        mut admitted: Admitted,
        context: &RequestContext,
    ) -> Result<(Vec<Vec<f32>>, usize), SearchError> {
        let encoded = self.encode(embedder, texts, encode).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        let tokens = encoded.iter().map(Vec::len).sum();
        admitted.correct(Demand::of_prompts(encoded.len(), tokens));
        let mut vectors = Vec::with_capacity(encoded.len());
        for turn in encoded.chunks(TEXTS_IN_A_TURN) {
            let (embedded, took) = self.embed_tokens(embedder, turn.to_vec(), context).await?;
            admitted.done(turn.len(), took);
            vectors.extend(embedded);
        }
        Ok((vectors, tokens))
    }

    /// The embedder, loaded where needed; always waited for, since without it there is no answer.
    pub(super) async fn lease_embedder(&self) -> Result<ModelLease, SearchError> {
        let Some(key) = self.served.embedder() else {
            return Err(SearchError::EmbedderUnavailable {
                message: "no embedding model is configured (embedding.model)".to_owned(),
                retry_after_seconds: 300,
            });
        };
        during(Part::Load, self.pool.lease(key, Waiting::Wait)).await.map_err(|error| {
            SearchError::EmbedderUnavailable {
                message: error.to_string(),
                retry_after_seconds: error.retry_after_seconds(),
            }
        })
    }

    /// Embeds queries in one pass; a query that is too long is its own error.
    pub(super) async fn embed_queries(
        &self,
        embedder: &ModelLease,
        queries: Vec<String>,
        context: &RequestContext,
    ) -> Result<Vec<Result<Vec<f32>, SearchError>>, SearchError> {
        let instruction = self.query_instruction();
        let encoded = self
            .encode(embedder, queries, move |input, _, query: &String| match input {
                ModelInput::Embed(prompt) => prompt.query(&instruction, query),
                ModelInput::Rerank(_) => Err(not_an_embedder()),
            })
            .await?;
        let tokens: Vec<Vec<u32>> = encoded.iter().filter_map(|tokens| tokens.as_ref().ok().cloned()).collect();
        let vectors =
            if tokens.is_empty() { Vec::new() } else { self.embed_tokens(embedder, tokens, context).await?.0 };
        let mut vectors = vectors.into_iter();
        Ok(encoded
            .into_iter()
            .map(|tokens| {
                tokens?;
                vectors.next().ok_or_else(|| unavailable("a vector is missing"))
            })
            .collect())
    }

    /// The configured query instruction, else the model's own, else the one of the catalogue's models.
    pub(super) fn query_instruction(&self) -> String {
        use rerank_crds::catalog::{QUERY_INSTRUCTION, embedding_model};
        let embedding = &self.config.embedding;
        embedding.instruction.clone().unwrap_or_else(|| {
            let known = embedding.model.as_deref().and_then(embedding_model);
            known.map_or(QUERY_INSTRUCTION, |known| known.query_instruction).to_owned()
        })
    }

    async fn encode<Text: Send + 'static>(
        &self,
        embedder: &ModelLease,
        texts: Vec<Text>,
        encode: impl Fn(&ModelInput, usize, &Text) -> Result<Vec<u32>, PromptError> + Send + 'static,
    ) -> Result<Vec<Result<Vec<u32>, SearchError>>, SearchError> {
        let lease = embedder.clone();
        let work = move || {
            let numbered = texts.iter().enumerate();
            numbered.map(|(index, text)| encode(&lease.input, index, text).map_err(refuse_text)).collect::<Vec<_>>()
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| SearchError::Internal {
            message: format!("the tokenizer failed: {}", chain::describe_lost_work(&error)),
        })
    }

    /// Vectors in order, and how long the engine took for them.
    async fn embed_tokens(
        &self,
        embedder: &ModelLease,
        texts: Vec<Vec<u32>>,
        context: &RequestContext,
    ) -> Result<(Vec<Vec<f32>>, Duration), SearchError> {
        let expected = texts.len();
        let mut place = self.admission.lane(&embedder.key).arrive(&context.caller.client, expected);
        place.turn(expected).instrument(spans::queue()).await;
        let begun = Instant::now();
        // One after the other, so that the vectors come in order; halves too.
        let mut batches = Batches::new([(0..expected).collect()]);
        let mut vectors = Vec::with_capacity(expected);
        while let Some(batch) = batches.next() {
            let tokens: Vec<Vec<u32>> = batch.inputs.iter().filter_map(|at| texts.get(*at).cloned()).collect();
            let canary = Canary::embed(tokens.first().map_or(&[], Vec::as_slice));
            match caught(embedder.engine.embed(tokens, &context.cancel)).await {
                Ok(embedded) => vectors.extend(embedded),
                Err(EngineError::Cancelled) => return Err(SearchError::Cancelled),
                Err(error) if batches.halve_after(&error, &batch, canary, embedder, &self.pool).await => {}
                Err(error) => {
                    tracing::error!(model = embedder.key.model, error = chain::describe(&error), "Failed to embed");
                    return Err(unavailable(&error.to_string()));
                }
            }
        }
        let took = begun.elapsed();
        drop(place);
        if vectors.len() != expected {
            return Err(unavailable(&format!("{expected} texts were given, {} vectors came back", vectors.len())));
        }
        if vectors.iter().any(|vector| vector.is_empty() || vector.iter().any(|value| !value.is_finite())) {
            return Err(unavailable("the model answered a vector that is empty or not finite"));
        }
        Ok((vectors, took))
    }
}

/// A model is loaded in one role, so this does not happen.
pub(super) fn not_an_embedder() -> PromptError {
    PromptError::Tokenizer { message: "the model was loaded as a reranker".to_owned() }
}

fn unavailable(message: &str) -> SearchError {
    SearchError::EmbedderUnavailable { message: message.to_owned(), retry_after_seconds: 1 }
}

/// A prompt that cannot be made: the text's fault, or the tokenizer's.
pub(super) fn refuse_text(error: PromptError) -> SearchError {
    match error {
        PromptError::QueryTooLong { maximum, .. } => SearchError::OutOfRange {
            field: "query",
            message: error.to_string(),
            allowed: format!("at most {maximum} tokens of query and instruction"),
        },
        PromptError::DocumentTooLong { maximum, .. } => SearchError::TooLarge {
            field: "documents",
            message: error.to_string(),
            allowed: format!("at most {maximum} tokens, or let longer ones be cut"),
        },
        PromptError::ForeignToken { .. } => SearchError::OutOfRange {
            field: "input",
            message: error.to_string(),
            allowed: "ids of ordinary tokens of the embedding model, or text".to_owned(),
        },
        other => SearchError::Internal { message: other.to_string() },
    }
}
