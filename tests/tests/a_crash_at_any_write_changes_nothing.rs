//! The operator dies before or after any of its writes, on Kubernetes' own API server, and another one goes on: the end is what
//! it would have been. Sieve's oracle (OSDI'22): end states are compared with that of a run without a crash, what differs by
//! nature masked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::ApiResource;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, ResourceExt};
use rerank_crds::RerankDeployment;
use rerank_crds::rerank_deployment::labels::FIELD_MANAGER;
use rerank_operator::controller::build::{Settings, names};
use rerank_operator::controller::kinds::ChildKind;
use rerank_operator::controller::model_states::ModelStates;
use rerank_operator::controller::nodes::NodeView;
use rerank_operator::controller::reconcile::{ReconcileError, Reconciler};
use rerank_operator::controller::validate::validate;
use rerank_operator::controller::words::describe;
use rerank_tests::cluster::{Cluster, OPERATOR_USER};
use rerank_tests::cut_client::{Cut, Moment};
use rerank_tests::end_state::{self, children_in};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

/// The object's name in every namespace.
const NAME: &str = "docs";
/// After so many reconciles that wrote, one must not.
const MOST_RECONCILES: usize = 5;
/// Namespaces that are worked in at once.
const AT_ONCE: usize = 8;

/// What somebody does, and then waits for.
enum Step {
    /// Makes the object.
    Make(Value),
    /// Patches its specification.
    Change(Value),
    /// Patches a child.
    Meddle(ChildKind, Value),
    /// Deletes a child, or what has its name.
    Remove(ChildKind),
    /// Makes a Service of the object's name.
    Occupy,
}

/// What happens to an object. The start is brought to rest without a crash.
struct Workload {
    name: &'static str,
    start: Vec<Step>,
    changes: Vec<Step>,
}

/// Where a run is cut: this write of this workload.
#[derive(Clone, Copy)]
struct Point<'a> {
    workload: &'a Workload,
    write: usize,
    moment: Moment,
}

/// How a run ended.
struct End {
    /// Of the process that saw the changes.
    writes: Vec<String>,
    /// The object and everything of its children's kinds, masked, by kind and name.
    state: BTreeMap<String, Value>,
    /// What was lost to a look at the object as it had been.
    lost: Vec<String>,
}

