//! The self-test after a load: what it refuses, and what it only tells.

use super::*;
use crate::self_test::{Expectations, ExpectedDocument};

const TESTED: PoolOptions = PoolOptions { unload_timeout: None, warm: false, self_test: SelfTest::Enforce };

fn expects(log_odds: f64) -> Expectations {
    let document = ExpectedDocument { text: "relevance=2.5".to_owned(), expected: log_odds };
    Expectations { weights_sha256: None, instruction: "i".to_owned(), query: "q".to_owned(), documents: vec![document] }
}

impl Bench {
    fn self_test(&self, key: &ModelKey) -> Option<SelfTestReport> {
        let statuses = self.pool.statuses();
        statuses.into_iter().find(|status| status.name == key.model).and_then(|status| status.self_test)
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_scores_as_its_reference_passes_its_self_test() {
    let bench = bench(TESTED);
    bench.source.set_expectations(expects(2.5));
    bench.load(&reranker("a")).await;
    assert_eq!(bench.self_test(&reranker("a")).unwrap().outcome, SelfTestOutcome::Passed);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_is_refused_gives_its_memory_back_and_is_tried_again_after_a_pause() {
    let bench = bench(TESTED);
    bench.source.set_expectations(expects(-2.5));
    let key = reranker("a");
    let refused = bench.pool.lease(&key, Waiting::Wait).await.unwrap_err();
    assert!(matches!(&refused, PoolError::SelfTestFailed { message, .. } if message.contains("text 1")), "{refused}");
    assert_eq!(bench.pool.state(&key), ModelState::Failed);
    assert_eq!(bench.self_test(&key).unwrap().outcome, SelfTestOutcome::Failed);
    assert_eq!(bench.controls.seen().unloads, ["a"]);
    let again = bench.pool.lease(&key, Waiting::Wait).await.unwrap_err();
    assert!(matches!(again, PoolError::SelfTestFailed { retry_after_seconds: 1, .. }), "{again}");
    assert_eq!(bench.controls.seen().loads, ["a"], "the pause is not over");
    bench.source.set_expectations(expects(2.5));
    sleep(Duration::from_secs(2)).await;
    bench.load(&key).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_self_test_may_only_be_warned_of_or_not_be_made() {
    for (self_test, outcome) in [(SelfTest::Warn, Some(SelfTestOutcome::Failed)), (SelfTest::Off, None)] {
        let bench = bench(PoolOptions { self_test, ..TESTED });
        bench.source.set_expectations(expects(-2.5));
        bench.load(&reranker("a")).await;
        assert_eq!(bench.self_test(&reranker("a")).map(|report| report.outcome), outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_of_which_nothing_is_known_is_used_whatever_its_answers_look_like() {
    let bench = bench(TESTED);
    bench.load(&reranker("a")).await;
    let report = bench.self_test(&reranker("a")).unwrap();
    assert_eq!(report.outcome, SelfTestOutcome::Implausible, "the fake gives both texts the same score");
    assert!(report.message.unwrap().contains("[0.0000, 0.0000]"));
    bench.load(&embedder("e")).await;
    assert!(bench.self_test(&embedder("e")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_self_test_that_cannot_be_run_refuses_nothing_but_an_engine_that_fails_in_it_does() {
    let bench = bench(TESTED);
    bench.source.set_expectations(expects(2.5));
    bench.controls.set_score_time(Duration::from_secs(3_600));
    bench.load(&reranker("a")).await;
    assert_eq!(bench.self_test(&reranker("a")).unwrap().outcome, SelfTestOutcome::NotRun);
    bench.controls.set_score_time(Duration::ZERO);
    bench.controls.fail_score(EngineFault::Failed);
    assert!(matches!(bench.pool.lease(&reranker("b"), Waiting::Wait).await, Err(PoolError::LoadFailed { .. })));
    let mut long = expects(2.5);
    long.documents[0].text = "x".repeat(100_000);
    bench.source.set_expectations(long);
    bench.load(&reranker("c")).await;
    assert_eq!(bench.self_test(&reranker("c")).unwrap().outcome, SelfTestOutcome::NotRun);
}
