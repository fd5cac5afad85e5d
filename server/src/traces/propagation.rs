//! W3C Trace Context: `traceparent` and `tracestate`, in and out. Pure.

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The header that names trace and caller.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what others add to it.
pub const TRACESTATE: &str = "tracestate";

/// Longest `tracestate` that is kept, as the W3C asks for at least; a longer one is dropped.
const LONGEST_STATE: usize = 512;

/// The caller's trace and span. None where the header is missing, given twice or not well-formed.
pub(crate) fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let (Some(text), None) = (given.next(), given.next()) else { return None };
    let (trace, span, flags) = read_parent(text.to_str().ok()?.trim())?;
    Some(SpanContext::new(trace, span, flags, true, read_state(headers)))
}

/// `00-<32 hex>-<16 hex>-<2 hex>`; a later version may have more behind.
fn read_parent(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let known = is_hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    if !(known && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2)) {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    // Of the flags only the one for sampling is ours to pass on.
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span, flags))
}

/// Lists of several headers are one list. A list that is not well-formed is dropped, and the trace goes on without.
fn read_state(headers: &HeaderMap) -> TraceState {
    let lists: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok()).collect();
    let list = lists.unwrap_or_default().join(",");
    if list.len() > LONGEST_STATE { TraceState::NONE } else { list.parse().unwrap_or_default() }
}

/// The headers for whoever is called next: `traceparent`, and `tracestate` where there is one. None without a trace.
pub(crate) fn headers(context: &SpanContext) -> Option<(String, Option<String>)> {
    if !context.is_valid() {
        return None;
    }
    let parent = format!("00-{:032x}-{:016x}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags());
    Some((parent, Some(context.trace_state().header()).filter(|state| !state.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers_of(parents: &[&str], states: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, parent.parse().unwrap());
        }
        for state in states {
            headers.append(TRACESTATE, state.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_parent_comes_in_and_goes_out_unchanged() {
        let context = parent(&headers_of(&[PARENT], &["vendor=a:1, other=b", "third=c"])).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        let expected = (PARENT.to_owned(), Some("vendor=a:1,other=b,third=c".to_owned()));
        assert_eq!(headers(&context), Some(expected));
        let unsampled = parent(&headers_of(&[&PARENT.replace("-01", "-00")], &[])).unwrap();
        assert_eq!(headers(&unsampled), Some((PARENT.replace("-01", "-00"), None)));
        assert_eq!(headers(&SpanContext::NONE), None);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = PARENT.replacen("00", "cc", 1) + "-more";
        let context = parent(&headers_of(&[&later], &[])).unwrap();
        assert_eq!(headers(&context).unwrap().0, PARENT);
        let other_flags = PARENT.replace("-01", "-ff");
        assert_eq!(headers(&parent(&headers_of(&[&other_flags], &[])).unwrap()).unwrap().0, PARENT);
    }

    #[test]
    fn what_is_not_well_formed_begins_a_trace_of_its_own() {
        for bad in [
            "",
            "x",
            "00",
            &PARENT[..54],
            &(PARENT.to_owned() + "-more"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replacen("00", "0", 1),
            &PARENT.to_uppercase(),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            assert_eq!(parent(&headers_of(&[bad], &[])), None, "{bad:?}");
        }
        assert_eq!(parent(&headers_of(&[PARENT, PARENT], &[])), None, "given twice");
        assert_eq!(parent(&HeaderMap::new()), None);
    }

    #[test]
    fn a_state_that_is_no_list_or_too_long_is_dropped_alone() {
        let long = format!("a={}", "x".repeat(LONGEST_STATE));
        for bad in ["no-value", "UPPER=1", &long] {
            let context = parent(&headers_of(&[PARENT], &[bad])).unwrap();
            assert_eq!(context.trace_state(), &TraceState::NONE, "{bad}");
        }
    }
}
