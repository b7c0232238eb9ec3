//! Our own deafness: while we could not hear, silence proves nothing.

use crate::clock::{Moment, Span};
use crate::limits::{GRACE_TTLS_MAX, STALL_GRACE_FACTOR, WATCH_LOOK_NS, WATCH_NS};
use std::collections::VecDeque;

/// A time in which we could not hear.
#[derive(Clone, Copy, Debug)]
struct Stall {
    end: Moment,
    length: Span,
    /// Time stood still: the length, and that of forgotten stalls before it.
    still: Span,
}

impl Stall {
    /// Until when it excuses those with the longest TTL.
    fn reach(&self) -> Moment {
        self.end.saturating_add(self.length.saturating_mul(STALL_GRACE_FACTOR))
    }
}

/// How often the registrar looks while it watches for a stall, and for how long before a timer.
const LOOK: Span = Span::from_nanos(WATCH_LOOK_NS);
const WATCHED: Span = Span::from_nanos(WATCH_NS);
/// Stalls remembered at once.
const STALLS: usize = 64;

/// Whether looks come when they were planned for.
///
/// A thread that sleeps can't tell for how long it was stopped; it can tell that it runs later than
/// it meant to. So looks are planned close to one another where a stall would matter: see
/// [`Self::before`].
#[derive(Debug)]
pub(super) struct Watch {
    planned: Moment,
    /// Longest part of a stall that can lie before the planned look.
    unseen: Span,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { planned: Moment::NEVER, unseen: Span::ZERO }
    }

    /// When to look at the latest while somebody is suspect and the next timer is at `timer`: every
    /// [`WATCH_LOOK_NS`] of the last [`WATCH_NS`] before it.
    pub(super) fn before(now: Moment, timer: Moment) -> Moment {
        timer.min((now + LOOK).max(timer.saturating_sub(WATCHED)))
    }

    /// The next look after the one at `now` is planned for this time.
    pub(super) fn plan(&mut self, now: Moment, at: Option<Moment>, is_any_suspect: bool) {
        self.planned = at.map_or(Moment::NEVER, |at| at.max(now));
        self.unseen = if is_any_suspect { (self.planned - now).min(LOOK) } else { Span::ZERO };
    }

    /// How long the thread may have stood still, if it looks now: never less than it did since the
    /// watch began.
    pub(super) fn stall(&self, now: Moment) -> Span {
        if now > self.planned { now - self.planned + self.unseen } else { Span::ZERO }
    }
}

/// The latest loss of datagrams, and the stalls, newest last.
#[derive(Debug)]
pub(super) struct Deafness {
    dropped_at: Option<Moment>,
    stalls: VecDeque<Stall>,
}

impl Deafness {
    pub(super) fn new() -> Self {
        Self { dropped_at: None, stalls: VecDeque::with_capacity(STALLS + 1) }
    }

    /// The kernel dropped datagrams before `now`; how many beats that cost nobody knows.
    pub(super) fn dropped(&mut self, now: Moment) {
        self.dropped_at = Some(now);
    }

    /// One of our threads stood still for `length` until `now`.
    pub(super) fn stalled(&mut self, now: Moment, length: Span) {
        self.stalls.push_back(Stall { end: now, length, still: length });
        if self.stalls.len() > STALLS {
            self.forget_one();
        }
    }

    /// Forgets the stall that reaches least; its time counts with that of the next one.
    fn forget_one(&mut self) {
        let others = 0..self.stalls.len() - 1;
        if let Some(least) = others.min_by_key(|&at| self.stalls[at].reach())
            && let Some(gone) = self.stalls.remove(least)
            && let Some(next) = self.stalls.get_mut(least)
        {
            next.still += gone.still;
        }
    }

