//! What a request must look like before any work is done for it. Pure. The API asks before it begins a request, the use
//! case asks for itself.
//!
//! A NUL byte is text like any other: tokenizers encode it, so it is not refused.

use rerank_crds::catalog::InstructionTemplate;
use rerank_crds::server_config::{Candidates, Instruction};

use super::{InstructionChoice, SearchError};

/// Most results of one search.
const MAXIMUM_K: usize = 1_000;
/// Most queries of one batch search.
const MAXIMUM_QUERIES: usize = 64;
/// Longest instruction of a request, in characters.
const MAXIMUM_INSTRUCTION_CHARACTERS: usize = 4_096;

fn out_of_range(field: &'static str, message: String, allowed: String) -> SearchError {
    SearchError::OutOfRange { field, message, allowed }
}

/// A query is not empty and not white space alone.
pub(crate) fn query(field: &'static str, text: &str) -> Result<(), SearchError> {
    if text.trim().is_empty() {
        return Err(out_of_range(field, format!("{field} is empty"), "text that is not white space alone".to_owned()));
    }
    Ok(())
}

/// A search answers 1 to 1,000 results.
pub(crate) fn results(k: i64) -> Result<usize, SearchError> {
    let results = usize::try_from(k).ok().filter(|k| (1..=MAXIMUM_K).contains(k));
    results.ok_or_else(|| out_of_range("k", format!("k is {k}"), format!("1 to {MAXIMUM_K}")))
}

/// `k` is 1 to 1,000, and while reranking not above `candidates.maximum`: more were never read.
pub(super) fn k(k: usize, reranking: bool, candidates: &Candidates) -> Result<(), SearchError> {
    results(i64::try_from(k).unwrap_or(i64::MAX))?;
    let maximum = usize::try_from(candidates.maximum).unwrap_or(0);
    if reranking && k > maximum {
        return Err(out_of_range(
            "k",
            format!(
                "k is {k}, but at most {maximum} candidates are reranked (candidates.maximum); ask for fewer, or \
                 without the reranker (use_reranker=false; on the command line --no-rerank)"
            ),
            format!("1 to {maximum} with the reranker, 1 to {MAXIMUM_K} without"),
        ));
    }
    Ok(())
}

/// A threshold is compared with scores, which are 0 to 1.
pub(crate) fn score_threshold(value: f64) -> Result<(), SearchError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(out_of_range("score_threshold", format!("score_threshold is {value}"), "0 to 1".to_owned()))
}

/// At least one document (or text, as `field` says), and not more than the service takes (`api.limits.documents`).
pub(crate) fn documents(field: &'static str, count: usize, maximum: usize) -> Result<(), SearchError> {
    let allowed = format!("1 to {maximum}");
    if count == 0 {
        return Err(out_of_range(field, format!("{field} is empty"), allowed));
    }
    if count > maximum {
        let message = format!(
            "{field} has {count} entries, more than the {maximum} that one request may bring (api.limits.documents)"
        );
        return Err(SearchError::TooLarge { field, message, allowed });
    }
    Ok(())
}

/// A vector may be shortened to its first components.
pub(crate) fn dimensions(wanted: usize, of_model: usize) -> Result<(), SearchError> {
    if (1..=of_model).contains(&wanted) {
        return Ok(());
    }
    Err(out_of_range("dimensions", format!("dimensions is {wanted}"), format!("1 to {of_model}")))
}

/// At least one query, and not more than a batch takes.
pub(crate) fn queries(count: usize) -> Result<(), SearchError> {
    let allowed = format!("1 to {MAXIMUM_QUERIES}");
    if count == 0 {
        return Err(out_of_range("queries", "queries is empty".to_owned(), allowed));
    }
    if count > MAXIMUM_QUERIES {
        let message = format!("{count} queries are more than the {MAXIMUM_QUERIES} that one request may bring");
        return Err(SearchError::TooLarge { field: "queries", message, allowed });
    }
    Ok(())
}

