//! Who did what, as the API server writes it down. Pure but for reading one file.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// What is written down: of each request that it was made, by whom and how it ended; no bodies. Not the probes of
/// [`super::ApiServer`] itself.
pub(super) const POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1",
  "kind": "Policy",
  "omitStages": ["RequestReceived"],
  "rules": [{"level": "None", "nonResourceURLs": ["/readyz*"]}, {"level": "Metadata"}]
}"#;

/// A request that was answered. A watch counts once it has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// When the request came, as RFC 3339 with microseconds in UTC: its order is that of time.
    pub received: String,
    /// Who asked, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// What was done: get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: String,
    /// Path and query, for those that concern no resource too.
    pub uri: String,
    /// In the plural, such as `deployments`; empty where the request concerns none.
    pub resource: String,
    /// Such as `status`.
    pub subresource: Option<String>,
    /// None for what is in no namespace.
    pub namespace: Option<String>,
    /// None where it is a whole list, or created without a name in the path.
    pub name: Option<String>,
    /// What the client calls itself; empty where it does not say.
    pub user_agent: String,
    /// HTTP status; 0 where none was sent.
    pub code: u16,
}

/// A line of the log, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    /// RFC 3339 with microseconds in UTC.
    request_received_timestamp: String,
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    subresource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
}

#[derive(Default, Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// Reads a log. A last line that is still being written is left out.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<AuditRecord>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    parse(&text)
}

fn parse(text: &str) -> anyhow::Result<Vec<AuditRecord>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let events = whole.lines().map(|line| {
        serde_json::from_str::<Event>(line).with_context(|| format!("failed to read a line of the audit log: {line}"))
    });
    events.filter(|event| event.as_ref().map_or(true, Event::counts)).map(record).collect()
}

impl Event {
    /// A watch goes on until somebody ends it, so it counts once it has begun.
    fn counts(&self) -> bool {
        self.stage == if self.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" }
    }
}

fn record(event: anyhow::Result<Event>) -> anyhow::Result<AuditRecord> {
    let Event {
        request_received_timestamp,
        stage: _,
        verb,
        request_uri,
        user,
        user_agent,
        object_ref,
        response_status,
    } = event?;
    let ObjectRef { resource, subresource, namespace, name } = object_ref;
    Ok(AuditRecord {
        received: request_received_timestamp,
        user: user.username,
        verb,
        uri: request_uri,
        resource,
        subresource,
        namespace,
        name,
        user_agent,
        code: response_status.code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_requests_that_ended_and_of_watches_that_began_count() {
        let ended = r#"{"requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/a/pods/b/status","verb":"patch",
            "user":{"username":"ops","groups":["system:authenticated"]},"userAgent":"kubectl/v1","objectRef":{"resource":
            "pods","namespace":"a","name":"b","apiVersion":"v1","subresource":"status"},"responseStatus":{"code":403}}"#
            .replace('\n', "");
        let begun = ended.replace("ResponseComplete", "ResponseStarted");
        let watch = begun.replace("\"patch\"", "\"watch\"");
        let text = format!("{begun}\n{ended}\n{watch}\n{}\n{}", ended.replace("\"patch\"", "\"watch\""), &ended[..40]);
        let expected = AuditRecord {
            received: "2026-01-01T00:00:00.000001Z".to_owned(),
            user: "ops".to_owned(),
            verb: "patch".to_owned(),
            uri: "/api/v1/namespaces/a/pods/b/status".to_owned(),
            resource: "pods".to_owned(),
            subresource: Some("status".to_owned()),
            namespace: Some("a".to_owned()),
            name: Some("b".to_owned()),
            user_agent: "kubectl/v1".to_owned(),
            code: 403,
        };
        let watching = AuditRecord { verb: "watch".to_owned(), ..expected.clone() };
        assert_eq!(parse(&text).unwrap(), [expected, watching]);
        assert!(parse("no JSON\n").is_err());
    }
}
