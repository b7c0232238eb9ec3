//! The list of docs/PERFORMANCE.md, measured: ours beside a floor or a peer, in turns, with spread.

mod agents;
mod beats;
mod deaths;
mod discovery;
mod in_memory;
mod picks;
mod restarts;
mod sizes;
mod sudden;
mod watching;

use crate::lab::Lab;
use crate::peers;
use crate::report::{self, Chart, Goal, Outputs, number};
use clap::Args;
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
        number(batched),
        number(single),
        number(fastest)
    );
    Some(Chart::Bars { title, unit: "M beats a CPU second", bars })
}

type Measure = fn(&mut Lab) -> Result<Vec<Goal>, String>;

/// Measurements, and the numbers of the list that each gives.
const LIST: [(&[&str], Measure); 19] = [
    (&["G1"], beats::single),
    (&["G2", "G3", "G13", "G14", "G17"], sizes::million),
    (&["G4"], in_memory::apply),
    (&["G5"], in_memory::lookup),
    (&["G6"], discovery::alone),
    (&["G7"], discovery::under_load),
    (&["G8"], picks::picks),
    (&["G9"], deaths::lateness),
    (&["G10"], deaths::massacre),
    (&["G11"], deaths::false_downs),
    (&["G12"], watching::fan_out),
    (&["G18"], watching::seen),
    (&["G14"], sizes::empty),
    (&["G15"], restarts::restart),
    (&["G16"], restarts::snapshots),
    (&["G19"], sudden::deaths),
    (&["G20"], agents::beating),
    (&["P1", "P2", "P3"], peers::stores),
    (&["P4", "P5"], peers::datagram_servers),
];

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut report = options.outputs.begin("heartline beside its floors and peers")?;
    let known: Vec<&str> = LIST.iter().flat_map(|(ids, _)| ids.iter().copied()).collect();
    if let Some(unknown) = options.only.iter().find(|id| !known.contains(&id.as_str())) {
        return Err(format!("--only {unknown}: there are {}", known.join(" ")));
    }
    let wanted = |id: &str| options.only.is_empty() || options.only.iter().any(|only| only == id);
    let mut lab = Lab::new(options.pairs)?;
    let begin = Instant::now();
    let groups: Vec<_> = LIST.iter().filter(|(ids, _)| ids.iter().any(|id| wanted(id))).collect();
    let bar = report::bar(groups.len() as u64, "{msg:24} [{bar:40}] {pos}/{len} {elapsed}");
    bar.enable_steady_tick(Duration::from_secs(1));
    let mut failed = Vec::new();
    for (ids, measure) in groups {
        bar.set_message(ids.join(" "));
        match measure(&mut lab) {
            Ok(goals) => report.goals.extend(goals.into_iter().filter(|goal| wanted(goal.id))),
            // The others can be measured all the same.
            Err(reason) => failed.push(format!("{}: {reason}", ids.join(" "))),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    // Peers come last, the others by number; those of one number stay as they are.
    report.goals.sort_by_key(|goal| {
        (goal.peer.is_some() && goal.id.starts_with('P'), goal.id[1..].parse::<u32>().unwrap_or(0))
    });
    report.charts = lab.charts;
    report.charts.extend(throughput(&report.goals));
    eprintln!("\nmeasured in {} s", begin.elapsed().as_secs());
    options.outputs.finish(report)?;
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured: {}", failed.join("; "))) }
}
