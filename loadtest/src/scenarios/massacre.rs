//! The `massacre` scenario: all but a few fall silent at once, and the time until the engine has
//! said so of each.

use crate::bed::Bed;
use crate::machine;
use crate::population::{Beats, Wanted, register};
use crate::report::{Outputs, Row};
use crate::target::Target;
use clap::Args;
use heartline_wire::Stat;
use std::time::{Duration, Instant};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Leases in all
    #[arg(long, default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(100..=16_777_216))]
    instances: u32,
    /// Time to live of their leases; longer than it takes to register them
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    outputs: Outputs,
}

/// Figures of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// From the first deadline to the last verdict.
    pub(crate) took: Duration,
    /// Instances that were declared down.
    pub(crate) downs: u64,
    /// Beats of the survivors that were sent and not accepted.
    pub(crate) lost: u64,
    /// Beats of the survivors.
    pub(crate) beats: u64,
}

/// Registers them, beats all once more, then goes on with one in a hundred until the others are
/// down.
pub(crate) fn measure(bed: &mut Bed, instances: u32, ttl: Duration) -> Result<Outcome, String> {
    let leases = register(bed, &Wanted::new(instances, 1000, "massacre").ttl(ttl))?;
    let mut beats = Beats::new(bed.target, leases, 50)?;
    let first_deadline = Instant::now() + ttl;
    let frames = beats.leases().len().div_ceil(50);
    while beats.sent < frames as u64 {
        // Half of what an engine takes, so that none is lost.
        beats.send_for(Duration::from_millis(5), Some(200_000.0))?;
    }
    let survivors = instances / 100;
    let before = bed.counters()?;
    let beats_before = beats.beats;
    beats.keep(survivors as usize);
    let (rate, dead) = (beats.rate(ttl / 8), u64::from(instances - survivors));
    let deadline = first_deadline + Duration::from_secs(60);
    loop {
        beats.send_for(Duration::from_millis(20), Some(rate))?;
        let now = Instant::now();
        // Asking costs the engine a little: not before it begins. What is under way arrives
        // meanwhile.
        let after = if now < first_deadline { continue } else { bed.counters()? };
        let downs = after.since(&before, Stat::Downs);
        if downs >= dead || now > deadline {
            let alive = after.get(Stat::Up) + after.get(Stat::Suspect);
            if (downs, alive) != (dead, u64::from(survivors)) {
                return Err(format!(
                    "{downs} were declared down and {alive} live, instead of {dead} and {survivors}"
                ));
            }
            let arrived =
                after.since(&before, Stat::BeatsAccepted) + after.since(&before, Stat::BeatsOld);
            let sent = beats.beats - beats_before;
            return Ok(Outcome {
                took: first_deadline.elapsed(),
                downs,
                lost: sent.saturating_sub(arrived),
                beats: sent,
            });
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut report = options.outputs.begin("massacre")?;
    let mut bed = options.target.bed(options.instances, &["--hold", "off"])?;
    machine::pin(options.target.generator_cpu()?);
    let outcome = measure(&mut bed, options.instances, options.ttl)?;
    let took = outcome.took.as_secs_f64();
    report.rows = vec![
        Row::count("leases", options.instances.into()),
        Row::count("declared down", outcome.downs),
        Row::new("from the first deadline to the last verdict", took, "s"),
        Row::count("beats of the survivors", outcome.beats),
        Row::count("of which were lost", outcome.lost),
    ];
    options.outputs.finish(report)
}
