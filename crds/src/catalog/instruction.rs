//! Instruction templates: what 'relevant' means, in words of ours. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::names::{UnknownName, parse_name};

/// What 'relevant' means, in words of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum InstructionTemplate {
    /// Any query and document.
    #[default]
    General,
    /// Technical documents.
    Technical,
    /// Code.
    Code,
    /// Question answering.
    Qa,
}

impl InstructionTemplate {
    /// Every template.
    pub const ALL: [Self; 4] = [Self::General, Self::Technical, Self::Code, Self::Qa];

    /// The name in configuration and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Technical => "technical",
            Self::Code => "code",
            Self::Qa => "qa",
        }
    }

    /// The words that stand in the prompt, to the byte.
    pub const fn text(self) -> &'static str {
        match self {
            Self::General => "Given the query and document, determine if the document is relevant to the query.",
            Self::Technical => "Assess if this technical document provides useful information for the technical query.",
            Self::Code => "Determine if this code snippet is relevant to the programming query.",
            Self::Qa => "Check if this document contains information that answers the question.",
        }
    }
}

impl fmt::Display for InstructionTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for InstructionTemplate {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        parse_name("instruction template", name, &Self::ALL, Self::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_has_the_text_of_the_guide() {
        let texts = InstructionTemplate::ALL.map(|template| (template.as_str(), template.text()));
        assert_eq!(
            texts,
            [
                ("general", "Given the query and document, determine if the document is relevant to the query."),
                ("technical", "Assess if this technical document provides useful information for the technical query."),
                ("code", "Determine if this code snippet is relevant to the programming query."),
                ("qa", "Check if this document contains information that answers the question."),
            ]
        );
    }

    #[test]
    fn names_in_text_and_in_configuration_are_the_same() {
        for template in InstructionTemplate::ALL {
            assert_eq!(template.to_string().parse(), Ok(template));
            assert_eq!(serde_json::to_value(template).unwrap(), template.as_str());
        }
    }

    #[test]
    fn an_unknown_template_is_refused_with_the_allowed_ones() {
        assert_eq!(
            "legal".parse::<InstructionTemplate>().unwrap_err().to_string(),
            "unknown instruction template `legal`, expected one of general, technical, code, qa"
        );
    }
}
