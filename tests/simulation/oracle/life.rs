//! Life and death: every event against section 7, and after every look of the registrar what should
//! have happened.

use super::{Ended, Key, Lease, Oracle, Seen, Spell, State, Verdict, Violation, must};
use crate::frames::service_id;
use heartline::internals::clock::{NANOS_PER_MS, Nanos};

/// What threads may take to wake one another in the simulation, on top of the tick.
const PROMPT: Nanos = 500_000;
/// An event of the feed: number, time, kind and cause, service, version, instance, shares, zero.
type Words = [u64; 8];

/// What a look of the registrar was told and what it asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) now: Nanos,
    pub(crate) drained: Nanos,
    pub(crate) drops: u64,
    pub(crate) stall: Nanos,
    pub(crate) wake_at: Option<Nanos>,
    pub(crate) drain: Option<Nanos>,
}

/// The request that the events of a step come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doing {
    pub(super) granted: Option<Lease>,
    pub(super) replaced: Option<Key>,
    pub(super) updated: Option<Lease>,
    pub(super) ended: Option<Key>,
    pub(super) leaves: Vec<Key>,
}

pub(super) fn tick_from(time: Nanos) -> Nanos {
    time.div_ceil(NANOS_PER_MS) * NANOS_PER_MS
}

impl Oracle {
    /// One event. `declared` is what the endpoint of its slot says now.
    pub(crate) fn event(
        &mut self,
        now: Nanos,
        words: &Words,
        doing: &Doing,
        declared: u8,
    ) -> Verdict {
        let [number, at, kind_cause, service, version, instance, shares, _] = *words;
        let (kind, cause) = (kind_cause & 0xFF, kind_cause >> 8);
        self.events += 1;
        self.seen.insert((Seen::Event, kind_cause));
        must!("versions", number == self.events, "event {number} after event {}", self.events - 1);
        must!("transitions", at == now, "an event of another time: {words:?}");
        let totals = &mut self.totals;
        match kind {
            1 => totals.0 += 1,
            5 => totals.2 += 1,
            6 => totals.3 += 1,
            9 => totals.1 += 1,
            10 => totals.4 += 1,
            _ => {}
        }
        if kind >= 10 {
            return self.engine_event(now, kind, cause, (shares as u32, (shares >> 32) as u32));
        }
        let key = (instance as u32, (instance >> 32) as u32);
        if kind == 1 {
            let Some(lease) = doing
                .granted
                .clone()
                .filter(|lease| (lease.slot, lease.generation) == key && cause == 1)
            else {
                return Err(Violation {
                    invariant: "transitions",
                    what: format!("a registration that nobody asked for: {words:?}"),
                });
            };
            self.join(service, version, lease)?;
            return Ok(());
        }
        let Some(lease) = self.leases.get(&key).cloned() else {
            return Err(Violation {
                invariant: "old-leases",
                what: format!("an event about a lease that does not stand: {words:?}"),
            });
        };
        must!("versions", service == service_id(&lease.service), "the event names another service");
        let step = self.services.get_mut(&lease.service).unwrap();
        *step += 1;
        must!("versions", version == *step, "version {version} of {:?}, not {step}", lease.service);
        match kind {
            2 | 6 => self.returned(now, lease, kind, cause),
            3..=5 => {
                let told = (shares as u32, (shares >> 32) as u32);
                let expected = if kind == 4 { self.shares() } else { (0, 0) };
                must!("hold", told == expected, "event {kind} tells {told:?}, not {expected:?}");
                self.silent(now, lease, kind, cause)
            }
            7 => self.updated(key, cause, doing),
            8 => self.declared(&lease, cause, declared),
            9 => self.gone(now, lease, cause, doing),
            _ => Err(Violation {
                invariant: "transitions",
                what: format!("no such event: {words:?}"),
            }),
        }
    }

    fn updated(&mut self, key: (u32, u32), cause: u64, doing: &Doing) -> Verdict {
        let asked = doing.updated.clone();
        let updated = asked.filter(|asked| (asked.slot, asked.generation) == key && cause == 1);
        must!("transitions", updated.is_some(), "an update that nobody asked for");
        self.leases.insert(key, updated.unwrap());
        Ok(())
    }

    fn declared(&mut self, lease: &Lease, cause: u64, declared: u8) -> Verdict {
        must!(
            "transitions",
            cause == 2 && declared != lease.declared && declared != 3,
            "declared {declared} again"
        );
        must!(
            "transitions",
            lease.said.is_none_or(|said| said == declared),
            "declared {declared}, said {:?}",
            lease.said
        );
        self.leases.get_mut(&(lease.slot, lease.generation)).unwrap().declared = declared;
        Ok(())
    }

