//! The `live` scenario: a population that registers, beats and partly dies.

mod fleet;
mod generator;
mod report;
mod watch;

use crate::bed::Bed;
use crate::machine::{self, Machine, Steal};
use crate::target::Target;
use clap::Args;
use generator::Generator;
use hdrhistogram::Histogram;
use heartline::clock;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Instances to register
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) instances: u32,
    /// Services to spread them over
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) services: u32,
    /// Time to live of their leases; they beat four times in it
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,
    /// Beats in a datagram
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) batch: u16,
    /// Instances that stop beating
    #[arg(long, default_value_t = 100)]
    pub(crate) kill: u32,
    /// Seconds to run after all are registered
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Sockets to beat through
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) sockets: u16,
    /// Discover requests a second while the load runs
    #[arg(long, default_value_t = 500)]
    pub(crate) discover_rate: u32,
    /// Write the report to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// How many instances of each population die when lateness is measured.
const DEATHS: u32 = 1000;

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut options = options.clone();
    options.services = options.services.min(options.instances);
    let options = &options;
    check(options)?;
    // Before the run: a report that can't be written is no surprise to come at its end.
    let json = match &options.json {
        Some(path) => Some((
            path,
            std::fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?,
        )),
        None => None,
    };
    let steal = Steal::read();
    let bed = options.target.bed(options.instances, &[])?;
    machine::pin(options.target.generator_cpu()?);
    let (report, _) = Generator::new(options, bed.target, clock::now())
        .map_err(|error| error.to_string())?
        .run()?;
    drop(bed);
    let report = report.on(Machine::read(&steal).line());
    report.print();
    if let Some((path, file)) = json {
        serde_json::to_writer_pretty(file, &report)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Nanoseconds from the deadline to being found down, for some of a population that beats, and how
/// often the engine counted itself deaf meanwhile. Pin the calling thread.
pub(crate) fn lateness(
    bed: &mut Bed,
    instances: u32,
    ttl: Duration,
) -> Result<(Histogram<u64>, u64), String> {
    let target = Target { address: Some(bed.target), cpu: None, engine_cpu: None };
    let options = Options {
        target,
        instances,
        services: 1000,
        ttl,
        batch: 50,
        kill: DEATHS,
        seconds: 1,
        sockets: 8,
        discover_rate: 0,
        json: None,
    };
    let (report, lateness) = Generator::new(&options, bed.target, clock::now())
        .map_err(|error| error.to_string())?
        .run()?;
    report.expect_all()?;
    Ok((lateness, report.deafness()))
}

fn check(options: &Options) -> Result<(), String> {
    if options.kill > options.instances {
        return Err(format!(
            "--kill {} is more than --instances {}",
            options.kill, options.instances
        ));
    }
    if options.ttl < Duration::from_millis(4) {
        return Err("--ttl is at least 4ms here: the generator can't beat more often than once a millisecond".into());
    }
    Ok(())
}
