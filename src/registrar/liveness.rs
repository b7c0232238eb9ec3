//! Who is silent: decide first, act second.

use super::hold::HoldChange;
use super::tables::{Change, Happening, Membership};
use super::{Registrar, TICK, limbo_floor, limbo_key, wheel};
use crate::clock::{Moment, Span};
use crate::limits::{DOWN_LOOK_NS_MIN, GRACE_TTLS_MAX};
use crate::region::{Cause, EventKind, HeartState};
use crate::wire::{Declared, Generation, Slot, State, endpoint_flags};

/// What a decision is made from.
#[derive(Clone, Copy, Debug)]
struct Facts {
    state: State,
    /// Last beat that counted.
    last: Moment,
    ttl: Span,
    /// End of the hold or of the tombstone; zero with neither.
    until: Moment,
}

/// What is to be done about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing before this time.
    Wait(Moment),
    /// It is silent, unless a beat waits at a socket: ask again when every loop has drained.
    Doubt,
    /// Silent for two thirds of its TTL.
    Suspect,
    /// Silent for its TTL.
    Expired,
    /// Held, and the hold is over.
    Released,
    /// It beat again.
    Up,
    /// It beat again after it was declared down.
    Revive,
    /// Its tombstone period is over.
    Bury,
}

impl Registrar {
    /// Decides about a slot whose timer is due, whose beat asked for it, or (`cleared`) whose stay
    /// in limbo is over; leaves it with a timer or in limbo. Every verdict of silence comes out of
    /// limbo, so that the drop counts are read between the last drain and the verdict.
    pub(super) fn judge(&mut self, now: Moment, slot: Slot, cleared: bool) {
        if !self.deaths.is_empty() && self.is_dying(now, slot, cleared) {
            return;
        }
        // Each round goes one state further; there are four.
        for _ in 0..5 {
            let Some(facts) = self.facts(slot) else { return };
            match self.decide(now, &facts, cleared) {
                Verdict::Wait(at) => return self.wheel.arm(slot, wheel::tick_from(at)),
                Verdict::Doubt => return self.wheel.enter_limbo(slot, limbo_floor(now)),
                Verdict::Suspect => self.transit(
                    now,
                    slot,
                    State::Suspect,
                    Moment::ZERO,
                    Happening::new(EventKind::Suspect, Cause::Silence),
                ),
                Verdict::Expired => self.expire(now, slot, &facts),
                Verdict::Released => self.declare_down(now, slot, facts.ttl, Cause::HoldOver),
                Verdict::Up => self.transit(
                    now,
                    slot,
                    State::Up,
                    Moment::ZERO,
                    Happening::new(EventKind::Up, Cause::Beat),
                ),
                Verdict::Revive => {
                    if self.tables.reserve(self.tables.endpoint(slot).service()).is_err() {
                        // No room in the lists: look again in a tick.
                        return self.wheel.arm(slot, wheel::tick_from(now) + 1);
                    }
                    self.transit(
                        now,
                        slot,
                        State::Up,
                        Moment::ZERO,
                        Happening::new(EventKind::Revived, Cause::Beat),
                    );
                }
                Verdict::Bury => return self.end(now, slot, HeartState::Removed, Cause::Tombstone),
            }
        }
    }

    /// A beat asked for it.
    pub(super) fn look(&mut self, now: Moment, slot: Slot, generation: Generation, leaving: bool) {
        let line = self.tables.line(slot);
        if self.facts(slot).is_none() || line.head().0 != generation {
            return;
        }
        let declared = line.last().declared;
        if leaving || declared == Declared::Leaving {
            return self.end(now, slot, HeartState::Removed, Cause::Leaving);
        }
        self.declare(now, slot, declared);
        self.judge(now, slot, false);
    }

    /// The process of a lease is dead. What it sent before may wait at a socket and must not revive
    /// the lease: so the verdict waits until every loop has drained. It needs no proof of silence:
    /// deadline, grace and hold do not matter.
    pub(super) fn died(&mut self, now: Moment, slot: Slot, generation: Generation) {
        let is_live = self.facts(slot).is_some_and(|facts| facts.state != State::Down);
        if is_live && self.tables.line(slot).head().0 == generation {
            self.deaths.insert(slot, generation);
            self.wheel.enter_limbo(slot, limbo_key(now));
        }
    }

    /// Whether a death is known whose time has not come. If it has, the member is down after this.
    fn is_dying(&mut self, now: Moment, slot: Slot, cleared: bool) -> bool {
        let Some(&generation) = self.deaths.get(&slot) else { return false };
        let own = self.facts(slot).filter(|_| self.tables.line(slot).head().0 == generation);
        if own.is_some() && !cleared {
            return true;
        }
        self.deaths.remove(&slot);
        if let Some(facts) = own {
            // Only a beat that comes from now on revives it.
            self.tables.set_back(slot, now, facts.ttl);
            self.declare_down(now, slot, facts.ttl, Cause::Died);
        }
        false
    }

