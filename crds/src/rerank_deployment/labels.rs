//! Names under which the operator marks what is its own. Pure.

/// The API group, and the prefix of our annotations.
pub const GROUP: &str = "rerank.semantik.dev";

/// Who applies: the field manager of the operator's writes.
pub const FIELD_MANAGER: &str = "rerank-operator";

/// Annotation of a pod template: digest of what its containers read at start.
pub const CONFIG_DIGEST: &str = "rerank.semantik.dev/config-digest";

/// `app.kubernetes.io/name` of every child.
pub const APPLICATION: &str = "rerank-server";
