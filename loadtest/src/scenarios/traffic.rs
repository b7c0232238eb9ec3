//! The scenarios `discover`, `mixed`, `churn` and `soak`: beats, questions and registrations side
//! by side, each at its rate.

use super::flood;
use crate::bed::{Bed, Counters};
use crate::drive::{Drive, Rates};
use crate::machine;
use crate::population::{Beats, HOUR, Wanted, register};
use crate::report::{self, Chart, Outputs, Report, Row, Series, merged, micros, number};
use crate::socket::Cookie;
use crate::target::Target;
use clap::Args;
use hdrhistogram::Histogram;
use heartline_wire::Stat;
use std::path::Path;
use std::time::{Duration, Instant};

/// Which mixture a scenario is, where no option says otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    name: &'static str,
    instances: u32,
    /// Percent of the highest rate of beats at which none is lost.
    load: f64,
    discovers: f64,
    churn: f64,
    seconds: u64,
    snapshots: bool,
}

/// Beats, questions and registrations for a short time.
pub(crate) const MIXED: Profile = Profile {
    name: "mixed",
    instances: 100_000,
    load: 50.0,
    discovers: 1000.0,
    churn: 1000.0,
    seconds: 10,
    snapshots: false,
};
/// The same for half an hour, with snapshots.
pub(crate) const SOAK: Profile =
    Profile { name: "soak", load: 60.0, churn: 500.0, seconds: 1800, snapshots: true, ..MIXED };
/// Questions only.
pub(crate) const DISCOVER: Profile = Profile {
    name: "discover",
    instances: 10_000,
    load: 0.0,
    discovers: 5000.0,
    churn: 0.0,
    ..MIXED
};
/// Instances that come and go.
pub(crate) const CHURN: Profile =
    Profile { name: "churn", discovers: 0.0, churn: 20_000.0, ..DISCOVER };

/// What is left out takes the value of the scenario.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Leases that beat
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    instances: Option<u32>,
    /// Services that they are of
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    services: u32,
    /// Time to live of their leases [default: 3s where they beat, else 1h]
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// Beats in a datagram
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=50))]
    batch: u16,
    /// Beats, in percent of the highest rate at which none is lost, which is searched first
    #[arg(long)]
    load: Option<f64>,
    /// Discover requests a second
    #[arg(long)]
    discovers: Option<f64>,
    /// Endpoints that each of them asks for
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=25))]
    endpoints: u16,
    /// Registrations a second; as many leases are given back
    #[arg(long)]
    churn: Option<f64>,
    /// Seconds to run
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=864_000))]
    seconds: Option<u64>,
    #[command(flatten)]
    outputs: Outputs,
}

/// One part of the run.
struct Slice {
    /// Seconds from the start to its end.
    at: f64,
    discovers: Histogram<u64>,
    resident: u64,
}

pub(crate) fn run(profile: Profile, options: &Options) -> Result<(), String> {
    let mut report = options.outputs.begin(profile.name)?;
    let snapshot =
        std::env::temp_dir().join(format!("heartline-loadtest-{}.snapshot", std::process::id()));
    let result = drive(profile, options, &snapshot, &mut report);
    let _ = std::fs::remove_file(snapshot);
    result?;
    options.outputs.finish(report)
}

fn drive(
    profile: Profile,
    options: &Options,
    snapshot: &Path,
    report: &mut Report,
) -> Result<(), String> {
    let instances = options.instances.unwrap_or(profile.instances);
    let load = options.load.unwrap_or(profile.load);
    let flags = if profile.snapshots {
        vec!["--snapshot", snapshot.to_str().ok_or("the temporary directory has a strange name")?]
    } else {
        vec![]
    };
    let mut bed = options.target.bed(instances.saturating_mul(2), &flags)?;
    machine::pin(options.target.generator_cpu()?);
    let ttl = options.ttl.unwrap_or(if load > 0.0 { Duration::from_secs(3) } else { HOUR });
    let wanted = Wanted::new(instances, options.services, profile.name).ttl(ttl);
    let leases = register(&mut bed, &wanted)?;
    let mut beats = Beats::new(bed.target, leases, options.batch.into())?;
    let beat_rate = if load > 0.0 {
        flood::search(&mut bed, &mut beats, Duration::from_secs(1))?.rate * load / 100.0
    } else {
        0.0
    };
    let rates = Rates {
        beats: beat_rate,
        discovers: options.discovers.unwrap_or(profile.discovers),
        churn: options.churn.unwrap_or(profile.churn),
    };
    let mut drive = Drive::new(bed.target, Cookie::from(&mut bed)?, options.endpoints)?;
    // Until memory and caches are as they will be.
    drive.run(Duration::from_secs(1), rates, Some(&mut beats))?;
    let _ = drive.take_discovers();
    let (before, beats_before) = (bed.counters()?, beats.beats);
    let seconds = options.seconds.unwrap_or(profile.seconds);
    let slices = go_on(seconds, rates, &mut bed, &mut drive, &mut beats)?;
    let after = bed.counters()?;
    let end = slices.last().map_or(0.0, |slice| slice.at);
    report.rows = rows(&drive, end, &before, &after, beats.beats - beats_before);
    discoveries(&slices, end, report);
    if !drive.changes.is_empty() {
        report.rows.extend(Row::percentiles("registration", &drive.changes));
    }
    memory(&slices, report);
    Ok(())
}

