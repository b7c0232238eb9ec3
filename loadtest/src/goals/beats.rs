//! What the engine's CPU pays for a datagram, beside a bare sink.

use super::Lab;
use crate::bed::Bed;
use crate::floors::{Floor, Responder};
use crate::machine;
use crate::population::{Beats, Wanted, register};
use crate::report::Goal;
use heartline::wire::Stat;
use std::cell::RefCell;
use std::time::Duration;

/// How long each run of a pair takes.
pub(super) const RUN: Duration = Duration::from_millis(700);

/// The floor that is woken for whatever comes, and the one that sleeps as the engine does.
const SINKS: [(Floor, &str); 2] =
    [(Floor::Sink, "recvmmsg sink"), (Floor::DozingSink, "recvmmsg sink that dozes")];

/// Ours and the floor's, pair by pair.
type Pairs = Vec<(f64, f64)>;

/// CPU time of one run of an engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Nanoseconds for each datagram.
    pub(crate) per_datagram: f64,
    /// Beats that counted, for each second of CPU time.
    pub(crate) beats_per_second: f64,
}

/// Sends beats to an engine for a time, as fast as it goes.
pub(crate) fn engine_cost(
    bed: &mut Bed,
    beats: &mut Beats,
    time: Duration,
) -> Result<Cost, String> {
    beats.aim(bed.target)?;
    let before = bed.counters()?;
    beats.run(time, None)?;
    let after = bed.counters()?;
    let (cpu, datagrams) =
        (after.since(&before, Stat::CpuNs) as f64, after.since(&before, Stat::Datagrams) as f64);
    Ok(Cost {
        per_datagram: cpu / datagrams,
        beats_per_second: after.since(&before, Stat::BeatsAccepted) as f64 / (cpu / 1e9),
    })
}

/// The same to a sink: nanoseconds for each datagram.
fn sink_cost(sink: &Responder, beats: &mut Beats, time: Duration) -> Result<f64, String> {
    beats.aim(sink.target)?;
    let before = sink.counts();
    beats.run(time, None)?;
    let after = sink.counts();
    Ok((after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64)
}

/// Nanoseconds a datagram of an engine and of each sink, with the sink's name. `more` is what the
/// floor pays besides, for each datagram.
pub(super) fn beside_sinks(
    lab: &mut Lab,
    bed: &mut Bed,
    beats: &RefCell<Beats>,
    mut more: impl FnMut() -> f64,
) -> Result<Vec<(&'static str, Pairs)>, String> {
    let cpu = lab.generator_cpu;
    let beside = |(floor, name)| {
        let sink = Responder::start(lab.engine_cpu, floor)?;
        let pairs = lab.pairs(
            || {
                let beats = &mut *beats.borrow_mut();
                machine::pinned(cpu, || engine_cost(bed, beats, RUN)).map(|cost| cost.per_datagram)
            },
            || {
                let more = more();
                let beats = &mut *beats.borrow_mut();
                Ok(more + machine::pinned(cpu, || sink_cost(&sink, beats, RUN))?)
            },
        )?;
        Ok((name, pairs))
    };
    SINKS.into_iter().map(beside).collect()
}

/// G1: one beat a datagram.
pub(super) fn single(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let mut bed = Bed::start(16_384, lab.engine_cpu, &[])?;
    let wanted =
        Wanted { instances: 10_000, services: 100, ttl: Duration::from_secs(3600), prefix: "g1" };
    let leases = register(&mut bed, &wanted)?;
    let beats = RefCell::new(Beats::new(bed.target, leases, 1)?);
    let beside = beside_sinks(lab, &mut bed, &beats, || 0.0)?.into_iter();
    Ok(beside
        .map(|(name, pairs)| {
            Goal::ratio("G1", "CPU a datagram, one beat in each", "ns", &pairs, 1.10).against(name)
        })
        .collect())
}
