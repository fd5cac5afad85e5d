//! Each event that the operator is told, lost once, on Kubernetes' own API server: after a resync the end is what it would have been.
//! Sieve's third class (OSDI'22, "unobserved state"); the operator's own process behind a proxy that swallows one event.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::ApiResource;
use rerank_crds::RerankDeployment;
use rerank_operator::controller::build::TEMPLATE_DIGEST;
use rerank_operator::controller::kinds::ChildKind;
use rerank_tests::cluster::Cluster;
use rerank_tests::deaf_proxy::{DeafProxy, Lost};
use rerank_tests::end_state::{self, State, children_in};
use rerank_tests::operator::{Operator, OperatorOptions};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

/// The object's name in every namespace.
const NAME: &str = "docs";
/// After so long everything is looked at again.
const RESYNC_SECONDS: u64 = 4;
/// A step may take a resync, the look at what was on its way, watches that begin anew, and a machine that does much at once.
const LIMIT: Duration = Duration::from_secs(45);
/// Operators at once.
const AT_ONCE: usize = 8;
/// Steps that somebody takes, one after the other.
const STEPS: usize = 7;

/// States after each step.
type States = Vec<State>;

/// One API server, and what is the same for all runs on it.
struct Ground {
    cluster: Cluster,
    client: Client,
}

/// An operator with a namespace of its own, which hears everything but one event.
struct Run {
    namespace: String,
    proxy: DeafProxy,
    operator: Operator,
    client: Client,
}

impl Ground {
    async fn start() -> Self {
        // Two libraries bring one each, so it has to be named.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let cluster = Cluster::start().await;
        cluster.know("podmonitors.monitoring.coreos.com", "monitoring.coreos.com_podmonitors.yaml").await;
        let client = client(cluster.server.kubeconfig()).await.unwrap();
        Self { cluster, client }
    }

    async fn run(&self, namespace: &str, lost: Option<Lost>) -> anyhow::Result<Run> {
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::all(self.client.clone()).create(&PostParams::default(), &object).await?;
        let proxy = DeafProxy::start(self.client.clone(), lost).await?;
        let folder = self.cluster.server.folder();
        let resync = RESYNC_SECONDS.to_string();
        let arguments = ["--watch-namespace", namespace, "--lease-namespace", namespace, "--resync-seconds", &resync]
            .map(str::to_owned);
        let options = OperatorOptions { identity: namespace.to_owned(), arguments: arguments.to_vec(), binary: None };
        let mut operator = Operator::start(&proxy.kubeconfig(folder)?, folder, &options)?;
        operator.leads().await?;
        Ok(Run { namespace: namespace.to_owned(), proxy, operator, client: self.client.clone() })
    }
}

async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

