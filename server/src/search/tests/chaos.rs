//! One half of the chaos matrix: the engine refuses, resets, hangs, is slow, answers garbage. What is seen stands word for
//! word in `docs/failures.md`; the store's half is tested through the real binary.

use std::path::Path;

use super::*;

/// What a search is answered, as the page says it: the status, and of a fallback its reason.
fn described(response: &SearchResponse) -> String {
    assert!(response.results.iter().all(|result| result.score.is_finite()));
    match fallback_reason(response) {
        Some(reason) => {
            assert!(!response.reranking_used && response.results.iter().all(|result| result.rerank_score.is_none()));
            format!("200 vector order, `{reason}`")
        }
        None => "200".to_owned(),
    }
}

fn assert_documented(name: &str, first: &str, later: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/failures.md");
    let matrix = std::fs::read_to_string(page).unwrap();
    let row = format!("| engine | {name} | {first} | {later} |");
    assert!(matrix.lines().any(|line| line.starts_with(&row)), "docs/failures.md has no row {row:?}");
}

/// Searches while the engine fails in one way: the first answer, and that of the search after five failures. Five seconds
/// after the end of the fault the reranker is used again.
async fn cell(bench: &Bench, name: &str, fail: impl Fn(&EngineControls), end: impl FnOnce(&EngineControls)) {
    bench.assert_serves().await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        fail(&bench.controls);
        answers.push(described(&bench.search(ask("q", 3)).await.unwrap()));
    }
    assert!(answers[..5].iter().all(|answer| answer == &answers[0]), "{name}: {answers:?}");
    let later = if answers[5].contains("breaker_open") { answers[5].as_str() } else { "-" };
    assert_documented(name, &answers[0], later);
    // The one that the breaker did not let through has left its fault behind.
    end(&bench.controls);
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.search(ask("q", 3)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn refuse_each_batch_fails() {
    cell(&bench(), "refuse", |controls| controls.fail_score(EngineFault::Failed), |_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn reset_the_engines_thread_is_gone_and_the_next_search_loads_it_again() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.kill_engines();
    // Without a fault of its own the search is what meets the dead engine, if it is still leased.
    let loads = bench.controls.seen().loads.len();
    let answer = bench.search(ask("q", 3)).await.unwrap();
    assert!(answer.reranking_used, "one that died between two searches is not noticed: {:?}", answer.fallback);
    assert!(bench.controls.seen().loads.len() > loads);

    bench.controls.set_batch_pairs(1);
    bench.controls.set_score_time(Duration::from_secs(1));
    let dies = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        bench.controls.kill_engines();
    };
    let (answer, ()) = tokio::join!(bench.search(ask("q", 3)), dies);
    assert_documented("reset", &described(&answer.unwrap()), "-");
    bench.assert_serves().await;
}

#[tokio::test(start_paused = true)]
async fn hang_a_batch_never_ends() {
    cell(&bench(), "hang", |controls| controls.fail_score(EngineFault::Hang), |_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn slow_batches_end_but_too_late() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.set_batch_pairs(1);
    let slow = |controls: &EngineControls| controls.set_score_time(Duration::from_secs(6));
    let end = |controls: &EngineControls| controls.set_score_time(Duration::ZERO);
    cell(&bench, "slow", slow, end).await;
}

#[tokio::test(start_paused = true)]
async fn garbage_scores_are_no_numbers() {
    cell(&bench(), "garbage", |controls| controls.fail_score(EngineFault::NotFinite), |_| {}).await;
}
