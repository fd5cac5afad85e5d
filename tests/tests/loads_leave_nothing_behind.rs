//! The tiny pair loaded and unloaded by request at the real server, some thirty times: `make cycles` does it a thousand
//! times.

use rerank_tests::cycles;

/// The allocator's own coming and going: along 1,000 cycles own memory goes up and down between 8 and 16 MB. What was
/// loaded and kept in each of the twenty cycles between would be ten times as much.
const SLACK_BYTES: u64 = 10_000_000;
/// Threads that wait for work come and go in the runtime's pool; each cycle starts more than this.
const SLACK_THREADS: u64 = 3;

#[tokio::test]
async fn memory_threads_and_descriptors_are_the_same_after_30_loads_as_after_10() {
    let samples = cycles::run(&[10, 30], |sample| println!("{sample:?}")).await.unwrap();
    let [first, last] = samples.as_slice() else { panic!("two samples were asked for") };
    assert!(last.memory.own <= first.memory.own + SLACK_BYTES, "{first:?} became {last:?}");
    assert!(last.threads <= first.threads + SLACK_THREADS, "{first:?} became {last:?}");
    assert!(last.descriptors <= first.descriptors, "{first:?} became {last:?}");
}
