//! Reading and writing the configuration as YAML, with errors that name the field and what is allowed. Pure.

use std::fmt;

use super::{ServerConfig, Violations};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no configuration: no YAML, an unknown field, a wrong type or name.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// It asks for something that cannot be served.
    #[error(transparent)]
    Invalid(#[from] Violations),
    /// It cannot be written as YAML: a path in it is no Unicode.
    #[error("failed to write the configuration as YAML")]
    Render(#[source] serde_yaml::Error),
}

/// The first field that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field, such as `reranker.quantization`. Empty where the document as a whole is wrong.
    pub path: String,
    /// What is wrong with it, without what is allowed.
    pub message: String,
    /// Every name that is allowed there, where names are asked for.
    pub allowed: Vec<String>,
    /// The allowed name that was probably meant.
    pub suggestion: Option<String>,
    /// Line and column, counted from 1.
    pub location: Option<(usize, usize)>,
}

impl std::error::Error for FieldError {}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.message)?;
        if !self.allowed.is_empty() {
            let one_of = if self.allowed.len() == 1 { "" } else { "one of " };
            write!(formatter, ", expected {one_of}{}", self.allowed.join(", "))?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(formatter, "; did you mean `{suggestion}`?")?;
        }
        if let Some((line, column)) = self.location {
            write!(formatter, " (line {line}, column {column})")?;
        }
        Ok(())
    }
}

impl ServerConfig {
    /// Reads a configuration from YAML or JSON. Fields left out have their defaults; an empty document is all defaults.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the first unknown field, wrong type or unknown name, with its path.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let mut track = serde_path_to_error::Track::new();
        let deserializer = serde_yaml::Deserializer::from_str(text);
        let deserializer = serde_path_to_error::Deserializer::new(deserializer, &mut track);
        match <Option<Self> as serde::Deserialize>::deserialize(deserializer) {
            Ok(config) => Ok(config.unwrap_or_default()),
            Err(error) => Err(ConfigError::Field(describe(&track.path().to_string(), &error))),
        }
    }

    /// Reads a configuration and checks that it can be served.
    ///
    /// # Errors
    /// As [`Self::from_yaml`], then [`ConfigError::Invalid`] with everything that [`Self::validate`] finds.
    pub fn load(text: &str) -> Result<Self, ConfigError> {
        let config = Self::from_yaml(text)?;
        config.validate()?;
        Ok(config)
    }

    /// Writes every field as YAML, defaults included; `null` where a field is left out.
    ///
    /// # Errors
    /// [`ConfigError::Render`] where a path is no Unicode, which no configuration that was read can contain.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        serde_yaml::to_string(self).map_err(ConfigError::Render)
    }
}

/// Takes the parser's message apart: its own path and place, the complaint, the names it lists.
fn describe(path: &str, error: &serde_yaml::Error) -> FieldError {
    let path = if path == "." { "" } else { path };
    let location = error.location().map(|location| (location.line(), location.column()));
    let whole = error.to_string();
    let without_place = location
        .and_then(|(line, column)| whole.strip_suffix(&format!(" at line {line} column {column}")))
        .unwrap_or(&whole);
    let complaint = match without_place.split_once(": ") {
        Some((head, rest)) if path.starts_with(head) => rest,
        _ => without_place,
    };
    let (message, expected) = match complaint.split_once(", expected ") {
        Some((message, expected)) if message.starts_with("unknown ") => (message, Some(expected)),
        _ => (complaint, None),
    };
    let allowed: Vec<String> =
        expected.map(|names| names.split('`').skip(1).step_by(2).map(str::to_owned).collect()).unwrap_or_default();
    let given = message.split('`').nth(1).unwrap_or_default();
    let message = if complaint.contains("socket address") {
        format!("{complaint}, expected an address and a port, such as 0.0.0.0:8000")
    } else {
        in_words_of_the_file(message)
    };
    // The key of a map that has no such key is no field of a struct, so its path ends in a question mark.
    let path = path.strip_suffix('?').map_or_else(|| path.to_owned(), |parent| format!("{parent}{given}"));
    FieldError { path, message, suggestion: nearest_name(given, &allowed), allowed, location }
}

/// Replaces the names of our types by what stands in the file.
fn in_words_of_the_file(message: &str) -> String {
    match message.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected a mapping of fields"),
        None => message
            .replace("expected i32", "expected a whole number from -2^31 to 2^31 - 1")
            .replace("expected i64", "expected a whole number"),
    }
}

