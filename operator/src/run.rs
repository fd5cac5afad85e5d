//! The process: address, leader election, shutdown. I/O; the driver of everything else.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, bail};
use kube::Client;
use kube::api::ListParams;
use kube::client::ClientBuilder;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{self, Admin};
use crate::args::Arguments;
use crate::leader::Candidate;
use crate::leader::guard::Held;

mod node_watch;
mod watches;

/// Runs until it is told to stop.
///
/// # Errors
/// The API server cannot be reached or lacks the CRD, or the address is taken.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config =
        kube::Config::infer().await.context("failed to find the API server: no kubeconfig and no service account")?;
    let held = Held::default();
    // Only the lease itself is written without it.
    let unguarded = Client::try_from(config.clone()).context("failed to make a client")?;
    let client = ClientBuilder::try_from(config).context("failed to make a client")?.with_layer(&held).build();
    let admin = Admin::default();
    let listener = tokio::net::TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("failed to listen on {}", arguments.listen))?;
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "Started");
    let serving = tokio::spawn(axum::serve(listener, admin::router(admin.clone())).into_future());
    check_definition(&client, &arguments).await?;
    admin.ready.store(true, Ordering::Release);
    let identity = arguments.identity.clone().unwrap_or_else(host_name);
    let namespace = arguments.lease_namespace.as_deref().unwrap_or("default");
    let candidate = Candidate::new(unguarded, namespace, &arguments.lease_name, &identity, held);
    let outcome = lead(client, &candidate, &arguments, &identity, &admin).await;
    serving.abort();
    outcome
}

/// Waits for the lease and works while it is held, again and again. What was watched before is forgotten each time.
async fn lead(
    client: Client,
    candidate: &Candidate,
    arguments: &Arguments,
    identity: &str,
    admin: &Admin,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = candidate.win() => {}
            () = &mut stop => return Ok(()),
        }
        admin.metrics.leads(true);
        let outcome = tokio::select! {
            outcome = watches::work(client.clone(), arguments, identity, admin) => Some(outcome),
            () = candidate.hold() => None,
            () = &mut stop => Some(Ok(())),
        };
        admin.metrics.leads(false);
        if let Some(outcome) = outcome {
            candidate.release().await;
            return outcome;
        }
    }
}

/// Without the CRD every watch would fail for ever; better to say so and to end.
async fn check_definition(client: &Client, arguments: &Arguments) -> anyhow::Result<()> {
    match watches::watched::<watches::Declared>(client, arguments).list(&ListParams::default().limit(1)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!(
                "the API server does not know RerankDeployment; install it: kubectl apply --server-side -f crds/rerankdeployments.yaml"
            )
        }
        Err(error) => Err(error).context("failed to list RerankDeployments"),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "rerank-operator".to_owned(), |name| name.trim().to_owned())
}
