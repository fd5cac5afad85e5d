//! A slow request is told with the stage that took most.

use serde_json::json;
use tracing_subscriber::layer::SubscriberExt;

use super::whole::{LogLines, WholeApi};
use super::*;
use crate::telemetry::{LogOptions, lines_to};

const SECOND: Duration = Duration::from_secs(1);
const CANARY: &str = "canary7f3a";

/// Logs as a server does whose filter is `filter`, for as long as the guard lives.
fn logged(filter: &str) -> (LogLines, tracing::subscriber::DefaultGuard) {
    let lines = LogLines::default();
    let options = LogOptions {
        filter: filter.to_owned(),
        setting: "logging.filter",
        format: rerank_crds::server_config::LogFormat::Json,
    };
    let layer = lines_to(lines.clone(), &options).unwrap();
    (lines, tracing::subscriber::set_default(tracing_subscriber::registry().with(layer)))
}

/// The one warning of a request with these conditions, checked for what every one has.
async fn slow_line(api: &WholeApi, path: &str) -> Value {
    let (lines, _logging) = logged("warn");
    let request = Request::get(path).header("x-request-id", "order-66").body(Body::empty()).unwrap();
    api.send(request).await;
    let mut slow = lines.with_message("Slow request");
    assert_eq!(slow.len(), 1, "{:#?}", lines.all());
    let line = slow.remove(0);
    assert_eq!(line["level"], "WARN");
    assert_eq!((&line["request_id"], &line["route"]), (&json!("order-66"), &json!("/search")));
    assert!(!line.to_string().contains(CANARY), "{line}");
    line
}

fn assert_stage(line: &Value, stage: &str, milliseconds: std::ops::Range<f64>) {
    assert_eq!(line["slowest_stage"], stage, "{line}");
    let took = line["slowest_stage_ms"].as_f64().unwrap();
    assert!(milliseconds.contains(&took), "{line}");
    assert!(line["duration_ms"].as_f64().unwrap() >= took, "{line}");
}

#[tokio::test(start_paused = true)]
async fn each_stage_is_named_when_it_takes_most() {
    let api = WholeApi::new(Some(SECOND), |_| ());
    let path = format!("/search?q={CANARY}&k=3");

    api.controls.set_load_time(2 * SECOND);
    assert_stage(&slow_line(&api, &path).await, "load", 3_900.0..4_100.0);

    api.controls.set_embed_time(2 * SECOND);
    assert_stage(&slow_line(&api, &path).await, "embed", 2_000.0..2_100.0);
    api.controls.set_embed_time(Duration::ZERO);

    api.store.set_delay(2 * SECOND);
    assert_stage(&slow_line(&api, &path).await, "search", 2_000.0..2_100.0);
    api.store.set_delay(Duration::ZERO);

    api.controls.set_batch_pairs(1);
    api.controls.set_score_time(SECOND);
    assert_stage(&slow_line(&api, &path).await, "score", 5_000.0..5_100.0);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_others_is_the_queue() {
    let api = WholeApi::new(Some(3 * SECOND), |_| ());
    api.warm().await;
    api.controls.set_score_time(2 * SECOND);
    let (lines, _logging) = logged("warn");
    tokio::join!(api.get("/search?q=first&k=3"), api.get("/search?q=second&k=3"));
    let slow = lines.with_message("Slow request");
    assert_eq!(slow.len(), 1, "the first took two seconds: {slow:#?}");
    assert!((3_990.0..4_010.0).contains(&slow[0]["duration_ms"].as_f64().unwrap()), "{}", slow[0]);
    // Both took two seconds; whichever is named, it is one of the two.
    assert!(["queue", "score"].contains(&slow[0]["slowest_stage"].as_str().unwrap()), "{}", slow[0]);
    drop(lines);
    let (lines, _logging) = logged("warn");
    let asked = (0..3).map(|_| api.get("/search?q=x&k=3"));
    futures::future::join_all(asked).await;
    let slow = lines.with_message("Slow request");
    assert_eq!(slow.len(), 2, "{slow:#?}");
    assert_stage(&slow[1], "queue", 3_900.0..4_100.0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_and_a_client_that_leaves_are_told_too() {
    let api = WholeApi::new(Some(3 * SECOND), |config| config.timeouts.vector_search_seconds = 4);
    api.warm().await;
    api.store.set_delay(3_600 * SECOND);
    let line = slow_line(&api, "/search?q=x").await;
    assert_eq!(line["status"], 504);
    assert_stage(&line, "search", 4_000.0..4_100.0);

    let (lines, _logging) = logged("warn");
    assert!(tokio::time::timeout(Duration::from_millis(3_500), api.get("/search?q=x")).await.is_err());
    let slow = lines.with_message("Slow request");
    assert_eq!(slow.len(), 1, "{slow:#?}");
    assert_eq!(slow[0]["status"], 499);
    assert_stage(&slow[0], "search", 3_400.0..3_600.0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_slowly_is_no_stage() {
    let api = WholeApi::new(Some(Duration::from_millis(200)), |_| ());
    let (lines, _logging) = logged("warn");
    let body = Body::from_stream(futures::stream::once(async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok::<_, std::io::Error>("{}")
    }));
    let request = Request::post("/v1/rerank").header(CONTENT_TYPE, "application/json").body(body).unwrap();
    api.send(request).await;
    let slow = lines.with_message("Slow request");
    assert_eq!(slow[0]["route"], "/v1/rerank");
    assert_stage(&slow[0], "other", 490.0..510.0);
}

#[tokio::test(start_paused = true)]
async fn a_quick_request_is_not_told_and_nothing_is_where_it_is_switched_off() {
    for (slow_request, score_time) in [(Some(3 * SECOND), 2 * SECOND), (None, 10 * SECOND)] {
        let api = WholeApi::new(slow_request, |_| ());
        api.warm().await;
        api.controls.set_score_time(score_time);
        let (lines, _logging) = logged("info");
        assert_eq!(api.get("/search?q=x&k=3").await.status, 200);
        assert_eq!(lines.with_message("Answered request").len(), 1);
        assert!(lines.with_message("Slow request").is_empty(), "{:#?}", lines.all());
    }
}
