//! One thing measured alone: each floor by itself, and how late the dead are found.

use crate::bed::Bed;
use crate::drive::{Drive, Rates};
use crate::floors::{Floor, LineWalk, Responder, timer_lateness};
use crate::machine::{self, Machine, Steal};
use crate::population::Beats;
use crate::report::{Chart, Outputs, Report, Row, Series, digits, median};
use crate::scenarios::live;
use crate::target::Target;
use clap::Args;
use hdrhistogram::Histogram;
use heartline::limits::FRAME_BYTES_MAX;
use heartline::wire::Lease;
use std::time::Duration;
use zerocopy::FromZeros;
use zerocopy::byteorder::little_endian::U64;

#[derive(Args, Clone, Debug)]
pub(crate) struct FloorOptions {
    /// Beats in a datagram: sink
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=50))]
    batch: u16,
    /// Bytes of an answer: echo
    #[arg(long, default_value_t = FRAME_BYTES_MAX as u16, value_parser = clap::value_parser!(u16).range(16..=FRAME_BYTES_MAX as i64))]
    answer: u16,
    /// Requests a second: echo
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    /// Lines of 64 bytes: linewalk
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    lines: u32,
    /// Seconds to run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    outputs: Outputs,
}

impl FloorOptions {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn finish(
        &self,
        title: &str,
        steal: &Steal,
        rows: Vec<Row>,
        charts: Vec<Chart>,
    ) -> Result<(), String> {
        let (machine, command) = (Machine::read(steal), crate::command_line());
        Report { title: title.into(), machine, command, rows, goals: Vec::new(), charts }
            .finish(&self.outputs)
    }
}

/// CPU time of a bare `recvmmsg` loop.
pub(crate) fn sink(options: &FloorOptions) -> Result<(), String> {
    options.outputs.check()?;
    let (steal, (receiver, sender)) = (Steal::read(), machine::two_cpus()?);
    let sink = Responder::start(receiver, Floor::Sink)?;
    let mut beats =
        Beats::new(sink.target, vec![Lease::new_zeroed(); 10_000], options.batch.into())?;
    let sent = machine::pinned(sender, || beats.run(options.time(), None))?;
    let (datagrams, cpu) = sink.counts();
    let rows = vec![
        Row::new("CPU a datagram", cpu as f64 / datagrams.max(1) as f64, "ns"),
        Row::new("datagrams a CPU second", 1e9 * datagrams as f64 / cpu.max(1) as f64, ""),
        Row::count("sent", sent),
        Row::count("lost", sent.saturating_sub(datagrams)),
    ];
    options.finish("sink", &steal, rows, Vec::new())
}

/// Round trips to a bare loop that answers.
pub(crate) fn echo(options: &FloorOptions) -> Result<(), String> {
    options.outputs.check()?;
    let (steal, (receiver, sender)) = (Steal::read(), machine::two_cpus()?);
    let echo = Responder::start(receiver, Floor::Echo(options.answer.into()))?;
    let mut drive = Drive::new(echo.target, U64::ZERO, "echo", 1, Duration::from_secs(1))?;
    let rates = Rates { discovers: options.rate, ..Rates::default() };
    machine::pinned(sender, || drive.run(options.time(), rates, None))?;
    let times = drive.take_discovers();
    let mut rows = Row::percentiles("round trip", &times);
    rows.push(Row::count("without an answer", drive.asked - drive.answered));
    options.finish("echo", &steal, rows, vec![latencies("an echo", &[("echo", &times)])])
}

/// How late a timer wakes a thread.
pub(crate) fn timer(options: &FloorOptions) -> Result<(), String> {
    options.outputs.check()?;
    let (steal, (cpu, _)) = (Steal::read(), machine::two_cpus()?);
    let late = timer_lateness(cpu, options.time())?;
    options.finish(
        "timer",
        &steal,
        Row::percentiles("late", &late),
        vec![latencies("a timer", &[("timerfd", &late)])],
    )
}

/// Stores to random lines.
pub(crate) fn linewalk(options: &FloorOptions) -> Result<(), String> {
    options.outputs.check()?;
    let (steal, (cpu, _)) = (Steal::read(), machine::two_cpus()?);
    let (plain, prefetched) = machine::pinned(cpu, || {
        let mut walk = LineWalk::new(options.lines as usize)?;
        let mut many =
            |prefetched| median(&mut (0..11).map(|_| walk.walk(prefetched)).collect::<Vec<_>>());
        Ok::<_, String>((many(false), many(true)))
    })?;
    let rows = vec![
        Row::new("store", plain, "ns"),
        Row::new("store, prefetched in groups", prefetched, "ns"),
    ];
    options.finish("linewalk", &steal, rows, Vec::new())
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DetectOptions {
    #[command(flatten)]
    target: Target,
    /// Leases that beat; a thousand of them die, which is too few for a hold
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(4000..=16_777_216))]
    instances: u32,
    /// Time to live of their leases
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    outputs: Outputs,
}

/// How late the dead are found, as a client sees it.
pub(crate) fn detect(options: &DetectOptions) -> Result<(), String> {
    options.outputs.check()?;
    let steal = Steal::read();
    let mut bed: Bed = options.target.bed(options.instances, &[])?;
    let cpu = options.target.generator_cpu()?;
    let (late, deafness) =
        machine::pinned(cpu, || live::lateness(&mut bed, options.instances, options.ttl))?;
    drop(bed);
    let timer = timer_lateness(machine::two_cpus()?.0, Duration::from_secs(2))?;
    let mut rows = vec![
        Row::count("leases", options.instances.into()),
        Row::count(
            "times that the engine stood still or lost datagrams, and put verdicts off",
            deafness,
        ),
    ];
    rows.extend(Row::percentiles("from the deadline to being found down", &late));
    rows.extend(Row::percentiles("bare timer", &timer));
    let charts = vec![latencies(
        "a verdict after its deadline",
        &[("verdict", &late), ("bare timer", &timer)],
    )];
    let (machine, command) = (Machine::read(&steal), crate::command_line());
    Report { title: "detect".into(), machine, command, rows, goals: Vec::new(), charts }
        .finish(&options.outputs)
}

/// A chart whose title says the 99th percentile of the first.
fn latencies(what: &str, histograms: &[(&str, &Histogram<u64>)]) -> Chart {
    let p99 = histograms
        .first()
        .map_or(0.0, |(_, histogram)| histogram.value_at_quantile(0.99) as f64 / 1e3);
    let series =
        histograms.iter().map(|(name, histogram)| Series::percentiles(name, histogram)).collect();
    Chart::Percentiles {
        title: format!("99 % of the time, {what} takes at most {} µs", digits(p99)),
        unit: "µs",
        series,
    }
}
