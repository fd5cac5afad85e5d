//! Requests to the engine's thread and their answers.

use std::sync::Arc;

use mistralrs_core::{
    Constraint, CustomLogitsProcessor, NormalRequest, Pipeline, Request, RequestMessage, Response, SamplingParams,
};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::faults::Fault;

/// What is asked of the engine for one prompt, and what looks at its logits.
pub(super) type Message = (RequestMessage, Option<Vec<Arc<dyn CustomLogitsProcessor>>>);

/// The way to the engine's thread, for one batch.
#[derive(Clone)]
pub(super) struct EngineChannel {
    pub(super) requests: Sender<Request>,
    /// Locked while a batch is handed over, so that the engine, which locks it for each request that it takes, starts
    /// with the whole batch. None in tests without an engine.
    pub(super) pipeline: Option<Arc<Mutex<dyn Pipeline>>>,
}

impl EngineChannel {
    /// Hands a batch over and waits until every prompt has left the engine, which is when it closes the channel for the
    /// answer. Answers come in order; none means that the engine ended before it answered.
    pub(super) async fn exchange(&self, batch: Vec<Message>) -> Result<Vec<Option<Response>>, Fault> {
        let mut pending = Vec::with_capacity(batch.len());
        {
            let _handing_over = match &self.pipeline {
                Some(pipeline) => Some(pipeline.lock().await),
                None => None,
            };
            for message in batch {
                pending.push(self.send(pending.len(), message)?);
            }
        }
        let mut answers = Vec::with_capacity(pending.len());
        for answer in &mut pending {
            let first = answer.recv().await;
            while answer.recv().await.is_some() {}
            answers.push(first);
        }
        Ok(answers)
    }

    /// Sends one request; its answer comes over the channel that is returned.
    fn send(&self, id: usize, (messages, logits_processors): Message) -> Result<Receiver<Response>, Fault> {
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
        // The engine's queue holds 10,000 requests, more than any batch.
        self.requests.try_send(Request::Normal(Box::new(request))).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => Fault::engine_gone(),
            mpsc::error::TrySendError::Full(_) => Fault::Failed("the engine's queue is full".to_owned()),
        })?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(prompts: usize) -> Vec<Message> {
        (0..prompts).map(|_| (RequestMessage::CompletionTokens(vec![1]), None)).collect()
    }

    fn channel(capacity: usize) -> (EngineChannel, Receiver<Request>) {
        let (requests, engine) = mpsc::channel(capacity);
        (EngineChannel { requests, pipeline: None }, engine)
    }

    #[tokio::test]
    async fn an_engine_that_is_gone_fails_at_once() {
        let (channel, engine) = channel(1);
        drop(engine);
        assert!(matches!(channel.exchange(batch(1)).await, Err(Fault::EngineGone(_))));
    }

    #[tokio::test]
    async fn an_engine_that_dies_in_a_batch_answers_nothing() {
        let (channel, mut engine) = channel(8);
        let dying = tokio::spawn(async move { engine.recv().await.is_some() });
        let answers = channel.exchange(batch(2)).await.unwrap();
        assert!(answers.iter().all(Option::is_none) && answers.len() == 2);
        assert!(dying.await.unwrap());
    }

    #[tokio::test]
    async fn a_batch_is_over_when_the_engine_lets_go_of_it_and_not_when_it_answers() {
        let (channel, mut engine) = channel(8);
        let (answered, let_go) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (answering, holding) = (answered.clone(), let_go.clone());
        let engine = tokio::spawn(async move {
            let Some(Request::Normal(request)) = engine.recv().await else { panic!("a request comes") };
            request.response.send(Response::ValidationError("no".into())).await.unwrap();
            answering.notify_one();
            holding.notified().await;
        });
        let exchange = channel.exchange(batch(1));
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            _ = &mut exchange => panic!("the engine still holds the prompt"),
            () = answered.notified() => {}
        }
        let_go.notify_one();
        assert!(matches!(exchange.await.unwrap().as_slice(), [Some(Response::ValidationError(_))]));
        engine.await.unwrap();
    }

    #[tokio::test]
    async fn a_full_queue_fails_the_batch() {
        let (channel, _engine) = channel(1);
        assert!(matches!(channel.exchange(batch(2)).await, Err(Fault::Failed(_))));
    }
}
