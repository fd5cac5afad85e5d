//! What tells an engine that hangs or a device that is lost from one that is busy.

use super::*;
use crate::shutdown::{Phase, Readiness};
use crate::watchdog;

fn documents_of(number: usize) -> RerankRequest {
    RerankRequest {
        query: "q".to_owned(),
        documents: vec!["relevance=1".to_owned(); number],
        ..RerankRequest::default()
    }
}

/// When readiness first failed, and when the process was first told to end; both counted from now.
async fn watched(bench: &Bench, readiness: &Readiness, at_most: Duration) -> (Option<Duration>, Option<Duration>) {
    let begun = Instant::now();
    let (mut stalled, mut ended) = (None, None);
    let look = async {
        while begun.elapsed() < at_most {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if matches!(readiness.phase(), Phase::Stalled { .. }) {
                stalled.get_or_insert_with(|| begun.elapsed());
            }
            if bench.pool.fatal().reason().is_some() {
                ended.get_or_insert_with(|| begun.elapsed());
            }
        }
    };
    tokio::select! {
        never = watchdog::watch(&bench.pool, readiness) => match never {},
        () = look => {}
    }
    (stalled, ended)
}

#[tokio::test(start_paused = true)]
async fn a_hanging_engine_is_found_within_a_minute_though_its_clients_have_left() {
    let bench = bench();
    bench.assert_serves().await;
    let readiness = Readiness::default();
    readiness.ready();
    bench.controls.fail_score(EngineFault::Hang);
    let asked = bench.search(ask("q", 3));
    let ((stalled, ended), answer) = tokio::join!(watched(&bench, &readiness, Duration::from_secs(90)), asked);
    assert_eq!(fallback_reason(&answer.unwrap()), Some(FallbackReason::Deadline), "twenty seconds, then vector order");
    let (stalled, ended) = (stalled.unwrap().as_secs(), ended.unwrap().as_secs());
    assert!((30..=32).contains(&stalled), "not ready after {stalled} s");
    assert!((60..=62).contains(&ended), "told to end after {ended} s");
    assert!(bench.pool.fatal().reason().unwrap().contains(RERANKER));
}

#[tokio::test(start_paused = true)]
async fn a_stall_that_passes_ends_nothing() {
    let bench = bench();
    bench.assert_serves().await;
    let readiness = Readiness::default();
    readiness.ready();
    bench.controls.set_score_time(Duration::from_secs(45));
    let context = context();
    let left = tokio::time::timeout(Duration::from_secs(46), bench.searcher.rerank(documents_of(1), &context));
    let ((stalled, ended), _) = tokio::join!(watched(&bench, &readiness, Duration::from_secs(60)), left);
    // The fake's batch ends with its caller, at the deadline of twenty seconds.
    assert_eq!((stalled, ended), (None, None));
    assert_eq!(readiness.phase(), Phase::Ready);
}

/// The figure of S4: an hour at saturation without a false alarm.
#[tokio::test(start_paused = true)]
async fn an_hour_at_saturation_raises_no_alarm() {
    let bench = bench_with(|config| config.api.limits.queue_pairs = 200);
    bench.assert_serves().await;
    bench.controls.set_batch_pairs(10);
    bench.controls.set_score_time(Duration::from_secs(8));
    let readiness = Readiness::default();
    readiness.ready();
    let hour = Duration::from_secs(3_600);
    let load = async {
        let begun = Instant::now();
        let clients = (0..30).map(|_| async {
            let mut answered = 0;
            while begun.elapsed() < hour {
                match bench.rerank(documents_of(10)).await {
                    Ok(_) => answered += 1,
                    Err(error) => {
                        if begun.elapsed() < Duration::from_secs(120) {
                            eprintln!("{:?} {error}", begun.elapsed());
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
            answered
        });
        futures::future::join_all(clients).await.into_iter().sum::<usize>()
    };
    let ((stalled, ended), answered) = tokio::join!(watched(&bench, &readiness, hour), load);
    assert_eq!((stalled, ended), (None, None));
    assert!(answered >= 405, "{answered} of 450 requests of eight seconds in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_lost_device_is_told_by_whichever_request_meets_it() {
    let bench = bench();
    bench.assert_serves().await;
    bench.controls.fail_score(EngineFault::DeviceLost);
    bench.rerank(documents_of(1)).await.unwrap_err();
    assert_eq!(bench.pool.fatal().reason(), Some("told so"));
}

#[tokio::test(start_paused = true)]
async fn after_running_out_of_memory_one_short_prompt_decides_whether_the_process_goes_on() {
    let bench = bench();
    bench.assert_serves().await;
    for _ in 0..2 {
        bench.controls.fail_score(EngineFault::OutOfMemory);
    }
    bench.rerank(documents_of(2)).await.unwrap_err();
    assert_eq!(bench.controls.seen().last_prompts.len(), 1, "one prompt");
    assert!(*bench.controls.seen().tokens.last().unwrap() <= 16, "a short one");
    assert_eq!(bench.pool.fatal().reason(), None, "it was scored, so the process goes on");
    bench.assert_serves().await;

    for fault in [EngineFault::OutOfMemory, EngineFault::OutOfMemory, EngineFault::Failed] {
        bench.controls.fail_score(fault);
    }
    bench.rerank(documents_of(2)).await.unwrap_err();
    assert!(bench.pool.fatal().reason().unwrap().contains("does not run one short prompt"));
}

#[tokio::test(start_paused = true)]
async fn the_short_prompt_is_answered_for_though_the_client_has_left_meanwhile() {
    let bench = bench();
    bench.assert_serves().await;
    for fault in [EngineFault::OutOfMemory, EngineFault::Hang] {
        bench.controls.fail_score(fault);
    }
    let context = context();
    let left = tokio::time::timeout(Duration::from_secs(5), bench.searcher.rerank(documents_of(1), &context)).await;
    assert!(left.is_err(), "the canary hangs, and the client does not wait for it");
    context.cancel.cancel();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(bench.pool.fatal().reason().unwrap().contains("no answer within 10 s"));
}

#[tokio::test(start_paused = true)]
async fn a_first_batch_that_hangs_is_found_within_a_minute_too() {
    let bench = bench();
    let readiness = Readiness::default();
    readiness.ready();
    bench.controls.fail_embed(EngineFault::Hang);
    let asked = bench.search(ask("q", 3));
    let ((stalled, ended), answer) = tokio::join!(watched(&bench, &readiness, Duration::from_secs(90)), asked);
    answer.unwrap_err();
    assert!((60..=62).contains(&stalled.unwrap().as_secs()), "not ready after {stalled:?}");
    assert_eq!(ended, None, "it may be a model too slow for its warm-up");
}