    /// When a lease that last beat at `last` has been silent long enough.
    ///
    /// Without deafness since then: one TTL later. Else one TTL after the deafness (after a stall
    /// at most [`STALL_GRACE_FACTOR`] times its length), and in all at most [`GRACE_TTLS_MAX`] TTLs
    /// late, not counting the time we stood still: so a flood can't blind the engine for ever, and
    /// a long stop can't use the grace up.
    pub(super) fn deadline(&self, last: Moment, ttl: Span) -> Moment {
        let deadline = last.saturating_add(ttl);
        let mut grace = self
            .dropped_at
            .filter(|&at| at >= last)
            .map_or(Moment::ZERO, |at| at.saturating_add(ttl));
        // Threads may stand still at the same time, and that counts once, and only since the last
        // beat: else a beat that is applied late would bring the deadline forward, and timers never
        // look earlier.
        let (mut still, mut counted_from) = (Span::ZERO, Moment::NEVER);
        for stall in self.stalls.iter().rev().take_while(|stall| stall.end >= last) {
            grace = grace.max(
                stall.end.saturating_add(ttl.min(stall.length.saturating_mul(STALL_GRACE_FACTOR))),
            );
            let start = stall.end.saturating_sub(stall.still).max(last);
            still += stall.end.min(counted_from).saturating_since(start);
            counted_from = counted_from.min(start);
        }
        deadline.max(grace.min(deadline.saturating_add(ttl * GRACE_TTLS_MAX + still)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Nanos;

    fn at(nanos: Nanos) -> Moment {
        Moment::from_nanos(nanos)
    }

    fn span(nanos: Nanos) -> Span {
        Span::from_nanos(nanos)
    }

    fn deadline(deafness: &Deafness, last: Nanos, ttl: Nanos) -> Nanos {
        deafness.deadline(at(last), span(ttl)).nanos()
    }

    #[test]
    fn looks_are_close_to_one_another_before_a_timer() {
        let timer = Moment::ZERO + WATCHED * 5;
        assert_eq!(Watch::before(Moment::ZERO, timer), timer - WATCHED);
        assert_eq!(Watch::before(timer - WATCHED, timer), timer - WATCHED + LOOK);
        assert_eq!(Watch::before(timer - span(3), timer), timer);
        assert_eq!(Watch::before(timer + span(3), timer), timer, "it is due");
        assert_eq!(Watch::before(at(0), at(7)), at(7), "in the first second of the machine");
    }

    #[test]
    fn a_late_look_counts_from_the_look_before() {
        let mut watch = Watch::new();
        assert_eq!(watch.stall(Moment::NEVER), Span::ZERO, "nothing was planned");
        watch.plan(at(1000), Some(at(2000)), true);
        let stalls = [1500, 2000, 2300].map(|now| watch.stall(at(now)).nanos());
        assert_eq!(stalls, [0, 0, 1300]);
        watch.plan(at(1000), Some(at(2000)), false);
        assert_eq!(watch.stall(at(2300)), span(300));
        let later = Moment::ZERO + LOOK * 7;
        watch.plan(Moment::ZERO, Some(later), true);
        assert_eq!(watch.stall(later + span(1)), LOOK + span(1));
        watch.plan(at(1000), None, false);
        assert_eq!(watch.stall(Moment::NEVER), Span::ZERO);
    }

    #[test]
    fn grace_is_one_ttl_and_bounded() {
        let mut deafness = Deafness::new();
        assert_eq!(deadline(&deafness, 1000, 100), 1100);
        deafness.dropped(at(1050));
        assert_eq!(deadline(&deafness, 1000, 100), 1150);
        assert_eq!(deadline(&deafness, 1051, 100), 1151, "beaten since: no grace");
        deafness.dropped(at(5000));
        assert_eq!(deadline(&deafness, 1000, 100), 1400, "three TTLs late at most");
    }

    #[test]
    fn a_short_stall_gives_short_grace() {
        let mut deafness = Deafness::new();
        deafness.stalled(at(1090), span(5));
        assert_eq!(deadline(&deafness, 1000, 100), 1130);
        assert_eq!(deadline(&deafness, 1000, 10_000), 11_000);
        deafness.stalled(at(1095), span(1));
        assert_eq!(deadline(&deafness, 1000, 100), 1130, "a shorter one does not take grace away");
        let mut stopped = Deafness::new();
        stopped.stalled(at(1950), span(1900));
        stopped.stalled(at(3960), span(2000));
        assert_eq!(deadline(&stopped, 40, 100), 4060, "stopped twice, and one TTL to be heard in");
        assert_eq!(
            deadline(&deafness, 1092, 7),
            1102,
            "and is not forgotten for a longer one before it"
        );
    }

    /// Standing still before the last beat is no reason for more grace after it.
    #[test]
    fn only_stalls_since_the_last_beat_lengthen_the_bound() {
        let mut deafness = Deafness::new();
        deafness.stalled(at(990), span(500));
        deafness.stalled(at(1350), span(300));
        deafness.stalled(at(2000), span(40));
        assert_eq!(deadline(&deafness, 1000, 100), 1000 + 4 * 100 + 340);
    }

    #[test]
    fn only_the_part_of_a_stall_since_the_last_beat_lengthens_the_bound() {
        let mut deafness = Deafness::new();
        deafness.stalled(at(1000), span(1_000_000));
        deafness.dropped(at(5000));
        assert_eq!(
            (
                deadline(&deafness, 950, 100),
                deadline(&deafness, 1000, 100),
                deadline(&deafness, 1001, 100)
            ),
            (1400, 1400, 1401)
        );
        let mut together = Deafness::new();
        together.stalled(at(1000), span(500));
        together.stalled(at(1100), span(500));
        together.dropped(at(9000));
        assert_eq!(deadline(&together, 550, 100), 550 + 4 * 100 + 550, "two threads at once");
    }

    proptest::proptest! {
        #![proptest_config(crate::registrar::kept_seeds())]

        /// A timer was armed for where an older beat led; a beat that a slow loop applies after
        /// that must not lead to before it.
        #[test]
        fn a_newer_beat_never_leads_to_an_earlier_deadline(
            deafs in proptest::collection::vec(
                (1_u64..300, 0_u64..400, proptest::bool::ANY), 0..100,
            ),
            (last, later, ttl) in (0_u64..6000, 0_u64..3000, 1_u64..500),
        ) {
            let (mut deafness, mut now) = (Deafness::new(), 0);
            for (pause, length, drops) in deafs {
                // Stalls of several threads overlap.
                now += pause;
                if drops {
                    deafness.dropped(at(now));
                } else {
                    deafness.stalled(at(now), span(length));
                }
            }
            let (of_older, of_newer) =
                (deadline(&deafness, last, ttl), deadline(&deafness, last + later, ttl));
            proptest::prop_assert!(of_older <= of_newer);
        }
    }

    #[test]
    fn of_very_many_stalls_those_that_reach_furthest_are_remembered() {
        let mut deafness = Deafness::new();
        deafness.stalled(at(1000), span(5000));
        for end in 1..2 * STALLS as Nanos {
            deafness.stalled(at(1000 + end), span(2));
        }
        assert_eq!(deafness.stalls.len(), STALLS);
        assert_eq!(
            deafness.stalls.iter().map(|stall| stall.still.nanos()).sum::<Nanos>(),
            5000 + 2 * (2 * STALLS as Nanos - 1)
        );
        assert_eq!(deadline(&deafness, 500, 30_000), 31_000);
    }
}