/// The object as kubectl would send it: what is left out is left to the API server.
fn specification(more: &Value) -> Value {
    let mut spec = json!({
        "embedding": {"model": "Qwen/Qwen3-Embedding-0.6B"},
        "vectorStore": {"qdrant": {"url": "http://qdrant:6334", "collections": [{"name": "docs"}]}}
    });
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

fn workloads() -> Vec<Workload> {
    let minimal = || Step::Make(specification(&json!({})));
    let made = |more: Value| vec![Step::Make(specification(&more))];
    let change = |patch: Value| vec![Step::Change(patch)];
    let autoscaling = json!({"minimum": 2, "maximum": 8});
    let cache = json!({"size": "20Gi", "storageClass": "shared", "accessMode": "ReadWriteMany"});
    let closed = json!({"networkPolicy": {"enabled": false}});
    let alias = json!({"api": {"modelAliases": {"other": "acme/absent"}}});
    let workload = |name, start, changes| Workload { name, start, changes };
    vec![
        workload("created", vec![], vec![minimal()]),
        workload(
            "created with every child",
            vec![],
            made(json!({"replicas": 2, "autoscaling": autoscaling, "weights": {"cache": cache}})),
        ),
        workload("scaled up", vec![minimal()], change(json!({"replicas": 3}))),
        workload("scaled down", made(json!({"replicas": 3})), change(json!({"replicas": 1}))),
        workload("paused", made(json!({"replicas": 2, "autoscaling": autoscaling})), change(json!({"replicas": 0}))),
        workload("model", vec![minimal()], change(json!({"embedding": {"model": "Qwen/Qwen3-Embedding-4B"}}))),
        workload("batch size", vec![minimal()], change(json!({"reranker": {"batchSize": 8}}))),
        workload("autoscaling on", vec![minimal()], change(json!({"autoscaling": autoscaling}))),
        workload("autoscaling off", made(json!({"autoscaling": autoscaling})), change(json!({"autoscaling": null}))),
        workload("network policy off", vec![minimal()], change(json!({"access": closed}))),
        workload("network policy on", made(json!({"access": closed})), change(json!({"access": null}))),
        workload("cache claim on", vec![minimal()], change(json!({"weights": {"cache": cache}}))),
        workload("cache claim off", made(json!({"weights": {"cache": cache}})), change(json!({"weights": null}))),
        workload("GPU to CPU", vec![minimal()], change(json!({"accelerator": {"gpu": null, "cpu": {}}}))),
        workload(
            "much at once",
            made(json!({"replicas": 2, "autoscaling": autoscaling})),
            change(json!({"replicas": 1, "autoscaling": null, "access": closed, "weights": {"cache": cache},
                "embedding": {"model": "Qwen/Qwen3-Embedding-4B"}, "service": {"port": 8081}})),
        ),
        workload(
            "invalid and then corrected",
            vec![minimal()],
            vec![Step::Change(alias), Step::Change(json!({"replicas": 2, "api": {"modelAliases": null}}))],
        ),
        workload(
            "too large and then corrected",
            vec![minimal()],
            vec![
                Step::Change(json!({"accelerator": {"gpu": {"memoryBytes": 1_000_000_000}}, "replicas": 2})),
                Step::Change(json!({"accelerator": {"gpu": {"memoryBytes": null}}})),
            ],
        ),
        workload(
            "too large beside another model and then scaled",
            vec![minimal()],
            vec![
                Step::Change(json!({"embedding": {"model": "Qwen/Qwen3-Embedding-4B"},
                    "accelerator": {"gpu": {"memoryBytes": 1_000_000_000}}})),
                Step::Change(json!({"replicas": 3})),
            ],
        ),
        workload("name taken and then free", vec![Step::Occupy], vec![minimal(), Step::Remove(ChildKind::Service)]),
        workload(
            "Deployment edited by somebody",
            vec![minimal()],
            vec![Step::Meddle(
                ChildKind::Deployment,
                json!({"metadata": {"labels": {"team": "search", "app.kubernetes.io/part-of": "theirs"}},
                    "spec": {"replicas": 7, "template": {"metadata": {"annotations": {"sidecar": "yes"}}}}}),
            )],
        ),
        workload(
            "children deleted by somebody",
            vec![minimal()],
            vec![Step::Remove(ChildKind::NetworkPolicy), Step::Remove(ChildKind::ConfigMap)],
        ),
    ]
}

/// An API server, and operators that can die on it.
struct Ground {
    /// Ends with it.
    _cluster: Cluster,
    /// May do everything.
    somebody: Client,
    /// May do what the operator may.
    transport: Client,
    nodes: NodeView,
    /// Of pods, which there are none of, so that all operators may share it.
    model_states: Arc<ModelStates>,
    namespaces: AtomicUsize,
}

/// An operator from its start to its end.
struct Process {
    cut: Cut,
    reconciler: Reconciler,
}

impl Process {
    /// One reconcile. Its future is too large to lie in those of tests.
    async fn reconcile(&self, object: &RerankDeployment, nodes: &NodeView) -> Result<(), ReconcileError> {
        Box::pin(self.reconciler.reconcile(object, nodes)).await.map(drop)
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

impl Ground {
    async fn start() -> Self {
        // Two libraries bring one each, so it has to be named.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let cluster = Cluster::start().await;
        cluster.know("podmonitors.monitoring.coreos.com", "monitoring.coreos.com_podmonitors.yaml").await;
        let operator = cluster.server.kubeconfig_for(OPERATOR_USER, &["system:serviceaccounts"]).unwrap();
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "gpu", "labels": {"nvidia.com/gpu.memory": "81559"}},
            "status": {"allocatable": {"nvidia.com/gpu": "1", "memory": "64Gi"}}
        }))
        .unwrap();
        Self {
            somebody: client(cluster.server.kubeconfig()).await,
            transport: client(&operator).await,
            nodes: NodeView::Seen { nodes: vec![node], elastic: false },
            model_states: Arc::new(ModelStates::new().unwrap().0),
            namespaces: AtomicUsize::new(0),
            _cluster: cluster,
        }
    }

    fn process(&self, cut: Cut) -> Process {
        let client = cut.client(&self.transport);
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some("a".to_owned()) };
        let settings = Settings { cpu_image: "cpu".to_owned(), gpu_image: "gpu".to_owned(), pod_monitors: true };
        let recorder = Recorder::new(client.clone(), reporter);
        let model_states = Arc::clone(&self.model_states);
        let look_seldom = Duration::from_secs(300);
        Process { cut, reconciler: Reconciler { client, settings, model_states, recorder, look_seldom } }
    }

    fn objects(&self, namespace: &str) -> Api<RerankDeployment> {
        Api::namespaced(self.somebody.clone(), namespace)
    }

    fn children(&self, kind: ChildKind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.somebody.clone(), namespace, &kind.resource())
    }

    async fn namespace(&self) -> anyhow::Result<String> {
        let name = format!("at-{:05}", self.namespaces.fetch_add(1, Ordering::SeqCst));
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::all(self.somebody.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(name)
    }

    async fn take(&self, step: &Step, namespace: &str) -> anyhow::Result<()> {
        let somebody = PostParams { field_manager: Some("somebody".to_owned()), ..PostParams::default() };
        let patch = PatchParams { field_manager: somebody.field_manager.clone(), ..PatchParams::default() };
        let resource = ApiResource::erase::<RerankDeployment>(&());
        let objects: Api<DynamicObject> = Api::namespaced_with(self.somebody.clone(), namespace, &resource);
        match step {
            Step::Make(spec) => {
                let object = DynamicObject::new(NAME, &resource).data(json!({"spec": spec}));
                objects.create(&somebody, &object).await?;
            }
            Step::Change(spec) => {
                objects.patch(NAME, &patch, &Patch::Merge(json!({"spec": spec}))).await?;
            }
            Step::Meddle(kind, change) => {
                let name = child_name(*kind);
                self.children(*kind, namespace).patch(&name, &patch, &Patch::Merge(change)).await?;
            }
            Step::Remove(kind) => {
                self.children(*kind, namespace).delete(&child_name(*kind), &DeleteParams::default()).await?;
            }
            Step::Occupy => {
                let service: Service = serde_json::from_value(json!({
                    "metadata": {"name": NAME}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}
                }))?;
                Api::namespaced(self.somebody.clone(), namespace).create(&somebody, &service).await?;
            }
        }
        Ok(())
    }

    /// Reconciles until nothing is written any more. Answers whether the process lived to see it.
    async fn rest(&self, process: &Process, namespace: &str) -> anyhow::Result<bool> {
        for _ in 0..=MOST_RECONCILES {
            // As a watch would deliver it.
            let Some(object) = self.objects(namespace).get_opt(NAME).await? else { return Ok(true) };
            let before = process.cut.writes().len();
            let outcome = process.reconcile(&object, &self.nodes).await;
            if process.cut.is_dead() {
                return Ok(false);
            }
            outcome.map_err(|error| anyhow::anyhow!("a reconcile failed: {}", describe(&error)))?;
            if process.cut.writes().len() == before {
                return Ok(true);
            }
        }
        bail!("it does not come to rest: {:#?}", process.cut.writes())
    }

    /// Runs a workload. The process that sees the changes has this cut; where it dies, another one goes on. `is_behind`: its
    /// successor first sees the object as it was before the changes.
    async fn run(&self, workload: &Workload, cut: Cut, is_behind: bool) -> anyhow::Result<End> {
        let namespace = self.namespace().await?;
        let first = self.process(Cut::never());
        for step in &workload.start {
            self.take(step, &namespace).await?;
            self.rest(&first, &namespace).await.context("at the start")?;
        }
        let old = self.objects(&namespace).get_opt(NAME).await?;
        let process = self.process(cut);
        for step in &workload.changes {
            self.take(step, &namespace).await?;
            // The dead do nothing, and what is changed meanwhile is seen by whoever comes next.
            if !process.cut.is_dead() {
                self.rest(&process, &namespace).await?;
            }
        }
        let mut lost = Vec::new();
        if process.cut.is_dead() || is_behind {
            let successor = self.process(Cut::never());
            if let Some(old) = old.filter(|_| is_behind) {
                let before = children_in(&self.somebody, &namespace).await?;
                // That it fails is no harm: it is tried again, with what the watch brings.
                let _ = successor.reconcile(&old, &self.nodes).await;
                let now = self.objects(&namespace).get(NAME).await?;
                if now.metadata.generation > old.metadata.generation {
                    lost = losses(&before, &children_in(&self.somebody, &namespace).await?);
                }
            }
            self.rest(&successor, &namespace).await.context("after the crash")?;
        }
        let state = end_state::of(&self.somebody, &namespace, NAME).await?;
        // There are few addresses for Services.
        self.children(ChildKind::Service, &namespace)
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        Ok(End { writes: process.cut.writes(), state, lost })
    }

    /// Cuts a run there. Answers the end of the run.
    async fn crash(&self, point: Point<'_>, is_behind: bool) -> anyhow::Result<End> {
        let Point { workload, write, moment } = point;
        let cut = Cut::at(write, moment);
        let end = self.run(workload, cut.clone(), is_behind).await?;
        ensure!(cut.is_dead(), "it never came to that write");
        let answer = cut.answer();
        ensure!(moment == Moment::Before || answer.is_some_and(|code| code.is_success()), "its answer was {answer:?}");
        Ok(end)
    }
}

