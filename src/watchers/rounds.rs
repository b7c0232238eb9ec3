//! Rounds: what has happened since the last one is gathered, and every watch that it concerns gets
//! it in as few pushes as it takes.

use super::entries::{self, Change, Entries};
use super::table::{NONE, Table};
use super::{SERVICES, Watchers};
use crate::clock::{Moment, Span};
use crate::exchange::{Body, Pushes};
use crate::limits::{
    ENDPOINTS_PER_PUSH_MAX, ROUND_BODIES, ROUND_EVENTS, ROUND_NS_MIN, WATCHES_MAX,
};
use crate::region::Counter;
use crate::wire::{Generation, Slot};
use smallvec::SmallVec;

/// The version before a push that says nothing but that there is more.
pub(super) const PULL_BEFORE: u64 = u64::MAX;

/// The content of one push: versions before and after, and the endpoints in between. No endpoints
/// with another version mean pull.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub(super) before: u64,
    pub(super) after: u64,
    pub(super) body: Body,
}

/// The next step of a round, once every watch has the present chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No round is on.
    Rest,
    /// The changes from this one on.
    Changes(usize),
    /// Events were missed: the lists from this one on are compared with what was told.
    Lists(u32),
    /// The list of services.
    Services,
    /// The hold has changed: every watch from this one on is told so.
    Hold(u32),
    /// All is told, and will be sent before the next call.
    Over,
}

/// The present round, and what is carried on to the next.
#[derive(Debug)]
pub(super) struct Round {
    stage: Stage,
    /// Number of the first event that was not looked at.
    next_event: u64,
    hold_percent: u8,
    hold_changed: bool,
    missed: bool,
    changes: Vec<Change>,
    /// The pushes that each watch of a list gets.
    chain: SmallVec<[Link; ROUND_BODIES]>,
    /// The watch that is next to get them, and the first that it did not get.
    watch: u32,
    link: usize,
    began: Moment,
    /// The next round does not begin before, so that pushing takes half of the time at most.
    not_before: Moment,
}

impl Default for Round {
    fn default() -> Self {
        Self {
            stage: Stage::Rest,
            next_event: 1,
            hold_percent: 0,
            hold_changed: false,
            missed: false,
            changes: Vec::with_capacity(ROUND_EVENTS),
            chain: SmallVec::new(),
            watch: NONE,
            link: 0,
            began: Moment::ZERO,
            not_before: Moment::ZERO,
        }
    }
}

impl Round {
    /// Events from this one on will be told, and another hold than this.
    pub(super) fn follow(&mut self, event: u64, hold_percent: u8) {
        (self.next_event, self.hold_percent) = (event, hold_percent);
    }

    pub(super) fn next_event(&self) -> u64 {
        self.next_event
    }

    /// The hold as watchers were told.
    pub(super) fn hold_percent(&self) -> u8 {
        self.hold_percent
    }

    pub(super) fn is_on(&self) -> bool {
        self.stage != Stage::Rest
    }

    /// When the next round may begin.
    pub(super) fn next_at(&self) -> Moment {
        (self.began + Span::from_nanos(ROUND_NS_MIN)).max(self.not_before)
    }

    /// A watch ends.
    pub(super) fn forget(&mut self, watch: u32, table: &Table) {
        if self.watch == watch {
            (self.watch, self.link) = (table.after(watch), 0);
        }
    }

    /// Lets every watch of a list have the chain.
    fn tell(&mut self, first: u32) {
        (self.watch, self.link) = (first, 0);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.changes.capacity() * size_of::<Change>()
    }
}

impl Watchers {
    /// Takes note of how long a round took that is over.
    pub(super) fn end_round(&mut self, now: Moment) {
        if self.round.stage == Stage::Over {
            self.round.not_before = now + now.saturating_since(self.round.began);
            self.round.stage = Stage::Rest;
        }
    }

    /// Begins a round if there is something to tell and it is time.
    pub(super) fn begin_round(&mut self, now: Moment) {
        if self.round.is_on() || now < self.round.next_at() || !self.is_behind() {
            return;
        }
        let hold_percent = self.hold_percent();
        let round = &mut self.round;
        round.hold_changed = round.hold_percent != hold_percent;
        (round.hold_percent, round.began, round.missed) = (hold_percent, now, false);
        self.gather();
        self.round.stage = Stage::Changes(0);
    }

