//! GPUs as nodes tell of them: one pod each, who waits says why, and what cannot fit is refused before there is a pod. The
//! node only says that it has one, so no model runs on it.

use rerank_tests::node;
use serde_json::json;

use crate::world::World;

/// MiB that the node's GPU has, as GPU feature discovery labels it: enough for the default pair in float16.
const ENOUGH_MIB: u32 = 24_576;
/// Too few.
const TOO_FEW_MIB: u32 = 2_048;

pub(crate) async fn tell(world: &World) {
    let resources = |count: Option<&str>| json!({"status": {"capacity": {"nvidia.com/gpu": count}, "allocatable": {"nvidia.com/gpu": count}}});
    let patch = async |count| {
        let patch = resources(count).to_string();
        world.kubectl.run(&["patch", "node", node::NAME, "--subresource=status", "--type=merge", "-p", &patch]).await;
    };
    let label = async |label: &str| {
        world.kubectl.run(&["label", "node", node::NAME, label, "--overwrite"]).await;
    };
    patch(Some("1")).await;
    label(&format!("nvidia.com/gpu.memory={ENOUGH_MIB}")).await;

    let on_gpu = |name: &str| {
        let mut object = world.tiny(name);
        object["spec"]["accelerator"] = json!({"gpu": {}});
        object["spec"]["image"] = json!(world.server_image());
        object
    };
    world.kubectl.apply(&on_gpu("first")).await;
    world.until("the first pod has the GPU", async || world.node_of("first").await.is_some()).await;
    world.kubectl.apply(&on_gpu("second")).await;
    let waiting = world.kubectl.reason("second", "Available", "Unschedulable").await;
    world.meets(&waiting);
    assert!(waiting["message"].as_str().unwrap().contains("Insufficient nvidia.com/gpu"), "{waiting}");
    world.kubectl.run(&["delete", "rrd", "first"]).await;
    world.until("the second pod has the GPU", async || world.node_of("second").await.is_some()).await;
    world.kubectl.run(&["delete", "rrd", "second"]).await;

    label(&format!("nvidia.com/gpu.memory={TOO_FEW_MIB}")).await;
    world.kubectl.apply_file("examples/minimal.yaml", &[]).await;
    let refused = world.kubectl.reason("docs", "Preflight", "InsufficientMemory").await;
    world.meets(&refused);
    assert!(world.pods("docs").await.is_empty());

    label("nvidia.com/gpu.memory-").await;
    patch(None).await;
}
