//! Time as numbers. The format and the tables use nanoseconds of one clock; reading it is not
//! their business.

/// A reading of a monotonic clock in nanoseconds, or a span of it.
pub type Nanos = u64;

/// Nanoseconds in a millisecond: one tick of the timing wheel.
pub const NANOS_PER_MS: Nanos = 1_000_000;
/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: Nanos = 1_000_000_000;

/// Converts milliseconds to nanoseconds.
#[inline]
pub const fn from_ms(ms: u64) -> Nanos {
    ms * NANOS_PER_MS
}
