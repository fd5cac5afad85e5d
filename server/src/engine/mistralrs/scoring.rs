//! One batch of prompts to score: a request for one token each, whose logits are copied before it is sampled.
//!
//! The library's own ways to logits do not serve: `return_raw_logits` keeps the whole vocabulary for every position, and
//! the most likely tokens of `return_logprobs` may lack yes or no.

use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use mistralrs_core::{
    Constraint, CustomLogitsProcessor, NormalRequest, Request, RequestMessage, Response, SamplingParams,
};
use tokio::sync::mpsc::{self, Receiver, Sender};

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

/// Scores a batch. Every answer is waited for, also after a fault: the library does not survive an answer that nobody
/// receives.
pub(super) async fn score_batch(
    requests: Sender<Request>,
    prompts: Vec<Vec<u32>>,
    tokens: AnswerTokens,
) -> Result<Vec<PairLogits>, Fault> {
    let mut pending = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let copied = Arc::new(OnceLock::new());
        let processor: Arc<dyn CustomLogitsProcessor> = Arc::new(CopyLogits { tokens, copied: copied.clone() });
        let message = RequestMessage::CompletionTokens(prompt);
        let answer = submit(&requests, pending.len(), message, Some(vec![processor])).await?;
        pending.push((answer, copied));
    }
    let mut answers = Vec::with_capacity(pending.len());
    for (index, (answer, copied)) in pending.iter_mut().enumerate() {
        let finished = completion(answer.recv().await);
        let logits = finished.and_then(|()| {
            let logits = copied.get().copied();
            logits.ok_or_else(|| Fault::Failed("the engine finished a prompt without logits".to_owned()))
        });
        answers.push(logits.and_then(|logits| {
            let finite = logits.yes.is_finite() && logits.no.is_finite();
            if finite { Ok(logits) } else { Err(Fault::NotFinite(index)) }
        }));
    }
    answers.into_iter().collect()
}

/// Sends one request; the answer comes over the channel that is returned.
pub(super) async fn submit(
    requests: &Sender<Request>,
    id: usize,
    messages: RequestMessage,
    logits_processors: Option<Vec<Arc<dyn CustomLogitsProcessor>>>,
) -> Result<Receiver<Response>, Fault> {
    let (response, answer) = mpsc::channel(4);
    let request = NormalRequest {
        messages,
        sampling_params: SamplingParams { max_len: Some(1), ..SamplingParams::deterministic() },
        response,
        return_logprobs: false,
        is_streaming: false,
        id,
        constraint: Constraint::None,
        suffix: None,
        tools: None,
        tool_choice: None,
        logits_processors,
        return_raw_logits: false,
        web_search_options: None,
        model_id: None,
        truncate_sequence: false,
    };
    requests.send(Request::Normal(Box::new(request))).await.map_err(|_| Fault::engine_gone())?;
    Ok(answer)
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
        other => Err(fault_of(other)),
    }
}

/// The fault in a response that is not the one expected.
pub(super) fn fault_of(response: Option<Response>) -> Fault {
    match response {
        None => Fault::engine_gone(),
        Some(Response::InternalError(error) | Response::ValidationError(error)) => {
            Fault::from_message(error.to_string())
        }
        Some(Response::CompletionModelError(message, _) | Response::ModelError(message, _)) => {
            Fault::from_message(message)
        }
        Some(_) => Fault::Failed("the engine answered something else than was asked for".to_owned()),
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
        assert!(matches!(completion(None), Err(Fault::Fatal(_))));
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

    #[tokio::test]
    async fn an_engine_that_is_gone_fails_at_once() {
        let (requests, engine) = mpsc::channel(1);
        drop(engine);
        let fault = score_batch(requests, vec![vec![1]], AnswerTokens { yes: 1, no: 2 }).await.unwrap_err();
        assert_eq!(fault, Fault::engine_gone());
    }

    #[tokio::test]
    async fn an_engine_that_dies_in_a_batch_fails_the_batch() {
        let (requests, mut engine) = mpsc::channel(8);
        let dying = tokio::spawn(async move { engine.recv().await.is_some() });
        let fault = score_batch(requests, vec![vec![1], vec![2]], AnswerTokens { yes: 1, no: 2 }).await.unwrap_err();
        assert_eq!(fault, Fault::engine_gone());
        assert!(dying.await.unwrap());
    }
}
