//! `make fail-overs`: operators that end, die or are paused in the middle of their work, on a real API server, ten pairs at once, each with
//! an object that somebody spoils five times a second. Measures how long until the other one leads, and reads from the audit log whether
//! two ever wrote at once. A number as argument asks for other than 100.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::ApiResource;
use rerank_crds::RerankDeployment;
use rerank_operator::controller::kinds::ChildKind;
use rerank_tests::api_server::AuditRecord;
use rerank_tests::cluster::{Cluster, search};
use rerank_tests::operator::{Operator, OperatorOptions};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const FAIL_OVERS: usize = 100;
const PAIRS: usize = 10;
const NAME: &str = "docs";
/// May do everything; what operators may do is another test's matter.
const GROUP: &str = "system:masters";
/// Between two changes that somebody makes, which the leader puts back.
const SPOIL_EVERY: Duration = Duration::from_millis(200);
/// A leader works for so long before something happens to it.
const WORKS: Duration = Duration::from_secs(2);
/// Until the other one leads, at most, before the run is given up.
const LIMIT: Duration = Duration::from_secs(60);

/// What happens to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// SIGTERM: it gives the lease back.
    Ends,
    /// SIGKILL.
    Dies,
    /// SIGSTOP; SIGCONT once the other one leads.
    Pauses,
}

impl Fate {
    const ALL: [Self; 3] = [Self::Ends, Self::Dies, Self::Pauses];

    /// What is promised.
    const fn at_most(self) -> Duration {
        match self {
            Self::Ends => Duration::from_secs(3),
            // The lease's 15 s, and the next look of the other one.
            Self::Dies | Self::Pauses => Duration::from_secs(18),
        }
    }
}

