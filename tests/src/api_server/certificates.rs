//! Who trusts whom: a CA, the API server's certificate, the key of its service accounts, and kubeconfigs of users. I/O: writes
//! files into one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use rcgen::KeyPair;
use serde_json::json;

use crate::qdrant_server::certificates::{Authority, Certified};

/// The files of one API server.
#[derive(Debug)]
pub(super) struct Certificates {
    folder: PathBuf,
    authority: Authority,
    users: AtomicUsize,
}

impl Certificates {
    /// Makes a CA, and what it signs for an API server of these names and addresses.
    pub(super) fn create(folder: &Path, names: &[&str]) -> anyhow::Result<Self> {
        let authority = Authority::new("rerank-tests")?;
        let certificates = Self { folder: folder.to_owned(), authority, users: AtomicUsize::new(0) };
        certificates.write("ca.crt", certificates.authority.certificate())?;
        let serving = certificates.authority.certify_names(names)?;
        certificates.write("serving.crt", &serving.certificate)?;
        certificates.write("serving.key", &serving.key)?;
        let client = certificates.user("kube-apiserver", &["system:masters"])?;
        certificates.write("kubelet-client.crt", &client.certificate)?;
        certificates.write("kubelet-client.key", &client.key)?;
        let accounts = KeyPair::generate()?;
        certificates.write("service-accounts.key", &accounts.serialize_pem())?;
        certificates.write("service-accounts.pub", &accounts.public_key_pem())?;
        Ok(certificates)
    }

    /// A file of the folder: `ca.crt`, `serving.crt`, `serving.key`, `kubelet-client.crt`, `kubelet-client.key`,
    /// `service-accounts.key` or `service-accounts.pub`.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The CA's certificate, PEM.
    pub(super) fn authority(&self) -> &str {
        self.authority.certificate()
    }

    /// A certificate by which the API server takes a client for this user.
    pub(super) fn user(&self, user: &str, groups: &[&str]) -> anyhow::Result<Certified> {
        self.authority.certify_user(user, groups)
    }

    /// Writes a kubeconfig for a user. Each has a file of its own, since names of users are no names of files.
    pub(super) fn kubeconfig(&self, url: &str, user: &Certified) -> anyhow::Result<PathBuf> {
        let number = self.users.fetch_add(1, Ordering::Relaxed);
        let certificate = self.write(&format!("user-{number}.crt"), &user.certificate)?;
        let key = self.write(&format!("user-{number}.key"), &user.key)?;
        // JSON is YAML.
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": self.file("ca.crt")}}],
            "users": [{"name": "test", "user": {"client-certificate": certificate, "client-key": key}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        });
        self.write(&format!("user-{number}.kubeconfig"), &format!("{kubeconfig:#}\n"))
    }

    fn write(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }
}
