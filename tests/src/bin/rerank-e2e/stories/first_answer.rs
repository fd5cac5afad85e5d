//! From an object to the first reranked answer, and both orders as they are in one process.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::searches::search;
use crate::world::{OPERATOR_NAMESPACE, RELEASE, World, file};

/// As a team would do it first, with the chart's own test.
pub(crate) async fn tell_with_helm(world: &World) {
    tell(world).await;
    let namespace = world.namespace().await;
    let searched = format!("test.rerankDeployment=docs,test.namespace={namespace}");
    world.install(OPERATOR_NAMESPACE, &["--set", &searched]).await;
    let said = world.helm(&["test", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--timeout", "60s"]).await;
    assert!(said.contains("Succeeded"), "{said}");
}

pub(crate) async fn tell(world: &World) {
    let begun = Instant::now();
    world.kubectl.apply(&world.tiny("docs")).await;
    let ready = world.ready("docs").await;
    let url = world.url("docs").await;
    let question = json!({"query": "how are planets made", "k": 3});
    let answer = search(&world.client, &url, &question).await.unwrap();
    let first = begun.elapsed();
    assert!(answer.is_reranked(), "{answer:?}");
    println!("ready {:.1} s after apply, first answer after {:.1} s", ready.as_secs_f64(), first.as_secs_f64());

    let golden: Value = serde_json::from_str(&file("tests/golden/orders.json")).unwrap();
    for (query, orders) in golden.as_object().unwrap() {
        for (use_reranker, order) in [(true, "reranked"), (false, "vector")] {
            let question = json!({"query": query, "k": 10, "use_reranker": use_reranker});
            let answer = search(&world.client, &url, &question).await.unwrap();
            assert_eq!(answer.is_reranked(), use_reranker, "{answer:?}");
            assert_eq!(json!(answer.ids()), orders[order], "{query}, {order}");
        }
    }
}