    fn engine_event(&mut self, now: Nanos, kind: u64, cause: u64, shares: (u32, u32)) -> Verdict {
        match (kind, cause) {
            (10, 4) => {
                must!(
                    "hold",
                    self.hold.is_none() && self.is_evidence(),
                    "a hold began with {:?} silent of live",
                    self.shares()
                );
                must!(
                    "hold",
                    shares == self.shares(),
                    "the hold began with {shares:?}, not {:?}",
                    self.shares()
                );
                self.hold = Some((now, shares.0, shares.1));
            }
            (11, 5) => {
                must!(
                    "hold",
                    shares == self.shares(),
                    "the hold ended with {shares:?}, not {:?}",
                    self.shares()
                );
                must!(
                    "hold",
                    self.hold.is_some() && !self.is_evidence(),
                    "a hold ended with {:?} silent of live",
                    self.shares()
                );
                (self.hold, self.hold_ended) = (None, now);
            }
            (12, 9 | 10) => must!(
                "transitions",
                self.spells.iter().any(|spell| spell.end == now),
                "deaf for no reason"
            ),
            _ => must!("transitions", false, "no such event: kind {kind}, cause {cause}"),
        }
        Ok(())
    }

    fn join(&mut self, service: u64, version: u64, lease: Lease) -> Verdict {
        must!(
            "versions",
            service == service_id(&lease.service),
            "the registration is another service's"
        );
        let is_empty = self.members(&lease.service).next().is_none();
        let before = self.services.insert(lease.service.clone(), version);
        // An empty service may be forgotten; then its versions jump, but never back.
        let right =
            before.is_none_or(|before| version == before + 1 || is_empty && version > before);
        must!("versions", right, "version {version} after {before:?}");
        let generation = self.slots.insert(lease.slot, lease.generation).unwrap_or(0);
        must!(
            "old-leases",
            lease.generation == generation + 1,
            "generation {} after {generation}",
            lease.generation
        );
        self.granted += 1;
        self.directory_changed |= is_empty;
        self.leases.insert((lease.slot, lease.generation), lease);
        Ok(())
    }

    /// Up again, or revived.
    fn returned(&mut self, now: Nanos, lease: Lease, kind: u64, cause: u64) -> Verdict {
        let (from, silence) = if kind == 2 {
            (State::Suspect, lease.ttl - lease.ttl / 3)
        } else {
            (State::Down, lease.ttl)
        };
        must!(
            "transitions",
            cause == 2 && lease.state == from,
            "kind {kind}, cause {cause}: {lease:?}"
        );
        must!("transitions", lease.dying.is_none(), "back, and its process is dead: {lease:?}");
        let beat = lease.last != 0 && now < lease.last + silence;
        must!("transitions", beat, "back without a beat: {lease:?}");
        let lease = self.leases.get_mut(&(lease.slot, lease.generation)).unwrap();
        (lease.state, lease.held_at) = (State::Up, None);
        Ok(())
    }

