//! The `detect` scenario: how late the dead of a population are found, beside a bare timer.

use super::live;
use crate::floors::timer_lateness;
use crate::machine;
use crate::report::{Chart, Outputs, Row, micros, number};
use crate::target::Target;
use clap::Args;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Leases that beat; a thousand of them die, which is too few for a hold
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(4000..=16_777_216))]
    instances: u32,
    /// Time to live of their leases
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    outputs: Outputs,
}

/// How late the dead are found, as a client sees it.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut report = options.outputs.begin("detect")?;
    let mut bed = options.target.bed(options.instances, &[])?;
    let cpu = options.target.generator_cpu()?;
    let (late, deafness) =
        machine::pinned(cpu, || live::lateness(&mut bed, options.instances, options.ttl))?;
    drop(bed);
    let timer = timer_lateness(machine::two_cpus()?.0, Duration::from_secs(2))?;
    report.rows = vec![
        Row::count("leases", options.instances.into()),
        Row::count("times that the engine was deaf, and put verdicts off", deafness),
    ];
    report.rows.extend(Row::percentiles("from the deadline to being found down", &late));
    report.rows.extend(Row::percentiles("bare timer", &timer));
    let p99 = number(micros(&late, 0.99));
    let title = format!("99 % of verdicts come within {p99} µs of their deadline");
    report.charts.push(Chart::latencies(title, &[("verdict", &late), ("bare timer", &timer)]));
    options.outputs.finish(report)
}