fn child_name(kind: ChildKind) -> String {
    let object = RerankDeployment::new(NAME, serde_json::from_value(specification(&json!({}))).unwrap());
    kind.name(&object).unwrap_or_else(|| names::config_map(&object, &validate(&object.spec).unwrap()))
}

/// Children that went or are about to, and replicas that went.
fn losses(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<String> {
    let is_there = |child: &Value| !child["metadata"]["deletionTimestamp"].is_string();
    let mut all = Vec::new();
    for (name, before) in before.iter().filter(|(_, child)| is_there(child)) {
        let after = after.get(name).filter(|child| is_there(child));
        match after.filter(|after| after["metadata"]["uid"] == before["metadata"]["uid"]) {
            None => all.push(format!("{name} was deleted")),
            Some(after) => {
                let replicas = |child: &Value| child["spec"]["replicas"].as_i64();
                if replicas(after) < replicas(before) {
                    all.push(format!("{name} was scaled down"));
                }
            }
        }
    }
    all
}

/// Why the end of a run is not the expected one, if it is not.
fn compare(expected: &End, found: &End) -> Vec<String> {
    end_state::differences(&expected.state, &found.state)
}

/// Each workload without a crash.
async fn references<'a>(ground: &Ground, workloads: &'a [Workload]) -> Vec<(&'a Workload, End)> {
    stream::iter(workloads)
        .map(|workload| async move {
            let end = ground.run(workload, Cut::never(), false).await;
            anyhow::Ok((workload, end.with_context(|| workload.name)?))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
        .unwrap()
}

/// Every point of every workload, with the end that is expected of it.
fn points<'a>(references: &'a [(&'a Workload, End)]) -> Vec<(Point<'a>, &'a End)> {
    let sides = |write| [Moment::Before, Moment::After].map(|moment| (write, moment));
    let of = |(workload, end): &'a (&'a Workload, End)| {
        let all = (1..=end.writes.len()).flat_map(sides);
        all.map(move |(write, moment)| (Point { workload, write, moment }, end))
    };
    references.iter().flat_map(of).collect()
}

/// Cuts at every point. Answers what is wrong, and what was lost to looks at old objects.
async fn cut_everywhere(
    ground: &Ground,
    references: &[(&Workload, End)],
    is_behind: bool,
) -> (Vec<String>, Vec<String>) {
    let points = points(references);
    let outcomes = stream::iter(points).map(|(point, expected)| async move {
        let Point { workload, write, moment } = point;
        let place = format!("{}, {moment:?} write {write} ({})", workload.name, expected.writes[write - 1]);
        let (wrong, lost) = match ground.crash(point, is_behind).await {
            Ok(found) => (compare(expected, &found), found.lost),
            Err(error) => (vec![format!("{error:#}")], Vec::new()),
        };
        let tell = |all: Vec<String>| all.into_iter().map(|one| format!("{place}: {one}")).collect::<Vec<_>>();
        (tell(wrong), tell(lost))
    });
    let outcomes: Vec<(Vec<String>, Vec<String>)> = outcomes.buffer_unordered(AT_ONCE).collect().await;
    let (wrong, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
    (wrong.concat(), lost.concat())
}

#[tokio::test]
async fn before_and_after_every_write_a_crash_leads_to_the_same_end() {
    let ground = Ground::start().await;
    let begun = Instant::now();
    let workloads = workloads();
    let references = references(&ground, &workloads).await;
    for (workload, end) in &references {
        println!("{}: {} writes", workload.name, end.writes.len());
        assert!(!end.writes.is_empty(), "{}", workload.name);
    }
    let points = points(&references).len();
    let (wrong, _) = cut_everywhere(&ground, &references, false).await;
    println!(
        "{} workloads, cut at {points} points, {points} end states compared in {:.1} s",
        workloads.len(),
        begun.elapsed().as_secs_f64()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_successor_that_first_sees_the_object_as_it_was_comes_to_the_same_end() {
    let ground = Ground::start().await;
    let begun = Instant::now();
    let workloads = workloads();
    let references = references(&ground, &workloads).await;
    let points = points(&references).len();
    let (mut wrong, mut lost) = cut_everywhere(&ground, &references, true).await;
    // And one that takes over when everything was done.
    for (workload, expected) in &references {
        let tell = |one: String| format!("{}, at rest: {one}", workload.name);
        match ground.run(workload, Cut::never(), true).await {
            Ok(found) => {
                wrong.extend(compare(expected, &found).into_iter().map(tell));
                lost.extend(found.lost.into_iter().map(tell));
            }
            Err(error) => wrong.push(tell(format!("{error:#}"))),
        }
    }
    println!(
        "{} looks at objects as they had been, {} losses, {} other differences in {:.1} s",
        points + workloads.len(),
        lost.len(),
        wrong.len(),
        begun.elapsed().as_secs_f64()
    );
    assert!(wrong.is_empty() && lost.is_empty(), "{wrong:#?} {lost:#?}");
}

#[tokio::test]
async fn for_what_is_being_deleted_or_is_gone_nothing_is_written_and_its_children_name_it() {
    let ground = Ground::start().await;
    let namespace = ground.namespace().await.unwrap();
    let process = ground.process(Cut::never());
    let everything = json!({"replicas": 2, "autoscaling": {"minimum": 2, "maximum": 8},
        "weights": {"cache": {"size": "20Gi", "storageClass": "shared"}}});
    ground.take(&Step::Make(specification(&everything)), &namespace).await.unwrap();
    assert!(ground.rest(&process, &namespace).await.unwrap());
    let objects = ground.objects(&namespace);
    let before = objects.get(NAME).await.unwrap();
    let children = children_in(&ground.somebody, &namespace).await.unwrap();
    assert_eq!(children.len(), ChildKind::ALL.len(), "{:?}", children.keys());
    for (name, child) in &children {
        let owners = child["metadata"]["ownerReferences"].as_array().unwrap();
        assert_eq!(owners.len(), 1, "{name}");
        assert_eq!(owners[0]["uid"], json!(before.uid()), "{name}");
        assert_eq!(owners[0]["controller"], true, "{name}");
    }

    // Somebody's finalizer holds it, and there would be something to do.
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    objects.patch(NAME, &PatchParams::default(), &Patch::Merge(hold)).await.unwrap();
    objects.delete(NAME, &DeleteParams::default()).await.unwrap();
    ground.take(&Step::Change(json!({"replicas": 5, "autoscaling": null})), &namespace).await.unwrap();
    let deleting = objects.get(NAME).await.unwrap();
    assert!(deleting.metadata.deletion_timestamp.is_some());
    let quiet = ground.process(Cut::never());
    quiet.reconcile(&deleting, &ground.nodes).await.unwrap();
    assert_eq!(quiet.cut.writes(), [""; 0]);

    let free = json!({"metadata": {"finalizers": null}});
    objects.patch(NAME, &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    assert!(objects.get_opt(NAME).await.unwrap().is_none());
    // No garbage is collected here, so its children are there as they were, until they are deleted.
    assert_eq!(children_in(&ground.somebody, &namespace).await.unwrap(), children);
    for kind in ChildKind::ALL {
        for object in [&before, &deleting] {
            quiet.reconcile(object, &ground.nodes).await.unwrap();
            assert_eq!(quiet.cut.writes(), [""; 0], "before {} went", kind.as_str());
        }
        ground.take(&Step::Remove(kind), &namespace).await.unwrap();
    }

    // A younger one of the same name is another.
    ground.take(&Step::Make(specification(&json!({}))), &namespace).await.unwrap();
    quiet.reconcile(&before, &ground.nodes).await.unwrap();
    assert_eq!(quiet.cut.writes(), [""; 0]);
}
