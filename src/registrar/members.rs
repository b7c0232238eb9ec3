//! How members come and go, and the one way in which they change.

use super::requests::Registration;
use super::tables::{Change, Happening, Membership, TablesFull};
use super::{Registrar, limbo_floor};
use crate::clock::Moment;
use crate::region::{Cause, EventKind, HeartState, Record, ServiceNumber};
use crate::wire::{Declared, Endpoint, Slot, State};
use zerocopy::byteorder::little_endian::{U16, U32};

impl Registrar {
    /// Changes a member, and moves it in the counts; a hold whose evidence that takes away ends.
    pub(super) fn change(
        &mut self,
        now: Moment,
        change: Change<'_>,
        edit: impl FnOnce(&mut Endpoint),
    ) {
        let slot = change.slot;
        let from = match change.membership {
            Membership::Joins => None,
            Membership::Stays | Membership::Leaves => self.tables.member_state(slot),
        };
        self.tables.change(now, change, edit);
        self.census.moved(from, self.tables.member_state(slot));
        self.observe_hold(now);
    }

    /// A change that leaves state and hold as they are.
    pub(super) fn same(&self, slot: Slot, happening: Happening) -> Change<'static> {
        let line = self.tables.line(slot);
        Change {
            slot,
            membership: Membership::Stays,
            happening,
            state: line.head().1,
            until: line.until(),
            attributes: None,
        }
    }

    /// A slot that no loop can still be applying a beat of its former lease to.
    pub(super) fn available_slot(&mut self) -> Option<Slot> {
        self.slot_wanted = false;
        if self.fresh < self.tables.region.geometry().slots {
            return Some(Slot::new(self.fresh));
        }
        match self.wheel.free() {
            Some((slot, key)) if key <= limbo_floor(self.drained()) => Some(slot),
            _ => {
                self.slot_wanted = true;
                None
            }
        }
    }

    /// Writes record and index entry; the slot is taken only if both could be.
    pub(super) fn occupy(
        &mut self,
        slot: Slot,
        service: ServiceNumber,
        replaces: Option<Slot>,
        wanted: &Registration<'_>,
    ) -> Result<(), TablesFull> {
        let source = wanted.from.peer.ip;
        let record = Record {
            service,
            replaced_nonce: replaces.map_or(0, |old| self.tables.line(old).nonce()),
            source,
            zone: wanted.body.zone,
            instance: wanted.body.instance,
        };
        self.tables.write_record(slot, &record, wanted.attributes);
        // The index goes over from a slot that is replaced once the new one has its lease.
        if replaces.is_none() {
            self.tables.index(wanted.service_id, &record.instance, slot)?;
            self.identities += 1;
        }
        if slot.get() == self.fresh {
            self.fresh += 1;
        }
        self.wheel.disarm(slot);
        *self.quotas.entry(source).or_insert(0) += 1;
        Ok(())
    }

    /// Gives an occupied slot its lease, and its service a member.
    pub(super) fn join(&mut self, slot: Slot, wanted: &Registration<'_>, secret: u64) {
        let Registration { now, from, body, .. } = *wanted;
        let declared = Declared::from_bits(body.declared.into());
        let generation =
            self.tables.lease(slot, now, wanted.ttl(), secret, body.nonce.get(), declared);
        let entry = Endpoint {
            address: if body.address == [0; 16] { from.peer.ip } else { body.address },
            port: body.port,
            weight: body.weight,
            load: U16::ZERO,
            state: State::Up as u8,
            flags: declared as u8,
            slot: slot.into(),
            generation: generation.into(),
            version: body.version,
            zone: U32::new(body.zone.hash32()),
            age_ms: U32::ZERO,
        };
        let joins = Change {
            slot,
            membership: Membership::Joins,
            happening: Happening::new(EventKind::Registered, Cause::Request),
            state: HeartState::Up,
            until: Moment::ZERO,
            attributes: None,
        };
        self.change(now, joins, |endpoint| *endpoint = entry);
    }

    /// Counts a member that a former engine left.
    pub(super) fn enroll(&mut self, slot: Slot) {
        if let Some(member) = self.tables.member_state(slot) {
            self.census.found(member);
        }
        *self.quotas.entry(self.tables.record(slot).source).or_insert(0) += 1;
    }

    /// Ends a lease. Its slot goes into quarantine.
    pub(super) fn end(&mut self, now: Moment, slot: Slot, state: HeartState, cause: Cause) {
        let record = self.tables.record(slot);
        let leaves = Change {
            membership: Membership::Leaves,
            state,
            ..self.same(slot, Happening::new(EventKind::Gone, cause))
        };
        self.change(now, leaves, |_| {});
        if state == HeartState::Removed {
            self.tables.unindex(slot, &record.instance);
            self.identities -= 1;
        }
        if let Some(count) = self.quotas.get_mut(&record.source) {
            *count -= 1;
            if *count == 0 {
                self.quotas.remove(&record.source);
            }
        }
        self.deaths.remove(&slot);
        self.wheel.set_freed(slot);
    }
}
