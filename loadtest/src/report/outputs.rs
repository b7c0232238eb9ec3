//! Where a report goes.

use super::{Report, html, terminal};
use std::fs::File;
use std::path::PathBuf;

/// Where a report goes beside the terminal.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Outputs {
    /// Write the figures as JSON to a file; without a file, to standard output and nothing else
    /// there
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write a page with charts to a file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Outputs {
    /// Begins a report. Files are opened now: one that can't be written would be a surprise at the
    /// end of a run.
    pub(crate) fn begin(&self, title: impl Into<String>) -> Result<Report, String> {
        for path in self.json.iter().filter(|path| path.as_os_str() != "-").chain(&self.html) {
            File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(Report::begin(title))
    }

    /// Prints a report, and writes the files.
    pub(crate) fn finish(&self, mut report: Report) -> Result<(), String> {
        report.machine.finish();
        let written = |path: &PathBuf, text: String| {
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        match &self.json {
            Some(path) if path.as_os_str() == "-" => print!("{}", json(&report)?),
            Some(path) => written(path, json(&report)?)?,
            None => {}
        }
        if self.json.as_ref().is_none_or(|path| path.as_os_str() != "-") {
            print!("{}", terminal::text(&report));
        }
        self.html.as_ref().map_or(Ok(()), |path| written(path, html::page(&report)))
    }
}

/// Goals as a list; of every other scenario the whole report.
fn json(report: &Report) -> Result<String, String> {
    let json = if report.goals.is_empty() {
        serde_json::to_string_pretty(report)
    } else {
        serde_json::to_string_pretty(&report.goals)
    };
    json.map(|json| json + "\n").map_err(|error| error.to_string())
}
