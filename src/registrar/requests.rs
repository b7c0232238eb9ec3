//! What clients ask of the registrar: leases, changes, farewells.

use super::tables::{Change, Happening, Membership, TablesFull};
use super::{Registrar, limbo_floor, wheel};
use crate::clock::{Nanos, from_ms};
use crate::exchange::{Replies, Requester};
use crate::region::{Cause, EventKind, HeartState, Record};
use crate::wire::Cadence;
use crate::wire::{
    Changed, Declared, Endpoint, Granted, Header, Kind, Lease, Register, State, Status, Update,
    service_id, update_fields,
};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

/// What stands under the identity of a registration.
struct Standing {
    /// The service with its id; without members it may have another name.
    service: Option<u32>,
    /// The slot that the identity has now.
    slot: Option<u32>,
}

impl Registrar {
    pub(super) fn register(
        &mut self,
        now: Nanos,
        from: &Requester,
        request: &Register,
        attributes: &[u8],
        random: &mut dyn FnMut() -> u64,
        replies: &mut Replies,
    ) {
        match self.grant(now, from, request, attributes, random) {
            Ok(slot) => {
                let line = &self.tables.region.lines()[slot as usize];
                let cadence = Cadence::new(slot, line.ttl(), now);
                let granted = Granted {
                    lease: line.lease(slot),
                    epoch: U64::new(self.settings.epoch),
                    interval_us: U32::new(cadence.interval_us),
                    phase_us: U32::new(cadence.phase_us),
                    ttl_ms: U32::new((line.ttl() / crate::clock::NANOS_PER_MS) as u32),
                    reserved: [0; 4],
                };
                replies.put(
                    from,
                    Header::reply(Kind::Register, Status::Ok, 0, from.tag),
                    &[granted.as_bytes()],
                );
            }
            Err(status) => replies.put_status(from, Kind::Register, status),
        }
    }

    /// Decides first, changes second: a refusal changes nothing.
    fn grant(
        &mut self,
        now: Nanos,
        from: &Requester,
        request: &Register,
        attributes: &[u8],
        random: &mut dyn FnMut() -> u64,
    ) -> Result<u32, Status> {
        let standing = self.standing(request)?;
        if let Some(slot) = standing.slot {
            let line = &self.tables.region.lines()[slot as usize];
            if line.nonce() == request.nonce.get() {
                return Ok(slot);
            }
            // A late duplicate of the request that the standing lease replaced must not replace it
            // in turn.
            if self.record(slot).replaced_nonce == request.nonce.get() {
                return Err(Status::Replaced);
            }
            if line.head().1 != HeartState::Down && self.source(slot) != from.peer.ip {
                return Err(Status::Conflict);
            }
        } else if self.identities >= self.tables.region.geometry().capacity {
            return Err(Status::Full);
        }
        let own = u32::from(standing.slot.is_some_and(|slot| self.source(slot) == from.peer.ip));
        if self.quotas.get(&from.peer.ip).copied().unwrap_or(0) - own >= self.settings.quota {
            return Err(Status::Quota);
        }
        let slot = self.available_slot().ok_or(Status::Busy)?;
        let service = match standing.service {
            Some(service) => {
                self.tables.name_service(service, &request.service);
                service
            }
            None => self
                .tables
                .create_service(service_id(request.service.as_str()), &request.service)
                .map_err(|_| Status::Full)?,
        };
        let room = self.tables.reserve(service);
        if room
            .and_then(|()| self.occupy(slot, service, standing.slot, from, request, attributes))
            .is_err()
        {
            if standing.service.is_none() {
                self.tables.drop_service(service);
            }
            return Err(Status::Full);
        }
        let ttl = from_ms(u64::from(request.ttl_ms.get()));
        self.join(now, slot, from, request, random() | 1, ttl);
        if let Some(old) = standing.slot {
            let id = service_id(request.service.as_str());
            self.tables.region.reindex_instance(
                &self.tables.right,
                id,
                &request.instance,
                old,
                slot,
            );
            self.end(now, old, HeartState::Replaced, Cause::Replaced);
        }
        self.wheel.arm(slot, wheel::tick_from(now + ttl - ttl / 3));
        Ok(slot)
    }

    fn standing(&self, request: &Register) -> Result<Standing, Status> {
        if self.settings.deny.denies(request.service.as_str()) {
            return Err(Status::Denied);
        }
        let Some(service) = self.tables.find_service(service_id(request.service.as_str())) else {
            return Ok(Standing { service: None, slot: None });
        };
        if self.tables.service_name(service) != request.service && self.tables.has_members(service)
        {
            return Err(Status::Collision);
        }
        Ok(Standing {
            service: Some(service),
            slot: self.tables.find_instance(service, &request.instance),
        })
    }

    pub(super) fn source(&self, slot: u32) -> [u8; 16] {
        self.record(slot).source
    }

    fn record(&self, slot: u32) -> Record {
        self.tables.region.records().read(slot).expect("nobody disturbs the writer")
    }

    /// A slot that no loop can still be applying a beat of its former lease to.
    fn available_slot(&mut self) -> Option<u32> {
        self.slot_wanted = false;
        if self.fresh < self.tables.region.geometry().slots {
            return Some(self.fresh);
        }
        match self.wheel.free() {
            Some((slot, key)) if key <= limbo_floor(self.observed.drained) => Some(slot),
            _ => {
                self.slot_wanted = true;
                None
            }
        }
    }

