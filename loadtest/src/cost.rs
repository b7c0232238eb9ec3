//! CPU time of an engine, and of a floor, under beats.

use crate::bed::Bed;
use crate::floors::Responder;
use crate::population::Beats;
use heartline_wire::Stat;
use std::time::Duration;

/// How long each run of a pair takes.
const RUN: Duration = Duration::from_millis(700);

/// CPU time of one run of an engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Nanoseconds for each datagram.
    pub(crate) per_datagram: f64,
    /// Beats that counted, for each second of CPU time.
    pub(crate) beats_per_second: f64,
}

/// Sends beats to an engine as fast as it goes.
pub(crate) fn engine_cost(bed: &mut Bed, beats: &mut Beats) -> Result<Cost, String> {
    beats.aim(bed.target)?;
    let before = bed.counters()?;
    beats.run(RUN, None)?;
    let after = bed.counters()?;
    let of = |stat| after.since(&before, stat) as f64;
    Ok(Cost {
        per_datagram: of(Stat::CpuNs) / of(Stat::Datagrams),
        beats_per_second: of(Stat::BeatsAccepted) / (of(Stat::CpuNs) / 1e9),
    })
}

/// The same to a sink: nanoseconds for each datagram.
pub(crate) fn sink_cost(sink: &Responder, beats: &mut Beats) -> Result<f64, String> {
    beats.aim(sink.target)?;
    let before = sink.counts();
    beats.run(RUN, None)?;
    let after = sink.counts();
    Ok((after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64)
}
