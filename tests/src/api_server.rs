//! A real kube-apiserver over a real etcd, for one test: on ports of loopback and in a temporary folder of its own. Nodes
//! there are none, so nothing runs; objects are admitted, stored, watched and, with a controller manager, collected. In a
//! network namespace it can serve a node of [`crate::node`] too. I/O. Every wait is bounded.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

pub use self::audit::AuditRecord;
use self::certificates::Certificates;
use self::processes::{Port, Process};
use crate::http::{Finished, LIMIT};
use crate::kubectl::Kubectl;

mod audit;
pub mod binaries;
mod certificates;
pub(crate) mod processes;

/// How long one question whether it is ready waits.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// May do everything.
const ADMINISTRATORS: &str = "system:masters";
/// The controller manager's name.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
/// What the controller manager does: delete what an owner leaves behind and what is in a deleted namespace, and make the
/// pods of a Deployment, which are admitted only where their namespace has a service account.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,deployment-controller,\
     replicaset-controller,serviceaccount-controller";

/// Where Services are found, for those who have a node.
const SERVICES: &str = "10.96.0.0/16";
/// The API server's own Service: the first address of [`SERVICES`].
const OWN_SERVICE: &str = "10.96.0.1";

/// A running API server. Dropping it ends all its processes and removes its folder.
///
/// The fields are dropped in their order: who writes to another ends before that one, all before the folder.
#[derive(Debug)]
pub struct ApiServer {
    kube_controller_manager: Option<Process>,
    kube_apiserver: Option<Process>,
    etcd: Process,
    address: Ipv4Addr,
    port: Port,
    etcd_port: Port,
    certificates: Certificates,
    kubeconfig: PathBuf,
    client: reqwest::Client,
    programs: PathBuf,
    folder: tempfile::TempDir,
}

