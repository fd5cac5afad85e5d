//! Spans of OpenTelemetry's API that end up in a queue. What is not sampled is not recorded, only its ids are passed on.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, Tracer,
};
use opentelemetry::{Context, KeyValue};

use super::export::Queue;
use super::sampling::Share;

/// Begins spans.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    share: Share,
    queue: Queue,
}

impl Recorder {
    pub(super) fn new(share: Share, queue: Queue) -> Self {
        Self { share, queue }
    }
}

/// A span that has ended, or has still to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) context: SpanContext,
    /// [`SpanContext::NONE`] at the root of a trace.
    pub(super) parent: SpanContext,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: SpanKind,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) attributes: Vec<KeyValue>,
    pub(super) status: Status,
}

/// A span under way.
#[derive(Debug)]
pub(crate) struct RecordedSpan {
    context: SpanContext,
    /// None where it is not sampled, and once it has ended.
    record: Option<Box<Record>>,
    queue: Queue,
}

impl Tracer for Recorder {
    type Span = RecordedSpan;

    fn build_with_context(&self, builder: SpanBuilder, parent: &Context) -> RecordedSpan {
        // Links and events are left: no span of ours has them, and an event could hold what a log line holds.
        let SpanBuilder { span_kind, name, start_time, attributes, events: _, links: _ } = builder;
        let parent = parent.span().span_context().clone();
        let trace = if parent.is_valid() { parent.trace_id() } else { TraceId::from(fastrand::u128(1..)) };
        let sampled = self.share.keeps(&parent, trace, span_kind.as_ref());
        let context = SpanContext::new(
            trace,
            SpanId::from(fastrand::u64(1..)),
            TraceFlags::default().with_sampled(sampled),
            false,
            parent.trace_state().clone(),
        );
        let record = sampled.then(|| {
            let start = start_time.unwrap_or_else(SystemTime::now);
            Box::new(Record {
                context: context.clone(),
                parent,
                name,
                kind: span_kind.unwrap_or(SpanKind::Internal),
                start,
                end: start,
                attributes: attributes.unwrap_or_default(),
                status: Status::Unset,
            })
        });
        RecordedSpan { context, record, queue: self.queue.clone() }
    }
}

impl Span for RecordedSpan {
    fn add_event_with_timestamp<T: Into<Cow<'static, str>>>(&mut self, _: T, _: SystemTime, _: Vec<KeyValue>) {}

    fn span_context(&self) -> &SpanContext {
        &self.context
    }

    fn is_recording(&self) -> bool {
        self.record.is_some()
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        let Some(record) = &mut self.record else { return };
        match record.attributes.iter_mut().find(|known| known.key == attribute.key) {
            Some(known) => *known = attribute,
            None => record.attributes.push(attribute),
        }
    }

    fn set_status(&mut self, status: Status) {
        if let Some(record) = &mut self.record
            && status > record.status
        {
            record.status = status;
        }
    }

    fn update_name<T: Into<Cow<'static, str>>>(&mut self, name: T) {
        if let Some(record) = &mut self.record {
            record.name = name.into();
        }
    }

    fn add_link(&mut self, _: SpanContext, _: Vec<KeyValue>) {}

    fn end_with_timestamp(&mut self, end: SystemTime) {
        if let Some(mut record) = self.record.take() {
            // The clock can be set back meanwhile.
            record.end = end.max(record.start);
            self.queue.push(*record);
        }
    }
}

impl Drop for RecordedSpan {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn recorder(percent: i32) -> (Recorder, tokio::sync::mpsc::Receiver<Record>) {
        let (queue, records) = Queue::of(8);
        (Recorder::new(Share::of_percent(percent), queue), records)
    }

    #[test]
    fn a_child_is_recorded_in_its_parents_trace() {
        let (recorder, mut records) = recorder(100);
        let root = recorder.build_with_context(SpanBuilder::from_name("request"), &Context::new());
        let parent = Context::new().with_span(root);
        let mut child = recorder.build_with_context(SpanBuilder::from_name("store"), &parent);
        child.set_attribute(KeyValue::new("rerank.candidates", 1));
        child.set_attribute(KeyValue::new("rerank.candidates", 2));
        child.set_status(Status::error(""));
        child.set_status(Status::Unset);
        drop(child);
        parent.span().end();
        let (child, root) = (records.try_recv().unwrap(), records.try_recv().unwrap());
        assert_eq!((child.name.as_ref(), root.name.as_ref()), ("store", "request"));
        assert_eq!(child.parent, root.context);
        assert_eq!(child.context.trace_id(), root.context.trace_id());
        assert_eq!(child.attributes, [KeyValue::new("rerank.candidates", 2)]);
        assert_eq!(child.status, Status::error(""));
        assert!(!root.parent.is_valid());
        assert!(records.try_recv().is_err(), "each ends once");
    }

    #[test]
    fn what_is_not_sampled_has_ids_and_no_record() {
        let (recorder, mut records) = recorder(0);
        let span = recorder.build_with_context(SpanBuilder::from_name("request"), &Context::new());
        assert!(span.span_context().is_valid() && !span.span_context().is_sampled() && !span.is_recording());
        drop(span);
        assert!(records.try_recv().is_err());
    }

    #[test]
    fn a_span_never_ends_before_it_began() {
        let (recorder, mut records) = recorder(100);
        let mut span = recorder.build_with_context(SpanBuilder::from_name("request"), &Context::new());
        span.end_with_timestamp(SystemTime::now() - Duration::from_secs(60));
        let record = records.try_recv().unwrap();
        assert_eq!(record.end, record.start);
    }
}
