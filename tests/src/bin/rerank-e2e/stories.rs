//! The stories, in the order in which they run. Each has a namespace of its own, and tells what the cluster says where it fails.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use libtest_mimic::{Failed, Trial};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::world::World;

mod failures;
pub(crate) mod first_answer;
mod gpus;
mod models;
mod namespaced;
mod preflight;
mod rollouts;
mod scaling;
mod weights;

/// All stories. Those that need the node are ignored on a cluster that was brought.
pub(crate) fn trials(runtime: &Arc<Runtime>, world: &Arc<World>) -> Vec<Trial> {
    let story = |name: &'static str, needs_node: bool, tell: for<'a> fn(&'a World) -> Told<'a>| {
        let (runtime, world) = (Arc::clone(runtime), Arc::clone(world));
        let ignored = needs_node && !world.has_node();
        Trial::test(name, move || runtime.block_on(run(name, &world, tell))).with_ignored_flag(ignored)
    };
    vec![
        story("an_object_answers_searches", false, |world| first_answer::tell_with_helm(world).boxed_local()),
        story("what_preflight_finds_is_told", false, |world| preflight::tell(world).boxed_local()),
        story("models_come_and_go", true, |world| models::tell(world).boxed_local()),
        story("changes_lose_no_search", false, |world| rollouts::tell(world).boxed_local()),
        story("pods_are_scaled_and_deleted", true, |world| scaling::tell(world).boxed_local()),
        story("gpus_are_shared_out", true, |world| gpus::tell(world).boxed_local()),
        story("weights_come_from_anywhere", true, |world| weights::tell(world).boxed_local()),
        story("a_dead_server_is_not_missed", true, |world| failures::tell(world).boxed_local()),
        story("one_namespace_is_enough", false, |world| namespaced::tell(world).boxed_local()),
    ]
}

/// A story that runs.
type Told<'a> = futures::future::LocalBoxFuture<'a, ()>;

async fn run(name: &str, world: &World, tell: for<'a> fn(&'a World) -> Told<'a>) -> Result<(), Failed> {
    let begun = Instant::now();
    let namespace = name.replace('_', "-");
    let namespace = namespace[..namespace.len().min(40)].trim_end_matches('-');
    world.enter_new(namespace).await;
    let told = AssertUnwindSafe(tell(world)).catch_unwind().await;
    eprintln!("{name}: {:.1} s", begun.elapsed().as_secs_f64());
    let result = told.map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned())).unwrap_or_default()
    });
    let result = match result {
        Ok(()) => Ok(()),
        Err(said) => {
            // At once, for a run that is interrupted later.
            eprintln!("{name} failed: {said}\n{}", world.tell().await);
            Err(Failed::from(said))
        }
    };
    world.kubectl.enter("default").await;
    world.kubectl.run(&["delete", "namespace", namespace, "--wait=false"]).await;
    result
}
