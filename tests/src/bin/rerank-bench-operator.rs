//! `make bench-operator`: what the operator costs, on a real API server without nodes: memory idle and with 1,000 objects, the time of a
//! reconcile, writes at rest, and how long it is busy after a restart. A number as argument asks for other than 1,000 objects. The operator is
//! the optimised binary; the API server runs on the same machine and takes most of its time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use plotters::prelude::*;
use rerank_tests::cluster::{Cluster, OPERATOR_NAMESPACE, OPERATOR_USER, search};
use rerank_tests::fake_nodes::FakeNodes;
use rerank_tests::http::root;
use rerank_tests::operator::{Operator, OperatorOptions};
use rerank_tests::process;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Duration, Instant, sleep};

const OBJECTS: usize = 1_000;
const MEBIBYTE: f64 = 1_048_576.0;
/// No reconcile for so long: quiet.
const QUIET: Duration = Duration::from_secs(5);
/// For everything together.
const PATIENCE: Duration = Duration::from_secs(1_200);

/// How long it is looked at rest.
const AT_REST: Duration = Duration::from_secs(60);
/// Where the plot goes.
const PLOT: &str = "docs/operator-cost.svg";

/// The figures that are promised.
const IDLE_MEBIBYTES: f64 = 30.0;
const LOADED_MEBIBYTES: f64 = 150.0;
const P99_SECONDS: f64 = 0.25;
const RESTART_SECONDS: f64 = 60.0;
const BINARY_MEBIBYTES: f64 = 30.0;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let with_pods = arguments.first().is_some_and(|first| first == "--pods");
    if with_pods {
        arguments.remove(0);
    }
    let number = |text: &String| text.parse().with_context(|| format!("{text:?} is no number of objects"));
    let mut all: Vec<usize> = arguments.iter().map(number).collect::<Result<_>>()?;
    if all.is_empty() {
        all.push(OBJECTS);
    }
    let binary = root().join("target/release/rerank-operator");
    let size = std::fs::metadata(&binary).with_context(|| format!("{} is missing", binary.display()))?.len();
    let mut report = Report::default();
    report.line("binary, stripped", mebibytes(size), "MiB", BINARY_MEBIBYTES);
    let mut costs = Vec::new();
    for objects in all {
        println!("\n{objects} objects{}", if with_pods { ", whose pods pretend to run" } else { ", no nodes" });
        costs.push(measure(&binary, objects, with_pods, &mut report).await?);
    }
    if costs.len() > 1 {
        let path = root().join(PLOT);
        std::fs::write(&path, plot(&costs)?).with_context(|| format!("failed to write {}", path.display()))?;
        println!("\nplotted: {}", path.display());
    }
    report.judge()
}

/// What so many objects cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    objects: usize,
    resident_mebibytes: f64,
    at_rest_seconds: f64,
    restart_seconds: f64,
    processor_percent: f64,
}

