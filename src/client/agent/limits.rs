//! Every time and number that an agent goes by, with its reason.

use heartline_wire::time::{NANOS_PER_SECOND, Nanos, from_ms};

/// Time to the first repetition of a request; doubled for each further one, as section 8 of
/// `docs/PROTOCOL.md` has it.
pub(super) const PATIENCE: Nanos = from_ms(200);
/// Times a request or a farewell is sent before it is given up.
pub(super) const ATTEMPTS: u32 = 5;
/// Time to the first repetition of a farewell, doubled for each further one: short enough that a
/// stop has time for a second one and a third.
pub(super) const FAREWELL_PATIENCE: Nanos = from_ms(50);
/// Time after which a farewell is said again that was received but not taken, because a queue of
/// the engine was full.
pub(super) const FAREWELL_AGAIN: Nanos = from_ms(10);
/// Hellos without an answer after which an engine counts as silent: 1.4 s after the first of them,
/// 1.6 s after a beat whose ack is missing. A killed engine is back within a second.
pub(super) const HELLOS: u32 = 3;

/// First ceiling of the wait after a refusal or a lost lease: the wait is drawn from 0 to it (full
/// jitter: Brooker, "Exponential Backoff And Jitter", AWS 2015). So 100,000 agents whose engine
/// lost everything come back at 100,000 a second at most, which one engine takes.
pub const BACKOFF_BASE: Nanos = NANOS_PER_SECOND;
/// The same after status busy: a queue of the engine was full for a moment.
pub const BUSY_BASE: Nanos = from_ms(16);
/// The ceiling doubles with each refusal up to this: the longest time that an instance stays away
/// from an engine that would take it.
pub const BACKOFF_CAP: Nanos = 30 * NANOS_PER_SECOND;

/// First ceiling of the wait between two hellos to a silent engine.
pub(super) const PROBE_BASE: Nanos = from_ms(500);
/// Last ceiling of it: 100,000 agents without an engine send 40,000 hellos a second.
pub const PROBE_CAP: Nanos = 5 * NANOS_PER_SECOND;
/// Shortest wait between two of them.
pub(super) const PROBE_MIN: Nanos = from_ms(100);

/// An earlier engine that was silent is wanted again when it has answered for this time.
pub const SETTLED_AFTER: Nanos = 10 * NANOS_PER_SECOND;
/// Until then it gets a hello each time this has passed.
pub(super) const CHECK_EVERY: Nanos = 2 * NANOS_PER_SECOND;
/// A wanted engine for which nothing beats gets a hello each time this has passed: so it is known
/// whether it answers, and whether another process is there that may take what was refused.
pub(super) const CHECK_IDLE_EVERY: Nanos = BACKOFF_CAP;
/// Shortest time between two times that a socket is opened again because sends fail.
pub(super) const REOPEN_AFTER: Nanos = NANOS_PER_SECOND;

/// Registrations that an agent asks of one engine in a second at most, whatever was lost: 50,000
/// leases are back in ten seconds.
pub const REGISTRATIONS_PER_SECOND: u64 = 5_000;
/// Registrations asked at once, after a time without any.
pub const REGISTRATIONS_BURST: u64 = 50;
/// Requests to one engine under way at a time. Their replies fit the receive buffer that Linux
/// gives a socket (`net.core.rmem_default`, 208 KiB, about 270 short datagrams).
pub(super) const REQUESTS_MAX: usize = 64;

/// Each frame of beats after so many without an ack wants one. Four beats are sent in a TTL, so
/// this is at least once a TTL.
pub(super) const ACK_EVERY: u8 = 3;
/// Shortest interval between beats that an agent goes by: that of the shortest TTL.
pub(super) const INTERVAL_MIN: Nanos = from_ms(1) / 4;
/// Beats and wake-ups count as late from here on, or from a quarter of an interval on if that is
/// less. The engine counts its own stalls from the same time on.
pub(super) const LATE: Nanos = from_ms(20);

/// How long a stop waits until the engines have acknowledged that all instances leave.
pub(super) const STOP_MAX: Nanos = from_ms(200);
/// How long [`Registered::deregister`](crate::Registered::deregister) waits.
pub(super) const DEREGISTER_MAX: Nanos = from_ms(1400);
/// Datagrams sent before the sockets are looked at: their replies fit the receive buffer.
pub(super) const SENDS_MAX: u32 = 64;
/// Events that wait for a slow reader; further ones are lost and counted.
pub(super) const EVENTS_MAX: usize = 1024;

const _: () = {
    // A farewell is sent three times before a stop ends, and five times before the wait for it is
    // over; it is given up only after that.
    assert!(STOP_MAX >= 3 * FAREWELL_PATIENCE && DEREGISTER_MAX >= 15 * FAREWELL_PATIENCE);
    assert!(DEREGISTER_MAX < ((1 << ATTEMPTS) - 1) * FAREWELL_PATIENCE);
    assert!(ACK_EVERY as u64 <= heartline_wire::limits::BEATS_PER_TTL);
    assert!(REQUESTS_MAX <= 1 << 8);
};
