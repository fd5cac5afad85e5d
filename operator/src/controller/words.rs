//! What an error says to people, and text of others made harmless. Pure.

use kube::core::Status;

/// An error with its causes. Of the API server's answers its own words, reason and code; nothing of how this program keeps them.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let source = error.source();
        let (words, rest) = match answer(error) {
            Some(status) => (of_answer(status), None),
            None => (own_words(error, source), source),
        };
        if !words.is_empty() && !text.contains(&words) {
            let separator = if text.is_empty() { "" } else { ": " };
            text.push_str(separator);
            text.push_str(&words);
        }
        next = rest;
    }
    plain(&text)
}

/// What the API server answered, where that is the error.
pub(super) fn answer<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Status> {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some(status),
        _ => error.downcast_ref::<Status>().or_else(|| error.downcast_ref::<Box<Status>>().map(AsRef::as_ref)),
    }
}

fn of_answer(status: &Status) -> String {
    let Status { message, reason, code, .. } = status;
    // Reasons of Kubernetes are one word; a text that is no answer of its has none.
    match (message.trim(), reason.as_str()) {
        ("", reason) => format!("{code} {reason}"),
        (message, "") => format!("{message} ({code})"),
        (message, reason) if reason.contains(' ') => format!("{message} ({code})"),
        (message, reason) => format!("{message} ({code} {reason})"),
    }
}

/// Without those of its cause, which many repeat.
fn own_words(error: &dyn std::error::Error, source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let words = error.to_string();
    let cause = source.map(ToString::to_string).unwrap_or_default();
    let own = words.strip_suffix(&cause).filter(|_| !cause.is_empty()).unwrap_or(&words);
    own.trim_end_matches([':', ' ']).to_owned()
}

/// Text that stays on its line and shows what it holds: control characters and those that turn the direction of writing are escaped.
pub fn plain(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' => made.push(' '),
            _ if character.is_control() || is_invisible(character) => made.extend(character.escape_unicode()),
            _ => made.push(character),
        }
    }
    made
}

/// Turns the direction of writing, ends a line, or has no width.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to apply Service docs")]
    struct Failed(#[source] kube::Error);

    fn refused() -> kube::Error {
        kube::Error::Api(Status::failure("services is forbidden", "Forbidden").with_code(403).boxed())
    }

    #[test]
    fn the_api_servers_answer_is_told_once_in_its_own_words() {
        assert_eq!(describe(&Failed(refused())), "failed to apply Service docs: services is forbidden (403 Forbidden)");
        let listed = kube::runtime::watcher::Error::InitialListFailed(refused());
        assert_eq!(describe(&listed), "failed to perform initial object list: services is forbidden (403 Forbidden)");
        let text = kube::Error::Api(
            Status::failure("404 page not found", "Failed to parse error data").with_code(404).boxed(),
        );
        assert_eq!(describe(&text), "404 page not found (404)");
    }

    #[test]
    fn other_causes_are_told_each_once() {
        let inner = std::io::Error::other("connection refused");
        let error = Failed(kube::Error::Service(Box::new(inner)));
        assert_eq!(describe(&error), "failed to apply Service docs: ServiceError: connection refused");
    }

    #[test]
    fn text_of_others_stays_on_its_line_and_turns_nothing_around() {
        assert_eq!(plain("a\nb\u{202e}c\u{0}d"), "a b\\u{202e}c\\u{0}d");
        assert_eq!(plain("größer als 8 GB"), "größer als 8 GB");
    }
}