    /// Takes events from the feed, those of each service together and in order.
    fn gather(&mut self) {
        let head = self.region.feed().head();
        let round = &mut self.round;
        round.changes.clear();
        let until = head.min(round.next_event.saturating_add(ROUND_EVENTS as u64 - 1));
        while round.next_event <= until {
            let Some([_, _, _, service, revision, instance, _, _]) =
                self.region.feed().raw(round.next_event)
            else {
                // It was overwritten before it was read.
                self.tally.add(Counter::FeedMissed, 1);
                round.changes.clear();
                round.missed = true;
                round.next_event = head + 1;
                return;
            };
            round.next_event += 1;
            // Events of no service, of a hold for example, have service 0.
            if service != SERVICES && self.table.find_list(service).is_some() {
                round.changes.push(Change {
                    service,
                    revision,
                    slot: Slot::new(instance as u32),
                    generation: Generation::new((instance >> 32) as u32),
                });
            }
        }
        round.changes.sort_unstable_by_key(|change| (change.service, change.revision));
    }

    /// Goes on with the round. `false`: what waits must be sent first.
    pub(super) fn go_on(&mut self, now: Moment, pushes: &mut Pushes) -> bool {
        loop {
            while self.round.watch != NONE {
                if pushes.is_full() {
                    return false;
                }
                self.push_link(now, pushes);
            }
            self.round.stage = match self.round.stage {
                Stage::Rest | Stage::Over => return true,
                Stage::Changes(at) if at < self.round.changes.len() => {
                    if !pushes.make_room(ROUND_BODIES) {
                        return false;
                    }
                    Stage::Changes(self.tell_changes(now, at, pushes))
                }
                Stage::Changes(_) if self.round.missed => Stage::Lists(0),
                Stage::Changes(_) => Stage::Services,
                Stage::Lists(at) if (at as usize) < WATCHES_MAX => {
                    self.compare(at);
                    Stage::Lists(at + 1)
                }
                Stage::Lists(_) => Stage::Services,
                Stage::Services => {
                    if let Some(list) = self.table.find_list(SERVICES) {
                        self.compare(list);
                    }
                    Stage::Hold(if self.round.hold_changed { 0 } else { WATCHES_MAX as u32 })
                }
                Stage::Hold(at) if (at as usize) < WATCHES_MAX => {
                    if pushes.is_full() {
                        return false;
                    }
                    self.tell_hold(now, at, pushes);
                    Stage::Hold(at + 1)
                }
                Stage::Hold(_) => Stage::Over,
            };
        }
    }

    /// Pushes the next link of the chain to the watch that is next.
    fn push_link(&mut self, now: Moment, pushes: &mut Pushes) {
        let (watch, at) = (self.round.watch, self.round.link);
        if let Some(&link) = self.round.chain.get(at) {
            self.push(now, watch, &link, pushes);
            self.round.link += 1;
        }
        // A watcher without credit for one link is told to pull later, and needs no others.
        if self.round.link >= self.round.chain.len() || self.table[watch].behind {
            let next = self.table.after(watch);
            self.round.tell(next);
        }
    }

    /// Makes the chain of one service from its changes, which begin here; returns where those of
    /// the next begin.
    fn tell_changes(&mut self, now: Moment, at: usize, pushes: &mut Pushes) -> usize {
        let service = self.round.changes[at].service;
        let count = self.round.changes[at..].partition_point(|change| change.service == service);
        let (next, list) = (at + count, self.table.find_list(service));
        let Some(list) = list.and_then(|list| self.table.list_mut(list)) else { return next };
        // A watch that began lately has read a version that these changes led to.
        let of_service = &self.round.changes[at..next];
        let known = of_service.partition_point(|change| change.revision <= list.told);
        let new = &of_service[known..];
        let Some(last) = new.last() else { return next };
        self.round.chain.clear();
        // Versions grow by one with each event. Of a service that is new, all are told.
        let follow = new.windows(2).all(|pair| pair[0].revision + 1 == pair[1].revision)
            && (list.told == 0 || list.told + 1 == new[0].revision);
        let before = std::mem::replace(&mut list.told, last.revision);
        let whole = follow
            && chain(new, before, &mut self.round.chain, |changes| {
                let mut entries = Entries::new();
                entries::read(&self.region, now, changes, &mut entries)
                    .then(|| pushes.add_body(&entries))
            });
        if !whole {
            let pull = Link { before, after: last.revision, body: Body::default() };
            self.round.chain.clear();
            self.round.chain.push(pull);
        }
        let first = list.first();
        self.round.tell(first);
        next
    }

