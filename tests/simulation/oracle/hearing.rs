//! Deafness: when the engine could not hear, how it finds out, and what grace it gives. Section 7.

use super::life::tick_from;
use super::{Lease, Look, Oracle, Spell, State, Verdict, must};
use heartline::internals::clock::{Nanos, from_ms};

/// A stall of this length and longer is deafness.
const STALL_MIN: Nanos = from_ms(20);
/// While an instance is suspect the engine looks this often in the last second before a timer.
const WATCH: Nanos = from_ms(10);

impl Oracle {
    /// The bounds of the deadline of a lease that last beat at `last`: section 7, deafness.
    pub(super) fn deadline(&self, last: Nanos, ttl: Nanos) -> (Nanos, Nanos) {
        let plain = last + ttl;
        let (mut grace, mut certain, mut still) = (0, 0, 0);
        // The engine remembers 64 stalls; with more of them it is not certain which, and where
        // their time counts.
        let forgets = self.stalls > 64;
        let mut counted_from = Nanos::MAX;
        for spell in self.spells.iter().rev().filter(|spell| spell.end >= last) {
            let excuse = spell.end + spell.length.map_or(ttl, |length| ttl.min(8 * length));
            grace = grace.max(excuse);
            if let Some(length) = spell.length {
                // Two threads that stand still at once have stood still once.
                let start = spell.end.saturating_sub(length).max(last);
                still += spell.end.min(counted_from).saturating_sub(start);
                counted_from = counted_from.min(start);
            }
            if spell.length.is_none() || !forgets {
                certain = certain.max(excuse);
            }
        }
        let still = if forgets { self.stood_still } else { still };
        (plain.max(certain.min(last + 4 * ttl)), plain.max(grace.min(last + 4 * ttl + still)))
    }

    /// The registrar looks: what it learns of its own deafness.
    pub(crate) fn listening(&mut self, look: &Look) {
        let late = look.now.saturating_sub(self.expected_look);
        let stall = if late > 0 { late + self.unseen } else { 0 }.max(look.stall);
        if stall >= STALL_MIN {
            self.spells.push(Spell { end: look.now, length: Some(stall) });
            self.stalls += 1;
            self.stood_still += stall;
        }
        if look.drops > self.drops {
            self.spells.push(Spell { end: look.now, length: None });
            self.drops = look.drops;
        }
        // The last beat of whose process dies from now on is set back by a TTL.
        let last = |lease: &Lease| lease.last.min(look.now.saturating_sub(lease.ttl));
        let oldest = self.leases.values().map(last).min().unwrap_or(Nanos::MAX);
        self.spells.retain(|spell| spell.end >= oldest || spell.end == look.now);
    }

    /// The next look is planned. A look that comes later ends a stall, which may have begun since
    /// this one.
    pub(super) fn plans(&mut self, look: &Look) {
        self.expected_look = look.wake_at.map_or(Nanos::MAX, |at| at.max(look.now));
        let is_any_suspect = self.leases.values().any(|lease| lease.state == State::Suspect);
        self.unseen = if is_any_suspect { (self.expected_look - look.now).min(WATCH) } else { 0 };
    }

    /// Looks are close to one another before somebody suspect is due.
    pub(super) fn watches(&self, look: &Look, lease: &Lease, due: Nanos) -> Verdict {
        let latest = (look.now + WATCH).max(tick_from(due) - from_ms(1000));
        must!(
            "never-early",
            lease.state != State::Suspect || self.expected_look <= latest,
            "a stall of the engine would not be seen: {look:?}: {lease:?}"
        );
        Ok(())
    }
}
