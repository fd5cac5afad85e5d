//! kubectl, and words to speak with a cluster through it. For tests: what goes wrong panics with what was seen. Every wait is
//! bounded.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::condition;
use crate::http::{Finished, LIMIT, root};

/// kubectl as somebody.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    /// How long a wait lasts at most; a minute unless said otherwise.
    pub limit: Duration,
}

impl Kubectl {
    /// With this kubeconfig. `home` holds what it caches, and nobody's own settings.
    pub fn new(program: PathBuf, kubeconfig: &Path, home: &Path) -> Self {
        Self { program, kubeconfig: kubeconfig.to_owned(), home: home.to_owned(), limit: LIMIT }
    }

    /// The kubeconfig that it uses.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs it to its end; `--kubeconfig` names somebody else.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time.
    pub async fn finish(&self, arguments: &[&str]) -> anyhow::Result<Finished> {
        self.finish_with_input(arguments, "").await
    }

    /// Runs it with something to read, such as for `apply -f -`.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn finish_with_input(&self, arguments: &[&str], input: &str) -> anyhow::Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        command.env_remove("KUBECACHEDIR").env_remove("KUBERC");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("failed to start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        let run = async {
            // Not every command reads; one that ended before it did says why itself.
            let write = async {
                let _ = stdin.write_all(input.as_bytes()).await;
                drop(stdin);
            };
            tokio::join!(write, child.wait_with_output()).1
        };
        Ok(timeout(self.limit, run)
            .await
            .context("kubectl did not end in time")?
            .context("failed to run kubectl")?
            .into())
    }

    /// From now on everything that names no namespace is in this one, which is there.
    pub async fn enter(&self, namespace: &str) {
        self.run(&["config", "set-context", "--current", &format!("--namespace={namespace}")]).await;
    }

    /// What a command printed, which must succeed.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let finished = self.finish(arguments).await.unwrap();
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.stdout
    }

    /// Applies an object.
    pub async fn apply(&self, object: &Value) {
        let finished = self.finish_with_input(&["apply", "-f", "-"], &object.to_string()).await.unwrap();
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }

    /// Applies a file of the repository.
    pub async fn apply_file(&self, path: &str, arguments: &[&str]) {
        let path = root().join(path);
        let mut all = vec!["apply", "-f", path.to_str().unwrap()];
        all.extend(arguments);
        self.run(&all).await;
    }

    /// Waits until a kind can be used. `kubectl wait` fails where the definition has no conditions at all yet.
    pub async fn established(&self, kind: &str) {
        let is_established = |definition: &Value| {
            let conditions = definition["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|one| one["type"] == "Established" && one["status"] == "True")
        };
        self.until("crd", kind, "been established", is_established).await;
    }

    /// Merges a patch into an object.
    pub async fn patch(&self, kind: &str, name: &str, patch: &Value) {
        self.run(&["patch", kind, name, "--type=merge", "-p", &patch.to_string()]).await;
    }

    /// Merges a patch into the status of an object.
    pub async fn patch_status(&self, kind: &str, name: &str, status: &Value) {
        let patch = json!({ "status": status }).to_string();
        self.run(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]).await;
    }

    /// An object as JSON; null where it is not there.
    pub async fn get(&self, kind: &str, name: &str) -> Value {
        let finished = self.finish(&["get", kind, name, "-o", "json"]).await.unwrap();
        serde_json::from_str(&finished.stdout).unwrap_or(Value::Null)
    }

    /// Waits until an object is as asked; answers it.
    pub async fn until(&self, kind: &str, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let object = self.get(kind, name).await;
            if is_so(&object) {
                return object;
            }
            assert!(begun.elapsed() < self.limit, "{kind} {name} never has {what}: {object:#}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for a reason of a condition; answers the condition.
    pub async fn reason(&self, name: &str, kind: &str, reason: &str) -> Value {
        let what = format!("{kind} {reason}");
        let object = self.until("rrd", name, &what, |object| condition(object, kind)["reason"] == reason).await;
        condition(&object, kind)
    }

    /// Events about an object, by reason and type, until there is one of that reason.
    pub async fn event(&self, name: &str, reason: &str) -> Value {
        let begun = Instant::now();
        loop {
            let listed = self.run(&["get", "events.events.k8s.io", "-A", "-o", "json"]).await;
            let listed: Value = serde_json::from_str(&listed).unwrap();
            let events = listed["items"].as_array().cloned().unwrap_or_default();
            if let Some(event) =
                events.iter().find(|event| event["regarding"]["name"] == name && event["reason"] == reason)
            {
                return event.clone();
            }
            assert!(begun.elapsed() < self.limit, "no event {reason} about {name}: {events:#?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}
