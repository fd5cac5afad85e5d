//! A server that dies: of its memory limit, or killed while another one answers.

use futures::future::join_all;
use rerank_tests::cluster::condition;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use crate::searches::{Load, search};
use crate::world::World;

/// Requests of nearly 2 MB, the most that one may have, at once.
const AT_ONCE: usize = 32;

pub(crate) async fn tell(world: &World) {
    out_of_memory(world).await;
    killed(world).await;
}

async fn out_of_memory(world: &World) {
    world.kubectl.apply(&world.tiny("starved")).await;
    world.ready("starved").await;
    let pod = world.pods("starved").await.remove(0);
    let url = world.url("starved").await;
    let question = json!({"query": "how are planets made", "k": 10});
    assert!(search(&world.client, &url, &question).await.unwrap().is_reranked());
    // Loaded, it is left no room for what many requests need. It cannot know before, as it does where it still has to load.
    world.node().limit_memory(&world.container(&pod).await).unwrap();
    let many =
        json!({"query": "how are planets made", "documents": vec!["planets are made of dust ".repeat(1_200); 60]});
    let all = (0..AT_ONCE).map(|_| world.client.post(format!("{url}/v1/rerank")).json(&many).send());
    let answered =
        join_all(all).await.into_iter().filter(|answer| answer.as_ref().is_ok_and(|one| one.status().is_success()));
    assert!(answered.count() < AT_ONCE, "it had room for all");
    let mut told = Value::Null;
    world
        .until("status names OOMKilled", async || {
            let object = world.kubectl.get("rrd", "starved").await;
            told = condition(&object, "Available");
            told["message"].as_str().is_some_and(|message| message.contains("OOMKilled"))
        })
        .await;
    world.meets(&told);
    world.ready("starved").await;
    assert_eq!(world.pods("starved").await, [pod], "the pod was replaced");
    assert!(search(&world.client, &url, &question).await.unwrap().is_reranked());
    world.kubectl.run(&["delete", "rrd", "starved"]).await;
}

async fn killed(world: &World) {
    let mut object = world.tiny("killed");
    object["spec"]["candidates"] = json!({"multiplier": 1, "minimum": 2});
    object["spec"]["lifecycle"] = json!({"loading": "Preload"});
    object["spec"]["replicas"] = json!(2);
    world.kubectl.apply(&object).await;
    world.ready("killed").await;
    world.until("two pods are ready", async || world.ready_replicas("killed").await == 2).await;
    let load = Load::start(world, world.url("killed").await, 20);
    sleep(Duration::from_secs(3)).await;
    let before = load.seen().await;
    assert!(before.failed.is_empty(), "{before:?}");
    let pod = world.pods("killed").await.remove(0);
    let id = world.container(&pod).await;
    world.node().ctr(&["task", "kill", "--signal", "SIGKILL", &id]).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    let during = load.seen().await;
    sleep(Duration::from_secs(3)).await;
    let after = load.end().await;
    println!(
        "a server killed: {} of {} searches failed, all within 3 s",
        during.failed.len(),
        after.reranked + after.failed.len()
    );
    assert!(during.reranked > before.reranked + 20, "{during:?}");
    assert_eq!(after.failed.len(), during.failed.len(), "{:?}", after.failed);
}
