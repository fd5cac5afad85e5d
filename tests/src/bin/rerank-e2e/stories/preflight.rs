//! What a pod finds before it serves is told, and what is mended outside is found without anybody's help.

use qdrant_client::Qdrant;
use qdrant_client::qdrant::{CreateCollectionBuilder, Distance, VectorParamsBuilder};
use serde_json::json;

use crate::searches::search;
use crate::world::{STORES, World};

/// Of the collection that no model here fits.
const OTHER_DIMENSION: u64 = 7;

pub(crate) async fn tell(world: &World) {
    tokio::join!(a_missing_secret(world), another_dimension(world), a_store_that_comes_late_and_goes(world));
}

async fn a_missing_secret(world: &World) {
    let mut object = world.tiny("with-keys");
    object["spec"]["access"] = json!({"apiKeysSecretRef": {"name": "keys"}});
    world.kubectl.apply(&object).await;
    let preflight = world.kubectl.reason("with-keys", "Preflight", "ApiKeysUnusable").await;
    world.meets(&preflight);
    world
        .kubectl
        .run(&["create", "secret", "generic", "keys", "--from-literal=shop=0123456789abcdef0123456789abcdef"])
        .await;
    world.ready("with-keys").await;
    let url = world.url("with-keys").await;
    let question = json!({"query": "how are planets made", "k": 1});
    let refused = search(&world.client, &url, &question).await.unwrap();
    assert_eq!(refused.status, 401);
    world.meets_answer(&refused);
    let request =
        world.client.post(format!("{url}/search")).bearer_auth("0123456789abcdef0123456789abcdef").json(&question);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
}

async fn another_dimension(world: &World) {
    let qdrant =
        Qdrant::from_url(&world.service_url(STORES, "qdrant").await).skip_compatibility_check().build().unwrap();
    let vectors = VectorParamsBuilder::new(OTHER_DIMENSION, Distance::Cosine);
    qdrant.create_collection(CreateCollectionBuilder::new("other").vectors_config(vectors)).await.unwrap();
    let mut object = world.tiny("misfit");
    object["spec"]["vectorStore"]["qdrant"]["collections"] = json!([{"name": "other"}]);
    world.kubectl.apply(&object).await;
    let preflight = world.kubectl.reason("misfit", "Preflight", "CollectionUnusable").await;
    let message = preflight["message"].as_str().unwrap();
    world.meets(&preflight);
    assert!(message.contains(&OTHER_DIMENSION.to_string()), "{message}");
}

async fn a_store_that_comes_late_and_goes(world: &World) {
    let namespace = world.namespace().await;
    let mut object = world.tiny("early");
    object["spec"]["vectorStore"]["qdrant"]["url"] = json!(format!("http://late.{namespace}:6334"));
    world.kubectl.apply(&object).await;
    let preflight = world.kubectl.reason("early", "Preflight", "StoreUnreachable").await;
    world.meets(&preflight);
    world.fixture("late", "qdrant", &[6334]).await;
    world.ready("early").await;
    let url = world.url("early").await;
    world.index(&url).await;
    let question = json!({"query": "how are planets made", "k": 1});
    assert!(search(&world.client, &url, &question).await.unwrap().is_reranked());

    let pods = world.pods("early").await;
    world.kubectl.run(&["scale", "deployment", "late", "--replicas=0"]).await;
    let mut answer = None;
    world
        .until("searches say that Qdrant is gone", async || {
            answer = Some(search(&world.client, &url, &question).await.unwrap());
            answer.as_ref().is_some_and(|answer| answer.status == 503)
        })
        .await;
    world.meets_answer(&answer.unwrap());
    world.kubectl.run(&["scale", "deployment", "late", "--replicas=1"]).await;
    world.kubectl.run(&["rollout", "status", "deployment", "late", "--timeout=120s"]).await;
    // It came back empty.
    world.until("documents are taken again", async || world.try_index(&url).await).await;
    assert!(search(&world.client, &url, &question).await.unwrap().is_reranked());
    assert_eq!(world.pods("early").await, pods, "a pod was replaced");
}
