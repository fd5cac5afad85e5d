//! Changes under load: of the model, of what relevant means, of the operator; pods that are deleted while they answer.

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::searches::{Load, Seen};
use crate::world::{OPERATOR_NAMESPACE, World};

/// Searches in a second.
const RATE: u32 = 20;
/// Searches while a pod is deleted, at least.
const DRAINED: usize = 2_000;
/// Faster, so that it ends in about a minute.
const DRAIN_RATE: u32 = 30;

/// Small searches, so that the rate is no load: what is looked at is who answers. One candidate, since every engine but the one for GPUs
/// is slow here, and slower yet in 16 bits.
fn rolling(world: &World) -> Value {
    let mut object = world.tiny("rolling");
    object["spec"]["candidates"] = json!({"multiplier": 1, "minimum": 1});
    object["spec"]["lifecycle"] = json!({"loading": "Preload"});
    object["spec"]["rollout"] = json!("Surge");
    object
}

pub(crate) async fn tell(world: &World) {
    world.kubectl.apply(&rolling(world)).await;
    world.ready("rolling").await;
    let url = world.url("rolling").await;
    let change = async |what: &str, patch: Value| {
        let (load, begun) = (Load::start(world, url.clone(), RATE), Instant::now());
        let before = world.pods("rolling").await;
        world.kubectl.patch("rrd", "rolling", &patch).await;
        world
            .until("the pod is another", async || world.pods("rolling").await.iter().all(|pod| !before.contains(pod)))
            .await;
        world.ready("rolling").await;
        world.kubectl.run(&["rollout", "status", "deployment", "rolling", "--timeout=120s"]).await;
        sleep(Duration::from_secs(2)).await;
        let seen = load.end().await;
        print(what, &seen, begun);
        seen
    };
    let seen = change("quantization, Surge", json!({"spec": {"reranker": {"quantization": "float16"}}})).await;
    assert_eq!((seen.failed, seen.fallbacks), (Vec::new(), 0));
    let instruction = |text: &str| json!({"spec": {"reranker": {"instruction": {"text": text}}}});
    let seen = change("instruction, Surge", instruction("Is it an answer?")).await;
    assert_eq!((seen.failed, seen.fallbacks), (Vec::new(), 0));

    // The operator itself: first it restarts, then it is another.
    let (load, begun, before) = (Load::start(world, url.clone(), RATE), Instant::now(), world.pods("rolling").await);
    let operator = ["deployment", "rerank-operator", "-n", OPERATOR_NAMESPACE];
    world.kubectl.run(&[&["rollout", "restart"], &operator[..]].concat()).await;
    world.kubectl.run(&[&["rollout", "status", "--timeout=120s"], &operator[..]].concat()).await;
    world.install(OPERATOR_NAMESPACE, &["--set", "log.filter=debug\\,kube=warn\\,hyper=warn"]).await;
    world.kubectl.patch("rrd", "rolling", &json!({"metadata": {"labels": {"looked-at": "yes"}}})).await;
    sleep(Duration::from_secs(5)).await;
    let seen = load.end().await;
    print("restart and upgrade of the operator", &seen, begun);
    assert_eq!((seen.failed, seen.fallbacks), (Vec::new(), 0));
    assert_eq!(world.pods("rolling").await, before, "a pod was replaced");

    let recreate = json!({"spec": {"rollout": "Recreate", "reranker": {"quantization": "float32", "instruction": {"text": "Does it say so?"}}}});
    let seen = change("quantization and instruction, Recreate", recreate).await;
    assert!(seen.reranked > 0, "{seen:?}");

    world.kubectl.run(&["scale", "rrd", "rolling", "--replicas=2"]).await;
    world.until("two pods are ready", async || world.ready_replicas("rolling").await == 2).await;
    let (load, begun) = (Load::start(world, url, DRAIN_RATE), Instant::now());
    while load.seen().await.reranked < DRAINED / 2 {
        assert!(load.seen().await.failed.is_empty(), "{:?}", load.seen().await);
        sleep(Duration::from_millis(100)).await;
    }
    let pod = world.pods("rolling").await.remove(0);
    world.kubectl.run(&["delete", "pod", &pod, "--wait=false"]).await;
    while load.seen().await.reranked < DRAINED && load.seen().await.failed.is_empty() {
        sleep(Duration::from_millis(100)).await;
    }
    let seen = load.end().await;
    print("a pod of two deleted", &seen, begun);
    assert_eq!((seen.failed, seen.fallbacks), (Vec::new(), 0));
    assert!(seen.reranked >= DRAINED);
}

fn print(what: &str, seen: &Seen, begun: Instant) {
    let Seen { reranked, fallbacks, failed } = seen;
    println!(
        "{what}: {reranked} reranked, {fallbacks} fallbacks, {} failed in {:.1} s",
        failed.len(),
        begun.elapsed().as_secs_f64()
    );
}
