//! Membership as it stands in the region. The right to change the region does not leave this
//! module, so it is the one place that changes records, index, directory, slot lists, endpoints,
//! feed and the registrar's words of the heart lines.

#[cfg(test)]
mod models;
mod rebuild;

pub(super) use rebuild::Survivors;

use super::census::MemberState;
use crate::clock::{Moment, Span};
use crate::region::{
    Cause, DirectoryEntry, EndpointLine, Event, EventKind, HeartLine, HeartState, Hold,
    ListAllocator, ListRef, MemberAfter, Record, Region, Right, ServiceMeta, ServiceNumber,
};
use crate::wire::{Declared, Endpoint, Generation, Name, Slot, State};
use std::collections::VecDeque;
use std::sync::Arc;

/// No room for a service, a list entry or an index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TablesFull;

/// An event, but for its time and its instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Happening {
    pub(super) kind: EventKind,
    pub(super) cause: Cause,
    pub(super) silent: u32,
    pub(super) live: u32,
}

impl Happening {
    pub(super) fn new(kind: EventKind, cause: Cause) -> Self {
        Self { kind, cause, silent: 0, live: 0 }
    }

    fn event(
        &self,
        at: Moment,
        service: u64,
        revision: u64,
        slot: Slot,
        generation: Generation,
    ) -> Event {
        let Self { kind, cause, silent, live } = *self;
        Event { at, kind, cause, service, revision, slot, generation, silent, live }
    }
}

/// The region and the right to change it.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) region: Arc<Region>,
    right: Right,
    lists: ListAllocator,
    /// Directory entries from here on were never used.
    fresh: u32,
    /// Services without instances, oldest first: kept, so that their versions go on, until their
    /// entry is needed.
    empty: VecDeque<ServiceNumber>,
    /// Whether an entry is in `empty`.
    queued: Box<[bool]>,
    services: u32,
}

impl Tables {
    pub(super) fn new(region: Arc<Region>, right: Right) -> Self {
        let services_max = region.geometry().services_max as usize;
        Self {
            lists: ListAllocator::new(region.geometry().list_entries),
            fresh: 0,
            empty: VecDeque::with_capacity(services_max),
            queued: vec![false; services_max].into_boxed_slice(),
            services: 0,
            region,
            right,
        }
    }

