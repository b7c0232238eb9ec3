//! What a run showed: figures for the terminal, for programs, and as a page.

mod html;

use crate::machine::Machine;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
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

/// One figure of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What it is.
    pub(crate) name: String,
    /// How much.
    pub(crate) value: f64,
    /// Of what; empty for counts.
    pub(crate) unit: &'static str,
}

/// A goal of docs/PERFORMANCE.md: ours beside a floor or a peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// Its number there.
    pub(crate) id: &'static str,
    /// What is measured.
    pub(crate) what: String,
    /// Unit of `ours` and `floor`; empty for counts and plain ratios.
    pub(crate) unit: &'static str,
    /// Median of ours.
    pub(crate) ours: f64,
    /// Median of what it is measured against, if it is a ratio.
    pub(crate) floor: Option<f64>,
    /// What that is, in a few words.
    pub(crate) against: String,
    /// Median of the pairs' ratios; `ours` itself when there is no floor.
    pub(crate) ratio: f64,
    /// Smallest and largest of the pairs' ratios.
    pub(crate) low: f64,
    /// The same, upper end.
    pub(crate) high: f64,
    /// The bound on `ratio`.
    pub(crate) goal: f64,
    /// Whether `ratio` is to be at least the goal, instead of at most.
    pub(crate) at_least: bool,
    /// Whether it holds.
    pub(crate) met: bool,
    /// Name and version of the peer, for rows of the peer table.
    pub(crate) peer: Option<String>,
    /// What the reader should know: what the peer gives beyond this, what limits the figure.
    pub(crate) note: String,
}