/// An instruction in the caller's words is not empty and not a document.
pub(crate) fn instruction_text(text: &str) -> Result<(), SearchError> {
    let allowed = || format!("1 to {MAXIMUM_INSTRUCTION_CHARACTERS} characters");
    let characters = text.chars().count();
    if text.trim().is_empty() {
        return Err(out_of_range("instruction", "instruction is empty".to_owned(), allowed()));
    }
    if characters > MAXIMUM_INSTRUCTION_CHARACTERS {
        return Err(out_of_range("instruction", format!("instruction has {characters} characters"), allowed()));
    }
    Ok(())
}

/// The request's instruction, else the configured one, in words.
pub(super) fn instruction(choice: Option<&InstructionChoice>, configured: &Instruction) -> Result<String, SearchError> {
    match choice {
        Some(InstructionChoice::Template(template)) => Ok(template.text().to_owned()),
        Some(InstructionChoice::Text(text)) => instruction_text(text).map(|()| text.clone()),
        None => Ok(match (&configured.text, configured.template) {
            (Some(text), _) => text.clone(),
            (None, template) => template.unwrap_or(InstructionTemplate::General).text().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(outcome: Result<impl std::fmt::Debug, SearchError>) -> (&'static str, String, String) {
        match outcome.unwrap_err() {
            SearchError::OutOfRange { field, message, allowed } | SearchError::TooLarge { field, message, allowed } => {
                (field, message, allowed)
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_empty_query_and_one_of_white_space_are_refused_and_a_nul_byte_is_text() {
        for empty in ["", " ", "\t\r\n", "\u{2003}"] {
            assert_eq!(refusal(query("q", empty)).0, "q");
        }
        query("q", "\0").unwrap();
    }

    #[test]
    fn k_is_one_to_a_thousand() {
        let candidates = Candidates { maximum: 5_000, ..Candidates::default() };
        for bad in [0, 1_001, 1_000_000_000, usize::MAX] {
            assert_eq!(refusal(k(bad, true, &candidates)).2, "1 to 1000");
        }
        for good in [1, 1_000] {
            k(good, true, &candidates).unwrap();
        }
    }

    #[test]
    fn k_above_the_candidates_is_refused_while_reranking_and_names_both() {
        let candidates = Candidates::default();
        k(200, true, &candidates).unwrap();
        k(201, false, &candidates).unwrap();
        let (field, message, _) = refusal(k(201, true, &candidates));
        assert_eq!(field, "k");
        assert!(message.contains("201") && message.contains("200") && message.contains("candidates.maximum"));
    }

    #[test]
    fn a_threshold_is_a_number_from_zero_to_one() {
        for bad in [-0.1, 1.000_000_01, 1e300, f64::NAN, f64::INFINITY] {
            assert_eq!(refusal(score_threshold(bad)).0, "score_threshold");
        }
        for good in [0.0, 1.0] {
            score_threshold(good).unwrap();
        }
    }

    #[test]
    fn no_documents_are_out_of_range_and_too_many_too_large() {
        assert!(matches!(documents("documents", 0, 3), Err(SearchError::OutOfRange { .. })));
        documents("documents", 3, 3).unwrap();
        assert!(matches!(documents("documents", 4, 3), Err(SearchError::TooLarge { .. })));
        assert!(matches!(queries(0), Err(SearchError::OutOfRange { .. })));
        queries(64).unwrap();
        assert!(matches!(queries(65), Err(SearchError::TooLarge { .. })));
    }

    #[test]
    fn the_requests_instruction_comes_before_the_configured_one() {
        let configured = Instruction { template: None, text: Some("Of one's own.".to_owned()) };
        assert_eq!(instruction(None, &configured).unwrap(), "Of one's own.");
        let template = InstructionChoice::Template(InstructionTemplate::Code);
        assert_eq!(
            instruction(Some(&template), &configured).unwrap(),
            "Determine if this code snippet is relevant to the programming query."
        );
        assert_eq!(
            instruction(None, &Instruction::default()).unwrap(),
            "Given the query and document, determine if the document is relevant to the query."
        );
    }

    #[test]
    fn an_instruction_is_one_to_4096_characters_not_bytes() {
        let text = |count: usize| InstructionChoice::Text("ü".repeat(count));
        instruction(Some(&text(4_096)), &Instruction::default()).unwrap();
        for bad in [text(0), text(4_097), InstructionChoice::Text(" ".to_owned())] {
            assert_eq!(refusal(instruction(Some(&bad), &Instruction::default())).0, "instruction");
        }
    }
}