    /// Bytes that the private side of the tables takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.lists.memory_bytes() + self.queued.len() * (1 + size_of::<ServiceNumber>())
    }

    /// Gives the region and the right to change it to a successor.
    pub(super) fn release(self) -> (Arc<Region>, Right) {
        (self.region, self.right)
    }

    pub(super) fn line(&self, slot: Slot) -> &HeartLine {
        &self.region.lines()[slot.index()]
    }

    pub(super) fn endpoint(&self, slot: Slot) -> &EndpointLine {
        &self.region.endpoints()[slot.index()]
    }

    pub(super) fn record(&self, slot: Slot) -> Record {
        self.region.records().read(slot).expect("nobody disturbs the writer")
    }

    fn entry(&self, service: ServiceNumber) -> &DirectoryEntry {
        &self.region.directory()[service.index()]
    }

    /// What the counts know of the member in a slot, if there is one.
    pub(super) fn member_state(&self, slot: Slot) -> Option<MemberState> {
        let line = self.line(slot);
        let state = line.head().1.of_member()?;
        let declared = self.endpoint(slot).entry().declared();
        Some(MemberState { state, held: line.is_held(), declared })
    }

    /// The service with this id, whatever its name.
    pub(super) fn find_service(&self, id: u64) -> Option<ServiceNumber> {
        self.region.find_service(id).expect("nobody disturbs the writer")
    }

    /// The instance with this name of a service with this id.
    pub(super) fn find_instance(
        &self,
        service: ServiceNumber,
        id: u64,
        name: &Name,
    ) -> Option<Slot> {
        self.region.find_instance(service, id, name).expect("nobody disturbs the writer")
    }

    pub(super) fn service_name(&self, service: ServiceNumber) -> Name {
        self.entry(service).name()
    }

    pub(super) fn has_members(&self, service: ServiceNumber) -> bool {
        self.entry(service).meta().total > 0
    }

    /// Gives the place of a service without members to the name that registers now: another one
    /// with the same id, or the same one again. Revisions go on, since clients know them by the id.
    pub(super) fn name_service(&mut self, service: ServiceNumber, name: &Name) {
        let entry = &self.region.directory()[service.index()];
        if entry.name() != *name {
            debug_assert!(!self.has_members(service));
            entry.sequence().write(&self.right, || entry.set_name(&self.right, Some(name)));
        }
    }

    /// Makes a directory entry for a new service; the revision starts above every one that its id
    /// can have had.
    pub(super) fn create_service(
        &mut self,
        id: u64,
        name: &Name,
    ) -> Result<ServiceNumber, TablesFull> {
        let service = self.free_service().ok_or(TablesFull)?;
        if self.region.index_service(&self.right, id, service).is_err() {
            self.queue_if_empty(service);
            return Err(TablesFull);
        }
        let revision = self.region.feed().head();
        let entry = &self.region.directory()[service.index()];
        entry.sequence().write(&self.right, || {
            entry.set_meta(
                &self.right,
                ServiceMeta { id, revision, listed: 0, total: 0, list: ListRef::default() },
            );
            entry.set_name(&self.right, Some(name));
        });
        self.queue_if_empty(service);
        Ok(service)
    }

    fn free_service(&mut self) -> Option<ServiceNumber> {
        if self.fresh < self.region.geometry().services_max {
            self.fresh += 1;
            return Some(ServiceNumber::new(self.fresh - 1));
        }
        while let Some(service) = self.empty.pop_front() {
            self.queued[service.index()] = false;
            let entry = &self.region.directory()[service.index()];
            let meta = entry.meta();
            if meta.total == 0 {
                self.drop_service(service);
                return Some(service);
            }
        }
        None
    }

    /// Forgets a service without instances; its entry is free for another.
    pub(super) fn drop_service(&mut self, service: ServiceNumber) {
        let entry = &self.region.directory()[service.index()];
        let meta = entry.meta();
        debug_assert_eq!(meta.total, 0);
        if entry.is_used() {
            self.region.unindex_service(&self.right, meta.id, service);
            entry.sequence().write(&self.right, || {
                entry.set_name(&self.right, None);
                entry.set_meta(&self.right, ServiceMeta { list: ListRef::default(), ..meta });
            });
            self.lists.free(meta.list);
        }
    }

    pub(super) fn queue_if_empty(&mut self, service: ServiceNumber) {
        if self.entry(service).meta().total == 0
            && !std::mem::replace(&mut self.queued[service.index()], true)
        {
            self.empty.push_back(service);
        }
    }

    /// Makes sure that the list of a service has room for one more.
    pub(super) fn reserve(&mut self, service: ServiceNumber) -> Result<(), TablesFull> {
        let meta = self.entry(service).meta();
        if meta.listed < meta.list.capacity() {
            return Ok(());
        }
        let roomier = self.lists.allocate(meta.listed + 1).ok_or(TablesFull)?;
        self.move_list(service, roomier);
        Ok(())
    }

    fn slot_at(&self, list: ListRef, position: u32) -> Slot {
        self.region.listed(list, position).expect("lists lie in the arena")
    }

    fn move_list(&mut self, service: ServiceNumber, to: ListRef) {
        let entry = &self.region.directory()[service.index()];
        let from = entry.meta().list;
        entry.sequence().write(&self.right, || {
            let meta = entry.meta();
            for position in 0..meta.listed {
                self.region.set_listed(&self.right, to, position, self.slot_at(from, position));
            }
            entry.set_meta(&self.right, ServiceMeta { list: to, ..meta });
        });
        self.lists.free(from);
    }

    /// Writes the record of a slot that belongs to no lease.
    pub(super) fn write_record(&mut self, slot: Slot, record: &Record, attributes: &[u8]) {
        self.region.records().write(&self.right, slot, record, attributes);
        self.endpoint(slot).set_place(&self.right, record.service, 0);
    }

    /// Lets the name of an instance lead to a slot.
    pub(super) fn index(&mut self, id: u64, name: &Name, slot: Slot) -> Result<(), TablesFull> {
        self.region.index_instance(&self.right, id, name, slot).map_err(|_| TablesFull)
    }

    /// Lets the name of an instance lead to another slot.
    pub(super) fn reindex(&mut self, id: u64, name: &Name, from: Slot, to: Slot) {
        self.region.reindex_instance(&self.right, id, name, from, to);
    }

    /// Forgets the name that leads to a slot.
    pub(super) fn unindex(&mut self, slot: Slot, name: &Name) {
        let id = self.entry(self.endpoint(slot).service()).meta().id;
        self.region.unindex_instance(&self.right, id, name, slot);
    }

    /// Gives a slot a new lease, which counts as having beaten `now`. Returns its generation.
    pub(super) fn lease(
        &mut self,
        slot: Slot,
        now: Moment,
        ttl: Span,
        secret: u64,
        nonce: u64,
        declared: Declared,
    ) -> Generation {
        let line = self.line(slot);
        let generation = line.lease_to(&self.right, now, ttl, secret, nonce);
        line.set_declared(&self.right, declared);
        generation
    }

    /// Lets the last beat of a member lie one TTL back, or be none: its process is dead.
    pub(super) fn set_back(&mut self, slot: Slot, now: Moment, ttl: Span) {
        self.line(slot).set_back(&self.right, now.saturating_sub(ttl));
    }

    /// Changes one member in one step of the revision: its heart line, its endpoint, whether it is
    /// listed, and how many there are; and tells the feed. Whenever the process is killed, all of
    /// it is there for the next, or nothing.
    pub(super) fn change(
        &mut self,
        now: Moment,
        change: Change<'_>,
        edit: impl FnOnce(&mut Endpoint),
    ) {
        let region = &self.region;
        let Change { slot, membership, happening, state, until, attributes } = change;
        let line = &region.endpoints()[slot.index()];
        let service = line.service();
        let entry = &region.directory()[service.index()];
        let mut endpoint = line.entry();
        let was_listed = is_listed(&endpoint) && membership != Membership::Joins;
        edit(&mut endpoint);
        set_state(&mut endpoint, state);
        let listed = is_listed(&endpoint) && membership != Membership::Leaves;
        let mut meta = entry.meta();
        meta.revision += 1;
        let event = happening.event(now, meta.id, meta.revision, slot, endpoint.generation());
        region.begin_step(
            &self.right,
            &event,
            Some(&MemberAfter { state, until, service, endpoint, attributes }),
        );
        region.records().locked(&self.right, slot, || {
            let heart = &region.lines()[slot.index()];
            heart.set_until(&self.right, until);
            heart.set_state(&self.right, state);
            if let Some(attributes) = attributes {
                region.records().set_attributes(&self.right, slot, attributes);
            }
            entry.sequence().write(&self.right, || {
                line.set_entry(&self.right, endpoint);
                match (was_listed, listed) {
                    (false, true) => {
                        region.set_listed(&self.right, meta.list, meta.listed, slot);
                        line.set_place(&self.right, service, meta.listed);
                        meta.listed += 1;
                    }
                    (true, false) => {
                        meta.listed -= 1;
                        let last = self.slot_at(meta.list, meta.listed);
                        region.set_listed(&self.right, meta.list, line.position(), last);
                        region.endpoints()[last.index()].set_place(
                            &self.right,
                            service,
                            line.position(),
                        );
                    }
                    _ => {}
                }
                meta.total = meta.total + u32::from(membership == Membership::Joins)
                    - u32::from(membership == Membership::Leaves);
                entry.set_meta(&self.right, meta);
            });
        });
        region.end_step(&self.right, &event);
        region.mark_changed(&self.right, slot);
        if meta.list.is_sparse(meta.listed) {
            self.shrink(service, meta);
        }
        self.count_service(service, membership, meta.total);
    }

    fn shrink(&mut self, service: ServiceNumber, meta: ServiceMeta) {
        if meta.listed == 0 {
            self.move_list(service, ListRef::default());
        } else if let Some(smaller) = self.lists.allocate(meta.list.capacity() / 2) {
            self.move_list(service, smaller);
        }
    }

    fn count_service(&mut self, service: ServiceNumber, change: Membership, total: u32) {
        match change {
            Membership::Joins if total == 1 => self.services += 1,
            Membership::Leaves if total == 0 => {
                self.services -= 1;
                self.queue_if_empty(service);
            }
            _ => return,
        }
        self.region.set_service_count(&self.right, self.services);
    }

    /// An event that is about no instance; a hold begins or ends with its event.
    pub(super) fn announce(&mut self, now: Moment, happening: Happening) {
        let event = happening.event(now, 0, 0, Slot::default(), Generation::NONE);
        self.region.begin_step(&self.right, &event, None);
        if happening.kind == EventKind::HoldBegan {
            self.region.set_hold(
                &self.right,
                Some(Hold {
                    since: now.max(Moment::from_nanos(1)),
                    silent: happening.silent,
                    live: happening.live,
                }),
            );
        } else if happening.kind == EventKind::HoldEnded {
            self.region.set_hold(&self.right, None);
        }
        self.region.end_step(&self.right, &event);
    }
}

/// A change of one member.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) slot: Slot,
    pub(super) membership: Membership,
    pub(super) happening: Happening,
    /// State of the lease after it.
    pub(super) state: HeartState,
    /// End of the hold or of the tombstone after it.
    pub(super) until: Moment,
    /// Attributes that replace those there are; `None`: they stay.
    pub(super) attributes: Option<&'a [u8]>,
}

/// The state as endpoints say it; a lease that has ended leaves the last one.
pub(super) fn set_state(endpoint: &mut Endpoint, state: HeartState) {
    if let Some(state) = state.of_member() {
        endpoint.state = state as u8;
    }
}

/// Whether the change adds a member to its service or takes one away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    Stays,
    Joins,
    Leaves,
}

pub(super) fn is_listed(endpoint: &Endpoint) -> bool {
    endpoint.state == State::Up as u8 || endpoint.state == State::Suspect as u8
}
