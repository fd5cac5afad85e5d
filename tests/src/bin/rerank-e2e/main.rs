//! The whole thing on a real cluster: the chart is installed, objects are applied, and pods answer searches.
//!
//! Without `KUBECONFIG` the cluster is one of its own, in namespaces that are gone afterwards (Linux, root). With it the stories
//! run on that cluster, but for those that need the node. Arguments are those of `cargo test`: a part of a story's name runs
//! that story alone.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use libtest_mimic::Arguments;
use rerank_tests::node::isolation;
use tokio::runtime::Runtime;

use crate::world::World;

mod searches;
mod stories;
mod troubleshooting;
mod world;

fn main() -> anyhow::Result<ExitCode> {
    let runtime = Runtime::new().context("failed to start a runtime")?;
    let brought = std::env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty());
    if !brought && isolation::cgroup().is_none() {
        return runtime.block_on(isolation::run());
    }
    let mut arguments = Arguments::from_args();
    // They share a cluster of two cores.
    arguments.test_threads = Some(1);
    let runtime = Arc::new(runtime);
    let world = runtime.block_on(async {
        if brought {
            return World::brought().await;
        }
        isolation::furnish().await?;
        World::start().await
    })?;
    let world = Arc::new(world);
    let runs_all = arguments.filter.is_none() && arguments.skip.is_empty() && !brought;
    let conclusion = libtest_mimic::run(&arguments, stories::trials(&runtime, &world));
    let unmet = world.troubleshooting.unmet();
    let world = Arc::into_inner(world).context("a story still runs")?;
    runtime.block_on(world.end());
    if runs_all && !conclusion.has_failed() && !unmet.is_empty() {
        bail!("no story meets these rows of the page of troubles:\n{}", unmet.join("\n"));
    }
    Ok(conclusion.exit_code())
}
