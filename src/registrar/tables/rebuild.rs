//! The tables after a death: the step that was on its way is ended, then indexes, slot lists and
//! counts are made anew from heart lines, records and directory entries.

use super::{Tables, is_listed, set_state};
use crate::clock::Moment;
use crate::region::{
    DirectoryEntry, EventKind, HeartState, Hold, Identity, ListRef, PendingStep, Region, Right,
    ServiceMeta, ServiceNumber,
};
use crate::wire::{Generation, Slot, endpoint_flags};
use smallvec::SmallVec;
use std::sync::Arc;

/// Members whose places in the index are asked for at once.
const IDENTITIES: usize = 32;

/// Slots of the members that a former engine left.
#[derive(Debug, Default)]
pub(in crate::registrar) struct Survivors {
    /// One for each identity.
    pub(in crate::registrar) standing: Vec<Slot>,
    /// Those whose successor stands, and whose end nobody was told.
    pub(in crate::registrar) superseded: Vec<Slot>,
}

impl Tables {
    /// Over the tables that a former engine left.
    pub(in crate::registrar) fn resume(
        region: Arc<Region>,
        right: Right,
        now: Moment,
    ) -> (Self, Survivors) {
        let mut tables = Self::new(region, right);
        tables.region.begin_rebuild(&tables.right);
        tables.region.mend_header(&tables.right);
        tables.end_pending_step();
        tables.region.clear_indexes(&tables.right);
        for service in services_below(tables.region.geometry().services_max) {
            tables.resume_service(service);
        }
        let mut survivors = Survivors::default();
        let slots: Vec<Slot> = (0..tables.region.geometry().slots)
            .map(Slot::new)
            .filter(|&slot| tables.is_whole(slot, now))
            .collect();
        survivors.standing.reserve(slots.len());
        for group in slots.chunks(IDENTITIES) {
            // The index is as large as memory is slow: all lines of a group are asked for before
            // the first is used.
            let identities = group
                .iter()
                .map(|&slot| tables.identity(slot))
                .collect::<SmallVec<[_; IDENTITIES]>>();
            for (&slot, identity) in group.iter().zip(identities) {
                tables.resume_identity(slot, &identity, &mut survivors);
            }
        }
        tables.resume_lists(&survivors);
        services_below(tables.fresh).for_each(|service| tables.queue_if_empty(service));
        tables.region.set_service_count(&tables.right, tables.services);
        tables.region.end_rebuild(&tables.right);
        (tables, survivors)
    }

    /// Over the tables of an engine that has just ended in order: they stand, while loops read
    /// them. Gives the region back if they can't be what such an engine leaves.
    pub(in crate::registrar) fn take_over(
        region: Arc<Region>,
        right: Right,
    ) -> Result<(Self, Survivors), (Arc<Region>, Right)> {
        let mut tables = Self::new(region, right);
        let mut sound = tables.region.pending_step().is_none();
        for service in services_below(tables.region.geometry().services_max) {
            let entry = tables.entry(service);
            if entry.is_used() {
                let meta = entry.meta();
                sound &= tables.lists.claim(meta.list);
                tables.fresh = service.get() + 1;
                tables.services += u32::from(meta.total > 0);
            }
        }
        if !sound {
            return Err((tables.region, tables.right));
        }
        services_below(tables.fresh).for_each(|service| tables.queue_if_empty(service));
        let leased = tables
            .region
            .lines()
            .iter()
            .zip((0..).map(Slot::new))
            .filter(|(line, _)| line.head().1.is_leased());
        let standing = leased.map(|(_, slot)| slot).collect();
        Ok((tables, Survivors { standing, superseded: Vec::new() }))
    }

    /// Ends the step that the former engine was in, unless its event was told: then it was done.
    /// Lists and totals come later.
    fn end_pending_step(&self) {
        let (region, right) = (&self.region, &self.right);
        let Some(step) = region.pending_step() else { return };
        let [at, kind, service, revision, member, shares] = step.event;
        let kind = kind as u8;
        let about_nobody = (service, revision, member) == (0, 0, 0);
        let sound = match kind {
            _ if step.number != region.feed().head() + 1 => false,
            _ if !about_nobody => self.end_pending_change(&step, service, revision, member),
            _ if kind == EventKind::HoldBegan as u8 => {
                region.set_hold(
                    right,
                    Some(Hold {
                        since: Moment::from_nanos(at.max(1)),
                        silent: shares as u32,
                        live: (shares >> 32) as u32,
                    }),
                );
                true
            }
            _ if kind == EventKind::HoldEnded as u8 => {
                region.set_hold(right, None);
                true
            }
            _ => kind == EventKind::Deaf as u8,
        };
        if sound { region.end_pending_step(right, &step) } else { region.forget_step(right) }
    }