    /// Suspect, held or down.
    fn silent(&mut self, now: Nanos, lease: Lease, kind: u64, cause: u64) -> Verdict {
        let key = (lease.slot, lease.generation);
        if let Some(told) = lease.dying {
            return self.dead(now, &lease, told, kind, cause);
        }
        // What arrived before the time of the verdict counts, applied or not.
        let ordinary = self.deadline(lease.last, lease.ttl).0;
        let judged_at = match (kind, lease.held_at) {
            (3, _) => ordinary - lease.ttl / 3,
            (5, Some(held_at)) => self.release(held_at, lease.ttl).max(ordinary),
            _ => ordinary,
        };
        let (earliest, latest) = self.deadline(self.last_heard(key, judged_at), lease.ttl);
        let early = |time: Nanos| format!("{} ns early at {now}: {lease:?}", time - now);
        let held = lease.held_at;
        let evidence = self.is_evidence();
        match (kind, cause, lease.state, held) {
            (3, 3, State::Up, _) => {
                let time = earliest - lease.ttl / 3;
                must!("never-early", now >= time, "suspect {}", early(time));
                self.leases.get_mut(&key).unwrap().state = State::Suspect;
            }
            (4, 4, State::Suspect, None) => {
                must!("never-early", now >= earliest, "held {}", early(earliest));
                must!(
                    "hold",
                    self.hold.is_some() && evidence && lease.declared == 0,
                    "held without reason: {lease:?}"
                );
                self.leases.get_mut(&key).unwrap().held_at = Some(now);
            }
            (5, 3, State::Suspect, None) => {
                must!("never-early", now >= earliest, "down {}", early(earliest));
                must!(
                    "hold",
                    !(evidence && lease.declared == 0),
                    "down, not held, with {:?} silent of live",
                    self.shares()
                );
                let calm = self.disturbed + 5 * NANOS_PER_MS < latest.min(lease.last + lease.ttl);
                must!(
                    "never-late",
                    !calm || now <= tick_from(latest) + PROMPT,
                    "down {} ns late: {lease:?}",
                    now - latest
                );
                self.bury(key, now);
            }
            (5, 5, State::Suspect, Some(held_at)) => {
                let time = self.release(held_at, lease.ttl).max(earliest);
                must!("hold", now >= time, "let go {}", early(time));
                must!(
                    "never-early",
                    self.last_heard(key, judged_at) == lease.last,
                    "a beat of somebody held waits: {lease:?}"
                );
                self.bury(key, now);
            }
            _ => must!("transitions", false, "kind {kind}, cause {cause}: {lease:?}"),
        }
        Ok(())
    }

    /// Down because its process is dead. Nothing of what it sent before may wait: it would revive
    /// the lease. From now on only a beat does.
    fn dead(&mut self, now: Nanos, lease: &Lease, told: Nanos, kind: u64, cause: u64) -> Verdict {
        let key = (lease.slot, lease.generation);
        must!("transitions", (kind, cause) == (5, 11), "kind {kind}, cause {cause}: {lease:?}");
        must!(
            "never-early",
            self.last_heard(key, told) == lease.last,
            "a beat from before the death waits: {lease:?}"
        );
        self.bury(key, now);
        let lease = self.leases.get_mut(&key).unwrap();
        lease.last = lease.last.min(now.saturating_sub(lease.ttl));
        lease.dying = None;
        Ok(())
    }

    fn bury(&mut self, key: Key, now: Nanos) {
        let lease = self.leases.get_mut(&key).unwrap();
        (lease.state, lease.held_at, lease.down_at) = (State::Down, None, now);
    }

    /// When somebody held is let go: three TTLs later, or one TTL after the hold ended.
    fn release(&self, held_at: Nanos, ttl: Nanos) -> Nanos {
        let longest = held_at + 3 * ttl;
        if self.hold.is_some() { longest } else { longest.min(self.hold_ended + ttl) }
    }

    fn gone(&mut self, now: Nanos, lease: Lease, cause: u64, doing: &Doing) -> Verdict {
        let key = (lease.slot, lease.generation);
        let right = match cause {
            1 => doing.ended == Some(key),
            6 => doing.leaves.contains(&key),
            7 => {
                let (earliest, _) = self.tombstone(&lease);
                let heard = self.last_heard(key, earliest);
                lease.state == State::Down && now >= earliest && now >= heard + lease.ttl
            }
            8 => doing.replaced == Some(key),
            _ => false,
        };
        must!("transitions", right, "gone for cause {cause} at {now}: {lease:?}");
        self.leases.remove(&key);
        let was_last = self.members(&lease.service).next().is_none();
        self.directory_changed |= was_last;
        self.ended
            .insert(key, (lease.secret, if cause == 8 { Ended::Replaced } else { Ended::Removed }));
        Ok(())
    }

    /// The bounds of the end of a tombstone: deafness puts it off as it does a deadline.
    fn tombstone(&self, lease: &Lease) -> (Nanos, Nanos) {
        let plain = lease.down_at + lease.ttl.max(self.plan.tombstone);
        let (earliest, latest) = self.deadline(lease.last, lease.ttl);
        (plain.max(earliest), plain.max(latest))
    }

