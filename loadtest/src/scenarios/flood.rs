//! The `flood` scenario: the highest rate of datagrams at which none is lost.

use crate::bed::Bed;
use crate::machine;
use crate::population::{Beats, Wanted, register};
use crate::report::{Outputs, Row};
use crate::target::Target;
use clap::Args;
use heartline_wire::Stat;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Leases that beat
    #[arg(long, default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    instances: u32,
    /// Beats in a datagram
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=50))]
    batch: u16,
    /// Seconds for each rate that is tried
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    trial: Duration,
    #[command(flatten)]
    outputs: Outputs,
}

/// What a search found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Datagrams a second without a loss.
    pub(crate) rate: f64,
    /// The generator could not send faster, so the engine's own limit is higher.
    pub(crate) by_generator: bool,
    /// The engine's share of a core at that rate.
    pub(crate) share: f64,
}

/// Whether a rate went without loss, the rate as it came to be, and the engine's share of a core
/// meanwhile.
fn attempt(
    bed: &mut Bed,
    beats: &mut Beats,
    rate: Option<f64>,
    trial: Duration,
) -> Result<(bool, f64, f64), String> {
    let (before, beats_before) = (bed.counters()?, beats.beats);
    let sent = beats.run(trial, rate)?;
    let after = bed.counters()?;
    let arrived = after.since(&before, Stat::BeatsAccepted) + after.since(&before, Stat::BeatsOld);
    let lossless =
        arrived == beats.beats - beats_before && after.since(&before, Stat::KernelDrops) == 0;
    Ok((
        lossless,
        sent as f64 / trial.as_secs_f64(),
        after.since(&before, Stat::CpuNs) as f64 / trial.as_nanos() as f64,
    ))
}

/// Searches: first as fast as the generator can, then by halves.
pub(crate) fn search(bed: &mut Bed, beats: &mut Beats, trial: Duration) -> Result<Found, String> {
    let (lossless, most, share) = attempt(bed, beats, None, trial)?;
    if lossless {
        return Ok(Found { rate: most, by_generator: true, share });
    }
    let mut found = Found { rate: 0.0, by_generator: false, share: 0.0 };
    let (mut low, mut high) = (0.0, most);
    for _ in 0..6 {
        let middle = (low + high) / 2.0;
        match attempt(bed, beats, Some(middle), trial)? {
            (true, rate, share) => {
                found = Found { rate, by_generator: false, share };
                low = middle;
            }
            _ => high = middle,
        }
    }
    Ok(found)
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut report = options.outputs.begin("flood")?;
    let mut bed = options.target.bed(options.instances, &[])?;
    machine::pin(options.target.generator_cpu()?);
    let leases = register(&mut bed, &Wanted::new(options.instances, 1000, "flood"))?;
    let mut beats = Beats::new(bed.target, leases, options.batch.into())?;
    let found = search(&mut bed, &mut beats, options.trial)?;
    report.rows = vec![
        Row::new("datagrams a second without a loss", found.rate, ""),
        Row::new("beats a second without a loss", found.rate * f64::from(options.batch), ""),
        Row::new("engine's share of a core at that rate", 100.0 * found.share, "%"),
        Row::count("limited by the generator, not the engine", u64::from(found.by_generator)),
    ];
    options.outputs.finish(report)
}
