//! An error with everything that caused it, in one line for a log. Pure.

use std::any::Any;
use std::error::Error;
use std::fmt::Write;

/// The error's message and those of its sources, joined by colons, without those that say nothing new: many wrappers repeat
/// what they wrap.
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !text.contains(&message) {
            let _ = write!(text, ": {message}");
        }
        source = error.source();
    }
    text
}

/// What a panic said.
pub fn describe_panic(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// Work on a blocking thread that came to nothing, without what its panic said: that can repeat text of a request.
pub fn describe_lost_work(error: &tokio::task::JoinError) -> &'static str {
    if error.is_panic() { "it panicked" } else { "it was given up" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Sample {
        #[error("outer")]
        Outer(#[source] Box<Sample>),
        #[error(transparent)]
        Transparent(Box<Sample>),
        #[error("inner")]
        Inner,
    }

    #[test]
    fn every_cause_is_told_once() {
        let error = Sample::Outer(Box::new(Sample::Transparent(Box::new(Sample::Inner))));
        assert_eq!(describe(&error), "outer: inner");
    }

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        let panic = std::panic::catch_unwind(|| std::panic::panic_any("boom".to_owned())).unwrap_err();
        assert_eq!(describe_panic(panic.as_ref()), "boom");
        assert_eq!(describe_panic(&7_u8), "a panic without a message");
    }
}
