//! The scenarios `discover`, `mixed`, `churn` and `soak`: beats, questions and registrations side
//! by side, each at its rate.

use crate::bed::{Bed, Counters};
use crate::drive::{Drive, Rates};
use crate::machine::{self, Machine, Steal};
use crate::population::{Beats, Wanted, cookie, register};
use crate::report::{Chart, Outputs, Report, Row, Series, digits};
use crate::scenarios::flood;
use crate::target::Target;
use clap::Args;
use hdrhistogram::Histogram;
use heartline::wire::Stat;
use indicatif::{ProgressBar, ProgressStyle};
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

/// Questions only.
pub(crate) const DISCOVER: Profile = Profile {
    name: "discover",
    instances: 10_000,
    load: 0.0,
    discovers: 5000.0,
    churn: 0.0,
    seconds: 10,
    snapshots: false,
};
/// All of it for a short time.
pub(crate) const MIXED: Profile = Profile {
    name: "mixed",
    instances: 100_000,
    load: 50.0,
    discovers: 1000.0,
    churn: 1000.0,
    seconds: 10,
    snapshots: false,
};
/// Instances that come and go.
pub(crate) const CHURN: Profile = Profile {
    name: "churn",
    instances: 10_000,
    load: 0.0,
    discovers: 0.0,
    churn: 20_000.0,
    seconds: 10,
    snapshots: false,
};
/// All of it for half an hour, with snapshots.
pub(crate) const SOAK: Profile = Profile {
    name: "soak",
    instances: 100_000,
    load: 60.0,
    discovers: 1000.0,
    churn: 500.0,
    seconds: 1800,
    snapshots: true,
};

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
    options.outputs.check()?;
    let snapshot =
        std::env::temp_dir().join(format!("heartline-loadtest-{}.snapshot", std::process::id()));
    let result = drive(profile, options, &snapshot);
    let _ = std::fs::remove_file(snapshot);
    result
}

fn drive(profile: Profile, options: &Options, snapshot: &Path) -> Result<(), String> {
    let steal = Steal::read();
    let instances = options.instances.unwrap_or(profile.instances);
    let load = options.load.unwrap_or(profile.load);
    let flags = if profile.snapshots {
        vec!["--snapshot", snapshot.to_str().ok_or("the temporary directory has a strange name")?]
    } else {
        vec![]
    };
    let mut bed = options.target.bed(instances.saturating_mul(2), &flags)?;
    machine::pin(options.target.generator_cpu()?);
    let ttl = options.ttl.unwrap_or(Duration::from_secs(if load > 0.0 { 3 } else { 3600 }));
    let leases = register(
        &mut bed,
        &Wanted { instances, services: options.services, ttl, prefix: profile.name },
    )?;
    let mut beats = Beats::new(bed.target, leases, options.batch.into())?;
    let rate = if load > 0.0 {
        flood::search(&mut bed, &mut beats, Duration::from_secs(1))?.rate * load / 100.0
    } else {
        0.0
    };
    let rates = Rates {
        beats: rate,
        discovers: options.discovers.unwrap_or(profile.discovers),
        churn: options.churn.unwrap_or(profile.churn),
    };
    let mut drive = Drive::new(
        bed.target,
        cookie(&mut bed)?,
        "svc-0",
        options.endpoints,
        Duration::from_secs(3600),
    )?;
    // Until memory and caches are as they will be.
    drive.run(Duration::from_secs(1), rates, Some(&mut beats))?;
    let _ = drive.take_discovers();
    let before = (bed.counters()?, beats.beats);
    let slices =
        go_on(options.seconds.unwrap_or(profile.seconds), rates, &mut bed, &mut drive, &mut beats)?;
    let after = (bed.counters()?, beats.beats);
    report(profile, &drive, &slices, [&before.0, &after.0], after.1 - before.1, &steal)
        .finish(&options.outputs)
}

