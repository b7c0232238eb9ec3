//! What clients ask of the registrar: leases, changes, farewells.

use super::tables::{Change, Happening};
use super::{Registrar, wheel};
use crate::clock::{Moment, Span};
use crate::exchange::{Replies, Requester};
use crate::region::{Cause, EventKind, HeartState, ServiceNumber};
use crate::wire::Cadence;
use crate::wire::{
    Changed, Granted, Header, Kind, Lease, Register, Slot, Status, Update, service_id,
    update_fields,
};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// A request for a lease.
pub(super) struct Registration<'a> {
    pub(super) now: Moment,
    pub(super) from: &'a Requester,
    pub(super) body: &'a Register,
    pub(super) attributes: &'a [u8],
    /// Hash of the service's name.
    pub(super) service_id: u64,
}

impl<'a> Registration<'a> {
    pub(super) fn new(
        now: Moment,
        from: &'a Requester,
        body: &'a Register,
        attributes: &'a [u8],
    ) -> Self {
        Self { now, from, body, attributes, service_id: service_id(body.service.as_str()) }
    }

    pub(super) fn ttl(&self) -> Span {
        Span::from_ms(u64::from(self.body.ttl_ms.get()))
    }
}

/// What stands under the identity of a registration.
struct Standing {
    /// The service with its id; without members it may have another name.
    service: Option<ServiceNumber>,
    /// The slot that the identity has now.
    slot: Option<Slot>,
}

impl Registrar {
    pub(super) fn register(
        &mut self,
        wanted: &Registration<'_>,
        random: &mut dyn FnMut() -> u64,
        replies: &mut Replies,
    ) {
        let from = wanted.from;
        match self.grant(wanted, random) {
            Ok(slot) => {
                let line = self.tables.line(slot);
                let cadence = Cadence::new(slot, line.ttl(), wanted.now);
                let granted = Granted {
                    lease: line.lease(slot),
                    epoch: U64::new(self.settings.epoch),
                    interval_us: U32::new(cadence.interval_us),
                    phase_us: U32::new(cadence.phase_us),
                    ttl_ms: U32::new(line.ttl().ms() as u32),
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
        wanted: &Registration<'_>,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Slot, Status> {
        let (body, source) = (wanted.body, wanted.from.peer.ip);
        let standing = self.standing(wanted)?;
        let mut own = 0;
        if let Some(slot) = standing.slot {
            let (line, record) = (self.tables.line(slot), self.tables.record(slot));
            if line.nonce() == body.nonce.get() {
                return Ok(slot);
            }
            // A late duplicate of the request that the standing lease replaced must not replace it
            // in turn.
            if record.replaced_nonce == body.nonce.get() {
                return Err(Status::Replaced);
            }
            if line.head().1 != HeartState::Down && record.source != source {
                return Err(Status::Conflict);
            }
            own = u32::from(record.source == source);
        } else if self.identities >= self.tables.region.geometry().capacity {
            return Err(Status::Full);
        }
        if self.quotas.get(&source).copied().unwrap_or(0) - own >= self.settings.quota {
            return Err(Status::Quota);
        }
        let slot = self.available_slot().ok_or(Status::Busy)?;
        let service = match standing.service {
            Some(service) => {
                self.tables.name_service(service, &body.service);
                service
            }
            None => self
                .tables
                .create_service(wanted.service_id, &body.service)
                .map_err(|_| Status::Full)?,
        };
        let room = self.tables.reserve(service);
        if room.and_then(|()| self.occupy(slot, service, standing.slot, wanted)).is_err() {
            if standing.service.is_none() {
                self.tables.drop_service(service);
            }
            return Err(Status::Full);
        }
        self.join(slot, wanted, random() | 1);
        if let Some(old) = standing.slot {
            self.tables.reindex(wanted.service_id, &body.instance, old, slot);
            self.end(wanted.now, old, HeartState::Replaced, Cause::Replaced);
        }
        let ttl = wanted.ttl();
        self.wheel.arm(slot, wheel::tick_from(wanted.now + ttl - ttl / 3));
        Ok(slot)
    }

    fn standing(&self, wanted: &Registration<'_>) -> Result<Standing, Status> {
        let body = wanted.body;
        if self.settings.deny.denies(body.service.as_str()) {
            return Err(Status::Denied);
        }
        let Some(service) = self.tables.find_service(wanted.service_id) else {
            return Ok(Standing { service: None, slot: None });
        };
        if self.tables.service_name(service) != body.service && self.tables.has_members(service) {
            return Err(Status::Collision);
        }
        let slot = self.tables.find_instance(service, wanted.service_id, &body.instance);
        Ok(Standing { service: Some(service), slot })
    }

    pub(super) fn update(
        &mut self,
        now: Moment,
        from: &Requester,
        request: &Update,
        attributes: &[u8],
        replies: &mut Replies,
    ) {
        let slot = request.lease.slot();
        if let Err(status) = self.verify(&request.lease) {
            return replies.put_status(from, Kind::Update, status);
        }
        let fields = request.fields.get();
        if fields & (update_fields::WEIGHT | update_fields::VERSION | update_fields::ATTRIBUTES)
            != 0
        {
            let attributes = (fields & update_fields::ATTRIBUTES != 0).then_some(attributes);
            let same = self.same(slot, Happening::new(EventKind::Updated, Cause::Request));
            self.change(now, Change { attributes, ..same }, |endpoint| {
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
        now: Moment,
        from: &Requester,
        lease: &Lease,
        replies: &mut Replies,
    ) {
        if let Err(status) = self.verify(lease) {
            return replies.put_status(from, Kind::Deregister, status);
        }
        self.end(now, lease.slot(), HeartState::Removed, Cause::Request);
        self.confirm(from, Kind::Deregister, replies);
    }

    fn confirm(&self, from: &Requester, kind: Kind, replies: &mut Replies) {
        let changed = Changed { epoch: U64::new(self.settings.epoch) };
        replies.put(from, Header::reply(kind, Status::Ok, 0, from.tag), &[changed.as_bytes()]);
    }

    fn verify(&self, lease: &Lease) -> Result<(), Status> {
        self.tables.region.lines().get(lease.slot().index()).ok_or(Status::Unknown)?.verify(lease)
    }
}
