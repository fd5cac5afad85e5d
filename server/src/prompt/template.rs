//! The body of a prompt: literal text with three places for what users write. Pure.

use super::PromptError;

/// A part of the body, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Instruction,
    Query,
    Document,
}

/// A parsed body such as `<Query>: {query}\n<Document>: {document}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BodyTemplate {
    parts: Vec<Part>,
}

const PLACES: [(&str, Part); 3] =
    [("{instruction}", Part::Instruction), ("{query}", Part::Query), ("{document}", Part::Document)];

impl BodyTemplate {
    /// Finds the places. `{query}` must stand once, `{document}` once and last, `{instruction}` at most once; other
    /// braces are ordinary text.
    pub(super) fn parse(body: &str) -> Result<Self, PromptError> {
        let mut parts = Vec::new();
        let mut rest = body;
        while let Some((at, name, place)) = next_place(rest) {
            let (literal, after) = rest.split_at(at);
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(place);
            rest = after.strip_prefix(name).unwrap_or(after);
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        let count = |place: &Part| parts.iter().filter(|part| *part == place).count();
        if parts.last() != Some(&Part::Document) || count(&Part::Document) != 1 {
            return Err(invalid("it must hold {document} once, at its end, so that a cut takes the document only"));
        }
        if count(&Part::Query) != 1 {
            return Err(invalid("it must hold {query} once"));
        }
        if count(&Part::Instruction) > 1 {
            return Err(invalid("it may hold {instruction} once at most"));
        }
        Ok(Self { parts })
    }

    /// Fills the places in one pass: a document that holds `{query}` keeps it.
    pub(super) fn render(&self, instruction: &str, query: &str, document: &str) -> String {
        let mut body = String::with_capacity(64 + instruction.len() + query.len() + document.len());
        for part in &self.parts {
            body.push_str(match part {
                Part::Literal(text) => text,
                Part::Instruction => instruction,
                Part::Query => query,
                Part::Document => document,
            });
        }
        body
    }
}

fn next_place(text: &str) -> Option<(usize, &'static str, Part)> {
    PLACES
        .into_iter()
        .filter_map(|(name, place)| text.find(name).map(|at| (at, name, place)))
        .min_by_key(|(at, _, _)| *at)
}

fn invalid(message: &str) -> PromptError {
    PromptError::Template { field: "prompt.body", message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_in_one_pass() {
        let body = BodyTemplate::parse("<Q>: {query} [{instruction}]\n<D>: {document}").unwrap();
        assert_eq!(
            body.render("{document}", "{instruction}", "{query} and {document}"),
            "<Q>: {instruction} [{document}]\n<D>: {query} and {document}"
        );
    }

    #[test]
    fn a_body_that_could_lose_its_query_to_a_cut_is_refused() {
        for body in
            ["", "{document}", "{query}", "{document} {query}", "{query} {document}.", "{query}{query}{document}"]
        {
            let error = BodyTemplate::parse(body).unwrap_err().to_string();
            assert!(error.starts_with("prompt.body cannot be used: it must hold {"), "{body}: {error}");
        }
        let twice = BodyTemplate::parse("{instruction}{instruction}{query}{document}").unwrap_err().to_string();
        assert!(twice.contains("{instruction} once at most"), "{twice}");
    }

    #[test]
    fn other_braces_are_ordinary_text() {
        let body = BodyTemplate::parse("{} {{query}} {x} {document}").unwrap();
        assert_eq!(body.render("", "q", "d"), "{} {q} {x} d");
    }
}
