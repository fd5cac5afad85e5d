//! `ask`: one request to a running service, for images without a shell and for `helm test`. I/O: HTTP.

use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::{Certificate, Client, StatusCode, Url};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Failure;
use crate::args::{AskArguments, ExitCode};

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(2);
/// Results that are asked for.
const RESULTS: usize = 3;

pub(super) async fn run(arguments: AskArguments) -> Result<ExitCode, Failure> {
    let advice = arguments.advice.clone();
    match ask(arguments).await {
        Ok(answer) => {
            println!("{answer}");
            Ok(ExitCode::Success)
        }
        Err(error) => Err(Failure::from(match advice {
            Some(advice) => anyhow!("{error:#}; {advice}"),
            None => error,
        })),
    }
}

/// What became of one attempt.
#[derive(Debug, PartialEq)]
enum Attempt {
    /// Answered as asked.
    Answered(String),
    /// Another attempt may end otherwise.
    NotYet(String),
    /// No other attempt will.
    Never(String),
}

async fn ask(arguments: AskArguments) -> anyhow::Result<String> {
    let AskArguments { query, url, documents, api_key, ca_file, timeout_seconds, advice: _ } = arguments;
    let base = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let base = base
        .with_context(|| format!("--url {url:?} is no address of a service, such as http://NAME.NAMESPACE.svc:8000"))?;
    let (path, body) = if documents.is_empty() {
        ("search", json!({"q": query, "k": RESULTS}))
    } else {
        ("v1/rerank", json!({"query": query, "documents": documents}))
    };
    let address = format!("{}/{path}", base.as_str().trim_end_matches('/'));
    let mut client = Client::builder();
    if let Some(path) = ca_file {
        let pem = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let certificates =
            Certificate::from_pem_bundle(&pem).with_context(|| format!("{} holds no certificate", path.display()))?;
        client = client.tls_certs_only(certificates);
    }
    let client = client.build().context("failed to make a client")?;
    let deadline = Instant::now() + Duration::from_secs(timeout_seconds);
    loop {
        let mut request = client.post(&address).json(&body).timeout(deadline.saturating_duration_since(Instant::now()));
        if let Some(key) = &api_key {
            request = request.bearer_auth(key);
        }
        let attempt = match request.send().await {
            Ok(response) => {
                let status = response.status();
                judge(status, &response.json().await.unwrap_or_default(), documents.len())
            }
            Err(error) => Attempt::NotYet(crate::chain::describe(&error)),
        };
        match attempt {
            Attempt::Answered(answer) => return Ok(answer),
            Attempt::Never(why) => return Err(anyhow!("{address}: {why}")),
            Attempt::NotYet(why) if Instant::now() + PAUSE >= deadline => {
                return Err(anyhow!("{address}: {why}, after {timeout_seconds} s"));
            }
            Attempt::NotYet(_) => sleep(PAUSE).await,
        }
    }
}

/// Pure. `documents`: how many were sent; 0: it was a search.
fn judge(status: StatusCode, answer: &Value, documents: usize) -> Attempt {
    let fault = || {
        let text = |field: &str| answer["error"][field].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", status.as_u16(), text("code"), text("message")).trim_end().to_owned()
    };
    match status {
        StatusCode::OK => {}
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => return Attempt::NotYet(fault()),
        _ if answer["error"]["code"] == "search_not_configured" => {
            return Attempt::Never(format!("{}; give it texts with --document", fault()));
        }
        _ => return Attempt::Never(fault()),
    }
    let Some(results) = answer["results"].as_array() else {
        return Attempt::Never("it answers, but not as this service does".to_owned());
    };
    if documents > 0 {
        if results.len() != documents {
            return Attempt::Never(format!("{} results for {documents} texts", results.len()));
        }
        let best = results.first().map_or(&Value::Null, |best| &best["relevance_score"]);
        return Attempt::Answered(format!("{documents} texts in order; the best has {best}"));
    }
    let found = format!("{} of {} candidates", results.len(), answer["num_candidates"]);
    let fallback = &answer["fallback"];
    match fallback["reason"].as_str() {
        // What the service is asked to do, or there is nothing to order.
        None | Some("disabled") if answer["reranking_used"] == false => {
            Attempt::Answered(format!("{found}, in vector order"))
        }
        None => Attempt::Answered(format!("{found}, reranked by {}", answer["reranker"]["model"])),
        Some(reason) => {
            let why =
                format!("it answers in vector order: {reason}: {}", fallback["message"].as_str().unwrap_or_default());
            if matches!(reason, "loading" | "deadline" | "breaker_open") {
                Attempt::NotYet(why)
            } else {
                Attempt::Never(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(more: &Value) -> Attempt {
        let mut answer = json!({"results": [{}], "num_candidates": 20, "reranking_used": true,
            "reranker": {"model": "m"}, "fallback": null});
        answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        judge(StatusCode::OK, &answer, 0)
    }

    #[test]
    fn a_search_counts_that_was_reranked_or_was_not_to_be() {
        assert_eq!(search(&json!({})), Attempt::Answered("1 of 20 candidates, reranked by \"m\"".to_owned()));
        let plain = Attempt::Answered("1 of 20 candidates, in vector order".to_owned());
        assert_eq!(search(&json!({"reranking_used": false})), plain);
        assert_eq!(search(&json!({"reranking_used": false, "fallback": {"reason": "disabled"}})), plain);
    }

    #[test]
    fn a_fallback_is_tried_again_only_where_it_may_pass() {
        let reason =
            |reason: &str| search(&json!({"reranking_used": false, "fallback": {"reason": reason, "message": "m"}}));
        assert!(matches!(reason("loading"), Attempt::NotYet(_)));
        assert_eq!(reason("engine_failed"), Attempt::Never("it answers in vector order: engine_failed: m".to_owned()));
    }

    #[test]
    fn errors_are_told_by_code_and_texts_must_all_come_back() {
        let error = |status, code: &str| judge(status, &json!({"error": {"code": code, "message": "m"}}), 0);
        assert_eq!(error(StatusCode::UNAUTHORIZED, "unauthorized"), Attempt::Never("401 unauthorized m".to_owned()));
        assert!(matches!(error(StatusCode::SERVICE_UNAVAILABLE, "overloaded"), Attempt::NotYet(_)));
        let rerank_only = error(StatusCode::NOT_FOUND, "search_not_configured");
        assert!(matches!(rerank_only, Attempt::Never(why) if why.contains("--document")));
        let answer = json!({"results": [{"relevance_score": 0.5}]});
        assert!(matches!(judge(StatusCode::OK, &answer, 1), Attempt::Answered(_)));
        assert!(matches!(judge(StatusCode::OK, &answer, 2), Attempt::Never(_)));
        assert!(matches!(judge(StatusCode::OK, &Value::Null, 0), Attempt::Never(_)));
    }
}
