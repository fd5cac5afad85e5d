//! Load, score, unload, again and again: threads end and memory comes back.
//!
//! In a file of its own, so that no other test's threads and memory are counted.

use rerank_crds::catalog::{EngineKind, Quantization};
use rerank_server::engine::ScoreRequest;
use rerank_tests::models::{self, TINY_EMBEDDER, TINY_RERANKER};
use tokio_util::sync::CancellationToken;

const CYCLES: usize = 6;
/// Slack for what each load leaves behind in the library, some ten kilobytes, and for the allocator. The two models take
/// more in one load.
const SLACK_KILOBYTES: i64 = 4 * 1024;
/// Slack for the runtime's own threads, which come and go.
const SLACK_THREADS: i64 = 4;

/// A number of `/proc/self/status`.
fn status(field: &str) -> i64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel writes the field");
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

async fn one_cycle() {
    for kind in models::ENGINES {
        load_score_and_unload(kind).await;
    }
}

async fn load_score_and_unload(kind: EngineKind) {
    let cancel = CancellationToken::new();
    let reranker = models::load_by(kind, TINY_RERANKER, Quantization::Float32).await.unwrap();
    let embedder = models::load_by(kind, TINY_EMBEDDER, Quantization::Float32).await.unwrap();
    let prompts: Vec<Vec<u32>> = (100..120).map(|length| (0..length).collect()).collect();
    let request = ScoreRequest { prompts: prompts.clone(), shared_prefix_tokens: 0, yes_token: 1, no_token: 2 };
    assert_eq!(reranker.score(request, &cancel).await.unwrap().len(), 20);
    assert_eq!(embedder.embed(prompts, &cancel).await.unwrap().len(), 20);
    reranker.unload().await.unwrap();
    embedder.unload().await.unwrap();
}

/// Threads once those that are ending have ended.
async fn settled_threads() -> i64 {
    let mut threads = status("Threads");
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let now = status("Threads");
        if now == threads {
            return now;
        }
        threads = now;
    }
    threads
}

#[tokio::test]
async fn threads_and_memory_return_after_each_unload() {
    // The first cycles start the pools that live as long as the process.
    one_cycle().await;
    one_cycle().await;
    let (threads, memory) = (settled_threads().await, status("VmRSS"));
    for cycle in 1..=CYCLES {
        one_cycle().await;
        println!("cycle {cycle}: {} threads, {} kB", settled_threads().await, status("VmRSS"));
    }
    let (threads_after, memory_after) = (settled_threads().await, status("VmRSS"));
    // mistral.rs leaves its logger's thread behind, asleep, one for each load.
    let loads = 2 * i64::try_from(CYCLES).unwrap();
    assert!(
        threads_after - threads <= loads + SLACK_THREADS,
        "{threads} threads became {threads_after} in {loads} loads"
    );
    assert!(memory_after - memory <= SLACK_KILOBYTES, "{memory} kB became {memory_after} kB in {CYCLES} cycles");
}