/// A line of a chart.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    /// Whose.
    pub(crate) name: String,
    /// x and y.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart of the page. Titles state the finding.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Chart {
    /// Latency (y) by percentile (x, 0 to 100).
    Percentiles { title: String, unit: &'static str, series: Vec<Series> },
    /// A value (y) over seconds (x).
    Timeline { title: String, unit: &'static str, series: Vec<Series> },
    /// A value for each name.
    Bars { title: String, unit: &'static str, bars: Vec<(String, f64)> },
}

/// All that a run showed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The scenario.
    pub(crate) title: String,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// What to run for the same figures.
    pub(crate) command: String,
    /// Its figures.
    pub(crate) rows: Vec<Row>,
    /// Goals that it measured.
    pub(crate) goals: Vec<Goal>,
    /// Charts for the page.
    pub(crate) charts: Vec<Chart>,
}

impl Row {
    /// A figure.
    pub(crate) fn new(name: impl Into<String>, value: impl Into<f64>, unit: &'static str) -> Self {
        Self { name: name.into(), value: value.into(), unit }
    }

    /// A count.
    pub(crate) fn count(name: impl Into<String>, value: u64) -> Self {
        Self { name: name.into(), value: value as f64, unit: "" }
    }

    /// Percentiles of a histogram of nanoseconds, in microseconds.
    pub(crate) fn percentiles(name: &str, histogram: &Histogram<u64>) -> Vec<Self> {
        let at =
            |what: &str, value: u64| Self::new(format!("{name} {what}"), value as f64 / 1e3, "µs");
        let quantile = |what: &str, quantile: f64| at(what, histogram.value_at_quantile(quantile));
        vec![
            quantile("p50", 0.5),
            quantile("p99", 0.99),
            quantile("p99.9", 0.999),
            at("max", histogram.max()),
        ]
    }
}

impl Series {
    /// Latency by percentile, in microseconds, from a histogram of nanoseconds.
    pub(crate) fn percentiles(name: &str, histogram: &Histogram<u64>) -> Self {
        let points = histogram
            .iter_quantiles(4)
            .map(|value| (value.percentile(), value.value_iterated_to() as f64 / 1e3))
            .filter(|point| point.0 < 100.0)
            .collect();
        Self { name: name.into(), points }
    }
}

impl Goal {
    /// A figure that has a bound of its own.
    pub(crate) fn bound(
        id: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        ours: f64,
        goal: f64,
    ) -> Self {
        Self {
            id,
            what: what.into(),
            unit,
            ours,
            floor: None,
            against: String::new(),
            ratio: ours,
            low: ours,
            high: ours,
            goal,
            at_least: false,
            met: ours <= goal,
            peer: None,
            note: String::new(),
        }
    }

    /// Pairs of ours and a floor, measured in turns: at most `goal` times the floor.
    pub(crate) fn ratio(
        id: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        pairs: &[(f64, f64)],
        goal: f64,
    ) -> Self {
        let mut ratios: Vec<f64> = pairs.iter().map(|(ours, floor)| ours / floor).collect();
        let ratio = median(&mut ratios);
        let ours = median(&mut pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
        let floor = median(&mut pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
        let (low, high) = (
            ratios.first().copied().unwrap_or(f64::NAN),
            ratios.last().copied().unwrap_or(f64::NAN),
        );
        Self {
            floor: Some(floor),
            ratio,
            low,
            high,
            met: ratio <= goal,
            ..Self::bound(id, what, unit, ours, goal)
        }
    }

    /// Turns the bound round: `ratio` is to be at least the goal.
    pub(crate) fn at_least(self) -> Self {
        Self { at_least: true, met: self.ratio >= self.goal, ..self }
    }

    /// Says what it is measured against.
    pub(crate) fn against(self, what: impl Into<String>) -> Self {
        Self { against: what.into(), ..self }
    }

    /// Says what the reader should know.
    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    fn line(&self) -> String {
        let floor =
            self.floor.map_or(String::new(), |floor| format!("{} {}", digits(floor), self.unit));
        let spread = if self.low == self.high {
            String::new()
        } else {
            format!("({} to {})", digits(self.low), digits(self.high))
        };
        format!(
            "{:<4} {:<62} {:>16} {:>16} {:>9} {:<18} {:>10} {}",
            self.id,
            self.peer.as_ref().map_or(self.what.clone(), |peer| format!("{}: {peer}", self.what)),
            format!("{} {}", digits(self.ours), self.unit),
            floor,
            digits(self.ratio),
            spread,
            format!("{} {}", if self.at_least { "≥" } else { "≤" }, digits(self.goal)),
            if self.met { "met" } else { "NOT MET" },
        )
    }
}

/// The middle one, or the mean of the two in the middle; sorts the values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.get(values.len() / 2), values.len() % 2) {
        (None, _) => f64::NAN,
        (Some(&upper), 0) => f64::midpoint(values[values.len() / 2 - 1], upper),
        (Some(&middle), _) => middle,
    }
}

/// Three significant digits for small numbers, none after the point for large ones.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 100.0 || (size - size.round()).abs() < 1e-9 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}

impl Report {
    /// Prints the report, and writes what was asked for.
    pub(crate) fn finish(&self, outputs: &Outputs) -> Result<(), String> {
        let to_stdout = outputs.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
        if !to_stdout {
            print!("{self}");
        }
        if let Some(path) = &outputs.json {
            // A list of goals for the list of goals; all there is for everything else.
            let json = if self.goals.is_empty() {
                serde_json::to_string_pretty(self)
            } else {
                serde_json::to_string_pretty(&self.goals)
            };
            let json = json.map_err(|error| error.to_string())? + "\n";
            let written = if to_stdout {
                std::io::stdout().write_all(json.as_bytes())
            } else {
                std::fs::write(path, json)
            };
            written.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        match &outputs.html {
            Some(path) => std::fs::write(path, html::page(self))
                .map_err(|error| format!("{}: {error}", path.display())),
            None => Ok(()),
        }
    }
}

impl Outputs {
    /// Opens the files before a run: a report that can't be written is no surprise to come at its
    /// end.
    pub(crate) fn check(&self) -> Result<(), String> {
        let files = self.json.iter().filter(|path| path.as_os_str() != "-").chain(&self.html);
        files.into_iter().try_for_each(|path| {
            File::create(path).map(drop).map_err(|error| format!("{}: {error}", path.display()))
        })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(to, "{}", self.machine.line())?;
        if !self.goals.is_empty() {
            writeln!(
                to,
                "{:<4} {:<62} {:>16} {:>16} {:>9} {:<18} {:>10}",
                "", "", "ours", "floor", "ratio", "spread", "goal"
            )?;
        }
        self.goals.iter().try_for_each(|goal| writeln!(to, "{}", goal.line()))?;
        self.rows
            .iter()
            .try_for_each(|row| writeln!(to, "{:<52} {} {}", row.name, digits(row.value), row.unit))
    }
}
