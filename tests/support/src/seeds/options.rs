//! What the environment chooses: seeds, length, faults.

use super::{Fault, FaultClass};

/// Which seeds are run, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first seed.
    pub first: u64,
    /// The last seed.
    pub last: u64,
    /// Simulated seconds before the quiet end; `None`: the seed decides.
    pub seconds: Option<u64>,
    /// Numbers and classes of the faults that are kept; empty: all.
    pub faults: Vec<String>,
    /// Real minutes for which further seeds are run.
    pub minutes: Option<u64>,
}

impl Options {
    /// `HEARTLINE_SEEDS`, `HEARTLINE_FAULTS`, `HEARTLINE_SIM_SECONDS` and `HEARTLINE_SIM_MINUTES`;
    /// so many seeds unless the first says otherwise.
    pub(super) fn from_environment<C: FaultClass>(seeds: u64) -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name: &str| {
            text(name).map(|text| {
                text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number"))
            })
        };
        let seeds = text("HEARTLINE_SEEDS").unwrap_or_else(|| format!("1..{seeds}"));
        let (first, last) = seeds
            .split_once("..")
            .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
            .unwrap_or_else(|| panic!("HEARTLINE_SEEDS={seeds} is not FIRST..LAST, both included"));
        let faults: Vec<String> = text("HEARTLINE_FAULTS")
            .map(|text| text.split(',').map(|part| part.trim().to_owned()).collect())
            .unwrap_or_default();
        let names: Vec<&str> = C::ALL.iter().map(|(_, name)| *name).collect();
        for fault in &faults {
            let known = fault == "none"
                || fault.parse::<usize>().is_ok()
                || names.contains(&fault.as_str());
            assert!(known, "HEARTLINE_FAULTS: {fault} is neither a number nor one of {names:?}");
        }
        Self {
            first,
            last,
            seconds: number("HEARTLINE_SIM_SECONDS"),
            faults,
            minutes: number("HEARTLINE_SIM_MINUTES"),
        }
    }

    /// Whether a fault is kept.
    pub(super) fn keeps<C: FaultClass>(&self, fault: &Fault<C>) -> bool {
        let is_chosen =
            |chosen: &String| chosen.parse() == Ok(fault.number) || *chosen == fault.class.name();
        self.faults.is_empty() || self.faults.iter().any(is_chosen)
    }
}
