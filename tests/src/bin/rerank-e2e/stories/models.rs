//! Models in pods: unloaded when idle, loaded again by a search; preloaded and tested before a pod is ready; never ready where
//! the test fails.

use serde_json::json;
use tokio::time::{Duration, sleep};

use crate::searches::search;
use crate::world::World;

/// Idle time after which models are unloaded: longer than the 30 s after which the operator looks at what pods have loaded.
const IDLE_SECONDS: u32 = 45;

pub(crate) async fn tell(world: &World) {
    tokio::join!(
        idle_models_are_unloaded(world),
        preloaded_models_are_tested(world),
        a_failed_test_is_never_ready(world)
    );
}

async fn idle_models_are_unloaded(world: &World) {
    let mut object = world.tiny("idle");
    object["spec"]["lifecycle"] = json!({"unloadTimeoutSeconds": IDLE_SECONDS});
    world.kubectl.apply(&object).await;
    world.ready("idle").await;
    world.kubectl.reason("idle", "ModelReady", "Standby").await;
    let url = world.url("idle").await;
    let question = json!({"query": "how are planets made", "k": 10});
    assert!(search(&world.client, &url, &question).await.unwrap().is_reranked());
    world.kubectl.reason("idle", "ModelReady", "Loaded").await;
    let loaded = world.memory_bytes("idle").await;
    world.kubectl.reason("idle", "ModelReady", "Standby").await;
    let mut idle = loaded;
    world
        .until("the container's memory falls", async || {
            sleep(Duration::from_secs(1)).await;
            idle = world.memory_bytes("idle").await;
            idle < loaded
        })
        .await;
    println!("memory of the container: {:.1} MB loaded, {:.1} MB in Standby", megabytes(loaded), megabytes(idle));
    assert!(search(&world.client, &url, &question).await.unwrap().is_reranked());
}

async fn preloaded_models_are_tested(world: &World) {
    let mut object = world.tiny("preloaded");
    object["spec"]["lifecycle"] = json!({"loading": "Preload"});
    world.kubectl.apply(&object).await;
    world.ready("preloaded").await;
    world.kubectl.reason("preloaded", "ModelReady", "Loaded").await;
}

async fn a_failed_test_is_never_ready(world: &World) {
    let mut object = world.tiny("swapped");
    object["spec"]["lifecycle"] = json!({"loading": "Preload"});
    object["spec"]["reranker"]["custom"] =
        json!([{"model": "tiny-reranker", "scoring": {"yesToken": "no", "noToken": "yes"}}]);
    world.kubectl.apply(&object).await;
    world
        .until("why it is not ready is told", async || {
            let ready = rerank_tests::cluster::condition(&world.kubectl.get("rrd", "swapped").await, "Ready");
            assert_ne!(ready["status"], "True", "{ready}");
            ready["message"].as_str().is_some_and(|message| message.contains("self-test"))
        })
        .await;
    let object = world.kubectl.get("rrd", "swapped").await;
    world.meets(&rerank_tests::cluster::condition(&object, "Ready"));
}

#[expect(clippy::cast_precision_loss, reason = "printed with one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
