//! The fields that concern the vector store. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where documents live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VectorStore {
    /// A Qdrant server.
    pub qdrant: Qdrant,
    /// Whether documents can be indexed through the API.
    #[serde(default)]
    pub writable: bool,
}

/// A Qdrant server over gRPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = super::bounds::rules(&[
    ("isURL(self.url) && url(self.url).getScheme() in ['http', 'https']", "url must be http:// or https://, host and gRPC port, such as http://qdrant:6334"),
    ("!isURL(self.url) || !(url(self.url).getHostname().startsWith('169.254.') || url(self.url).getHostname().startsWith('[fe80:') || url(self.url).getHostname() in ['metadata', 'metadata.google.internal', '[fd00:ec2::254]', '100.100.100.200', '192.0.0.192'])", "url must not be a link-local address or a metadata service"),
    ("!isURL(self.url) || !(url(self.url).getHostname() in ['localhost', '[::1]', '0.0.0.0', '[::]'] || url(self.url).getHostname().startsWith('127.'))", "url must not be the pod itself; name Qdrant's Service, such as http://qdrant:6334"),
    ("self.url.matches('^https?://[^/?#]+:[0-9]+([/?#].*)?$')", "url must name Qdrant's gRPC port, such as http://qdrant:6334: the network policy opens no other"),
    ("!has(self.apiKeySecretRef) || self.allowInsecure || self.url.startsWith('https://')", "an API key needs https://, or allowInsecure: true"),
    ("!has(self.tls) || self.url.startsWith('https://')", "tls needs a url that begins with https://"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Qdrant {
    /// http:// or https://, host and gRPC port (6334).
    #[schemars(length(min = 8, max = 2_048))]
    pub url: String,
    /// Searchable collections, all of one embedding model; a request names one, the first is the default.
    #[schemars(length(min = 1, max = 64))]
    pub collections: Vec<Collection>,
    /// Key of a Secret of this namespace that holds Qdrant's API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKey>,
    /// Certificates of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<QdrantTls>,
    /// Allow an API key over plain http.
    #[serde(default)]
    pub allow_insecure: bool,
}

/// One searchable collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Collection {
    /// Its name in Qdrant.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Named vector. Default: the unnamed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub vector_name: Option<String>,
    /// Payload path of the text, dots between keys.
    #[serde(default = "text_field")]
    #[schemars(length(min = 1, max = 255))]
    pub text_field: String,
}

/// Certificates of the connection to Qdrant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QdrantTls {
    /// Key of a Secret that holds the CA which signed Qdrant's certificate, in PEM. Default: the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKey>,
    /// Secret of type kubernetes.io/tls: the client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<super::SecretName>,
}

/// One key of a Secret of this namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = super::bounds::OBJECT_NAME))]
    pub name: String,
    /// Key inside it.
    #[schemars(length(min = 1, max = 253), regex(pattern = super::bounds::SECRET_KEY))]
    pub key: String,
}

fn text_field() -> String {
    "text".to_owned()
}
