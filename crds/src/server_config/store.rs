//! The parts of the configuration that concern the vector store. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where documents live: exactly one of `qdrant`, `embedded`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VectorStore {
    /// A Qdrant server over gRPC.
    pub qdrant: Option<Qdrant>,
    /// Qdrant's engine in this process, on disk.
    pub embedded: Option<Embedded>,
    /// Whether documents can be indexed through the API. Default false.
    pub writable: bool,
}

/// A Qdrant server over gRPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Qdrant {
    /// `http://` or `https://`, host and gRPC port (6334).
    pub url: String,
    /// Searchable collections; the first is the default.
    pub collections: Vec<Collection>,
    /// File that holds the API key.
    pub api_key_file: Option<PathBuf>,
    /// TLS files.
    pub tls: QdrantTls,
    /// Allow an API key over plain http. Default false.
    pub allow_insecure: bool,
    /// Allow an address of this machine, as on a laptop. Default true; the operator says false, since in a pod it would be
    /// the server itself.
    pub allow_loopback: bool,
}

impl Default for Qdrant {
    fn default() -> Self {
        Self {
            url: String::new(),
            collections: Vec::new(),
            api_key_file: None,
            tls: QdrantTls::default(),
            allow_insecure: false,
            allow_loopback: true,
        }
    }
}

/// TLS files of the connection to Qdrant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct QdrantTls {
    /// PEM file of the CA that signed the server's certificate. Default: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the client key.
    pub key_file: Option<PathBuf>,
}

/// Qdrant's engine in this process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Embedded {
    /// Folder of the collections.
    pub path: PathBuf,
    /// Searchable collections; the first is the default.
    pub collections: Vec<Collection>,
}

/// One searchable collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Collection {
    /// Its name in the store.
    pub name: String,
    /// Named vector. Default: the unnamed one.
    #[serde(default)]
    pub vector_name: Option<String>,
    /// Payload path of the text, dots between keys. Default `text`.
    #[serde(default = "default_text_field")]
    pub text_field: String,
}

fn default_text_field() -> String {
    "text".to_owned()
}

impl VectorStore {
    /// Searchable collections of whichever store is configured; the first is the default.
    pub fn collections(&self) -> &[Collection] {
        match (&self.qdrant, &self.embedded) {
            (Some(qdrant), _) => &qdrant.collections,
            (None, Some(embedded)) => &embedded.collections,
            (None, None) => &[],
        }
    }
}
