//! Where the programs of an API server are: brought along, or built by `make api-server`. I/O: looks whether they are there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// What a control plane is made of at least. `KUBEBUILDER_ASSETS` holds these by convention.
const NEEDED: [&str; 3] = ["kube-apiserver", "etcd", "kubectl"];

/// Says which Kubernetes is built.
const MODULE: &str = include_str!("../../cluster/go.mod");

/// The folder that holds kube-apiserver, etcd and kubectl. `variable` reads one variable of the environment.
///
/// # Errors
/// One of them is missing: the message names both ways to have them.
pub fn folder(variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<PathBuf> {
    let brought = path(&variable, "KUBEBUILDER_ASSETS");
    let folder = match &brought {
        Some(folder) => folder.clone(),
        None => cache(&variable)?.join(format!("kubernetes-{}", version()?)).join("bin"),
    };
    if let Some(missing) = NEEDED.iter().map(|name| folder.join(name)).find(|program| !program.is_file()) {
        bail!(
            "{} is missing; run `make api-server`{}, or set KUBEBUILDER_ASSETS to a folder with {}",
            missing.display(),
            if brought.is_some() { " without KUBEBUILDER_ASSETS" } else { "" },
            NEEDED.join(", ")
        );
    }
    Ok(folder)
}

/// The folder of what runs pods: `make node` builds it.
///
/// # Errors
/// It is not built.
pub fn node_folder(variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<PathBuf> {
    let folder = cache(&variable)?.join(format!("node-{}", version()?)).join("bin");
    anyhow::ensure!(folder.is_dir(), "{} is missing; run `make node`", folder.display());
    Ok(folder)
}

/// The folder of kwok and a scheduler: `make kwok` builds it.
///
/// # Errors
/// It is not built.
pub fn kwok_folder(variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<PathBuf> {
    let folder = cache(&variable)?.join(format!("kwok-{}", version()?)).join("bin");
    anyhow::ensure!(folder.is_dir(), "{} is missing; run `make kwok`", folder.display());
    Ok(folder)
}

/// One program of the folder. For those that not everybody brings along.
pub(super) fn program(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let program = folder.join(name);
    if !program.is_file() {
        bail!("{} is missing; `make api-server` without KUBEBUILDER_ASSETS builds it", program.display());
    }
    Ok(program)
}

/// The version of Kubernetes that `make api-server` builds, such as `1.37.2`.
pub fn version() -> anyhow::Result<&'static str> {
    let mut words = MODULE.lines().map(str::split_whitespace);
    let version = words.find_map(|mut words| match (words.next(), words.next()) {
        (Some("k8s.io/kubernetes"), Some(version)) => version.strip_prefix('v'),
        _ => None,
    });
    version.context("tests/cluster/go.mod names no version of k8s.io/kubernetes")
}

/// The same as in `tests/cluster/build.sh`.
fn cache(variable: &impl Fn(&str) -> Option<OsString>) -> anyhow::Result<PathBuf> {
    if let Some(cache) = path(variable, "RERANK_CACHE") {
        return Ok(cache);
    }
    let caches = path(variable, "XDG_CACHE_HOME").or_else(|| Some(path(variable, "HOME")?.join(".cache")));
    Ok(caches.context("none of RERANK_CACHE, XDG_CACHE_HOME and HOME is set")?.join("rerank-operator"))
}

/// As shells do it, an empty variable counts as none.
fn path(variable: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
