//! Preflight: could `serve` answer? What was checked and what was found, as text and as bounded JSON. This file is
//! pure; `preflight::checks` asks files, devices and the store.

use std::fmt::Write as _;

use serde::Serialize;

pub mod checks;

/// Kubernetes keeps so many bytes of a container's termination message.
pub const TERMINATION_MESSAGE_BYTES: usize = 4_096;

/// Whether a finding keeps the service from answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Requests would fail.
    Error,
    /// It works, but not as one would expect.
    Warning,
}

/// What was checked: a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The configuration file.
    Configuration,
    /// API key files.
    ApiKeys,
    /// Certificate and key of the API.
    Tls,
    /// Weights are there, whole and of a known kind.
    Weights,
    /// The tokenizer makes prompts.
    Tokenizer,
    /// What computes, with which instructions.
    Engine,
    /// Needed against free memory.
    Memory,
    /// The vector store answers.
    Store,
    /// The collection fits the embedding model.
    Collection,
}

impl Check {
    fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::ApiKeys => "api_keys",
            Self::Tls => "tls",
            Self::Weights => "weights",
            Self::Tokenizer => "tokenizer",
            Self::Engine => "engine",
            Self::Memory => "memory",
            Self::Store => "store",
            Self::Collection => "collection",
        }
    }
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check.
    pub check: Check,
    /// How bad.
    pub severity: Severity,
    /// Model, collection, file: what it is about.
    pub subject: String,
    /// What is wrong and what would do.
    pub message: String,
}

/// One thing that is in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Which check.
    pub check: Check,
    /// What it is about, with the numbers found.
    pub subject: String,
}

/// All findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is in order.
    pub passed: Vec<Passed>,
    /// What is not.
    pub findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct ReportJson<'a> {
    ok: bool,
    findings: &'a [Finding],
    #[serde(skip_serializing_if = "is_zero")]
    omitted_findings: usize,
    passed: &'a [Passed],
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Report {
    /// Whether nothing keeps the service from answering.
    pub fn is_ok(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }

    /// Notes that something is in order.
    pub fn pass(&mut self, check: Check, subject: impl Into<String>) {
        self.passed.push(Passed { check, subject: subject.into() });
    }

    /// Notes a finding.
    pub fn find(&mut self, check: Check, severity: Severity, subject: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding { check, severity, subject: subject.into(), message: message.into() });
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Passed { check, subject } in &self.passed {
            let _ = writeln!(text, "ok       {:<14} {subject}", check.as_str());
        }
        for Finding { check, severity, subject, message } in &self.findings {
            let severity = match severity {
                Severity::Error => "ERROR",
                Severity::Warning => "warning",
            };
            let _ = writeln!(text, "{severity:<8} {:<14} {subject}: {message}", check.as_str());
        }
        text
    }

    /// JSON of at most `bytes` bytes: what is in order is left out first, then messages are shortened, then findings
    /// from the end, warnings before errors, and counted.
    pub fn to_json(&self, bytes: usize) -> String {
        let mut findings = self.findings.clone();
        findings.sort_by_key(|finding| finding.severity == Severity::Warning);
        let whole = self.json(&findings, &self.passed);
        if whole.len() <= bytes {
            return whole;
        }
        for longest in [1_000, 300, 100] {
            for finding in &mut findings {
                shorten(&mut finding.message, longest);
                shorten(&mut finding.subject, longest);
            }
            let shorter = self.json(&findings, &[]);
            if shorter.len() <= bytes {
                return shorter;
            }
        }
        while findings.pop().is_some() {
            let shorter = self.json(&findings, &[]);
            if shorter.len() <= bytes {
                return shorter;
            }
        }
        self.json(&[], &[])
    }

    fn json(&self, findings: &[Finding], passed: &[Passed]) -> String {
        let omitted_findings = self.findings.len() - findings.len();
        serde_json::to_string(&ReportJson { ok: self.is_ok(), findings, omitted_findings, passed })
            .expect("a report holds only text, which is always JSON")
    }
}

fn shorten(text: &mut String, longest: usize) {
    if let Some((end, _)) = text.char_indices().nth(longest) {
        text.truncate(end);
        text.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: usize, message: &str) -> Report {
        let mut report = Report::default();
        report.pass(Check::Store, "reachable");
        for index in 0..findings {
            let severity = if index % 2 == 0 { Severity::Warning } else { Severity::Error };
            report.find(Check::Weights, severity, format!("model {index}"), message);
        }
        report
    }

    #[test]
    fn a_short_report_is_whole() {
        let json: serde_json::Value = serde_json::from_str(&report(2, "missing").to_json(4_096)).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["findings"].as_array().unwrap().len(), 2);
        assert_eq!(json["findings"][0]["severity"], "error");
        assert_eq!(json["passed"][0], serde_json::json!({"check": "store", "subject": "reachable"}));
    }

    #[test]
    fn json_never_exceeds_its_bound_and_counts_what_is_left_out() {
        for (findings, length) in [(1, 10_000), (3, 4_000), (10, 500), (1_000, 200)] {
            let report = report(findings, &"ä".repeat(length));
            let text = report.to_json(TERMINATION_MESSAGE_BYTES);
            assert!(text.len() <= TERMINATION_MESSAGE_BYTES, "{findings} findings: {} bytes", text.len());
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let shown = json["findings"].as_array().unwrap().len();
            let omitted = json["omitted_findings"].as_u64().unwrap_or(0);
            assert_eq!(shown as u64 + omitted, findings as u64);
            assert_eq!(json["ok"], report.is_ok());
        }
    }

    #[test]
    fn warnings_alone_keep_nothing_from_answering() {
        let mut report = Report::default();
        report.find(Check::Collection, Severity::Warning, "docs", "no embedding model is recorded");
        assert!(report.is_ok());
        assert!(report.to_text().contains("warning  collection     docs: no embedding model is recorded"));
    }
}