fn go_on(
    seconds: u64,
    rates: Rates,
    bed: &mut Bed,
    drive: &mut Drive,
    beats: &mut Beats,
) -> Result<Vec<Slice>, String> {
    let part = Duration::from_secs(if seconds > 120 { 30 } else { 1 });
    let bar = ProgressBar::new(seconds);
    bar.set_style(
        ProgressStyle::with_template("{msg:40} [{bar:40}] {pos}/{len} s")
            .map_err(|error| error.to_string())?,
    );
    let (start, mut slices) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs() < seconds {
        drive.run(part, rates, Some(beats))?;
        let discovers = drive.take_discovers();
        bar.set_message(format!(
            "discovery p99 {} µs",
            digits(discovers.value_at_quantile(0.99) as f64 / 1e3)
        ));
        bar.set_position(start.elapsed().as_secs());
        let resident = bed.pid().map_or(0, machine::resident_bytes);
        slices.push(Slice { at: start.elapsed().as_secs_f64(), discovers, resident });
    }
    bar.finish_and_clear();
    Ok(slices)
}

/// What all slices that end within these seconds have together.
fn merged(slices: &[Slice], from: f64, to: f64) -> Histogram<u64> {
    let mut all = Histogram::new(3).expect("three digits are possible");
    let within = slices.iter().filter(|slice| slice.at > from && slice.at <= to + 0.5);
    within.for_each(|slice| all.add(&slice.discovers).expect("they are alike"));
    all
}

fn report(
    profile: Profile,
    drive: &Drive,
    slices: &[Slice],
    [before, after]: [&Counters; 2],
    beats: u64,
    steal: &Steal,
) -> Report {
    let grown = |stat| after.since(before, stat);
    let end = slices.last().map_or(0.0, |slice| slice.at);
    let all = merged(slices, 0.0, end);
    let arrived = grown(Stat::BeatsAccepted) + grown(Stat::BeatsOld);
    let mut rows = vec![
        Row::new("time", end, "s"),
        Row::count("beats sent", beats),
        Row::count("beats lost", beats.saturating_sub(arrived)),
        Row::count("datagrams dropped by the kernel", grown(Stat::KernelDrops)),
        Row::count("false downs", grown(Stat::Downs)),
        Row::count("requests", drive.asked),
        Row::count("requests without an answer", drive.asked - drive.answered),
        Row::count("refused", drive.refused),
        Row::new(
            "engine's share of a core",
            100.0 * grown(Stat::CpuNs) as f64 / grown(Stat::UptimeNs).max(1) as f64,
            "%",
        ),
        Row::count("snapshots written", grown(Stat::Snapshot)),
    ];
    let mut charts = Vec::new();
    if !all.is_empty() {
        rows.extend(Row::percentiles("discovery", &all));
        let p99 = digits(all.value_at_quantile(0.99) as f64 / 1e3);
        let series = vec![Series::percentiles("discovery", &all)];
        charts.push(Chart::Percentiles {
            title: format!("99 % of discoveries are answered within {p99} µs"),
            unit: "µs",
            series,
        });
        let point =
            |slice: &Slice| (slice.at, slice.discovers.value_at_quantile(0.99) as f64 / 1e3);
        let series =
            vec![Series { name: "p99".into(), points: slices.iter().map(point).collect() }];
        let (first, last) = (merged(slices, 0.0, 60.0), merged(slices, end - 60.5, end));
        let ratio =
            last.value_at_quantile(0.99) as f64 / first.value_at_quantile(0.99).max(1) as f64;
        if end >= 120.0 {
            rows.push(Row::new("discovery p99 of the last minute / of the first", ratio, ""));
        }
        charts.push(Chart::Timeline {
            title: format!(
                "Discovery p99 over the run: the end is {} times the beginning",
                digits(ratio)
            ),
            unit: "µs",
            series,
        });
    }
    if !drive.changes.is_empty() {
        rows.extend(Row::percentiles("registration", &drive.changes));
    }
    if let (Some(first), Some(last)) = (slices.first(), slices.last())
        && last.resident > 0
    {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        rows.push(Row::new("memory of the engine at first", mib(first.resident), "MiB"));
        rows.push(Row::new("memory of the engine in the end", mib(last.resident), "MiB"));
        let points = slices.iter().map(|slice| (slice.at, mib(slice.resident))).collect();
        charts.push(Chart::Timeline {
            title: format!(
                "The engine's memory: {} MiB at first, {} MiB in the end",
                digits(mib(first.resident)),
                digits(mib(last.resident))
            ),
            unit: "MiB",
            series: vec![Series { name: "resident".into(), points }],
        });
    }
    let command = crate::command_line();
    Report {
        title: profile.name.into(),
        machine: Machine::read(steal),
        command,
        rows,
        goals: Vec::new(),
        charts,
    }
}
