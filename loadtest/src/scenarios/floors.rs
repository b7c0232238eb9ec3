//! The `floors` scenario: each floor by itself.

use crate::drive::{Drive, Rates};
use crate::floors::{Floor, LineWalk, Responder, timer_lateness};
use crate::machine;
use crate::population::Beats;
use crate::report::{Chart, Outputs, Report, Row, median, micros, number};
use crate::socket::Cookie;
use clap::{Args, ValueEnum};
use heartline::internals::limits::FRAME_BYTES_MAX;
use heartline_wire::Lease;
use std::time::Duration;
use zerocopy::FromZeros;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only these
    #[arg(long, value_delimiter = ',')]
    only: Vec<Which>,
    /// Beats in a datagram: sink
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=50))]
    batch: u16,
    /// Bytes of an answer: echo
    #[arg(long, default_value_t = FRAME_BYTES_MAX as u16,
        value_parser = clap::value_parser!(u16).range(16..=FRAME_BYTES_MAX as i64))]
    answer: u16,
    /// Requests a second: echo
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    /// Lines of 64 bytes: linewalk
    #[arg(long, default_value_t = 1 << 20,
        value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    lines: u32,
    /// Seconds for each of sink, echo and timer
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    outputs: Outputs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// CPU time of a bare recvmmsg loop for each datagram
    Sink,
    /// Round trips to a bare loop that answers
    Echo,
    /// How late a timerfd wakes a thread
    Timer,
    /// Stores to random lines of an array
    Linewalk,
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut report = options.outputs.begin("floors")?;
    let (receiver, sender) = machine::two_cpus()?;
    let time = Duration::from_secs(options.seconds);
    for which in Which::value_variants() {
        if !options.only.is_empty() && !options.only.contains(which) {
            continue;
        }
        match which {
            Which::Sink => report.rows.extend(sink(receiver, sender, options.batch, time)?),
            Which::Echo => {
                let echo = Responder::start(receiver, Floor::Echo(options.answer.into()))?;
                let mut drive = Drive::new(echo.target, Cookie::none(), 1)?;
                let rates = Rates { discovers: options.rate, ..Rates::default() };
                machine::pinned(sender, || drive.run(time, rates, None))?;
                latency(&mut report, "echo", &drive.take_discovers());
                report.rows.push(Row::count("echo: no answer", drive.asked - drive.answered));
            }
            Which::Timer => latency(&mut report, "timer", &timer_lateness(receiver, time)?),
            Which::Linewalk => {
                let walks = machine::pinned(receiver, || walks(options.lines))?;
                report.rows.extend(walks);
            }
        }
    }
    options.outputs.finish(report)
}

fn sink(receiver: usize, sender: usize, batch: u16, time: Duration) -> Result<[Row; 4], String> {
    let sink = Responder::start(receiver, Floor::Sink)?;
    let mut beats = Beats::new(sink.target, vec![Lease::new_zeroed(); 10_000], batch.into())?;
    let sent = machine::pinned(sender, || beats.run(time, None))?;
    let (datagrams, cpu) = sink.counts();
    Ok([
        Row::new("sink: CPU a datagram", cpu as f64 / datagrams.max(1) as f64, "ns"),
        Row::new("sink: datagrams a CPU second", 1e9 * datagrams as f64 / cpu.max(1) as f64, ""),
        Row::count("sink: sent", sent),
        Row::count("sink: lost", sent.saturating_sub(datagrams)),
    ])
}

fn latency(report: &mut Report, name: &str, times: &hdrhistogram::Histogram<u64>) {
    report.rows.extend(Row::percentiles(&format!("{name}:"), times));
    let p99 = number(micros(times, 0.99));
    let title = format!("99 % of the time, the {name} takes at most {p99} µs");
    report.charts.push(Chart::latencies(title, &[(name, times)]));
}

fn walks(lines: u32) -> Result<[Row; 2], String> {
    let mut walk = LineWalk::new(lines as usize, true)?;
    let mut many = |ahead| median(&mut (0..11).map(|_| walk.walk(ahead)).collect::<Vec<_>>());
    Ok([
        Row::new("linewalk: store", many(false), "ns"),
        Row::new("linewalk: store, prefetched in groups", many(true), "ns"),
    ])
}
