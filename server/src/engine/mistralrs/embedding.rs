//! One batch of texts to embed, all of one length.
//!
//! The library's pipeline for embeddings pads without a mask and takes the last column, so it is right for equal
//! lengths only, and it does not normalise. Texts of other lengths never meet here, and the length is made 1 here.

use mistralrs_core::{RequestMessage, Response};

use super::channel::EngineChannel;
use super::faults::Fault;

/// The library panics on a text of one token. Doubled, it has the same embedding: both positions hold the same value
/// vector, so attention over them gives that vector whatever the weights, layer after layer.
pub(super) fn at_least_two_tokens(mut text: Vec<u32>) -> Vec<u32> {
    if let [only] = text.as_slice() {
        text.push(*only);
    }
    text
}

/// Embeds a batch of texts of one length.
pub(super) async fn embed_batch(channel: EngineChannel, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, Fault> {
    let messages = texts.into_iter().map(|prompt| (RequestMessage::EmbeddingTokens { prompt }, None));
    let responses = channel.exchange(messages.collect()).await?;
    let answers = responses.into_iter().enumerate().map(|(index, response)| match response {
        Some(Response::Embeddings { embeddings, .. }) => normalised(embeddings).ok_or(Fault::NotFinite(index)),
        other => Err(Fault::from_response(other)),
    });
    answers.collect()
}

/// A vector divided by its length; none where that is no number.
fn normalised(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return None;
    }
    for value in &mut vector {
        #[expect(clippy::cast_possible_truncation, reason = "a vector of length 1 in float32 is what is asked for")]
        let divided = (f64::from(*value) / length) as f32;
        *value = divided;
    }
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_divided_by_their_length() {
        assert_eq!(normalised(vec![3.0, 4.0]), Some(vec![0.6, 0.8]));
        for broken in [vec![0.0, 0.0], vec![f32::NAN], vec![f32::INFINITY, 1.0], vec![]] {
            assert_eq!(normalised(broken), None);
        }
    }

    #[test]
    fn a_text_of_one_token_is_doubled() {
        assert_eq!(at_least_two_tokens(vec![7]), [7, 7]);
        assert_eq!(at_least_two_tokens(vec![7, 8]), [7, 8]);
    }
}
