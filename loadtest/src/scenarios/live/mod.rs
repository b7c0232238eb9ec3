//! The `live` scenario: a population that registers, beats and partly dies.

mod generator;
mod watch;

use crate::bed::Bed;
use crate::machine;
use crate::report::{Chart, Outputs, Row, micros, number};
use crate::target::Target;
use clap::Args;
use generator::{Generator, Window};
use hdrhistogram::Histogram;
use heartline_wire::Stat;
use std::time::Duration;
use watch::Watch;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Instances to register
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
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
    #[command(flatten)]
    pub(crate) outputs: Outputs,
}

/// How many instances of each population die when lateness is measured.
const DEATHS: u32 = 1000;

pub(crate) fn run(options: &Options) -> Result<(), String> {
    check(options)?;
    let mut report = options.outputs.begin("live")?;
    let mut bed = options.target.bed(options.instances, &[])?;
    machine::pin(options.target.generator_cpu()?);
    let mut generator = Generator::new(options, &mut bed)?;
    let window = generator.run()?;
    report.rows = rows(options, &generator, &window);
    let watch = &generator.watch;
    if !watch.lateness.is_empty() {
        let p99 = number(micros(&watch.lateness, 0.99));
        let title = format!("99 % of the dead are found within {p99} µs of their deadline");
        report.charts.push(Chart::latencies(title, &[("from the deadline", &watch.lateness)]));
    }
    options.outputs.finish(report)
}

/// Nanoseconds from the deadline to being found down, for some of a population that beats, and how
/// often the engine counted itself deaf meanwhile. Pin the calling thread.
pub(crate) fn lateness(
    bed: &mut Bed,
    instances: u32,
    ttl: Duration,
) -> Result<(Histogram<u64>, u64), String> {
    let options = Options {
        target: Target { address: Some(bed.target), cpu: None, engine_cpu: None },
        instances,
        services: 1000,
        ttl,
        batch: 50,
        kill: DEATHS,
        seconds: 1,
        sockets: 8,
        discover_rate: 0,
        outputs: Outputs::default(),
    };
    let mut generator = Generator::new(&options, bed)?;
    let Window { before, after, .. } = generator.run()?;
    let Watch { dead, detected, early, lateness, .. } = generator.watch;
    let others = after.engine.since(&before.engine, Stat::Downs).saturating_sub(detected as u64);
    if detected != dead.len() || early + others > 0 {
        return Err(format!(
            "{detected} of {} deaths were found, {early} early, and {others} others were declared \
             down",
            dead.len()
        ));
    }
    Ok((lateness, after.engine.since(&before.engine, Stat::Deafness)))
}

fn check(options: &Options) -> Result<(), String> {
    if options.kill > options.instances {
        let Options { kill, instances, .. } = options;
        return Err(format!("--kill {kill} is more than --instances {instances}"));
    }
    if options.ttl < Duration::from_millis(4) {
        return Err("--ttl is at least 4ms here: the generator can't beat more often than once a \
                    millisecond"
            .into());
    }
    Ok(())
}

fn rows(options: &Options, generator: &Generator<'_>, window: &Window) -> Vec<Row> {
    let Window { before, after, registering, listed } = window;
    let (watch, lag) = (&generator.watch, &generator.beats.lag);
    let engine = |stat| after.engine.since(&before.engine, stat);
    let sent = after.beats - before.beats;
    let (accepted, old) = (engine(Stat::BeatsAccepted), engine(Stat::BeatsOld));
    let (refused, drops) = (engine(Stat::BeatsRefused), engine(Stat::KernelDrops));
    let (restarted, arrived) =
        (after.engine.restarted_since(&before.engine), accepted + old + refused);
    // Of an engine that was started again it is not known: what it counted begins there.
    let known = |value: f64| if restarted { f64::NAN } else { value };
    let dropped = drops * u64::from(options.batch);
    let unaccounted = sent as f64 - (arrived + dropped) as f64;
    let cpu = engine(Stat::CpuNs) as f64;
    let memory = after.engine.get(Stat::MemoryBytes) as f64;
    let capacity = after.engine.get(Stat::Capacity).max(1) as f64;
    let false_downs = engine(Stat::Downs).saturating_sub(watch.detected as u64);
    let unsent = after.unsent - before.unsent;
    // A generator that is late by a twentieth of the interval tests its own scheduler.
    let interval_us = options.ttl.as_secs_f64() * 1e6 / 4.0;
    let is_limit = unsent > 0 || micros(lag, 0.99) > interval_us / 20.0;
    let share = 100.0 * cpu / engine(Stat::UptimeNs).max(1) as f64;
    let mut rows = vec![
        Row::count("instances", options.instances.into()),
        Row::count("services", options.services.min(options.instances).into()),
        Row::new("TTL", options.ttl.as_millis() as f64, "ms"),
        Row::count("beats a datagram", options.batch.into()),
        Row::new(
            "registered a second",
            f64::from(options.instances) / registering.as_secs_f64(),
            "",
        ),
        Row::count("beats sent", sent),
        Row::count("beats accepted", accepted),
        Row::count("beats old", old),
        Row::count("beats refused", refused),
        Row::new("beats lost", known(sent.saturating_sub(arrived) as f64), ""),
        Row::new("beats unaccounted", known(unaccounted), ""),
        Row::count("datagrams of beats", after.frames - before.frames),
        Row::count("datagrams not sent", unsent),
        Row::count("datagrams answered", after.answers - before.answers),
        Row::count("datagrams dropped by the kernel", drops),
        Row::count("started again under way", restarted.into()),
        Row::count("killed", watch.dead.len() as u64),
        Row::count("found", watch.detected as u64),
        Row::count("found early", watch.early),
        Row::count("false downs", false_downs),
        Row::count("listed in the end", *listed),
        Row::count("discover replies", watch.discovers),
        Row::count("endpoints in them", watch.endpoints),
        Row::new("engine CPU a beat", cpu / accepted.max(1) as f64, "ns"),
        Row::new("engine CPU a datagram", cpu / engine(Stat::Datagrams).max(1) as f64, "ns"),
        Row::new("engine CPU", share, "% of a core"),
        Row::new("engine memory", memory, "B"),
        Row::new("engine memory for each lease of its capacity", memory / capacity, "B"),
        Row::count("up in the end", after.engine.get(Stat::Up)),
        Row::count("holds", engine(Stat::Holds)),
        Row::count("deafness", engine(Stat::Deafness)),
        Row::count("limited by the generator, not the engine", is_limit.into()),
    ];
    rows.extend(Row::percentiles("generator lag", lag));
    if !watch.lateness.is_empty() {
        rows.extend(Row::percentiles("from the last beat", &watch.from_beat));
        rows.extend(Row::percentiles("from the deadline", &watch.lateness));
    }
    rows
}