impl Run {
    fn objects(&self) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<RerankDeployment>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    fn children(&self, kind: ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What somebody, or another controller, does.
    async fn take(&self, step: usize) -> anyhow::Result<()> {
        let (create, delete) = (PostParams::default(), DeleteParams::default());
        let change = async |spec: Value| {
            self.objects().patch(NAME, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.map(drop)
        };
        match step {
            0 => {
                let spec = json!({
                    "embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"}, "replicas": 2, "autoscaling": {"minimum": 2, "maximum": 8},
                    "vectorStore": {"qdrant": {"url": "http://qdrant:6334", "collections": [{"name": "docs"}]}},
                    "weights": {"cache": {"size": "20Gi", "storageClass": "shared", "accessMode": "ReadWriteMany"}},
                });
                let resource = ApiResource::erase::<RerankDeployment>(&());
                self.objects()
                    .create(&create, &DynamicObject::new(NAME, &resource).data(json!({"spec": spec})))
                    .await?;
            }
            1 => {
                let deployment = self.children(ChildKind::Deployment).get(NAME).await?;
                let template = &deployment.data["spec"]["template"]["metadata"];
                let digest = &template["annotations"][TEMPLATE_DIGEST];
                let pod = json!({
                    "metadata": {"name": "pod", "labels": template["labels"], "annotations": {TEMPLATE_DIGEST: digest}},
                    "spec": {"serviceAccountName": NAME, "containers": [{"name": "server", "image": "none"}]},
                });
                self.pods().create(&create, &serde_json::from_value(pod)?).await?;
                let waits = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "0/3 nodes are available"}]}});
                self.pods().patch_status("pod", &PatchParams::default(), &Patch::Merge(waits)).await?;
            }
            2 => drop(self.pods().delete("pod", &delete.clone().grace_period(0)).await?),
            3 => {
                let spec = json!({"reranker": {"batchSize": 8}, "autoscaling": null, "access": {"networkPolicy": {"enabled": false}}});
                change(spec).await?;
            }
            4 => {
                let meddle = json!({"spec": {"minReadySeconds": 30, "replicas": 5}});
                self.children(ChildKind::Deployment)
                    .patch(NAME, &PatchParams::default(), &Patch::Merge(meddle))
                    .await?;
                for kind in [ChildKind::Service, ChildKind::ServiceAccount, ChildKind::DisruptionBudget] {
                    let name = kind.as_str();
                    self.children(kind).delete(NAME, &delete).await.with_context(|| format!("no {name}"))?;
                }
            }
            5 => change(json!({"replicas": 0})).await?,
            6 => {
                self.objects().delete(NAME, &delete).await?;
                self.children(ChildKind::Deployment).delete(NAME, &delete).await?;
            }
            _ => bail!("there is no step {step}"),
        }
        Ok(())
    }

    /// What there is now. Of what is left without its object only the names, and how many objects the operator knows.
    async fn state(&self) -> anyhow::Result<State> {
        if self.objects().get_opt(NAME).await?.is_some() {
            return end_state::of(&self.client, &self.namespace, NAME).await;
        }
        let known = self.operator.metric("rerank_operator_objects").await?;
        let left = children_in(&self.client, &self.namespace).await?.into_keys().map(|name| (name, Value::Null));
        Ok(left.chain([("objects".to_owned(), json!(known))]).collect())
    }

    /// Waits until something is as it should be.
    async fn until(&self, mut holds: impl FnMut(&State) -> Vec<String>) -> anyhow::Result<State> {
        let begun = Instant::now();
        loop {
            let state = self.state().await?;
            let wrong = holds(&state);
            if wrong.is_empty() {
                return Ok(state);
            }
            if begun.elapsed() > LIMIT {
                bail!("{wrong:#?}\n{}", self.operator.log());
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Takes all steps, and notes what comes of each once nothing moves any more.
    async fn note(&self) -> anyhow::Result<States> {
        let mut states = States::new();
        for step in 0..STEPS {
            self.take(step).await.with_context(|| format!("step {step}"))?;
            // Longer than whatever comes late.
            let mut last = None;
            let mut since = Instant::now();
            let at_rest = self.until(|state| {
                if last.as_ref() != Some(state) {
                    (last, since) = (Some(state.clone()), Instant::now());
                }
                let moved = since.elapsed() < Duration::from_secs(RESYNC_SECONDS + 2);
                moved.then(|| "it moves".to_owned()).into_iter().collect()
            });
            states.push(at_rest.await?);
        }
        Ok(states)
    }

    /// Takes all steps; each comes to the same.
    async fn repeat(&self, expected: &States) -> anyhow::Result<()> {
        for (step, expected) in expected.iter().enumerate() {
            self.take(step).await.with_context(|| format!("step {step}"))?;
            self.until(|state| end_state::differences(expected, state))
                .await
                .with_context(|| format!("step {step}"))?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn each_event_may_be_lost_once_and_the_end_is_the_same() {
    let ground = Arc::new(Ground::start().await);
    let begun = Instant::now();
    let reference = ground.run("reference", None).await.unwrap();
    let states = reference.note().await.unwrap();
    let events: BTreeMap<String, usize> = reference.proxy.events();
    drop(reference);
    for resource in [
        "rerankdeployments",
        "deployments",
        "services",
        "configmaps",
        "serviceaccounts",
        "persistentvolumeclaims",
        "networkpolicies",
        "poddisruptionbudgets",
        "horizontalpodautoscalers",
        "pods",
    ] {
        assert!(events.contains_key(resource), "nothing of {resource} is watched: {events:?}");
    }
    let all: Vec<Lost> = events
        .iter()
        .flat_map(|(resource, count)| (1..=*count).map(|at| Lost { resource: resource.clone(), at }))
        .collect();
    let points = all.len();
    let outcomes = stream::iter(all.into_iter().enumerate()).map(|(number, lost)| {
        let (ground, states) = (&ground, &states);
        async move {
            let run = ground.run(&format!("run-{number:03}"), Some(lost.clone())).await?;
            run.repeat(states).await.with_context(|| format!("without event {} of {}", lost.at, lost.resource))?;
            anyhow::Ok(run.proxy.gone().is_some())
        }
    });
    let outcomes: Vec<anyhow::Result<bool>> = outcomes.buffer_unordered(AT_ONCE).collect().await;
    let wrong: Vec<String> = outcomes.iter().filter_map(|one| Some(format!("{:#}", one.as_ref().err()?))).collect();
    let lost = outcomes.iter().filter(|one| matches!(one, Ok(true))).count();
    println!(
        "{lost} of {points} events lost, one a run, {STEPS} states compared in each, in {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    // Several writes of a status may be told as one.
    assert!(lost * 10 >= points * 8, "too few runs came to their event: {lost} of {points}");
}