    /// Writes record and index entry; the slot is taken only if both could be.
    fn occupy(
        &mut self,
        slot: u32,
        service: u32,
        replaces: Option<u32>,
        from: &Requester,
        request: &Register,
        attributes: &[u8],
    ) -> Result<(), TablesFull> {
        let (region, right) = (&self.tables.region, &self.tables.right);
        let id = service_id(request.service.as_str());
        let replaced_nonce = replaces.map_or(0, |old| region.lines()[old as usize].nonce());
        let record = Record {
            service,
            replaced_nonce,
            source: from.peer.ip,
            zone: request.zone,
            instance: request.instance,
        };
        region.records().write(right, slot, &record, attributes);
        region.endpoints()[slot as usize].set_place(right, service, 0);
        match replaces {
            // The index goes over to the new slot once that has its lease.
            Some(_) => {}
            None => {
                region
                    .index_instance(right, id, &request.instance, slot)
                    .map_err(|_| TablesFull)?;
                self.identities += 1;
            }
        }
        if slot == self.fresh {
            self.fresh += 1;
        }
        self.wheel.disarm(slot);
        *self.quotas.entry(from.peer.ip).or_insert(0) += 1;
        Ok(())
    }

    fn join(
        &mut self,
        now: Nanos,
        slot: u32,
        from: &Requester,
        request: &Register,
        secret: u64,
        ttl: Nanos,
    ) {
        let line = &self.tables.region.lines()[slot as usize];
        let generation = line.lease_to(&self.tables.right, now, ttl, secret, request.nonce.get());
        let declared = Declared::from_bits(request.declared.into());
        line.set_declared(&self.tables.right, declared);
        let entry = Endpoint {
            address: if request.address == [0; 16] { from.peer.ip } else { request.address },
            port: request.port,
            weight: request.weight,
            load: U16::ZERO,
            state: State::Up as u8,
            flags: declared as u8,
            slot: U32::new(slot),
            generation: U32::new(generation),
            version: request.version,
            zone: U32::new(request.zone.hash32()),
            age_ms: U32::ZERO,
        };
        let happening = Happening::new(EventKind::Registered, Cause::Request);
        let joins = Change {
            slot,
            membership: Membership::Joins,
            happening,
            state: HeartState::Up,
            until: 0,
            attributes: None,
        };
        self.tables.change(now, joins, |endpoint| *endpoint = entry);
        self.count(HeartState::Up, declared);
        self.counts.registered += 1;
        self.observe_hold(now);
    }

    pub(super) fn update(
        &mut self,
        now: Nanos,
        from: &Requester,
        request: &Update,
        attributes: &[u8],
        replies: &mut Replies,
    ) {
        let slot = request.lease.slot.get();
        if let Err(status) = self.verify(&request.lease) {
            return replies.put_status(from, Kind::Update, status);
        }
        let fields = request.fields.get();
        if fields & (update_fields::WEIGHT | update_fields::VERSION | update_fields::ATTRIBUTES)
            != 0
        {
            let attributes = (fields & update_fields::ATTRIBUTES != 0).then_some(attributes);
            let same = self.same(slot, Happening::new(EventKind::Updated, Cause::Request));
            self.tables.change(now, Change { attributes, ..same }, |endpoint| {
                if fields & update_fields::WEIGHT != 0 {
                    endpoint.weight = request.weight;
                }
                if fields & update_fields::VERSION != 0 {
                    endpoint.version = request.version;
                }
            });
        }
        self.confirm(from, Kind::Update, replies);
    }

    pub(super) fn deregister(
        &mut self,
        now: Nanos,
        from: &Requester,
        lease: &Lease,
        replies: &mut Replies,
    ) {
        if let Err(status) = self.verify(lease) {
            return replies.put_status(from, Kind::Deregister, status);
        }
        self.end(now, lease.slot.get(), HeartState::Removed, Cause::Request);
        self.confirm(from, Kind::Deregister, replies);
    }

    fn confirm(&self, from: &Requester, kind: Kind, replies: &mut Replies) {
        let changed = Changed { epoch: U64::new(self.settings.epoch) };
        replies.put(from, Header::reply(kind, Status::Ok, 0, from.tag), &[changed.as_bytes()]);
    }

    fn verify(&self, lease: &Lease) -> Result<(), Status> {
        self.tables
            .region
            .lines()
            .get(lease.slot.get() as usize)
            .ok_or(Status::Unknown)?
            .verify(lease)
    }

    /// Ends a lease. Its slot goes into quarantine.
    pub(super) fn end(&mut self, now: Nanos, slot: u32, state: HeartState, cause: Cause) {
        let record = self.record(slot);
        let line = &self.tables.region.lines()[slot as usize];
        let was = line.head().1;
        let held = line.is_held();
        let endpoint = self.tables.region.endpoints()[slot as usize].entry();
        let leaves = Change {
            membership: Membership::Leaves,
            state,
            ..self.same(slot, Happening::new(EventKind::Gone, cause))
        };
        self.tables.change(now, leaves, |_| {});
        if state == HeartState::Removed {
            let service = self.tables.region.endpoints()[slot as usize].service();
            let id = self.tables.region.directory()[service as usize].meta().id;
            self.tables.region.unindex_instance(&self.tables.right, id, &record.instance, slot);
            self.identities -= 1;
        }
        if let Some(count) = self.quotas.get_mut(&record.source) {
            *count -= 1;
            if *count == 0 {
                self.quotas.remove(&record.source);
            }
        }
        self.wheel.set_freed(slot);
        self.uncount(was, held, endpoint.declared());
        self.counts.ended += 1;
        self.observe_hold(now);
    }
}
