//! What the engine's CPU pays for a datagram, beside a bare sink.

use crate::bed::Bed;
use crate::cost::{engine_cost, sink_cost};
use crate::floors::{Floor, Responder};
use crate::lab::Lab;
use crate::population::{Beats, Wanted, register};
use crate::report::Goal;

/// The floor that is woken for whatever comes, and the one that sleeps as the engine does.
const SINKS: [(Floor, &str); 2] =
    [(Floor::Sink, "recvmmsg sink"), (Floor::DozingSink, "recvmmsg sink that dozes")];

/// Ours and the floor's, pair by pair.
type Pairs = Vec<(f64, f64)>;

/// Nanoseconds a datagram of an engine and of each sink, with the sink's name. `more` is what the
/// floor pays besides, for each datagram.
pub(super) fn beside_sinks(
    lab: &Lab,
    bed: &mut Bed,
    beats: &mut Beats,
    mut more: impl FnMut() -> f64 + Send,
) -> Result<Vec<(&'static str, Pairs)>, String> {
    let beside = |(floor, name)| {
        let sink = Responder::start(lab.engine_cpu, floor)?;
        let pairs = lab.pairs(
            beats,
            |beats| Ok(engine_cost(bed, beats)?.per_datagram),
            |beats| Ok(more() + sink_cost(&sink, beats)?),
        )?;
        Ok((name, pairs))
    };
    SINKS.into_iter().map(beside).collect()
}

/// G1: one beat a datagram.
pub(super) fn single(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let mut bed = Bed::start(16_384, lab.engine_cpu, &[])?;
    let leases = register(&mut bed, &Wanted::new(10_000, 100, "g1"))?;
    let mut beats = Beats::new(bed.target, leases, 1)?;
    let beside = beside_sinks(lab, &mut bed, &mut beats, || 0.0)?.into_iter();
    let what = "CPU a datagram, one beat in each";
    Ok(beside
        .map(|(name, pairs)| Goal::ratio("G1", what, "ns", &pairs, 1.10).against(name))
        .collect())
}
