//! When clients should beat: the interval and the phase that the engine asks for.

use crate::Slot;
use crate::limits::{BEATS_PER_TTL, INTERVAL_US_MAX};
use crate::time::{Moment, NANOS_PER_SECOND, Span};

/// When to beat, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Between two beats.
    pub interval_us: u32,
    /// From now to the next beat.
    pub phase_us: u32,
}

impl Cadence {
    /// The cadence for a slot. The interval is a quarter of the TTL, at most an hour. Each slot has
    /// its own place in the interval, and the phase leads to the next such place that is at least
    /// half an interval away.
    ///
    /// The places are the multiples of the golden ratio, which divide a circle evenly however many
    /// there are (Knuth, TAOCP 3, section 6.4, theorem S).
    pub fn new(slot: Slot, ttl: Span, now: Moment) -> Self {
        let interval = (ttl.nanos() / BEATS_PER_TTL / 1000).clamp(1, INTERVAL_US_MAX);
        let fraction = u64::from(slot.get()).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let place = (interval * fraction) >> 32;
        let mut phase = (interval + place - now.nanos() / 1000 % interval) % interval;
        if phase < interval.div_ceil(2) {
            phase += interval;
        }
        Self { interval_us: interval as u32, phase_us: phase.min(INTERVAL_US_MAX) as u32 }
    }
}

const _: () = assert!(INTERVAL_US_MAX == 3600 * (NANOS_PER_SECOND / 1000));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_leases_are_spread_evenly() {
        let mut tenths = [0; 10];
        for slot in 0..10_000 {
            let cadence = Cadence::new(
                Slot::new(slot),
                Span::from_ms(4000),
                Moment::from_nanos(123_456_789_012),
            );
            assert_eq!(cadence.interval_us, 1_000_000);
            assert!((500_000..1_500_000).contains(&cadence.phase_us));
            tenths[cadence.phase_us as usize % 1_000_000 / 100_000] += 1;
        }
        assert!(tenths.iter().all(|count| (950..1050).contains(count)), "{tenths:?}");
    }

    fn phase(cadence: Cadence) -> Span {
        Span::from_nanos(u64::from(cadence.phase_us) * 1000)
    }

    #[test]
    fn who_follows_stays_on_its_place() {
        let (slot, ttl) = (Slot::new(77), Span::from_ms(400));
        let mut now = Moment::from_nanos(5_000_000_000);
        now = now + phase(Cadence::new(slot, ttl, now));
        for lateness in [0, 900_000, 0, 2_000_000].map(Span::from_nanos) {
            let next = Cadence::new(slot, ttl, now + lateness);
            let at = now + lateness + phase(next);
            assert_eq!((at - now).ms(), 100);
            now = at;
        }
    }

    #[test]
    fn the_shortest_and_the_longest_ttl() {
        assert_eq!(
            Cadence::new(Slot::new(1), Span::from_ms(1), Moment::from_nanos(9)).interval_us,
            250
        );
        assert_eq!(
            Cadence::new(Slot::new(1), Span::from_ms(86_400_000), Moment::from_nanos(9))
                .interval_us,
            3_600_000_000
        );
    }
}