    /// `false`: it is no change that an engine can have begun.
    fn end_pending_change(
        &self,
        step: &PendingStep,
        service: u64,
        revision: u64,
        member: u64,
    ) -> bool {
        let (region, right) = (&self.region, &self.right);
        let slot = Slot::new(member as u32);
        let generation = Generation::new((member >> 32) as u32);
        let (Some(line), Some(entry)) =
            (region.lines().get(slot.index()), region.directory().get(step.service.index()))
        else {
            return false;
        };
        let attributes = step.attributes().unwrap_or_default();
        let (member, meta) = ((step.endpoint.slot(), step.endpoint.generation()), entry.meta());
        if line.head().0 != generation
            || member != (slot, generation)
            || !entry.holds(service)
            || region.records().service(slot) != step.service
            || revision.wrapping_sub(meta.revision) > 1
            || attributes.len() > region.geometry().attributes_bytes
        {
            return false;
        }
        let endpoint = &region.endpoints()[slot.index()];
        region.records().mend(right, slot);
        entry.sequence().mend(right);
        region.records().locked(right, slot, || {
            line.set_until(right, step.until);
            line.set_state(right, step.state);
            if let Some(attributes) = step.attributes() {
                region.records().set_attributes(right, slot, attributes);
            }
            entry.sequence().write(right, || {
                endpoint.set_entry(right, step.endpoint);
                endpoint.set_place(right, step.service, 0);
                entry.set_meta(right, ServiceMeta { revision, ..meta });
            });
        });
        true
    }

    fn resume_service(&mut self, service: ServiceNumber) {
        let entry = &self.region.directory()[service.index()];
        entry.sequence().mend(&self.right);
        if !entry.is_used() {
            return;
        }
        let meta = entry.meta();
        entry.sequence().write(&self.right, || {
            entry.set_meta(
                &self.right,
                ServiceMeta { listed: 0, total: 0, list: ListRef::default(), ..meta },
            );
        });
        self.fresh = service.get() + 1;
        // A second service with one id, or too many ids with one home, can only be damage.
        let is_first = self.find_service(meta.id).is_none();
        if !is_first || self.region.index_service(&self.right, meta.id, service).is_err() {
            entry.sequence().write(&self.right, || entry.set_name(&self.right, None));
        }
    }

    /// Whether a lease was granted to its end: the endpoint is of the same generation. One that was
    /// not was never answered, and ends.
    fn is_whole(&self, slot: Slot, now: Moment) -> bool {
        let (line, endpoint) = (self.line(slot), self.endpoint(slot));
        let (generation, state) = line.head();
        self.region.records().mend(&self.right, slot);
        if !state.is_leased() {
            return false;
        }
        let mut entry = endpoint.entry();
        let service = self.region.directory().get(endpoint.service().index());
        let matches = (entry.slot(), entry.generation()) == (slot, generation);
        let whole = matches
            && self.region.records().service(slot) == endpoint.service()
            && line.is_plausible(now)
            && service.is_some_and(DirectoryEntry::is_used);
        if !whole {
            line.set_state(&self.right, HeartState::Removed);
            return false;
        }
        // They agree, unless the file was damaged.
        set_state(&mut entry, state);
        if state != HeartState::Suspect {
            entry.flags &= !endpoint_flags::HELD;
        }
        endpoint.set_entry(&self.right, entry);
        true
    }

    fn identity(&self, slot: Slot) -> Identity {
        let id = self.entry(self.endpoint(slot).service()).meta().id;
        self.region.identity(id, &self.record(slot).instance)
    }

    /// Puts a member into the index. Of two with one identity the one that replaced the other
    /// stays.
    fn resume_identity(&self, slot: Slot, identity: &Identity, survivors: &mut Survivors) {
        let service = self.endpoint(slot).service();
        let own = self.record(slot);
        let found = self
            .region
            .find_identity(identity, service, &own.instance)
            .expect("nobody disturbs the writer");
        let Some(other) = found else {
            if self.region.index_identity(&self.right, identity, slot).is_ok() {
                survivors.standing.push(slot);
            } else {
                self.line(slot).set_state(&self.right, HeartState::Removed);
            }
            return;
        };
        if own.replaced_nonce != self.line(other).nonce() {
            return survivors.superseded.push(slot);
        }
        let id = self.entry(service).meta().id;
        self.region.reindex_instance(&self.right, id, &own.instance, other, slot);
        survivors.standing.retain(|&standing| standing != other);
        survivors.standing.push(slot);
        survivors.superseded.push(other);
    }

    /// Makes the slot lists, the longest first, so that all find room.
    fn resume_lists(&mut self, survivors: &Survivors) {
        let mut by_service: Vec<(ServiceNumber, Vec<Slot>)> =
            services_below(self.fresh).map(|service| (service, Vec::new())).collect();
        for &slot in survivors.standing.iter().chain(&survivors.superseded) {
            by_service[self.endpoint(slot).service().index()].1.push(slot);
        }
        by_service.sort_by_key(|(_, slots)| std::cmp::Reverse(slots.len()));
        for (service, slots) in by_service {
            let listed: Vec<Slot> = slots
                .iter()
                .copied()
                .filter(|&slot| is_listed(&self.endpoint(slot).entry()))
                .collect();
            let room = if listed.is_empty() {
                Some(ListRef::default())
            } else {
                self.lists.allocate(listed.len() as u32)
            };
            let list = room.expect("lists of these lengths fit an empty arena");
            let entry = &self.region.directory()[service.index()];
            entry.sequence().write(&self.right, || {
                for (&slot, position) in listed.iter().zip(0..) {
                    self.region.set_listed(&self.right, list, position, slot);
                    self.endpoint(slot).set_place(&self.right, service, position);
                }
                let (listed, total) = (listed.len() as u32, slots.len() as u32);
                entry.set_meta(&self.right, ServiceMeta { listed, total, list, ..entry.meta() });
            });
            self.services += u32::from(!slots.is_empty());
        }
    }
}

/// The directory entries up to a number.
fn services_below(count: u32) -> impl Iterator<Item = ServiceNumber> {
    (0..count).map(ServiceNumber::new)
}
