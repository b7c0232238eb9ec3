//! How long an answer takes, and when to stop waiting for one (RFC 6298).

use heartline_wire::time::{Nanos, from_ms};

/// Until the first answer: a round trip around the world is longer, one within a data centre much
/// shorter.
const UNKNOWN: Nanos = from_ms(50);
/// Shortest wait: an engine's coalescing and a thread's wake-up take a part of it.
const SHORTEST: Nanos = from_ms(5);
/// Longest wait.
const LONGEST: Nanos = from_ms(1000);

/// Smoothed round trip and its variation; 0: none measured yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    smoothed: Nanos,
    variation: Nanos,
}

impl RoundTrip {
    /// An answer came after this time. Answers to repeated requests must not be counted: it is not
    /// known which of them they answer (Karn and Partridge, SIGCOMM 1987).
    pub(super) fn measured(&mut self, time: Nanos) {
        let time = time.min(LONGEST);
        if self.smoothed == 0 {
            (self.smoothed, self.variation) = (time.max(1), time / 2);
            return;
        }
        self.variation = (3 * self.variation + self.smoothed.abs_diff(time)) / 4;
        self.smoothed = (7 * self.smoothed + time) / 8;
    }

    /// How long to wait for the answer to the request that is sent for the time after `repeats`.
    pub(super) fn patience(&self, repeats: u32) -> Nanos {
        let first = match self.smoothed {
            0 => UNKNOWN,
            smoothed => (smoothed + 4 * self.variation).max(SHORTEST),
        };
        (first << repeats.min(10)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_round_trip() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.patience(0), from_ms(50));
        for _ in 0..50 {
            trip.measured(from_ms(1) / 2);
        }
        assert_eq!((trip.patience(0), trip.patience(2)), (from_ms(5), from_ms(20)));
        for _ in 0..50 {
            trip.measured(from_ms(80));
        }
        assert!((from_ms(75)..from_ms(120)).contains(&trip.patience(0)), "{trip:?}");
        assert_eq!(trip.patience(99), from_ms(1000));
        trip.measured(Nanos::MAX);
    }
}
