//! The list of docs/PERFORMANCE.md, measured: ours beside a floor or a peer, in turns, with spread.

mod beats;
mod deaths;
mod discovery;
mod in_memory;
mod restarts;
mod sizes;

pub(crate) use beats::engine_cost;

use crate::machine::{self, Machine, Steal};
use crate::peers;
use crate::report::{Chart, Goal, Outputs, Report, digits};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only these, for example G1,G4,P1
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Pairs of runs for each ratio
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,
    #[command(flatten)]
    outputs: Outputs,
}

/// Where and how often things are measured.
pub(crate) struct Lab {
    /// CPU of engines, floors and peers.
    pub(crate) engine_cpu: usize,
    /// CPU of whoever loads them.
    pub(crate) generator_cpu: usize,
    /// Pairs for each ratio.
    pub(crate) pairs: u32,
    /// Charts that came off.
    pub(crate) charts: Vec<Chart>,
}

/// Pairs with more stolen time than this, in percent, say nothing.
const STEAL_MAX: f64 = 1.0;
/// A pair is tried at most this often.
const TRIES: u32 = 3;

impl Lab {
    /// Measures ours and a floor in turns: A B, B A, A B ... Pairs in which the machine was taken
    /// away are measured again.
    pub(crate) fn pairs<T>(
        &mut self,
        mut ours: impl FnMut() -> Result<T, String>,
        mut floor: impl FnMut() -> Result<T, String>,
    ) -> Result<Vec<(T, T)>, String> {
        (0..self.pairs)
            .map(|pair| {
                let mut tries = 1;
                loop {
                    let steal = Steal::read();
                    let measured = if pair % 2 == 0 {
                        let first = ours()?;
                        (first, floor()?)
                    } else {
                        let first = floor()?;
                        (ours()?, first)
                    };
                    if steal.percent() <= STEAL_MAX || tries == TRIES {
                        return Ok(measured);
                    }
                    tries += 1;
                }
            })
            .collect()
    }
}

/// Beats a CPU second of ours and the peers', if there are any.
fn throughput(goals: &[Goal]) -> Option<Chart> {
    let peers = goals
        .iter()
        .filter_map(|goal| Some((goal, goal.peer.as_ref()?, goal.floor?)))
        .filter(|(goal, ..)| goal.id.starts_with('P'));
    let mut bars: Vec<(String, f64)> = peers
        .map(|(goal, peer, theirs)| {
            (
                format!("{peer}: {}", goal.what.rsplit(" / ").next().unwrap_or_default()),
                theirs / 1e6,
            )
        })
        .collect();
    let fastest = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
    let ours = |batch: bool| {
        goals
            .iter()
            .filter(move |goal| goal.peer.is_some() && (goal.ours > 5e6) == batch)
            .map(|goal| goal.ours / 1e6)
            .next()
    };
    let (batched, single) = (ours(true)?, ours(false)?);
    bars.insert(0, ("heartline, 50 a datagram".into(), batched));
    bars.insert(1, ("heartline, one a datagram".into(), single));
    let title = format!(
        "{} M beats a CPU second in batches, {} M singly; no peer more than {} M",
        digits(batched),
        digits(single),
        digits(fastest)
    );
    Some(Chart::Bars { title, unit: "M beats a CPU second", bars })
}

type Measure = fn(&mut Lab) -> Result<Vec<Goal>, String>;

/// What is measured together, and which numbers of the list come of it.
const LIST: [(&[&str], Measure); 14] = [
    (&["G1"], beats::single),
    (&["G2", "G3", "G13", "G14", "G17"], sizes::million),
    (&["G4"], in_memory::apply),
    (&["G5"], in_memory::lookup),
    (&["G6"], discovery::alone),
    (&["G7"], discovery::under_load),
    (&["G9"], deaths::lateness),
    (&["G10"], deaths::massacre),
    (&["G11"], deaths::false_downs),
    (&["G14"], sizes::empty),
    (&["G15"], restarts::restart),
    (&["G16"], restarts::snapshots),
    (&["P1", "P2", "P3"], peers::stores),
    (&["P4", "P5"], peers::datagram_servers),
];

pub(crate) fn run(options: &Options) -> Result<(), String> {
    options.outputs.check()?;
    let known: Vec<&str> = LIST.iter().flat_map(|(ids, _)| ids.iter().copied()).collect();
    if let Some(unknown) = options.only.iter().find(|id| !known.contains(&id.as_str())) {
        return Err(format!(
            "--only {unknown}: there are {}; G8 and G12 wait for the clients that they speak of",
            known.join(" ")
        ));
    }
    let wanted = |id: &str| options.only.is_empty() || options.only.iter().any(|only| only == id);
    let (engine_cpu, generator_cpu) = machine::two_cpus()?;
    let mut lab = Lab { engine_cpu, generator_cpu, pairs: options.pairs, charts: Vec::new() };
    let (steal, begin) = (Steal::read(), Instant::now());
    let groups: Vec<_> = LIST.iter().filter(|(ids, _)| ids.iter().any(|id| wanted(id))).collect();
    let bar = ProgressBar::new(groups.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{msg:24} [{bar:40}] {pos}/{len} {elapsed}")
            .map_err(|error| error.to_string())?,
    );
    bar.enable_steady_tick(Duration::from_secs(1));
    let (mut goals, mut failed) = (Vec::new(), Vec::new());
    for (ids, measure) in groups {
        bar.set_message(ids.join(" "));
        match measure(&mut lab) {
            Ok(measured) => goals.extend(measured.into_iter().filter(|goal| wanted(goal.id))),
            // The others can be measured all the same.
            Err(reason) => failed.push(format!("{}: {reason}", ids.join(" "))),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    // Peers come last, the others by number; those of one number stay as they are.
    goals.sort_by_key(|goal| {
        (goal.peer.is_some() && goal.id.starts_with('P'), goal.id[1..].parse::<u32>().unwrap_or(0))
    });
    lab.charts.extend(throughput(&goals));
    eprintln!("\nmeasured in {} s", begin.elapsed().as_secs());
    Report {
        title: "heartline beside its floors and peers".into(),
        machine: Machine::read(&steal),
        command: crate::command_line(),
        rows: Vec::new(),
        goals,
        charts: lab.charts,
    }
    .finish(&options.outputs)?;
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured: {}", failed.join("; "))) }
}