/// The allowed name that differs from the given one by its case or by few letters.
fn nearest_name(given: &str, allowed: &[String]) -> Option<String> {
    let given = given.to_lowercase();
    let distance = |name: &String| strsim::damerau_levenshtein(&given, &name.to_lowercase());
    let nearest = allowed.iter().min_by_key(|name| distance(name))?;
    (distance(nearest) <= (given.chars().count() / 3).clamp(1, 3)).then(|| nearest.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        ServerConfig::from_yaml(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_name_is_refused_with_path_place_and_the_allowed_ones() {
        assert_eq!(
            error("reranker:\n  quantization: int4\n"),
            "reranker.quantization: unknown variant `int4`, expected one of float32, float16, bfloat16, int8; did you \
             mean `int8`? (line 2, column 17)"
        );
    }

    #[test]
    fn a_typo_in_a_field_is_refused_with_the_field_that_was_meant() {
        assert_eq!(
            error("candidates: {multipler: 3}"),
            "candidates.multipler: unknown field `multipler`, expected one of multiplier, minimum, maximum; did you mean \
             `multiplier`? (line 1, column 14)"
        );
        assert!(error("rerankr: {}").contains("did you mean `reranker`?"));
        assert!(error("lifecycle: {loading: preload}").contains("did you mean `Preload`?"));
        assert!(!error("something: {}").contains("did you mean"));
    }

    #[test]
    fn wrong_types_and_missing_fields_name_their_path() {
        for (text, expected) in [
            (
                "reranker: {maxLength: many}",
                "reranker.maxLength: invalid type: string \"many\", expected a whole number",
            ),
            (
                "reranker: {maxLength: 1.5}",
                "reranker.maxLength: invalid type: floating point `1.5`, expected a whole number",
            ),
            ("reranker: {batchSize: 99999999999}", "reranker.batchSize: invalid value: integer `99999999999`"),
            ("reranker: {enabled: 1}", "reranker.enabled: invalid type: integer `1`, expected a boolean"),
            ("reranker: []", "reranker: invalid type: sequence, expected a mapping of fields"),
            ("reranker: {custom: [{}]}", "reranker.custom[0]: missing field `model`"),
            (
                "vectorStore: {qdrant: {collections: [{name: a}, {textField: b}]}}",
                "vectorStore.qdrant.collections[1]: missing field `name`",
            ),
            ("listen: {apiAddress: localhost}", "expected an address and a port, such as 0.0.0.0:8000"),
            ("listen: {apiAddress: '0.0.0.0:70000'}", "listen.apiAddress: invalid socket address syntax"),
            ("candidates: {minimum: 1, minimum: 2}", "duplicate"),
            ("- 1", "invalid type"),
            ("reranker:\n\tmodel: a", "cannot start any token"),
            ("engine: *b", "unknown anchor"),
            ("{}\n---\n{}", "more than one document"),
        ] {
            let found = error(text);
            assert!(found.contains(expected), "{text}: {found}");
        }
    }

    #[test]
    fn an_empty_document_is_all_defaults() {
        for text in ["", "{}", "# nothing\n", "null", "---\n"] {
            assert_eq!(ServerConfig::from_yaml(text).unwrap(), ServerConfig::default(), "{text:?}");
        }
    }

    #[test]
    fn json_is_read_too() {
        let config = ServerConfig::from_yaml(r#"{"candidates": {"multiplier": 7}}"#).unwrap();
        assert_eq!(config.candidates.multiplier, 7);
    }

    #[test]
    fn every_default_is_visible_in_yaml() {
        let yaml = ServerConfig::default().to_yaml().unwrap();
        for line in [
            "apiAddress: 0.0.0.0:8000",
            "engine: Auto",
            "multiplier: 5",
            "maximum: 200",
            "maxLength: 8192",
            "selfTest: Enforce",
            "unloadTimeoutSeconds: 300",
            "vectorStore: null",
            "batchSize: null",
            "directory: /models",
            "bodyBytes: 2097152",
        ] {
            assert!(yaml.lines().any(|found| found.trim() == line), "{line} is missing in\n{yaml}");
        }
        assert_eq!(ServerConfig::from_yaml(&yaml).unwrap(), ServerConfig::default());
    }
}