    /// Lets the watchers of a list pull if it has changed since they were told.
    fn compare(&mut self, list: u32) {
        let Some(watched) = self.table.list(list) else { return };
        let (service, before) = (watched.service, watched.told);
        // One that changes at this moment has an event to come, which is told then.
        let Ok(after) = self.version(service) else { return };
        if after != before
            && let Some(watched) = self.table.list_mut(list)
        {
            watched.told = after;
            self.round.chain.clear();
            self.round.chain.push(Link { before, after, body: Body::default() });
            self.round.tell(watched.first());
        }
    }

    fn tell_hold(&mut self, now: Moment, watch: u32, pushes: &mut Pushes) {
        if let Some(told) = self.table.get(watch) {
            let told = self.table.list(told.list()).map_or(0, |list| list.told);
            let link = Link { before: told, after: told, body: Body::default() };
            self.push(now, watch, &link, pushes);
        }
    }
}

/// Divides changes, which lead on from a version, among bodies that have each slot once. `false`:
/// they take too many, or can't be read.
fn chain(
    changes: &[Change],
    mut before: u64,
    links: &mut SmallVec<[Link; ROUND_BODIES]>,
    mut body: impl FnMut(&[Change]) -> Option<Body>,
) -> bool {
    let mut rest = changes;
    while !rest.is_empty() {
        let mut slots: SmallVec<[Change; ENDPOINTS_PER_PUSH_MAX]> = SmallVec::new();
        let mut taken = 0;
        for change in rest {
            match slots.iter().position(|other| other.slot == change.slot) {
                Some(at) => slots[at] = *change,
                None if slots.len() == ENDPOINTS_PER_PUSH_MAX => break,
                None => slots.push(*change),
            }
            taken += 1;
        }
        let after = rest[taken - 1].revision;
        rest = &rest[taken..];
        if links.len() == ROUND_BODIES {
            return false;
        }
        let Some(body) = body(&slots) else { return false };
        links.push(Link { before, after, body });
        before = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(slot: u32, revision: u64) -> Change {
        Change { service: 1, revision, slot: Slot::new(slot), generation: Generation::new(1) }
    }

    /// The links with the slots of their bodies.
    fn links(changes: &[Change], before: u64) -> Option<Vec<(u64, u64, Vec<u32>)>> {
        let (mut links, mut slots) = (SmallVec::new(), Vec::new());
        let body = |changes: &[Change]| {
            slots.push(changes.iter().map(|change| change.slot.get()).collect());
            Some(Body::default())
        };
        let whole = chain(changes, before, &mut links, body);
        let links = links.iter().zip(slots);
        whole.then(|| links.map(|(link, slots)| (link.before, link.after, slots)).collect())
    }

    #[test]
    fn each_slot_once_in_a_body_and_versions_lead_on() {
        let changes: Vec<Change> = [7, 8, 7].iter().zip(4..).map(|(&s, r)| change(s, r)).collect();
        assert_eq!(links(&changes, 3), Some(vec![(3, 6, vec![7, 8])]));
        let many: Vec<Change> = (0..30).map(|at| change(at, 10 + u64::from(at))).collect();
        let (first, second) = ((0..24).collect(), (24..30).collect());
        assert_eq!(links(&many, 9), Some(vec![(9, 33, first), (33, 39, second)]));
    }

    #[test]
    fn what_takes_too_many_bodies_is_pulled() {
        let changes = |count: u32| -> Vec<Change> {
            (0..count).map(|at| change(at, 1 + u64::from(at))).collect()
        };
        let most = (ROUND_BODIES * ENDPOINTS_PER_PUSH_MAX) as u32;
        assert_eq!(links(&changes(most), 0).map(|links| links.len()), Some(ROUND_BODIES));
        assert_eq!(links(&changes(most + 1), 0), None);
    }
}
