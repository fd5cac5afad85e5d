//! What a configuration asks for that cannot be served, collected in full. Pure.

use std::fmt;
use std::ops::RangeInclusive;

/// One thing that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, such as `vectorStore.qdrant.url`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
    /// What is allowed, where that is not said by the message.
    pub allowed: Option<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.message)?;
        self.allowed.as_ref().map_or(Ok(()), |allowed| write!(formatter, "; allowed: {allowed}"))
    }
}

/// Everything that cannot be served, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Of a list. None: it is empty.
    pub fn of(list: Vec<Violation>) -> Option<Self> {
        (!list.is_empty()).then_some(Self(list))
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a Violation;
    type IntoIter = std::slice::Iter<'a, Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for violation in &self.0 {
            write!(formatter, "{separator}{violation}")?;
            separator = "\n";
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// Collects violations.
#[derive(Debug, Default)]
pub(super) struct Checks(Vec<Violation>);

impl Checks {
    /// Notes that `path` is wrong in a way whose cure the message says.
    pub(super) fn refuse(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation { path: path.into(), message: message.into(), allowed: None });
    }

    /// Notes that `path` is wrong, and what is allowed.
    pub(super) fn refuse_unless_allowed(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        self.0.push(Violation { path: path.into(), message: message.into(), allowed: Some(allowed.into()) });
    }

    /// A number within a range.
    pub(super) fn range(&mut self, path: impl Into<String>, value: impl Into<i64>, range: RangeInclusive<i64>) {
        let value = value.into();
        if !range.contains(&value) {
            let allowed = format!("{} to {}", range.start(), range.end());
            self.refuse_unless_allowed(path, format!("{value} is out of range"), allowed);
        }
    }

    /// A text of so many characters, of which not all are white space.
    pub(super) fn text(&mut self, path: impl Into<String>, text: &str, maximum_characters: usize) {
        let characters = text.chars().count();
        let allowed = || format!("1 to {maximum_characters} characters");
        if text.trim().is_empty() {
            self.refuse_unless_allowed(path, "is empty", allowed());
        } else if characters > maximum_characters {
            self.refuse_unless_allowed(path, format!("has {characters} characters"), allowed());
        } else if text.contains('\0') {
            self.refuse_unless_allowed(path, "contains a NUL character", "text without it");
        }
    }

    /// The error of a check whose message says what is allowed.
    pub(super) fn result<E: fmt::Display>(&mut self, path: impl Into<String>, result: Result<(), E>) {
        if let Err(error) = result {
            self.refuse(path, error.to_string());
        }
    }

    pub(super) fn finish(self) -> Result<(), Violations> {
        Violations::of(self.0).map_or(Ok(()), Err)
    }
}
