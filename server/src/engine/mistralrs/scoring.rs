//! One batch of prompts to score: a request for one token each, whose logits are copied before it is sampled.
//!
//! The library's own ways to logits do not serve: `return_raw_logits` keeps the whole vocabulary for every position, and
//! the most likely tokens of `return_logprobs` may lack yes or no.

use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use mistralrs_core::{CustomLogitsProcessor, RequestMessage, Response};

use super::channel::EngineChannel;
use super::faults::Fault;
use crate::engine::PairLogits;

/// The two tokens whose logits are the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerTokens {
    pub(super) yes: u32,
    pub(super) no: u32,
}

/// Copies two logits of the last position and hands all of them on, unchanged.
struct CopyLogits {
    tokens: AnswerTokens,
    copied: Arc<OnceLock<PairLogits>>,
}

impl CustomLogitsProcessor for CopyLogits {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        let logit = |token: u32| logits.get(token as usize)?.to_scalar::<f32>();
        // An error here would fail the pass of the whole batch; without a copy only this prompt has no answer.
        if let (Ok(yes), Ok(no)) = (logit(self.tokens.yes), logit(self.tokens.no)) {
            // Later tokens, were there any, do not replace the first.
            let _ = self.copied.set(PairLogits { yes, no });
        }
        Ok(logits.clone())
    }
}

/// Scores a batch. It is over when every prompt has left the engine, also after a fault: the library does not survive an
/// answer that nobody receives.
pub(super) async fn score_batch(
    channel: EngineChannel,
    prompts: Vec<Vec<u32>>,
    tokens: AnswerTokens,
) -> Result<Vec<PairLogits>, Fault> {
    let mut copies = Vec::with_capacity(prompts.len());
    let messages = prompts.into_iter().map(|prompt| {
        let copied = Arc::new(OnceLock::new());
        copies.push(copied.clone());
        let processor: Arc<dyn CustomLogitsProcessor> = Arc::new(CopyLogits { tokens, copied });
        (RequestMessage::CompletionTokens(prompt), Some(vec![processor]))
    });
    let responses = channel.exchange(messages.collect()).await?;
    let answers = responses.into_iter().zip(copies).enumerate().map(|(index, (response, copied))| {
        completion(response)?;
        match copied.get() {
            Some(logits) if logits.yes.is_finite() && logits.no.is_finite() => Ok(*logits),
            Some(_) => Err(Fault::NotFinite(index)),
            None => Err(Fault::Failed("the engine finished a prompt without logits".to_owned())),
        }
    });
    answers.collect()
}

/// Whether a prompt's pass went well. A failed pass can come as a finished choice with reason `error`.
fn completion(response: Option<Response>) -> Result<(), Fault> {
    match response {
        Some(Response::CompletionDone(done)) => {
            match done.choices.iter().find(|choice| choice.finish_reason == "error") {
                None => Ok(()),
                Some(choice) => Err(Fault::from_message(format!("the pass failed: {}", choice.text))),
            }
        }
        other => Err(Fault::from_response(other)),
    }
}

#[cfg(test)]
mod tests {
    use mistralrs_core::{CompletionChoice, CompletionResponse, Usage};

    use super::*;

    fn done(finish_reason: &str) -> Response {
        let usage = Usage {
            completion_tokens: 1,
            prompt_tokens: 1,
            total_tokens: 2,
            avg_tok_per_sec: 0.0,
            avg_prompt_tok_per_sec: 0.0,
            avg_compl_tok_per_sec: 0.0,
            total_time_sec: 0.0,
            total_prompt_time_sec: 0.0,
            total_completion_time_sec: 0.0,
        };
        let choice = CompletionChoice {
            finish_reason: finish_reason.to_owned(),
            index: 0,
            text: "CUDA_ERROR_OUT_OF_MEMORY".to_owned(),
            logprobs: None,
        };
        Response::CompletionDone(CompletionResponse {
            id: String::new(),
            choices: vec![choice],
            created: 0,
            model: String::new(),
            system_fingerprint: String::new(),
            object: String::new(),
            usage,
        })
    }

    #[test]
    fn a_finished_choice_with_reason_error_is_a_fault() {
        assert_eq!(completion(Some(done("length"))), Ok(()));
        assert_eq!(completion(Some(done("stop"))), Ok(()));
        assert!(matches!(completion(Some(done("error"))), Err(Fault::OutOfMemory(_))));
    }

    #[test]
    fn a_closed_channel_means_that_the_engine_is_gone() {
        assert!(matches!(completion(None), Err(Fault::EngineGone(_))));
        let refused = Response::ValidationError("Received an empty prompt.".into());
        assert_eq!(completion(Some(refused)), Err(Fault::Failed("Received an empty prompt.".to_owned())));
    }

    #[test]
    fn logits_are_copied_once_and_handed_on() {
        let logits = Tensor::new(&[0.5_f32, -1.0, 2.0], &candle_core::Device::Cpu).unwrap();
        let copied = Arc::new(OnceLock::new());
        let processor = CopyLogits { tokens: AnswerTokens { yes: 2, no: 1 }, copied: copied.clone() };
        let handed_on = processor.apply(&logits, &[7]).unwrap();
        processor.apply(&(&logits * 2.0).unwrap(), &[7, 8]).unwrap();
        assert_eq!(copied.get(), Some(&PairLogits { yes: 2.0, no: -1.0 }));
        assert_eq!(handed_on.to_vec1::<f32>().unwrap(), [0.5, -1.0, 2.0]);
        let outside = CopyLogits { tokens: AnswerTokens { yes: 3, no: 1 }, copied: Arc::default() };
        assert!(outside.apply(&logits, &[]).is_ok(), "the rest of the batch goes on");
        assert!(outside.copied.get().is_none());
    }
}
