//! OTLP's messages for spans, as far as we send them: the fields of opentelemetry-proto 1.x with their numbers. Pure.
//!
//! The generated types of the crate `opentelemetry-proto` would bring OpenTelemetry's SDK along (docs/adr/0005).

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanKind, Status as SpanStatus};
use opentelemetry::{KeyValue as Attribute, Value};
use prost::{Message, Oneof};

use super::recorder::Record;

/// The method that takes spans.
pub const EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Says in [`Span::flags`] that it is known whether the parent is another process's.
const HAS_IS_REMOTE: u32 = 0x100;
/// Says in [`Span::flags`] that it is.
const IS_REMOTE: u32 = 0x200;

/// What is sent.
#[derive(Clone, PartialEq, Message)]
pub struct ExportRequest {
    /// Spans by where they come from.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// What comes back.
#[derive(Clone, PartialEq, Message)]
pub struct ExportResponse {
    /// Present where not all was taken.
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// What was not taken.
#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    /// How many spans.
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
    /// Why.
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// Spans of one process.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceSpans {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Spans by what made them.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// A process.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    /// Its name, version and instance.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// Spans of one library.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeSpans {
    /// The library.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// Its spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// A library.
#[derive(Clone, PartialEq, Message)]
pub struct Scope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// One span.
#[derive(Clone, PartialEq, Message)]
pub struct Span {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// As in the header `tracestate`.
    #[prost(string, tag = "3")]
    pub trace_state: String,
    /// 8 bytes; none at the root.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    /// What was done.
    #[prost(string, tag = "5")]
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// What is known of it.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// How it ended.
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
    /// The W3C's flags, and whether the parent is another process's.
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

/// How a span ended.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// Why, where it is an error.
    #[prost(string, tag = "2")]
    pub message: String,
    /// 0 unset, 1 well, 2 error.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// A name with its value.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// The name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value of any type.
#[derive(Clone, PartialEq, Message)]
pub struct AnyValue {
    /// The value.
    #[prost(oneof = "Any", tags = "1, 2, 3, 4")]
    pub value: Option<Any>,
}

/// The types that our attributes have.
#[derive(Clone, PartialEq, Oneof)]
pub enum Any {
    /// A text.
    #[prost(string, tag = "1")]
    Text(String),
    /// Yes or no.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// A whole number.
    #[prost(int64, tag = "3")]
    Int(i64),
    /// Any other number.
    #[prost(double, tag = "4")]
    Double(f64),
}

/// Spans of this process.
pub(super) fn request(process: &Resource, records: Vec<Record>) -> ExportRequest {
    let scope = Scope { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = records.into_iter().map(span).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    ExportRequest { resource_spans: vec![ResourceSpans { resource: Some(process.clone()), scope_spans }] }
}

/// This process, told from other instances by a random name.
pub(super) fn this_process() -> Resource {
    let instance = uuid::Uuid::new_v4().to_string();
    let attribute = |key: &'static str, value: &str| attribute(Attribute::new(key, value.to_owned()));
    Resource {
        attributes: vec![
            attribute("service.name", env!("CARGO_PKG_NAME")),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("service.instance.id", &instance),
        ],
    }
}

fn span(record: Record) -> Span {
    let Record { context, parent, name, kind, start, end, attributes, status } = record;
    Span {
        trace_id: context.trace_id().to_bytes().to_vec(),
        span_id: context.span_id().to_bytes().to_vec(),
        trace_state: context.trace_state().header(),
        parent_span_id: if parent.is_valid() { parent.span_id().to_bytes().to_vec() } else { Vec::new() },
        name: name.into_owned(),
        kind: match kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
            SpanKind::Producer => 4,
            SpanKind::Consumer => 5,
        },
        start_time_unix_nano: nanoseconds(start),
        end_time_unix_nano: nanoseconds(end),
        attributes: attributes.into_iter().map(attribute).collect(),
        status: match status {
            SpanStatus::Unset => None,
            SpanStatus::Ok => Some(Status { message: String::new(), code: 1 }),
            SpanStatus::Error { description } => Some(Status { message: description.into_owned(), code: 2 }),
        },
        flags: flags(&context, &parent),
    }
}

fn flags(context: &SpanContext, parent: &SpanContext) -> u32 {
    let remote = if parent.is_remote() { IS_REMOTE } else { 0 };
    u32::from(context.trace_flags().to_u8()) | HAS_IS_REMOTE | remote
}

fn attribute(attribute: Attribute) -> KeyValue {
    let value = match attribute.value {
        Value::Bool(value) => Any::Bool(value),
        Value::I64(value) => Any::Int(value),
        Value::F64(value) => Any::Double(value),
        other => Any::Text(other.to_string()),
    };
    KeyValue { key: attribute.key.to_string(), value: Some(AnyValue { value: Some(value) }) }
}

/// Until the year 2554.
fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
