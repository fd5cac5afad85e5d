//! Model ids and revisions: which are allowed. They become paths under the weights directory. Pure.

/// The most characters that a model id or a revision may have.
const MAXIMUM_LENGTH: usize = 200;

/// Why a text cannot name a model or a revision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidModelId {
    /// Not `name` or `organisation/name` in safe characters.
    #[error(
        "`{given}` is no model id; allowed: `name` or `organisation/name`, each part of letters, digits, `-`, `_` and \
         `.`, beginning with a letter or digit, without `..`, at most {MAXIMUM_LENGTH} characters in all"
    )]
    Model {
        /// What was given.
        given: String,
    },
    /// Not a branch, tag or commit in safe characters.
    #[error(
        "`{given}` is no revision; allowed: a commit, tag or branch of letters, digits, `-`, `_`, `.` and `/`, beginning \
         with a letter or digit, without `..`, at most {MAXIMUM_LENGTH} characters"
    )]
    Revision {
        /// What was given.
        given: String,
    },
}

/// Checks that `id` is `name` or `organisation/name` and can be joined to a folder without leaving it.
pub fn check_model_id(id: &str) -> Result<(), InvalidModelId> {
    let parts = id.split('/').count();
    if parts <= 2 && is_safe_path(id) { Ok(()) } else { Err(InvalidModelId::Model { given: shorten(id) }) }
}

/// Checks that `revision` is a commit, tag or branch and can be joined to a folder without leaving it.
pub fn check_revision(revision: &str) -> Result<(), InvalidModelId> {
    if is_safe_path(revision) { Ok(()) } else { Err(InvalidModelId::Revision { given: shorten(revision) }) }
}

fn is_safe_path(path: &str) -> bool {
    path.len() <= MAXIMUM_LENGTH && path.split('/').all(is_safe_part)
}

fn is_safe_part(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_alphanumeric())
        && part.chars().all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character))
        && !part.contains("..")
        && !part.ends_with('.')
}

/// Keeps an error message readable when megabytes were given.
fn shorten(given: &str) -> String {
    let mut text: String = given.chars().take(MAXIMUM_LENGTH).collect();
    if text.len() < given.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_an_organisation_are_model_ids() {
        for id in ["Qwen/Qwen3-Reranker-0.6B", "tiny-reranker", "a", "org_1/model.v2", "0x/7b"] {
            assert_eq!(check_model_id(id), Ok(()), "{id}");
        }
    }

    #[test]
    fn ids_that_could_leave_the_weights_directory_are_refused() {
        for id in [
            "", "/", "/etc", "a/", "/a", "..", "../x", "a/..", "a..b", "a/b/c", ".hidden", "a/.b", "a b", "a\\b",
            "a\0b", "é", "-a", "a.", "~/x", "C:x", "a\n",
        ] {
            let error = check_model_id(id).unwrap_err().to_string();
            assert!(error.contains("allowed: `name` or `organisation/name`"), "{id}: {error}");
        }
        assert!(check_model_id(&"a".repeat(200)).is_ok());
        assert!(check_model_id(&"a".repeat(201)).is_err());
    }

    #[test]
    fn a_very_long_id_is_shortened_in_the_message() {
        assert!(check_model_id(&"é".repeat(1_000_000)).unwrap_err().to_string().len() < 1_000);
    }

    #[test]
    fn revisions_are_commits_tags_and_branches() {
        for revision in ["main", "97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3", "v1.0", "refs/pr/3"] {
            assert_eq!(check_revision(revision), Ok(()), "{revision}");
        }
        for revision in ["", "../main", "/main", "a//b", "main ", "--upload-pack=x"] {
            assert!(check_revision(revision).is_err(), "{revision}");
        }
    }
}