async fn measure(binary: &Path, objects: usize, with_pods: bool, report: &mut Report) -> Result<Cost> {
    let mut cluster = Cluster::start().await;
    let _nodes = if with_pods { Some(FakeNodes::start(&mut cluster.server, objects).await?) } else { None };
    let operator = started(&cluster, binary).await?;
    sleep(Duration::from_secs(10)).await;
    report.line("resident memory, idle", resident(&operator)?, "MiB", IDLE_MEBIBYTES);

    let begun = Instant::now();
    create(&cluster, objects, with_pods).await?;
    let created = begun.elapsed();
    if with_pods {
        ready(&cluster, objects).await?;
    }
    let at_rest = quiet(&operator, objects).await?;
    let at_rest_seconds = at_rest.duration_since(begun).as_secs_f64();
    println!(
        "created in {:.0} s, all at rest {at_rest_seconds:.0} s after the first{}",
        created.as_secs_f64(),
        if with_pods { ", every pod ready" } else { "" }
    );
    let making = histogram(&operator).await?;
    report.line("reconcile p50, making", making.quantile(0.5), "s", P99_SECONDS);
    report.line("reconcile p99, making", making.quantile(0.99), "s", P99_SECONDS);
    report.line("resident memory, all objects", resident(&operator)?, "MiB", LOADED_MEBIBYTES);

    let (writes, reconciles) = (cluster.writes(), operator.reconciles().await?);
    let processor_percent = processor_of(&operator, AT_REST).await?;
    println!(
        "in {} s at rest: {} reconciles, {} writes, {processor_percent:.1} % of a core",
        AT_REST.as_secs(),
        operator.reconciles().await? - reconciles,
        cluster.writes() - writes
    );

    let (writes, resting) = (cluster.writes(), histogram(&operator).await?);
    cluster.kubectl(&["annotate", "rrd", "--all", "bench/round=1"]).await;
    quiet(&operator, objects).await?;
    let resting = histogram(&operator).await?.since(&resting);
    report.line("reconcile p50, at rest", resting.quantile(0.5), "s", P99_SECONDS);
    report.line("reconcile p99, at rest", resting.quantile(0.99), "s", P99_SECONDS);
    println!("forced reconciles at rest: {}", resting.count());
    report.line("writes of these", count(cluster.writes() - writes), "", 0.0);
    let mut kinds = BTreeMap::<String, usize>::new();
    for record in cluster.written().split_off(writes) {
        let part = record.subresource.map(|part| format!("/{part}")).unwrap_or_default();
        *kinds.entry(format!("{} {}{part} {}", record.verb, record.resource, record.code)).or_default() += 1;
    }
    for (kind, number) in kinds {
        println!("  {number} x {kind}");
    }

    end(operator).await?;
    let writes = cluster.writes();
    let begun = Instant::now();
    let operator = started(&cluster, binary).await?;
    let at_rest = quiet(&operator, objects).await?;
    let restart_seconds = at_rest.duration_since(begun).as_secs_f64();
    report.line("restart to quiet", restart_seconds, "s", RESTART_SECONDS);
    report.line("writes after the restart", count(cluster.writes() - writes), "", 0.0);
    let resident_mebibytes = resident(&operator)?;
    report.line("resident memory, after it", resident_mebibytes, "MiB", LOADED_MEBIBYTES);
    end(operator).await?;
    Ok(Cost { objects, resident_mebibytes, at_rest_seconds, restart_seconds, processor_percent })
}

/// Waits until every object says that it is ready.
async fn ready(cluster: &Cluster, objects: usize) -> Result<()> {
    let begun = Instant::now();
    loop {
        let path = "jsonpath={range .items[*]}{.status.readyReplicas}{\"\\n\"}{end}";
        let listed = cluster.kubectl(&["get", "rrd", "-o", path]).await;
        let ready = listed.lines().filter(|line| *line == "1").count();
        if ready == objects {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "only {ready} of {objects} objects have a ready pod");
        sleep(Duration::from_secs(2)).await;
    }
}

/// What it takes of a core, of a hundred, for so long.
async fn processor_of(operator: &Operator, time: Duration) -> Result<f64> {
    let id = operator.id().context("the operator has ended")?;
    let before = process::processor_seconds(id)?;
    sleep(time).await;
    Ok((process::processor_seconds(id)? - before) / time.as_secs_f64() * 100.0)
}

/// Lines and what they promise.
#[derive(Debug, Default)]
struct Report {
    missed: Vec<String>,
}

impl Report {
    fn line(&mut self, what: &str, value: f64, unit: &str, at_most: f64) {
        let is_met = value <= at_most;
        println!("{what:<30} {value:>9.3} {unit:<4} at most {at_most:<7} {}", if is_met { "met" } else { "MISSED" });
        if !is_met {
            self.missed.push(what.to_owned());
        }
    }

    fn judge(self) -> Result<()> {
        ensure!(self.missed.is_empty(), "missed: {}", self.missed.join(", "));
        Ok(())
    }
}

async fn started(cluster: &Cluster, binary: &Path) -> Result<Operator> {
    let options = OperatorOptions {
        identity: "bench".to_owned(),
        arguments: vec!["--lease-namespace".to_owned(), OPERATOR_NAMESPACE.to_owned()],
        binary: Some(PathBuf::from(binary)),
    };
    let kubeconfig = cluster.server.kubeconfig_for(OPERATOR_USER, &["system:serviceaccounts"])?;
    let mut operator = Operator::start(&kubeconfig, cluster.server.folder(), &options)?;
    operator.leads().await?;
    Ok(operator)
}

async fn end(mut operator: Operator) -> Result<()> {
    operator.signal(Signal::TERM)?;
    ensure!(operator.ended().await? == Some(0), "the operator did not end well: {}", operator.log());
    Ok(())
}

