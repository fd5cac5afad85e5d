//! Which of several operators works: whoever holds the Lease. I/O.
//!
//! The rules are those of Kubernetes's own components (client-go `leaderelection`): a lease of 15 s, renewed every 2 s, given up when it
//! could not be renewed for 10 s; another's lease has run out when it has not changed for 15 s by one's own clock. No published crate
//! for it accepts this version of `kube`.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use rerank_crds::rerank_deployment::labels::FIELD_MANAGER;
use tokio::time::{Instant, sleep, timeout};

pub mod guard;

use guard::Held;

use crate::controller::words::describe;

/// How long a lease holds.
pub const LEASE: Duration = Duration::from_secs(15);
/// Whoever could not renew for so long gives up.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often is asked.
pub const RETRY: Duration = Duration::from_secs(2);
/// A write that met another is tried so often before that counts as a failure.
const RACES: usize = 5;

/// One candidate.
#[derive(Clone)]
pub struct Candidate {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    held: Held,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Candidate")
            .field("name", &self.name)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Why the lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("somebody else writes the lease again and again")]
    Races,
}

/// What a look at the lease tells a candidate. Pure.
#[derive(Debug, Default)]
struct Watch {
    /// What was seen last, and when that was first seen.
    seen: Option<(Option<LeaseSpec>, Instant)>,
}

impl Watch {
    /// Whether the lease may be taken.
    fn may_take(&mut self, spec: Option<&LeaseSpec>, identity: &str, now: Instant) -> bool {
        let is_new = self.seen.as_ref().is_none_or(|(seen, _)| seen.as_ref() != spec);
        if is_new {
            self.seen = Some((spec.cloned(), now));
        }
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let unchanged_for =
            self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since));
        holder.is_empty() || holder == identity || unchanged_for >= LEASE
    }
}

