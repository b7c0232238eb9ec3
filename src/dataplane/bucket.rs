//! A token bucket.

use crate::clock::{Moment, NANOS_PER_SECOND, Span};

/// Lets `rate` events a second through, and at most `burst` at once.
#[derive(Debug)]
pub(super) struct Bucket {
    cost: Span,
    depth: Span,
    /// The bucket is full when the clock has come here.
    full_at: Moment,
}

impl Bucket {
    pub(super) fn new(rate: u64, burst: u64) -> Self {
        let cost = Span::from_nanos(NANOS_PER_SECOND / rate);
        Self { cost, depth: cost * burst, full_at: Moment::ZERO }
    }

    /// Whether one more event may happen.
    pub(super) fn take(&mut self, now: Moment) -> bool {
        let full_at = self.full_at.max(now) + self.cost;
        let allowed = full_at <= now + self.depth;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut bucket = Bucket::new(1000, 10);
        let now = Moment::from_nanos(NANOS_PER_SECOND);
        assert_eq!((0..100).filter(|_| bucket.take(now)).count(), 10);
        assert_eq!((0..100).filter(|step| bucket.take(now + Span::from_ms(*step))).count(), 99);
    }
}
