//! What tests see of recorded spans.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use opentelemetry::Value;
use opentelemetry::trace::Status;
use serde_json::json;
use tokio::sync::mpsc::Receiver;

use super::export::Queue;
use super::recorder::{Record, Recorder};
use super::sampling::Share;

pub(crate) use super::spans::documented;

/// A recorder, and what it has recorded.
pub(crate) fn recorder(percent: i32) -> (Recorder, Recorded) {
    let (queue, records) = Queue::of(10_000);
    (Recorder::new(Share::of_percent(percent), queue), Recorded(records))
}

/// The end of the queue.
pub(crate) struct Recorded(Receiver<Record>);

/// One ended span.
#[derive(Clone, Debug)]
pub(crate) struct SeenSpan {
    pub(crate) name: String,
    /// The parent's name; its id where the parent was not recorded here; nothing at the root.
    pub(crate) parent_name: String,
    pub(crate) kind: String,
    pub(crate) trace_id: String,
    pub(crate) state: String,
    pub(crate) attributes: BTreeMap<String, serde_json::Value>,
    pub(crate) is_error: bool,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
}

impl Recorded {
    /// All spans that have ended since the last call.
    pub(crate) fn all(&mut self) -> Vec<SeenSpan> {
        let records: Vec<Record> = std::iter::from_fn(|| self.0.try_recv().ok()).collect();
        records.iter().map(|record| seen(record, &records)).collect()
    }
}

fn seen(record: &Record, all: &[Record]) -> SeenSpan {
    let parent = all.iter().find(|other| other.context.span_id() == record.parent.span_id());
    let parent_name = match parent {
        Some(parent) => parent.name.to_string(),
        None if record.parent.is_valid() => format!("{:016x}", record.parent.span_id()),
        None => String::new(),
    };
    let attributes = record.attributes.iter().map(|attribute| {
        let value = match &attribute.value {
            Value::Bool(value) => json!(value),
            Value::I64(value) => json!(value),
            Value::F64(value) => json!(value),
            other => json!(other.as_str()),
        };
        (attribute.key.to_string(), value)
    });
    SeenSpan {
        name: record.name.to_string(),
        parent_name,
        kind: format!("{:?}", record.kind),
        trace_id: format!("{:032x}", record.context.trace_id()),
        state: record.context.trace_state().header(),
        attributes: attributes.collect(),
        is_error: matches!(record.status, Status::Error { .. }),
        start: record.start,
        end: record.end,
    }
}

/// Attributes of each documented span.
pub(crate) type Documented = BTreeMap<&'static str, BTreeSet<&'static str>>;