impl ApiServer {
    /// Starts etcd and an API server, and waits until it is ready. Call it from the test's own task: the kernel ends the
    /// processes when the thread that started them ends.
    ///
    /// # Errors
    /// The programs are not there (the message says how to have them), or it is not ready in time (the message has the
    /// last lines of both logs).
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST).await
    }

    /// The same on another address of this machine. There nodes and pods can reach it, those by its own Service, and all
    /// controllers run.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(address: Ipv4Addr) -> anyhow::Result<Self> {
        let programs = binaries::folder(|name| std::env::var_os(name))?;
        let folder = tempfile::Builder::new().prefix("rerank-api-server-").tempdir();
        let folder = folder.context("failed to make a temporary folder")?;
        let (port, etcd_port) = (Port::keep(address)?, Port::keep(Ipv4Addr::LOCALHOST)?);
        let own = address.to_string();
        let names = [&own, OWN_SERVICE, "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let certificates = Certificates::create(folder.path(), &names)?;
        let administrator = certificates.user("administrator", &[ADMINISTRATORS])?;
        let kubeconfig = certificates.kubeconfig(&url(address, &port), &administrator)?;
        let identity = format!("{}{}", administrator.certificate, administrator.key);
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(certificates.authority().as_bytes())?])
            .identity(reqwest::Identity::from_pem(identity.as_bytes())?)
            .no_proxy()
            .timeout(ANSWER_LIMIT)
            .build()
            .context("failed to make a client")?;
        std::fs::write(folder.path().join("audit-policy.json"), audit::POLICY).context("failed to write the policy")?;
        let etcd = start_etcd(&programs, &etcd_port, folder.path())?;
        let mut server = Self {
            kube_controller_manager: None,
            kube_apiserver: None,
            etcd,
            address,
            port,
            etcd_port,
            certificates,
            kubeconfig,
            client,
            programs,
            folder,
        };
        server.start_api_server().await?;
        Ok(server)
    }

    /// Where it answers: `https://`, address and port. The same after a restart.
    pub fn url(&self) -> String {
        url(self.address, &self.port)
    }

    /// Where it listens.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A file of its certificates: see [`Certificates::file`].
    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.certificates.file(name)
    }

    /// Whether nodes and pods may reach it.
    fn has_nodes(&self) -> bool {
        !self.address.is_loopback()
    }

    /// The temporary folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The ids of its processes.
    pub fn ids(&self) -> Vec<u32> {
        let Self { kube_controller_manager, kube_apiserver, etcd, .. } = self;
        [kube_controller_manager.as_ref(), kube_apiserver.as_ref(), Some(etcd)]
            .into_iter()
            .flatten()
            .map(Process::id)
            .collect()
    }

    /// One of the programs that belong to it, such as kubectl.
    ///
    /// # Errors
    /// It is not there.
    pub fn program(&self, name: &str) -> anyhow::Result<PathBuf> {
        binaries::program(&self.programs, name)
    }

    /// The file of a definition of somebody else's kind, such as `keda.sh_scaledobjects.yaml`.
    ///
    /// # Errors
    /// It is not there: the programs are somebody's own (`KUBEBUILDER_ASSETS`).
    pub fn definition(&self, name: &str) -> anyhow::Result<PathBuf> {
        binaries::program(&self.programs, &format!("definitions/{name}"))
    }

    /// A kubeconfig of someone who may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Writes a kubeconfig of this user in these groups, two at most. What they may do is RBAC's to say.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> anyhow::Result<PathBuf> {
        self.certificates.kubeconfig(&self.url(), &self.certificates.user(user, groups)?)
    }

    /// kubectl as someone who may do everything.
    pub fn as_administrator(&self) -> Kubectl {
        Kubectl::new(self.programs.join("kubectl"), &self.kubeconfig, self.folder())
    }

    /// Runs kubectl to its end, as someone who may do everything; `--kubeconfig` says otherwise.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<Finished> {
        self.as_administrator().finish(arguments).await
    }

    /// Runs kubectl with something to read, such as for `apply -f -`.
    pub async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> anyhow::Result<Finished> {
        self.as_administrator().finish_with_input(arguments, input).await
    }

    /// Every request that was answered so far. It is written down just after the answer is sent.
    pub fn audit(&self) -> anyhow::Result<Vec<AuditRecord>> {
        audit::read(&self.folder().join("audit.log"))
    }

    /// Ends the API server as a crash would: watches break, nothing answers. Its data stays.
    pub fn stop_api_server(&mut self) -> anyhow::Result<()> {
        self.kube_apiserver.take().map(drop).context("the API server is not running")
    }

    /// Starts the API server again, over the same data and on the same port, and waits until it is ready.
    pub async fn start_api_server(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.kube_apiserver.is_none(), "the API server is running already");
        let program = binaries::program(&self.programs, "kube-apiserver")?;
        let mut process = Process::start("kube-apiserver", &program, &self.api_server_arguments(), self.folder())?;
        let readiness = format!("{}/readyz", self.url());
        let deadline = Instant::now() + LIMIT;
        loop {
            let last = match self.client.get(&readiness).send().await {
                Ok(answer) if answer.status().is_success() => break,
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
            };
            let ended = process.check().and_then(|()| self.etcd.check()).err();
            if ended.is_some() || Instant::now() > deadline {
                let why = ended.map_or_else(|| format!("the last answer was {last}"), |error| error.to_string());
                bail!("the API server is not ready: {why}\n{}{}", process.tail(), self.etcd.tail());
            }
            sleep(INTERVAL).await;
        }
        self.kube_apiserver = Some(process);
        Ok(())
    }

    /// Starts the controllers that collect garbage, empty namespaces and make pods of Deployments, and waits until they have
    /// begun to look.
    ///
    /// # Errors
    /// `KUBEBUILDER_ASSETS` has no kube-controller-manager, as is common.
    pub async fn start_controller_manager(&mut self) -> anyhow::Result<()> {
        let program = binaries::program(&self.programs, "kube-controller-manager")?;
        let kubeconfig = self.kubeconfig_for(CONTROLLER_MANAGER, &[ADMINISTRATORS])?;
        let mut arguments = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--controllers={}", if self.has_nodes() { "*" } else { CONTROLLERS }),
            "--leader-elect=false".to_owned(),
            // It listens nowhere.
            "--secure-port=0".to_owned(),
        ];
        if self.has_nodes() {
            let file = |name: &str| self.certificate(name).display().to_string();
            arguments.push(format!("--root-ca-file={}", file("ca.crt")));
            arguments.push(format!("--service-account-private-key-file={}", file("service-accounts.key")));
        }
        let mut process = Process::start("kube-controller-manager", &program, &arguments, self.folder())?;
        let deadline = Instant::now() + LIMIT;
        while !self.audit()?.iter().any(|record| record.user == CONTROLLER_MANAGER) {
            let ended = process.check().err();
            if ended.is_some() || Instant::now() > deadline {
                let why = ended.map_or_else(|| "it asks for nothing".to_owned(), |error| error.to_string());
                bail!("the controller manager does not work: {why}\n{}", process.tail());
            }
            sleep(INTERVAL).await;
        }
        self.kube_controller_manager = Some(process);
        Ok(())
    }

    fn api_server_arguments(&self) -> Vec<String> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let certificate = |name: &str| self.certificates.file(name).display().to_string();
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port.number()),
            format!("--bind-address={}", self.address),
            format!("--secure-port={}", self.port.number()),
            "--permit-port-sharing=true".to_owned(),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            format!("--client-ca-file={}", certificate("ca.crt")),
            format!("--tls-cert-file={}", certificate("serving.crt")),
            format!("--tls-private-key-file={}", certificate("serving.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", certificate("service-accounts.pub")),
            format!("--service-account-signing-key-file={}", certificate("service-accounts.key")),
            format!("--audit-policy-file={}", file("audit-policy.json")),
            format!("--audit-log-path={}", file("audit.log")),
            // One file, however long.
            "--audit-log-maxsize=0".to_owned(),
        ];
        if self.has_nodes() {
            arguments.push(format!("--advertise-address={}", self.address));
            // For logs, exec and port-forward: as which client a kubelet knows it.
            arguments.push("--kubelet-preferred-address-types=InternalIP".to_owned());
            arguments.push(format!("--kubelet-client-certificate={}", certificate("kubelet-client.crt")));
            arguments.push(format!("--kubelet-client-key={}", certificate("kubelet-client.key")));
        } else {
            // The address that its Service would lead to may not be a loopback one.
            arguments.push("--endpoint-reconciler-type=none".to_owned());
        }
        arguments
    }
}

/// Nothing outlives a test, so nothing is worth the wait for a disk.
fn start_etcd(programs: &Path, port: &Port, folder: &Path) -> anyhow::Result<Process> {
    let clients = format!("http://127.0.0.1:{}", port.number());
    let arguments = [
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        // It has no peers, but listens for them.
        "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
        "--socket-reuse-port=true".to_owned(),
        "--unsafe-no-fsync=true".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    Process::start("etcd", &binaries::program(programs, "etcd")?, &arguments, folder)
}

fn url(address: Ipv4Addr, port: &Port) -> String {
    format!("https://{address}:{}", port.number())
}