impl Candidate {
    /// A candidate of that name for the Lease. It says in `held` how long it has it.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, held: Held) -> Self {
        let (api, namespace) = (Api::namespaced(client, namespace), namespace.to_owned());
        Self { api, namespace, name: name.to_owned(), identity: identity.to_owned(), held }
    }

    /// Waits until the lease is ours.
    ///
    /// # Cancel safety
    /// Dropping the future gives nothing up: a lease that was taken in this moment runs out.
    pub async fn win(&self) {
        let mut watch = Watch::default();
        loop {
            match timeout(RENEW_DEADLINE, self.try_take(&mut watch)).await {
                Ok(Ok(true)) => {
                    tracing::info!(identity = self.identity, lease = self.name, "Leading");
                    return;
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    let (error, hint) = (describe(&error), hint(&error));
                    tracing::warn!(
                        error,
                        hint,
                        namespace = self.namespace,
                        lease = self.name,
                        "Could not look at the lease"
                    );
                }
                Err(_elapsed) => tracing::warn!(lease = self.name, "The API server does not answer about the lease"),
            }
            sleep(RETRY).await;
        }
    }

    /// Renews until that fails for too long or somebody else has it: then nothing may be written any more.
    pub async fn hold(&self) {
        self.renew().await;
        self.held.clear();
    }

    async fn renew(&self) {
        let mut watch = Watch::default();
        let mut renewed = Instant::now();
        loop {
            sleep(RETRY).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match timeout(left, self.try_take(&mut watch)).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    tracing::error!(lease = self.name, "Somebody else has the lease");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = describe(&error), lease = self.name, "Could not renew the lease");
                }
                Err(_elapsed) => {}
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                tracing::error!(
                    lease = self.name,
                    seconds = RENEW_DEADLINE.as_secs(),
                    "Could not renew the lease in time"
                );
                return;
            }
        }
    }

    /// Gives the lease back, so that the next one need not wait for its end.
    pub async fn release(&self) {
        self.held.clear();
        let outcome = async {
            let mut lease = self.api.get(&self.name).await?;
            let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
            else {
                return Ok(());
            };
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.api.replace(&self.name, &parameters(), &lease).await.map(drop)
        };
        match timeout(RETRY, outcome).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "Gave the lease back"),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = describe(&(error as kube::Error)),
                    lease = self.name,
                    "Could not give the lease back"
                );
            }
            Err(_elapsed) => tracing::warn!(lease = self.name, "Could not give the lease back in time"),
        }
    }

    /// Takes or renews the lease where that is allowed. A write that meets a newer version is refused, so of two only one succeeds.
    async fn try_take(&self, watch: &mut Watch) -> Result<bool, LeaseError> {
        // Counted from before the request: nobody else counts from earlier.
        let asked = Instant::now();
        let is_ours = self.ask(watch).await?;
        if is_ours {
            self.held.set(asked + RENEW_DEADLINE);
        }
        Ok(is_ours)
    }

    /// A write that met a newer version says nothing of whose that is: the client sends a write again whose answer was lost, and somebody
    /// may have labelled the lease. So it is read again, and only another holder has it.
    async fn ask(&self, watch: &mut Watch) -> Result<bool, LeaseError> {
        for _ in 0..RACES {
            let outcome = match self.api.get_opt(&self.name).await? {
                None => {
                    let lease = Lease {
                        metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                        spec: Some(self.mine(None)),
                    };
                    self.api.create(&parameters(), &lease).await
                }
                Some(lease) if !watch.may_take(lease.spec.as_ref(), &self.identity, Instant::now()) => {
                    return Ok(false);
                }
                Some(mut lease) => {
                    lease.spec = Some(self.mine(lease.spec.as_ref()));
                    self.api.replace(&self.name, &parameters(), &lease).await
                }
            };
            match outcome {
                Ok(_) => return Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(LeaseError::Races)
    }

    fn mine(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        let was_mine = before.is_some_and(|before| before.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: before
                .filter(|_| was_mine)
                .and_then(|before| before.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if was_mine || before.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// What may help, where the API server says that the lease cannot be.
fn hint(error: &LeaseError) -> Option<&'static str> {
    match error {
        LeaseError::Api(kube::Error::Api(status)) if status.code == 403 => {
            Some("grant get, create and update on this lease, or name another namespace by --lease-namespace")
        }
        LeaseError::Api(kube::Error::Api(status)) if status.code == 404 => {
            Some("the namespace is missing; name one that is there by --lease-namespace")
        }
        LeaseError::Api(_) | LeaseError::Races => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::BoxError;

    use super::*;

    fn held_by(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(jiff::Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn anothers_lease_is_taken_only_after_it_has_not_changed_for_its_whole_time_by_ones_own_clock() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut watch = Watch::default();
        // Its own time says that it ran out long ago: clocks differ.
        assert!(!watch.may_take(Some(&held_by("a", 1)), "b", at(0)));
        assert!(!watch.may_take(Some(&held_by("a", 2)), "b", at(14)), "it was renewed");
        assert!(!watch.may_take(Some(&held_by("a", 2)), "b", at(28)));
        assert!(watch.may_take(Some(&held_by("a", 2)), "b", at(29)));
    }

    #[test]
    fn what_is_free_or_ones_own_is_taken_at_once() {
        let now = Instant::now();
        assert!(Watch::default().may_take(Some(&held_by("", 1)), "b", now));
        assert!(Watch::default().may_take(Some(&held_by("b", 1)), "b", now));
        assert!(Watch::default().may_take(None, "b", now));
    }

    /// An API server with one lease. Of each write the first `lost` get through and are answered with 503, as to a client that sends
    /// them again; `theirs`: somebody takes the lease before the next write.
    #[derive(Default)]
    struct Server {
        lease: Option<Value>,
        version: u64,
        lost: usize,
        labelled: bool,
        theirs: Option<String>,
    }

    impl Server {
        fn answer(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
            let failure =
                |code: u16| (code, json!({"status": "Failure", "message": "no", "reason": "Any", "code": code}));
            if *method == Method::GET {
                return self.lease.clone().map_or_else(failure_not_found, |lease| (200, lease));
            }
            let mut sent: Value = serde_json::from_slice(body).unwrap();
            if std::mem::take(&mut self.labelled) {
                self.version += 1;
                self.lease.as_mut().unwrap()["metadata"]["resourceVersion"] = json!(self.version.to_string());
            }
            if let (Some(name), Some(lease)) = (self.theirs.take(), &mut self.lease) {
                self.version += 1;
                lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
                lease["spec"]["holderIdentity"] = json!(name);
            }
            let live = self.lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
            let is_current = match &live {
                Some(live) => *method == Method::PUT && *live == sent["metadata"]["resourceVersion"],
                None => *method == Method::POST,
            };
            if !is_current {
                return failure(409);
            }
            self.version += 1;
            sent["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.lease = Some(sent.clone());
            if self.lost > 0 {
                self.lost -= 1;
                // As the client would see it that sends the same again.
                return failure(409);
            }
            (200, sent)
        }
    }

    fn failure_not_found() -> (u16, Value) {
        (404, json!({"status": "Failure", "message": "no", "reason": "NotFound", "code": 404}))
    }

    fn candidate(server: &Arc<Mutex<Server>>, identity: &str) -> Candidate {
        let server = Arc::clone(server);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let (code, answer) = server.lock().unwrap().answer(&head.method, &body);
                let answer = Body::from(answer.to_string().into_bytes());
                Ok::<_, BoxError>(Response::builder().status(code).body(answer)?)
            }
        });
        Candidate::new(Client::new(service, "default"), "default", "rerank-operator", identity, Held::default())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_lost_or_a_label_of_somebody_ends_no_lead() {
        let server = Arc::<Mutex<Server>>::default();
        let ours = candidate(&server, "a");
        ours.win().await;
        for change in [|server: &mut Server| server.lost = 1, |server: &mut Server| server.labelled = true] {
            change(&mut server.lock().unwrap());
            assert!(timeout(Duration::from_secs(9), ours.hold()).await.is_err(), "it leads");
            let server = server.lock().unwrap();
            assert_eq!(server.lease.as_ref().unwrap()["spec"]["holderIdentity"], "a");
            assert_eq!((server.lost, server.labelled), (0, false), "it happened");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_who_took_the_lease_has_it() {
        let server = Arc::<Mutex<Server>>::default();
        let ours = candidate(&server, "a");
        ours.win().await;
        server.lock().unwrap().theirs = Some("b".to_owned());
        timeout(Duration::from_secs(3), ours.hold()).await.expect("it is over");
        assert_eq!(server.lock().unwrap().lease.as_ref().unwrap()["spec"]["holderIdentity"], "b");
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_never_get_through_end_the_lead_in_time() {
        let server = Arc::<Mutex<Server>>::default();
        let ours = candidate(&server, "a");
        ours.win().await;
        server.lock().unwrap().lost = usize::MAX;
        timeout(RENEW_DEADLINE + RETRY * 2, ours.hold()).await.expect("it is over");
    }

    #[test]
    fn a_lease_that_cannot_be_names_the_flag() {
        let refused = |code| {
            let status = kube::core::Status::failure("no", "Any").with_code(code).boxed();
            hint(&LeaseError::Api(kube::Error::Api(status)))
        };
        for code in [403, 404] {
            assert!(refused(code).unwrap().contains("--lease-namespace"), "{code}");
        }
        assert_eq!(refused(500), None);
    }
}
