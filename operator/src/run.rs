//! The process: address, leader election, shutdown. I/O; the driver of everything else.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use kube::api::ListParams;
use kube::client::ClientBuilder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::admin::{self, Admin};
use crate::args::Arguments;
use crate::controller::words::describe;
use crate::leader::Candidate;
use crate::leader::guard::Held;
use crate::pauses::after_failures;

mod claims;
mod complaints;
mod failures;
mod missed;
mod node_watch;
mod pod_monitors;
mod watches;

/// A question at the start is given up after so long, and asked again.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// The longest pause between two of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Of the name among several: with the random part it fits into the 128 characters of an event's field.
const LONGEST_NAME_CHARACTERS: usize = 100;

/// Runs until it is told to stop.
///
/// # Errors
/// No API server is named, it lacks the CRD, or the address is taken.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    // First of all: the first process of a container does not end by a signal that it does not listen for.
    let mut stop = Stop::new()?;
    let config =
        kube::Config::infer().await.context("failed to find the API server: no kubeconfig and no service account")?;
    let held = Held::default();
    // Only the lease itself is written without it.
    let unguarded = Client::try_from(config.clone()).context("failed to make a client")?;
    let client = guarded(config, &held)?;
    let admin = Admin::default();
    let listener = tokio::net::TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("failed to listen on {}", arguments.listen))?;
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "Started");
    let serving = tokio::spawn(axum::serve(listener, admin::router(admin.clone())).into_future());
    let identity = identity(&arguments);
    let namespace = arguments.lease_namespace();
    let candidate = Candidate::new(unguarded, namespace, &arguments.lease_name, &identity, held);
    let outcome = tokio::select! {
        known = find_definition(&client, &arguments) => known.map(|()| true),
        () = stop.asked() => Ok(false),
    };
    let outcome = match outcome {
        Ok(true) => {
            admin.ready.store(true, Ordering::Release);
            lead(client, &candidate, &arguments, &identity, &admin, stop).await
        }
        outcome => outcome.map(drop),
    };
    serving.abort();
    outcome
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Waits for one of them.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A client that writes only while the lease is held. It sends nothing again by itself: the lease is asked for before the first time alone.
/// Reconciles and watches have pauses of their own.
fn guarded(mut config: kube::Config, held: &Held) -> anyhow::Result<Client> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config).context("failed to make a client")?.with_layer(held).build())
}

/// Waits for the lease and works while it is held, again and again. What was watched before is forgotten each time.
async fn lead(
    client: Client,
    candidate: &Candidate,
    arguments: &Arguments,
    identity: &str,
    admin: &Admin,
    mut stop: Stop,
) -> anyhow::Result<()> {
    let stop = stop.asked();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = candidate.win() => {}
            () = &mut stop => return Ok(()),
        }
        admin.metrics.leads(true);
        let outcome = tokio::select! {
            outcome = work(&client, arguments, identity, admin) => Some(outcome),
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

/// Works, with watches that begin anew whenever one is seen to have missed something, until that fails.
async fn work(client: &Client, arguments: &Arguments, identity: &str, admin: &Admin) -> anyhow::Result<()> {
    loop {
        watches::work(client.clone(), arguments, identity, admin).await?;
    }
}

/// Waits until the API server knows the kind. Without the CRD every watch would fail for ever; better to say so and to end.
async fn find_definition(client: &Client, arguments: &Arguments) -> anyhow::Result<()> {
    let objects = watches::watched::<watches::Declared>(client, arguments);
    let mut failures = 0;
    loop {
        let words = match timeout(FIRST_ANSWER, objects.list(&ListParams::default().limit(1))).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                bail!(
                    "the API server does not know RerankDeployment; install it: kubectl apply --server-side -f crds/rerankdeployments.yaml"
                )
            }
            Ok(Err(error)) => describe(&error),
            Err(_elapsed) => "the API server does not answer".to_owned(),
        };
        failures += 1;
        let pause = after_failures(failures).min(LONGEST_PAUSE);
        tracing::warn!(
            error = words,
            pause_seconds = pause.as_secs(),
            "RerankDeployments cannot be listed; it is tried again"
        );
        sleep(pause).await;
    }
}

/// The name among several operators. Two that were given the same one, such as two on one host, must not take the other's lease for
/// their own, so a random part is added.
fn identity(arguments: &Arguments) -> String {
    let name = arguments.identity.clone().unwrap_or_else(host_name);
    let name: String = name.chars().take(LONGEST_NAME_CHARACTERS).collect();
    format!("{name}_{:016x}", fastrand::u64(..))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "rerank-operator".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use clap::Parser;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    fn arguments() -> Arguments {
        Arguments::parse_from(["rerank-operator", "--cpu-image", "a", "--gpu-image", "b", "--identity", "host"])
    }

    /// Answers the first questions with this code, and later ones with an empty list.
    fn server(refusals: usize, code: u16) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&asked);
        let service = tower::service_fn(move |_: Request<Body>| {
            let list = json!({"apiVersion": "rerank.semantik.dev/v1alpha1", "kind": "RerankDeploymentList", "metadata": {}, "items": []});
            let is_refused = count.fetch_add(1, Ordering::SeqCst) < refusals;
            let (code, body) = if is_refused { (code, "no".to_owned()) } else { (200, list.to_string()) };
            let answer = Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap();
            async move { Ok::<_, tower::BoxError>(answer) }
        });
        (Client::new(service, "search"), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_the_api_server_and_for_its_rights_and_only_a_missing_definition_ends_it() {
        for code in [403, 500, 503] {
            let (client, asked) = server(8, code);
            let begun = tokio::time::Instant::now();
            find_definition(&client, &arguments()).await.unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), 9);
            assert!((60..=100).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        }
        let error = find_definition(&server(1, 404).0, &arguments()).await.unwrap_err().to_string();
        assert!(error.contains("kubectl apply --server-side -f crds/rerankdeployments.yaml"), "{error}");
    }

    #[tokio::test]
    async fn a_write_that_fails_is_not_sent_again_behind_the_leases_back() {
        // As the program does it, whichever test is first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = kube::Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let asked = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&asked);
        let router = axum::Router::new().fallback(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async { (axum::http::StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")], "no") }
        });
        let _serving = tokio::spawn(axum::serve(listener, router).into_future());
        let held = Held::default();
        held.set(tokio::time::Instant::now() + Duration::from_secs(60));
        let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
            kube::Api::namespaced(guarded(config, &held).unwrap(), "a");
        let patch = kube::api::Patch::Merge(json!({}));
        pods.patch("b", &kube::api::PatchParams::default(), &patch).await.unwrap_err();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn two_operators_of_one_name_are_two() {
        let (first, second) = (identity(&arguments()), identity(&arguments()));
        assert!(first.starts_with("host_") && second.starts_with("host_"), "{first} {second}");
        assert_ne!(first, second);
    }
}
