//! Discovery round trips beside an echo of the same length.

use crate::bed::Bed;
use crate::drive::{Drive, Rates};
use crate::floors::{Floor, Responder};
use crate::lab::Lab;
use crate::machine;
use crate::population::{Beats, Wanted, register};
use crate::report::{Chart, Goal, merged, micros, number};
use crate::scenarios::flood;
use crate::socket::Cookie;
use hdrhistogram::Histogram;
use heartline::internals::limits::FRAME_BYTES_MAX;
use std::time::Duration;

const RUN: Duration = Duration::from_secs(1);
/// Requests a second.
const RATE: f64 = 5000.0;
/// Endpoints in an answer: a full frame.
const ENDPOINTS: u16 = 25;
/// The percentiles that have goals.
const QUANTILES: [(f64, &str); 3] = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];

/// Shares of the highest rate of beats. Where that is what the generator can send, the first is
/// taken at which it can also ask.
const SHARES: [f64; 3] = [0.8, 0.7, 0.6];

/// Why there is no figure.
enum Missed {
    /// The generator did not keep its rate of beats.
    Rate(String),
    Other(String),
}

impl From<String> for Missed {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

impl From<Missed> for String {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Rate(reason) | Missed::Other(reason) => reason,
        }
    }
}

/// Histograms of ours and the floor's, pair by pair.
struct Measured {
    pairs: Vec<[[f64; 3]; 2]>,
    ours: Histogram<u64>,
    floor: Histogram<u64>,
}

impl Measured {
    fn goal(&self, id: &'static str, what: &str, quantile: usize, bound: f64) -> Goal {
        let pairs: Vec<(f64, f64)> =
            self.pairs.iter().map(|[ours, floor]| (ours[quantile], floor[quantile])).collect();
        Goal::ratio(id, format!("{what} {}", QUANTILES[quantile].1), "µs", &pairs, bound)
    }

    fn chart(&self, title: String, floor: &str) -> Chart {
        Chart::latencies(title, &[("heartline", &self.ours), (floor, &self.floor)])
    }
}

fn quantiles(histogram: &Histogram<u64>) -> [f64; 3] {
    QUANTILES.map(|(quantile, _)| micros(histogram, quantile))
}

/// Round trips of an engine and of an echo in turns, while beats come at a rate to either. A run
/// that lost an answer, or in which the generator did not keep its rate, says nothing.
fn measure(
    lab: &Lab,
    bed: &mut Bed,
    beats: &mut Beats,
    beat_rate: f64,
) -> Result<Measured, Missed> {
    let echo = Responder::start(lab.engine_cpu, Floor::Echo(FRAME_BYTES_MAX))?;
    let drive = Drive::new(bed.target, Cookie::from(bed)?, ENDPOINTS)?;
    let rates = Rates { beats: beat_rate, discovers: RATE, churn: 0.0 };
    let one = |(drive, beats, is_slow): &mut (Drive, &mut Beats, bool), target| {
        drive.aim(target)?;
        beats.aim(target)?;
        let before = (drive.asked, drive.answered, beats.sent);
        drive.run(RUN, rates, Some(beats))?;
        let (asked, answered, sent) =
            (drive.asked - before.0, drive.answered - before.1, beats.sent - before.2);
        if drive.refused > 0 || answered != asked {
            return Err(format!("{answered} of {asked} answers came, {} refused", drive.refused));
        }
        if (sent as f64) < 0.98 * beat_rate * RUN.as_secs_f64() {
            *is_slow = true;
            return Err(format!("{sent} frames of beats of {beat_rate:.0} a second went out"));
        }
        Ok(drive.take_discovers())
    };
    let mut state = (drive, beats, false);
    let measured =
        lab.pairs(&mut state, |state| one(state, bed.target), |state| one(state, echo.target));
    let missed = if state.2 { Missed::Rate } else { Missed::Other };
    let pairs = measured.map_err(missed)?;
    Ok(Measured {
        pairs: pairs.iter().map(|(ours, floor)| [quantiles(ours), quantiles(floor)]).collect(),
        ours: merged(pairs.iter().map(|pair| &pair.0)),
        floor: merged(pairs.iter().map(|pair| &pair.1)),
    })
}

fn population(lab: &Lab) -> Result<(Bed, Beats), String> {
    let mut bed = Bed::start(131_072, lab.engine_cpu, &[])?;
    let wanted = Wanted::new(100_000, 1000, "g6");
    let leases = machine::pinned(lab.generator_cpu, || register(&mut bed, &wanted))?;
    let beats = Beats::new(bed.target, leases, 50)?;
    Ok((bed, beats))
}

/// G6: nothing else to do.
pub(super) fn alone(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let (mut bed, mut beats) = population(lab)?;
    let measured = measure(lab, &mut bed, &mut beats, 0.0)?;
    let goals: Vec<Goal> = [1.05, 1.10, 1.25]
        .iter()
        .enumerate()
        .map(|(at, &bound)| {
            measured
                .goal("G6", "discovery of 25 endpoints", at, bound)
                .against("echo of as many bytes")
        })
        .collect();
    let title = format!(
        "Discovery takes {} times an echo at the median, {} times at p99",
        number(goals[0].ratio),
        number(goals[1].ratio)
    );
    lab.charts.push(measured.chart(title, "echo"));
    Ok(goals)
}

/// G7: beats at 80 % of the highest rate without loss.
pub(super) fn under_load(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let (mut bed, mut beats) = population(lab)?;
    let found = machine::pinned(lab.generator_cpu, || {
        flood::search(&mut bed, &mut beats, Duration::from_secs(1))
    })?;
    let mut shares = SHARES.into_iter();
    let (share, rate, measured) = loop {
        let share = shares.next().expect("the last one ends the loop");
        let rate = share * found.rate;
        match measure(lab, &mut bed, &mut beats, rate) {
            Err(Missed::Rate(_)) if found.by_generator && shares.len() > 0 => {}
            measured => break (share, rate, measured?),
        }
    };
    let limit =
        if found.by_generator { "what one CPU can send" } else { "the highest rate without loss" };
    let goal = measured.goal("G7", "discovery under beats", 1, 1.25).against("echo beside a sink");
    let goal = goal.note(format!(
        "{rate:.0} datagrams of 50 beats a second, {:.0} % of {limit}, at which the engine uses \
         {:.0} % of a core",
        share * 100.0,
        found.share * 100.0
    ));
    let title = format!(
        "Under {:.1} M beats a second, discovery p99 is {} times an echo beside a sink",
        rate * 50.0 / 1e6,
        number(goal.ratio)
    );
    lab.charts.push(measured.chart(title, "echo beside a sink"));
    Ok(vec![goal])
}