/// Two operators and their namespace.
struct Pair<'a> {
    cluster: &'a Cluster,
    namespace: String,
    started: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let fail_overs = match std::env::args().nth(1) {
        Some(number) => number.parse().with_context(|| format!("{number:?} is no number of fail-overs"))?,
        None => FAIL_OVERS,
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::start().await;
    let kubeconfig = Kubeconfig::read_from(cluster.server.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let begun = Instant::now();
    let pairs = (0..PAIRS.min(fail_overs)).map(|number| {
        let times = fail_overs / PAIRS + usize::from(number < fail_overs % PAIRS);
        let pair = Pair { cluster: &cluster, namespace: format!("pair-{number}"), started: 0 };
        pair.run(client.clone(), number, times)
    });
    let times = try_join_all(pairs).await?.concat();
    println!("{} fail-overs in {:.0} s", times.len(), begun.elapsed().as_secs_f64());
    let mut is_late = false;
    for fate in Fate::ALL {
        let mut of: Vec<f64> =
            times.iter().filter(|(one, _)| *one == fate).map(|(_, time)| time.as_secs_f64()).collect();
        of.sort_by(f64::total_cmp);
        let (Some(longest), middle) = (of.last(), of.get(of.len() / 2)) else { continue };
        let at_most = fate.at_most().as_secs_f64();
        is_late |= *longest > at_most;
        let median = middle.copied().unwrap_or_default();
        println!(
            "{fate:?}: {} times, until another led {median:.1} s in the median, {longest:.1} s at most (promised {at_most:.0} s)",
            of.len()
        );
    }
    let records = cluster.server.audit()?;
    let (writes, overlaps) = overlaps(&records);
    println!("{writes} writes of operators, {} of them while another one led", overlaps.len());
    ensure!(overlaps.is_empty(), "{}", overlaps.join("\n"));
    ensure!(writes > 5 * fail_overs, "too few to say anything");
    ensure!(!is_late, "a promise was not kept");
    Ok(())
}

impl Pair<'_> {
    async fn run(mut self, client: Client, number: usize, times: usize) -> Result<Vec<(Fate, Duration)>> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": self.namespace}}))?;
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        let mut leader = self.operator()?;
        leader.leads().await?;
        let mut other = self.operator()?;
        let resource = ApiResource::erase::<RerankDeployment>(&());
        let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), &self.namespace, &resource);
        let object = DynamicObject::new(NAME, &resource).data(json!({"spec": search(NAME)["spec"]}));
        objects.create(&PostParams::default(), &object).await?;
        let deployments: Api<DynamicObject> =
            Api::namespaced_with(client, &self.namespace, &ChildKind::Deployment.resource());
        let mut spoiling = JoinSet::new();
        spoiling.spawn(spoil(deployments));

        let mut all = Vec::new();
        for time in 0..times {
            sleep(WORKS).await;
            let fate = Fate::ALL[(number + time) % Fate::ALL.len()];
            let led = leads_of(&other);
            let begun = Instant::now();
            leader.signal(match fate {
                Fate::Ends => Signal::TERM,
                Fate::Dies => Signal::KILL,
                Fate::Pauses => Signal::STOP,
            })?;
            while leads_of(&other) == led {
                ensure!(begun.elapsed() < LIMIT, "nobody leads after {fate:?}: {}", other.log());
                sleep(Duration::from_millis(10)).await;
            }
            all.push((fate, begun.elapsed()));
            match fate {
                Fate::Pauses => self.wake(&leader).await?,
                Fate::Ends | Fate::Dies => {
                    leader.ended().await?;
                    leader = self.operator()?;
                }
            }
            std::mem::swap(&mut leader, &mut other);
        }
        Ok(all)
    }

    /// One that was paused goes on, sees that another one leads, and waits for its turn.
    async fn wake(&self, paused: &Operator) -> Result<()> {
        const SEES: [&str; 2] = ["Could not renew the lease in time", "Somebody else has the lease"];
        let seen = |operator: &Operator| SEES.iter().map(|words| operator.log().matches(words).count()).sum::<usize>();
        let before = seen(paused);
        paused.signal(Signal::CONT)?;
        let begun = Instant::now();
        while seen(paused) == before {
            if begun.elapsed() > LIMIT {
                bail!("it does not see that another one leads: {}", paused.log());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// As a user of its own, so that the audit log tells who wrote.
    fn operator(&mut self) -> Result<Operator> {
        self.started += 1;
        let identity = format!("{}-operator-{}", self.namespace, self.started);
        let kubeconfig = self.cluster.server.kubeconfig_for(&identity, &[GROUP])?;
        let arguments = ["--watch-namespace", &self.namespace, "--lease-namespace", &self.namespace].map(str::to_owned);
        let options = OperatorOptions { identity, arguments: arguments.to_vec(), binary: None };
        Operator::start(&kubeconfig, self.cluster.server.folder(), &options)
    }
}

fn leads_of(operator: &Operator) -> usize {
    operator.log().matches("Leading").count()
}

/// Changes what the operator puts back.
async fn spoil(deployments: Api<DynamicObject>) {
    for round in 1.. {
        let change = json!({"spec": {"replicas": round % 600 + 2}});
        // It is not there at first.
        let _ = deployments.patch(NAME, &PatchParams::default(), &Patch::Merge(change)).await;
        sleep(SPOIL_EVERY).await;
    }
}

/// How many writes there were, and those of whoever did not write the lease last.
fn overlaps(records: &[AuditRecord]) -> (usize, Vec<String>) {
    let is_write = |record: &&AuditRecord| {
        let verb = record.verb.as_str();
        ["create", "update", "patch", "delete"].contains(&verb) && (200..300).contains(&record.code)
    };
    let of_operators = records.iter().filter(|record| record.user.contains("-operator-"));
    let mut all: Vec<&AuditRecord> = of_operators.filter(is_write).collect();
    all.sort_by(|left, right| left.received.cmp(&right.received));
    let mut leaders = BTreeMap::new();
    let (mut writes, mut wrong) = (0, Vec::new());
    for record in all {
        let leader = leaders.entry(record.namespace.clone()).or_insert_with(|| record.user.clone());
        if record.resource == "leases" {
            leader.clone_from(&record.user);
            continue;
        }
        writes += 1;
        if *leader != record.user {
            wrong.push(format!(
                "{} {} {} by {} while {leader} led",
                record.received, record.verb, record.uri, record.user
            ));
        }
    }
    (writes, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_whoever_does_not_have_the_lease_is_found() {
        let record = |at: usize, user: &str, resource: &str, code| AuditRecord {
            received: format!("2026-01-01T00:00:00.{at:06}Z"),
            user: format!("pair-0-operator-{user}"),
            verb: "update".to_owned(),
            uri: String::new(),
            resource: resource.to_owned(),
            subresource: None,
            namespace: Some("pair-0".to_owned()),
            name: None,
            user_agent: String::new(),
            code,
        };
        let mut records = vec![
            record(1, "1", "leases", 201),
            record(2, "1", "services", 200),
            record(4, "1", "services", 200),
            record(3, "2", "leases", 409),
        ];
        assert_eq!(overlaps(&records), (2, vec![]), "who did not get the lease changes nothing");
        records[3].code = 200;
        let (writes, wrong) = overlaps(&records);
        assert_eq!((writes, wrong.len()), (2, 1));
        assert!(wrong[0].contains("operator-1 while pair-0-operator-2"), "{wrong:?}");
    }
}
