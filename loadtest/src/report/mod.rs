//! Figures, goals and charts of a run, as data. The siblings print them and write files.

mod chart;
mod html;
mod numbers;
mod outputs;
mod terminal;

pub(crate) use numbers::{median, number};
pub(crate) use outputs::Outputs;
pub(crate) use terminal::bar;

use crate::machine::Machine;
use hdrhistogram::Histogram;
use serde::Serialize;

/// One figure of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Not a number where the figure is not known.
    pub(crate) value: f64,
    /// Empty for counts.
    pub(crate) unit: &'static str,
}

/// A goal of docs/PERFORMANCE.md: ours beside a floor or a peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// Its number there.
    pub(crate) id: &'static str,
    /// The measured work, in words.
    pub(crate) what: String,
    /// Unit of `ours` and `floor`; empty for counts and plain ratios.
    pub(crate) unit: &'static str,
    /// Median of ours.
    pub(crate) ours: f64,
    /// Median of the floor or peer, if the goal is a ratio.
    pub(crate) floor: Option<f64>,
    /// Name of the floor or peer.
    pub(crate) against: String,
    /// Median of the pairs' ratios; `ours` itself when there is no floor.
    pub(crate) ratio: f64,
    /// Smallest of the pairs' ratios.
    pub(crate) low: f64,
    /// Largest of the pairs' ratios.
    pub(crate) high: f64,
    /// The bound on `ratio`.
    pub(crate) goal: f64,
    /// Whether `ratio` is to be at least the goal, instead of at most.
    pub(crate) at_least: bool,
    /// Whether the goal holds.
    pub(crate) met: bool,
    /// Name and version of the peer, for rows of the peer table.
    pub(crate) peer: Option<String>,
    /// Limits of the figure, and what a peer gives beyond this.
    pub(crate) note: String,
}

/// A line of a chart.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
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
    pub(crate) machine: Machine,
    /// The command line that gave these figures.
    pub(crate) command: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) goals: Vec<Goal>,
    pub(crate) charts: Vec<Chart>,
}

impl Report {
    /// An empty report on this machine. Stolen time is counted from here on.
    pub(crate) fn begin(title: impl Into<String>) -> Self {
        let words = std::env::args().skip(1);
        let command = words.fold("heartline-loadtest".to_owned(), |line, word| line + " " + &word);
        let (rows, goals, charts) = (Vec::new(), Vec::new(), Vec::new());
        Self { title: title.into(), machine: Machine::read(), command, rows, goals, charts }
    }
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
        let at = |quantile| micros(histogram, quantile);
        [("p50", at(0.5)), ("p99", at(0.99)), ("p99.9", at(0.999)), ("max", at(1.0))]
            .map(|(quantile, value)| Self::new(format!("{name} {quantile}"), value, "µs"))
            .to_vec()
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

impl Chart {
    /// Latency of each histogram of nanoseconds by percentile, in microseconds.
    pub(crate) fn latencies(title: String, histograms: &[(&str, &Histogram<u64>)]) -> Self {
        let series =
            histograms.iter().map(|(name, histogram)| Series::percentiles(name, histogram));
        Self::Percentiles { title, unit: "µs", series: series.collect() }
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
        let end = |ratio: Option<&f64>| ratio.copied().unwrap_or(f64::NAN);
        Self {
            floor: Some(floor),
            ratio,
            low: end(ratios.first()),
            high: end(ratios.last()),
            met: ratio <= goal,
            ..Self::bound(id, what, unit, ours, goal)
        }
    }

    /// Turns the bound round: `ratio` is to be at least the goal.
    pub(crate) fn at_least(self) -> Self {
        Self { at_least: true, met: self.ratio >= self.goal, ..self }
    }

    /// Names the floor or peer.
    pub(crate) fn against(self, what: impl Into<String>) -> Self {
        Self { against: what.into(), ..self }
    }

    /// Adds limits of the figure, or what a peer gives beyond this.
    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }
}

/// A quantile of a histogram of nanoseconds, in microseconds.
pub(crate) fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

/// A histogram that holds nothing yet.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are possible")
}

/// All that several histograms hold.
pub(crate) fn merged<'a>(all: impl IntoIterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut sum = histogram();
    all.into_iter().for_each(|one| sum.add(one).expect("they are alike"));
    sum
}