    fn facts(&self, slot: Slot) -> Option<Facts> {
        let line = self.tables.region.lines().get(slot.index())?;
        let state = line.head().1.of_member()?;
        Some(Facts { state, last: line.last().at, ttl: line.ttl(), until: line.until() })
    }

    fn decide(&self, now: Moment, facts: &Facts, cleared: bool) -> Verdict {
        let (last, ttl) = (facts.last, facts.ttl);
        let third = ttl / 3;
        let deadline = self.deafness.deadline(last, ttl);
        let proved = |at: Moment, verdict| {
            if cleared && self.drained() >= at { verdict } else { Verdict::Doubt }
        };
        match facts.state {
            State::Up if now < deadline - third => Verdict::Wait(deadline - third),
            State::Up => proved(deadline - third, Verdict::Suspect),
            State::Suspect if now < last + ttl - third => Verdict::Up,
            State::Suspect if facts.until == Moment::ZERO && now < deadline => {
                Verdict::Wait(deadline)
            }
            State::Suspect if facts.until == Moment::ZERO => proved(deadline, Verdict::Expired),
            State::Suspect => {
                // The hold never lets go of somebody whom our own deafness still excuses.
                let release = self.hold.release_at(facts.until, ttl).max(deadline);
                if now >= release {
                    return proved(release, Verdict::Released);
                }
                // The evidence may go while it waits.
                Verdict::Wait(release.min(now + (ttl / 4).max(TICK)))
            }
            State::Down if last != Moment::ZERO && now < last + ttl => Verdict::Revive,
            State::Down => {
                // Our own deafness excuses the down as well: no tombstone ends while nobody hears.
                let end = facts.until.max(deadline);
                if now >= end {
                    return proved(end, Verdict::Bury);
                }
                // A beat asks for a look; in case the queue was full, look now and then all the
                // same.
                Verdict::Wait(end.min(now + ttl.max(Span::from_nanos(DOWN_LOOK_NS_MIN))))
            }
        }
    }

    /// Its deadline has passed: down, or held.
    fn expire(&mut self, now: Moment, slot: Slot, facts: &Facts) {
        let serving = self.declared(slot) == Declared::Serving;
        let (silent, live) = self.census.shares();
        let admitted = if serving { self.hold.admit(silent, live) } else { None };
        let Some(begins) = admitted else {
            return self.declare_down(now, slot, facts.ttl, Cause::Silence);
        };
        if begins {
            self.census.note_hold();
            self.tables.announce(
                now,
                Happening {
                    silent,
                    live,
                    ..Happening::new(EventKind::HoldBegan, Cause::MassSilence)
                },
            );
        }
        let happening =
            Happening { silent, live, ..Happening::new(EventKind::Held, Cause::MassSilence) };
        let held = Change { until: now + facts.ttl * GRACE_TTLS_MAX, ..self.same(slot, happening) };
        self.change(now, held, |endpoint| endpoint.flags |= endpoint_flags::HELD);
    }

    fn declare_down(&mut self, now: Moment, slot: Slot, ttl: Span, cause: Cause) {
        let happening = Happening::new(EventKind::Down, cause);
        self.transit(
            now,
            slot,
            State::Down,
            now + ttl.max(Span::from_nanos(self.settings.tombstone_min)),
            happening,
        );
    }

    /// Moves a member to a state in which it is not held.
    fn transit(&mut self, now: Moment, slot: Slot, to: State, until: Moment, happening: Happening) {
        let change = Change {
            slot,
            membership: Membership::Stays,
            happening,
            state: to.into(),
            until,
            attributes: None,
        };
        self.change(now, change, |endpoint| endpoint.flags &= !endpoint_flags::HELD);
    }

    fn declared(&self, slot: Slot) -> Declared {
        self.tables.endpoint(slot).entry().declared()
    }

    /// Takes over what an instance says of itself.
    fn declare(&mut self, now: Moment, slot: Slot, declared: Declared) {
        if self.declared(slot) == declared {
            return;
        }
        let same = self.same(slot, Happening::new(EventKind::Declared, Cause::Beat));
        self.change(now, same, |endpoint| {
            endpoint.flags = endpoint.flags & !endpoint_flags::DECLARED | declared as u8;
        });
    }

    /// Ends the hold when its evidence is gone.
    pub(super) fn observe_hold(&mut self, now: Moment) {
        let (silent, live) = self.census.shares();
        if self.hold.observe(silent, live, now) == HoldChange::Ended {
            debug_assert!(!self.hold.is_on());
            self.tables.announce(
                now,
                Happening { silent, live, ..Happening::new(EventKind::HoldEnded, Cause::HoldOver) },
            );
        }
    }
}
