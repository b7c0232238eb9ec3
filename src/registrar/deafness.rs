//! Our own deafness: while we could not hear, silence proves nothing.

use crate::clock::Nanos;
use crate::limits::{GRACE_TTLS_MAX, STALL_GRACE_FACTOR};

/// A time in which we could not hear.
#[derive(Clone, Copy, Debug, Default)]
struct Spell {
    end: Nanos,
    length: Nanos,
    /// Time stood still in this spell and in those it follows without a break.
    still: Nanos,
}

impl Spell {
    /// Until when it excuses those with the longest TTL.
    fn reach(&self) -> Nanos {
        self.end.saturating_add(self.length.saturating_mul(STALL_GRACE_FACTOR))
    }

    /// Until when it excuses a lease that last beat at `last`.
    fn grace(&self, last: Nanos, ttl: Nanos) -> Nanos {
        if self.end < last { 0 } else { self.end.saturating_add(ttl.min(self.length.saturating_mul(STALL_GRACE_FACTOR))) }
    }
}

/// Stalls remembered at once.
const STALLS: usize = 8;

/// The latest loss of datagrams, and the stalls that may still excuse somebody: newest last, each reaching less far than the one before it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deafness {
    drops: Spell,
    stalls: [Spell; STALLS],
    count: usize,
}

impl Deafness {
    /// The kernel dropped datagrams before `now`; how many beats that cost nobody knows.
    pub(super) fn dropped(&mut self, now: Nanos) {
        self.drops = Spell { end: now, length: Nanos::MAX, still: 0 };
    }

    /// One of our threads stood still for `length` until `now`.
    pub(super) fn stalled(&mut self, now: Nanos, length: Nanos) {
        let mut spell = Spell { end: now, length, still: length };
        // A stall that ended earlier and reaches no further excuses nobody whom this one does not.
        while self.count > 0 && self.stalls[self.count - 1].reach() <= spell.reach() {
            self.count -= 1;
            if self.stalls[self.count].reach() >= now.saturating_sub(length) {
                spell.still += self.stalls[self.count].still;
            }
        }
        self.count = (self.count + 1).min(STALLS);
        self.stalls[self.count - 1] = spell;
    }

    /// When a lease that last beat at `last` has been silent long enough.
    ///
    /// Without deafness since then: one TTL later. Else one TTL after the deafness (after a stall at most [`STALL_GRACE_FACTOR`] times
    /// its length), and in all at most [`GRACE_TTLS_MAX`] TTLs late, not counting the time we stood still: so a flood can't blind
    /// the engine for ever, and a long stop can't use the grace up.
    pub(super) fn deadline(&self, last: Nanos, ttl: Nanos) -> Nanos {
        let deadline = last.saturating_add(ttl);
        let (mut grace, mut still) = (self.drops.grace(last, ttl), 0);
        for stall in self.stalls[..self.count].iter().filter(|stall| stall.end >= last) {
            grace = grace.max(stall.grace(last, ttl));
            still += stall.still;
        }
        deadline.max(grace.min(deadline.saturating_add(GRACE_TTLS_MAX * ttl + still)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_is_one_ttl_and_bounded() {
        let mut deafness = Deafness::default();
        assert_eq!(deafness.deadline(1000, 100), 1100);
        deafness.dropped(1050);
        assert_eq!(deafness.deadline(1000, 100), 1150);
        assert_eq!(deafness.deadline(1051, 100), 1151, "beaten since: no grace");
        deafness.dropped(5000);
        assert_eq!(deafness.deadline(1000, 100), 1400, "three TTLs late at most");
    }

    #[test]
    fn a_short_stall_gives_short_grace() {
        let mut deafness = Deafness::default();
        deafness.stalled(1090, 5);
        assert_eq!(deafness.deadline(1000, 100), 1130);
        assert_eq!(deafness.deadline(1000, 10_000), 11_000);
        deafness.stalled(1095, 1);
        assert_eq!(deafness.deadline(1000, 100), 1130, "a shorter one does not take grace away");
        let mut stopped = Deafness::default();
        stopped.stalled(1950, 1900);
        stopped.stalled(3960, 2000);
        assert_eq!(stopped.deadline(40, 100), 4060, "stopped twice, and one TTL to be heard in");
        assert_eq!(deafness.deadline(1092, 7), 1102, "and is not forgotten for a longer one before it");
    }
}