    /// After a look and its events: whoever is due was judged, or the loops are asked to drain;
    /// whoever is not has a timer.
    pub(crate) fn looked(&mut self, look: &Look) -> Verdict {
        self.plans(look);
        must!(
            "hold",
            self.hold.is_none() || self.is_evidence(),
            "a hold without evidence: {:?} silent of live",
            self.shares()
        );
        let backlog = look.wake_at == Some(look.now);
        let (mut timer, mut first) = (Nanos::MAX, None);
        let mut dues = Vec::new();
        for (key, lease) in &self.leases {
            let due = self.due(lease);
            if look.now < tick_from(due) {
                if tick_from(due) < timer {
                    (timer, first) = (tick_from(due), Some(lease.clone()));
                }
                self.watches(look, lease, due)?;
                dues.push((*key, None));
                continue;
            }
            let Some((_, seen, again)) = lease.due.filter(|(time, ..)| *time == due) else {
                must!(
                    "never-late",
                    backlog || look.drain.is_some(),
                    "due at {due}, and nobody is asked to drain: {lease:?}"
                );
                dues.push((*key, Some((due, look.now, false))));
                continue;
            };
            // Limbo counts microseconds. Who waited for an earlier drain when its time came waits
            // for a second one.
            let proved = look.drained >= seen;
            must!(
                "never-late",
                backlog || !proved || !again,
                "due at {due}, all drained, not judged: {look:?}: {lease:?}"
            );
            let seen = if proved { look.now } else { seen };
            must!(
                "never-late",
                backlog || look.drain.is_some(),
                "due at {due}, and nobody is asked to drain: {lease:?}"
            );
            dues.push((*key, Some((due, seen, again || proved))));
        }
        for (key, due) in dues {
            self.leases.get_mut(&key).unwrap().due = due;
        }
        // Who waits for a drain already is woken by that.
        let asks = backlog
            || timer == Nanos::MAX
            || look.drain.is_some()
            || look.wake_at.is_some_and(|at| at <= timer);
        must!(
            "never-late",
            asks,
            "next is due at {timer}, to be woken at {:?}: {first:?}",
            look.wake_at
        );
        Ok(())
    }

    /// No command waits: what beats said, and could be passed on, is taken over.
    pub(crate) fn caught_up(&self) -> Verdict {
        for lease in self.leases.values() {
            must!(
                "beats",
                lease.said.is_none_or(|said| said == lease.declared),
                "what it said was never taken over: {lease:?}"
            );
        }
        Ok(())
    }

    /// When a lease is due to be judged at the latest.
    fn due(&self, lease: &Lease) -> Nanos {
        if let Some(told) = lease.dying {
            return told;
        }
        let (_, deadline) = self.deadline(lease.last, lease.ttl);
        match (lease.state, lease.held_at) {
            (State::Up, _) => deadline - lease.ttl / 3,
            (State::Suspect, None) => deadline,
            (State::Suspect, Some(held_at)) => self.release(held_at, lease.ttl).max(deadline),
            (State::Down, _) => self.tombstone(lease).1.max(lease.last + lease.ttl),
        }
    }

    /// Another engine goes on where the last one ended. It stood still all the time. Cookies are
    /// void and what waited in queues is lost, unless both were handed over.
    pub(crate) fn resumes(&mut self, now: Nanos, epoch: u64, handed: bool) {
        self.epoch = epoch;
        // Whoever told it of a death told the engine before.
        self.leases.values_mut().for_each(|lease| lease.dying = None);
        if !handed {
            self.cookies.clear();
            self.waiting.clear();
        }
        self.naks.clear();
        self.pages.clear();
        self.spells = vec![Spell { end: now, length: Some(now) }];
        (self.stalls, self.stood_still) = (1, now);
        (self.expected_look, self.unseen) = (Nanos::MAX, 0);
        (self.drops, self.disturbed) = (0, now);
        if self.hold.is_none() {
            self.hold_ended = now;
        }
        self.directory_changed = true;
        self.totals = Default::default();
    }

    /// What it may do at once: end the leases of those who said that they leave.
    pub(crate) fn resuming(&self) -> Doing {
        let leaves = self.leases.values().filter(|lease| lease.said.is_none_or(|said| said == 3));
        Doing {
            leaves: leaves.map(|lease| (lease.slot, lease.generation)).collect(),
            ..Doing::default()
        }
    }

    /// What it must have done: nothing that was acknowledged is lost, and nothing that a beat said.
    pub(crate) fn resumed(&self) -> Verdict {
        for lease in self.leases.values() {
            must!(
                "restart",
                lease.said.is_none_or(|said| said == lease.declared),
                "not declared: {lease:?}"
            );
        }
        must!(
            "hold",
            self.hold.is_none() || self.is_evidence(),
            "a hold without evidence: {:?} silent of live",
            self.shares()
        );
        Ok(())
    }

    /// The hold that is on: since when, silent and live instances then.
    pub(crate) fn hold(&self) -> Option<(Nanos, u32, u32)> {
        self.hold
    }
}
