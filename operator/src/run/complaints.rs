//! Warnings about what fails again and again: a right that is missing fails every second.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The same complaint is logged so often.
const SAME_COMPLAINT: Duration = Duration::from_secs(60);

/// Warnings about watches, each at most once a minute.
#[derive(Debug, Default)]
pub(super) struct Complaints(HashMap<String, Instant>);

impl Complaints {
    pub(super) fn about(&mut self, error: &str) {
        if self.is_new(error, Instant::now()) {
            tracing::warn!(error, "A watch failed; it is tried again");
        }
    }

    fn is_new(&mut self, error: &str, now: Instant) -> bool {
        self.0.retain(|_, last| now.duration_since(*last) < SAME_COMPLAINT);
        let is_new = !self.0.contains_key(error);
        if is_new {
            self.0.insert(error.to_owned(), now);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_are_logged_once_a_minute_and_others_at_once() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        assert!(complaints.is_new("a", now));
        assert!(!complaints.is_new("a", now + Duration::from_secs(59)));
        assert!(complaints.is_new("b", now + Duration::from_secs(59)));
        assert!(complaints.is_new("a", now + SAME_COMPLAINT));
        assert_eq!(complaints.0.len(), 2);
    }
}
