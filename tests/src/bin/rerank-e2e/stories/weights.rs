//! Weights from a claim, from a hub of the cluster, and without any way out. That they come from an image is every other story.

use rerank_tests::node;
use serde_json::{Value, json};

use crate::searches::search;
use crate::world::{STORES, World, models_folder};

pub(crate) async fn tell(world: &World) {
    a_claim(world).await;
    a_hub(world).await;
}

/// Air-gapped: what the pod connects to is counted.
async fn a_claim(world: &World) {
    let namespace = world.namespace().await;
    let volume = format!("models-{namespace}");
    world
        .kubectl
        .apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": models_folder(), "type": "Directory"},
            },
        }))
        .await;
    world
        .kubectl
        .apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"},
            "spec": {
                "accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": volume,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }))
        .await;
    let mut object = world.tiny("claimed");
    object["spec"]["weights"] = json!({"persistentVolumeClaim": "models"});
    let watch = node::network::Connections::watch().await.unwrap();
    world.kubectl.apply(&object).await;
    world.ready("claimed").await;
    answers(world, "claimed").await;
    let pod = world.pods("claimed").await.remove(0);
    let own = world.address_of(&pod, &namespace).await;
    let store = world.pod_address_of_fixture(STORES, "qdrant").await;
    let seen = watch.from(&own).await.unwrap();
    let dns = (node::network::ADDRESS.to_string(), 53);
    println!("connections of an air-gapped pod: {seen:?}");
    assert!(seen.contains(&(store.clone(), 6334)), "the watch saw nothing: {seen:?}");
    let others: Vec<_> = seen.iter().filter(|one| **one != dns && **one != (store.clone(), 6334)).collect();
    assert!(others.is_empty(), "{others:?}");
    world.kubectl.run(&["delete", "rrd", "claimed"]).await;
    world.kubectl.run(&["delete", "pvc", "models"]).await;
    world.kubectl.run(&["delete", "pv", &volume]).await;
}

async fn a_hub(world: &World) {
    let namespace = world.namespace().await;
    world.fixture("hub", "hub", &[8080, 8081]).await;
    let mut object = world.tiny("downloaded");
    object["spec"]["embedding"]["model"] = json!("tests/tiny-embedder");
    object["spec"]["reranker"]["model"] = json!("tests/tiny-reranker");
    // The shared collection was made for a model of another name.
    object["spec"]["vectorStore"]["qdrant"]["collections"] = json!([{"name": "downloaded"}]);
    object["spec"]["weights"] = json!({"hub": {"endpoint": format!("http://hub.{namespace}:8080")}});
    world.kubectl.apply(&object).await;
    world.ready("downloaded").await;
    world.index(&world.url("downloaded").await).await;
    answers(world, "downloaded").await;
    let pod = world.pods("downloaded").await.remove(0);
    let log = world.kubectl.run(&["logs", &pod, "-c", "download"]).await;
    assert!(log.contains("tiny-reranker"), "{log}");
}

async fn answers(world: &World, name: &str) {
    let question: Value = json!({"query": "how are planets made", "k": 3});
    let answer = search(&world.client, &world.url(name).await, &question).await.unwrap();
    assert!(answer.is_reranked(), "{answer:?}");
}