fn go_on(
    seconds: u64,
    rates: Rates,
    bed: &mut Bed,
    drive: &mut Drive,
    beats: &mut Beats,
) -> Result<Vec<Slice>, String> {
    let part = Duration::from_secs(if seconds > 120 { 30 } else { 1 });
    let bar = report::bar(seconds, "{msg:40} [{bar:40}] {pos}/{len} s");
    let (start, mut slices) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs() < seconds {
        drive.run(part, rates, Some(beats))?;
        let discovers = drive.take_discovers();
        bar.set_message(format!("discovery p99 {} µs", number(micros(&discovers, 0.99))));
        bar.set_position(start.elapsed().as_secs());
        let resident = bed.pid().map_or(0, machine::resident_bytes);
        slices.push(Slice { at: start.elapsed().as_secs_f64(), discovers, resident });
    }
    bar.finish_and_clear();
    Ok(slices)
}

fn rows(drive: &Drive, end: f64, before: &Counters, after: &Counters, beats: u64) -> Vec<Row> {
    let grown = |stat| after.since(before, stat);
    let arrived = grown(Stat::BeatsAccepted) + grown(Stat::BeatsOld);
    let share = 100.0 * grown(Stat::CpuNs) as f64 / grown(Stat::UptimeNs).max(1) as f64;
    vec![
        Row::new("time", end, "s"),
        Row::count("beats sent", beats),
        Row::count("beats lost", beats.saturating_sub(arrived)),
        Row::count("datagrams dropped by the kernel", grown(Stat::KernelDrops)),
        Row::count("false downs", grown(Stat::Downs)),
        Row::count("requests", drive.asked),
        Row::count("requests without an answer", drive.asked - drive.answered),
        Row::count("refused", drive.refused),
        Row::new("engine's share of a core", share, "%"),
        Row::count("snapshots written", grown(Stat::Snapshot)),
    ]
}

/// Discovery over all, and over the run.
fn discoveries(slices: &[Slice], end: f64, report: &mut Report) {
    let within = |from: f64, to: f64| {
        let slices = slices.iter().filter(move |slice| slice.at > from && slice.at <= to + 0.5);
        merged(slices.map(|slice| &slice.discovers))
    };
    let all = within(0.0, end);
    if all.is_empty() {
        return;
    }
    report.rows.extend(Row::percentiles("discovery", &all));
    let title =
        format!("99 % of discoveries are answered within {} µs", number(micros(&all, 0.99)));
    report.charts.push(Chart::latencies(title, &[("discovery", &all)]));
    let first = within(0.0, 60.0).value_at_quantile(0.99).max(1);
    let ratio = within(end - 60.5, end).value_at_quantile(0.99) as f64 / first as f64;
    if end >= 120.0 {
        report.rows.push(Row::new("discovery p99 of the last minute / of the first", ratio, ""));
    }
    let ratio = number(ratio);
    let title = format!("Discovery p99 over the run: the end is {ratio} times the beginning");
    let point = |slice: &Slice| (slice.at, micros(&slice.discovers, 0.99));
    let series = Series { name: "p99".into(), points: slices.iter().map(point).collect() };
    report.charts.push(Chart::Timeline { title, unit: "µs", series: vec![series] });
}

/// Resident memory over the run.
fn memory(slices: &[Slice], report: &mut Report) {
    let mib = |slice: &Slice| slice.resident as f64 / f64::from(1 << 20);
    let (first, last) = (slices.first().map_or(0.0, mib), slices.last().map_or(0.0, mib));
    if last == 0.0 {
        return;
    }
    report.rows.push(Row::new("memory of the engine at first", first, "MiB"));
    report.rows.push(Row::new("memory of the engine in the end", last, "MiB"));
    let points = slices.iter().map(|slice| (slice.at, mib(slice))).collect();
    let (first, last) = (number(first), number(last));
    report.charts.push(Chart::Timeline {
        title: format!("The engine's memory: {first} MiB at first, {last} MiB in the end"),
        unit: "MiB",
        series: vec![Series { name: "resident".into(), points }],
    });
}