/// Every example's shape has a part in it: a cache, an autoscaler, a CPU, a GPU. Where pods are to run there is no cache: nobody here makes volumes.
async fn create(cluster: &Cluster, objects: usize, with_pods: bool) -> Result<()> {
    let items: Vec<Value> = (0..objects)
        .map(|number| {
            let mut object = search(&format!("docs-{number}"));
            match number % 4 {
                1 => object["spec"]["accelerator"] = json!({"cpu": {}}),
                2 => object["spec"]["autoscaling"] = json!({"maximum": 4}),
                3 if !with_pods => object["spec"]["weights"] = json!({"cache": {"size": "10Gi", "storageClass": ""}}),
                _ => {}
            }
            object
        })
        .collect();
    let path = cluster.server.folder().join("objects.json");
    std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    // Created and not applied: one request each.
    let status = Command::new(cluster.server.program("kubectl")?)
        .args(["create", "-f"])
        .arg(&path)
        .env("KUBECONFIG", cluster.server.kubeconfig())
        .env("HOME", cluster.server.folder())
        .stdout(std::process::Stdio::null())
        .status()
        .await?;
    ensure!(status.success(), "kubectl create failed");
    Ok(())
}

/// Waits until every object is known and nothing was reconciled for a while. Answers when the last reconcile ended.
async fn quiet(operator: &Operator, objects: usize) -> Result<Instant> {
    let begun = Instant::now();
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let reconciles = operator.reconciles().await?;
        let known = operator.metric("rerank_operator_objects").await?;
        if reconciles != last || known < u64::try_from(objects)? {
            (last, since) = (reconciles, Instant::now());
        } else if since.elapsed() >= QUIET {
            return Ok(since);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "never quiet: {known} objects, {reconciles} reconciles: {}",
            operator.log()
        );
        sleep(Duration::from_millis(100)).await;
    }
}

fn resident(operator: &Operator) -> Result<f64> {
    Ok(mebibytes(process::memory(operator.id().context("the operator has ended")?)?.resident()))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MEBIBYTE
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn count(number: usize) -> f64 {
    number as f64
}

/// Cumulative counts by upper bound, in seconds.
#[derive(Debug, Default)]
struct Histogram(Vec<(f64, u64)>);

async fn histogram(operator: &Operator) -> Result<Histogram> {
    let text = operator.metrics().await?;
    let mut buckets = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("rerank_operator_reconcile_duration_seconds_bucket{le=\"") else { continue };
        let (bound, number) = rest.split_once("\"} ").with_context(|| format!("{line:?} is no bucket"))?;
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
        buckets.push((bound, number.parse()?));
    }
    ensure!(!buckets.is_empty(), "no histogram in {text}");
    Ok(Histogram(buckets))
}

impl Histogram {
    fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().zip(&earlier.0).map(|((bound, now), (_, before))| (*bound, now - before)).collect())
    }

    fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, number)| *number)
    }

    /// The upper bound of the bucket that holds it, so never less than it is.
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    fn quantile(&self, quantile: f64) -> f64 {
        let rank = quantile * self.count() as f64;
        self.0.iter().find(|(_, number)| *number as f64 >= rank).map_or(f64::INFINITY, |(bound, _)| *bound)
    }
}

/// What it shows, and its value.
type Curve = (&'static str, fn(&Cost) -> f64);

/// Four curves over the number of objects, each with its own scale.
fn plot(costs: &[Cost]) -> Result<String> {
    const SIZE: (u32, u32) = (900, 620);
    let mut drawn = String::new();
    let area = SVGBackend::with_string(&mut drawn, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let curves: [Curve; 4] = [
        ("resident memory after a restart, MiB", |cost| cost.resident_mebibytes),
        ("from the first object to all at rest, s", |cost| cost.at_rest_seconds),
        ("restart to quiet, s", |cost| cost.restart_seconds),
        ("processor at rest, % of a core", |cost| cost.processor_percent),
    ];
    for (part, (title, of)) in area.split_evenly((2, 2)).iter().zip(curves) {
        let points: Vec<(f64, f64)> = costs.iter().map(|cost| (count(cost.objects), of(cost))).collect();
        let right = points.iter().map(|point| point.0).fold(0.0, f64::max) * 1.05;
        let top = points.iter().map(|point| point.1).fold(0.0, f64::max) * 1.2;
        let mut chart = ChartBuilder::on(part)
            .margin(12)
            .caption(title, ("sans-serif", 15))
            .x_label_area_size(30)
            .y_label_area_size(45)
            .build_cartesian_2d(0.0..right, 0.0..top.max(f64::MIN_POSITIVE))?;
        chart.configure_mesh().x_desc("objects").x_labels(6).y_labels(6).light_line_style(TRANSPARENT).draw()?;
        chart.draw_series(LineSeries::new(points.iter().copied(), &BLUE))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, BLUE.filled())))?;
    }
    area.present()?;
    drop(area);
    Ok(drawn)
}
