//! Until when what must come has come, as formulas of the times that agents go by.

use heartline::internals::clock::{Nanos, from_ms};

/// The last ceiling of an agent's wait after a refusal.
const BACKOFF_CAP: Nanos = from_ms(30_000);
/// The longest wait between two looks at a silent engine.
const PROBE_CAP: Nanos = from_ms(5_000);
/// All repetitions of one request: 0.2, 0.4, 0.8, 1.6 and 3.2 s.
const REPETITIONS: Nanos = from_ms(6_200);
/// Hellos until an engine counts as silent.
const SILENCE: Nanos = from_ms(1_600);
/// An engine that was silent is used again when it has answered for so long.
const SETTLED_AFTER: Nanos = from_ms(10_000);
/// A hello to an engine that settles, in the worst case just missed.
const CHECK_EVERY: Nanos = from_ms(2_000);
/// A third of a watch's time, after which it is renewed.
const RENEWAL: Nanos = from_ms(10_000) / 3;

/// From the end of faults until all who live are up. In the worst case, one after the other:
///
/// - a request or beat was just lost, and the engine counts as silent: [`SILENCE`];
/// - the next look at it comes after [`PROBE_CAP`], and it settles in [`SETTLED_AFTER`];
/// - the registration has all its repetitions before it: [`REPETITIONS`];
/// - it is refused, because a former lease of the identity lives: until four TTLs after its last
///   beat, of which three are grace or hold;
/// - it was refused a moment before that, and waits for [`BACKOFF_CAP`] once more.
pub(crate) fn recovered(ttl: Nanos) -> Nanos {
    SILENCE + PROBE_CAP + CHECK_EVERY + SETTLED_AFTER + REPETITIONS + 2 * BACKOFF_CAP + 4 * ttl
}

/// From the last change of a list until every view has it. A watch is renewed every [`RENEWAL`],
/// and the reply tells the version; if the request is lost or refused, it is repeated. The engine
/// must answer, which takes as long as for registrations.
pub(crate) fn views() -> Nanos {
    SILENCE + PROBE_CAP + CHECK_EVERY + RENEWAL + REPETITIONS
}

/// From a change until every view has it while nothing is lost: the engine gathers changes for a
/// millisecond, and a pull takes three ways.
pub(crate) fn healed() -> Nanos {
    from_ms(50)
}

/// Quiet time before the end is looked for, so that leftovers of faults can do harm.
pub(crate) fn settling(ttl: Nanos) -> Nanos {
    from_ms(2_000) + 4 * ttl
}
