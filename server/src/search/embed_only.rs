//! Vectors of texts that come with the request: no store and no reranker.

use tokio::time::Instant;

use super::deadlines::Deadlines;
use super::demand::Demand;
use super::embed_stage::not_an_embedder;
use super::searcher::bounded;
use super::{EmbedInput, EmbedRequest, EmbedResponse, RequestContext, SearchError, Searcher, TextKind, validate};
use crate::metrics::Stage;
use crate::pool::ModelInput;

impl Searcher {
    /// Embeds texts, in order. A text that is too long is refused and not cut: the vector of a beginning would pass for
    /// that of the whole.
    pub async fn embed(&self, request: EmbedRequest, context: &RequestContext) -> Result<EmbedResponse, SearchError> {
        let EmbedRequest { inputs, kind, model, dimensions } = request;
        validate::documents("input", inputs.len(), self.maximum_documents())?;
        if let Some(model) = &model {
            self.served.check_embedder(model)?;
        }
        let demand = inputs.iter().map(|input| match input {
            EmbedInput::Text(text) => Demand::of_texts(0, [text.len()].into_iter(), usize::MAX),
            EmbedInput::Tokens(tokens) => Demand::of_prompts(1, tokens.len()),
        });
        let deadlines = Deadlines::new(context.arrival, &self.config.timeouts);
        let admitted = self.admit_texts(demand.sum(), deadlines.request, context)?;
        let work = async {
            let embedder = self.lease_embedder().await?;
            let instruction = self.query_instruction();
            let encode = move |input: &ModelInput, index: usize, text: &EmbedInput| match (input, text, kind) {
                (ModelInput::Embed(prompt), EmbedInput::Tokens(tokens), _) => prompt.tokens(index, tokens),
                (ModelInput::Embed(prompt), EmbedInput::Text(text), TextKind::Query) => {
                    prompt.query(&instruction, text)
                }
                (ModelInput::Embed(prompt), EmbedInput::Text(text), TextKind::Document) => {
                    prompt.whole_document(index, text)
                }
                (ModelInput::Rerank(_), ..) => Err(not_an_embedder()),
            };
            let begun = Instant::now();
            let (vectors, tokens) = self.embed_in_turns(&embedder, inputs, encode, admitted, context).await?;
            self.metrics.observe_stage(Stage::Embed, begun.elapsed());
            let vectors = match dimensions {
                Some(dimensions) => {
                    validate::dimensions(dimensions, vectors.first().map_or(0, Vec::len))?;
                    vectors.into_iter().map(|vector| shortened(vector, dimensions)).collect()
                }
                None => vectors,
            };
            Ok(EmbedResponse { vectors, model: embedder.key.model.clone(), tokens })
        };
        bounded(context, deadlines.request, work).await
    }
}

/// The first components of a vector, divided by their length again (Matryoshka embeddings).
fn shortened(mut vector: Vec<f32>, dimensions: usize) -> Vec<f32> {
    vector.truncate(dimensions);
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        for value in &mut vector {
            *value /= length;
        }
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_vector_has_length_one_again() {
        assert_eq!(shortened(vec![3.0, 4.0, 12.0], 2), [0.6, 0.8]);
        assert_eq!(shortened(vec![0.0, 0.0, 1.0], 2), [0.0, 0.0], "nothing is left to divide");
    }
}
