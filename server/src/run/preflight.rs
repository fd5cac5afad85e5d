//! `preflight`: runs the checks, prints what was found, answers by exit code. I/O.

use std::path::Path;

use anyhow::Context;

use super::{Failure, log_for_a_person, read_config};
use crate::args::{ExitCode, PreflightArguments};
use crate::preflight::{Check, Report, Severity, TERMINATION_MESSAGE_BYTES, checks};

pub(super) async fn run(arguments: PreflightArguments) -> Result<ExitCode, Failure> {
    let PreflightArguments { config, json, termination_log, print_config, log } = arguments;
    let path = config.config;
    if print_config {
        let config = read_config(&path)?;
        print!("{}", config.to_yaml().context("failed to print the configuration")?);
        return Ok(ExitCode::Success);
    }
    log_for_a_person(&log)?;
    let (report, code) = match read_config(&path) {
        Ok(config) => {
            let report = checks::run(&config).await;
            let code = if report.is_ok() { ExitCode::Success } else { ExitCode::Findings };
            (report, code)
        }
        Err(Failure { code, error }) => {
            let mut report = Report::default();
            report.find(Check::Configuration, Severity::Error, path.display().to_string(), format!("{error:#}"));
            (report, code)
        }
    };
    let text = report.to_json(TERMINATION_MESSAGE_BYTES);
    if let Some(path) = &termination_log {
        write(path, &text)?;
    }
    if json {
        println!("{text}");
    } else {
        print!("{}", report.to_text());
    }
    Ok(code)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("failed to write the findings to {}", path.display()))
}
