//! Hello, describe and services: queries that one read of the region answers.

use super::discovery::fill_in;
use super::{Dataplane, refuse_field};
use crate::clock::{Moment, NANOS_PER_MS};
use crate::exchange::{Replies, Requester};
use crate::limits::{
    ATTRIBUTES_BYTES_MAX, BEATS_PER_FRAME_MAX, COOKIE_PERIOD_NS, ENDPOINTS_PER_FRAME_MAX,
    FRAME_BYTES_MAX, READ_RETRIES, SCAN_MEMBERS_MAX, SERVICES_PER_FRAME_MAX, TTL_MS_MAX,
    TTL_MS_MIN,
};
use crate::region::Disturbed;
use crate::wire::{
    Describe, Description, Generation, Header, Kind, ServiceEntry, Services, ServicesHead, Slot,
    Status, Welcome, header_flags, service_id,
};
use smallvec::SmallVec;
use std::hint::spin_loop;
use std::mem::offset_of;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

impl Dataplane {
    pub(super) fn hello(&mut self, now: Moment, from: &Requester, replies: &mut Replies) {
        let geometry = self.region.geometry();
        let welcome = Welcome {
            cookie: U64::new(self.cookies.make(&from.peer.ip, now.nanos())),
            epoch: U64::new(self.epoch),
            capacity: U32::new(geometry.capacity),
            cookie_ms: U32::new((COOKIE_PERIOD_NS / NANOS_PER_MS) as u32),
            ttl_ms_min: U32::new(TTL_MS_MIN),
            ttl_ms_max: U32::new(TTL_MS_MAX),
            beats_max: U16::new(BEATS_PER_FRAME_MAX as u16),
            endpoints_max: U16::new(ENDPOINTS_PER_FRAME_MAX as u16),
            frame_bytes_max: U16::new(FRAME_BYTES_MAX as u16),
            attributes_bytes_max: U16::new(geometry.attributes_bytes as u16),
            reserved: [0; 8],
        };
        replies.put(
            from,
            Header::reply(Kind::Hello, Status::Ok, 0, from.tag),
            &[welcome.as_bytes()],
        );
    }

    pub(super) fn describe(
        &mut self,
        now: Moment,
        from: &Requester,
        body: &Describe,
        replies: &mut Replies,
    ) {
        let by_name = !body.service.is_empty();
        if by_name == body.instance.is_empty() {
            return refuse_field(from, Kind::Describe, offset_of!(Describe, instance), replies);
        }
        let mut tail = [0; ATTRIBUTES_BYTES_MAX];
        let described = if by_name {
            self.description_by_name(now, body, &mut tail)
        } else {
            self.description(now, body.slot.into(), Some(body.generation.into()), &mut tail)
        };
        match described {
            Ok(Some(description)) => {
                let attributes = &tail[..usize::from(description.attributes_len.get())];
                let mut header = Header::reply(Kind::Describe, Status::Ok, 1, from.tag);
                header.flags = if description.hold_ms.get() != 0 { header_flags::HOLD } else { 0 };
                replies.put(from, header, &[description.as_bytes(), attributes]);
            }
            Ok(None) => replies.put_status(from, Kind::Describe, Status::NoInstance),
            Err(Disturbed) => replies.put_status(from, Kind::Describe, Status::Busy),
        }
    }

    /// Describes who has a name. Whoever is found may be replaced before they are read; then the
    /// name is looked up again.
    fn description_by_name(
        &self,
        now: Moment,
        body: &Describe,
        tail: &mut [u8; ATTRIBUTES_BYTES_MAX],
    ) -> Result<Option<Description>, Disturbed> {
        for _ in 0..READ_RETRIES {
            let Some(slot) = self.find(body)? else { return Ok(None) };
            let described = self.description(now, slot, None, tail)?;
            if described.is_some() {
                return Ok(described);
            }
            spin_loop();
        }
        Err(Disturbed)
    }

    fn find(&self, body: &Describe) -> Result<Option<Slot>, Disturbed> {
        let id = service_id(body.service.as_str());
        let Some(slot) = self.region.find(id, &body.instance)? else { return Ok(None) };
        let entry = self
            .region
            .directory()
            .get(self.region.endpoints()[slot.index()].service().index())
            .ok_or(Disturbed)?;
        // Another service may have the same id; then it has another name.
        let service = entry.sequence().read(|| entry.name()).ok_or(Disturbed)?;
        Ok((service == body.service).then_some(slot))
    }

    /// Puts a description together. `None` when the slot holds no member of that generation.
    fn description(
        &self,
        now: Moment,
        slot: Slot,
        generation: Option<Generation>,
        tail: &mut [u8; ATTRIBUTES_BYTES_MAX],
    ) -> Result<Option<Description>, Disturbed> {
        let (Some(line), Some(endpoint)) =
            (self.region.lines().get(slot.index()), self.region.endpoints().get(slot.index()))
        else {
            return Ok(None);
        };
        let head = line.head();
        if !head.1.is_leased() || generation.is_some_and(|generation| generation != head.0) {
            return Ok(None);
        }
        let Some(entry) = self.region.directory().get(endpoint.service().index()) else {
            return Ok(None);
        };
        let (mut shown, meta, service) = entry
            .sequence()
            .read(|| (endpoint.entry(), entry.meta(), entry.name()))
            .ok_or(Disturbed)?;
        let record = self.region.records().read(slot).ok_or(Disturbed)?;
        let attributes_len = self.region.records().attributes(slot, tail).ok_or(Disturbed)?.len();
        fill_in(&mut shown, line, now);
        let hold = self.region.hold()?;
        let description = Description {
            endpoint: shown,
            service_version: U64::new(meta.revision),
            history: U64::new(line.history()),
            ttl_ms: U32::new(line.ttl().ms() as u32),
            hold_ms: U32::new(hold.map_or(0, |hold| {
                now.saturating_since(hold.since).ms().clamp(1, u64::from(u32::MAX)) as u32
            })),
            hold_silent: U32::new(hold.map_or(0, |hold| hold.silent)),
            hold_live: U32::new(hold.map_or(0, |hold| hold.live)),
            attributes_len: U16::new(attributes_len as u16),
            reserved: [0; 6],
            zone: record.zone,
            service,
            instance: record.instance,
        };
        // The slot may have been given to another lease while the parts were read.
        if line.head().0 != head.0 { Err(Disturbed) } else { Ok(Some(description)) }
    }

    pub(super) fn services(&mut self, from: &Requester, body: &Services, replies: &mut Replies) {
        let wanted = match usize::from(body.limit.get()) {
            0 => SERVICES_PER_FRAME_MAX,
            limit => limit.min(SERVICES_PER_FRAME_MAX),
        };
        let holds_one = usize::from(from.budget)
            >= size_of::<Header>() + size_of::<ServicesHead>() + size_of::<ServiceEntry>();
        let Ok((revision, services)) = self.region.service_count() else {
            return replies.put_status(from, Kind::Services, Status::Busy);
        };
        let mut entries: SmallVec<[ServiceEntry; SERVICES_PER_FRAME_MAX]> = SmallVec::new();
        let mut cursor = 0;
        let start = body.cursor.get() as usize;
        for (number, entry) in self.region.directory().iter().enumerate().skip(start) {
            if number - start == SCAN_MEMBERS_MAX as usize {
                cursor = number as u32;
                break;
            }
            if !entry.is_used() {
                continue;
            }
            let Some((used, meta, name)) =
                entry.sequence().read(|| (entry.is_used(), entry.meta(), entry.name()))
            else {
                return replies.put_status(from, Kind::Services, Status::Busy);
            };
            if !used || meta.total == 0 {
                continue;
            }
            if entries.len() == wanted {
                cursor = number as u32;
                break;
            }
            if !holds_one {
                // The whole reply can't fit any more: a stranger gets no longer search.
                return replies.put_status(from, Kind::Services, Status::Cookie);
            }
            entries.push(ServiceEntry {
                id: U64::new(meta.id),
                version: U64::new(meta.revision),
                listed: U32::new(meta.listed),
                total: U32::new(meta.total),
                name,
            });
        }
        let head = ServicesHead {
            version: U64::new(revision),
            cursor: U32::new(cursor),
            services: U32::new(services),
        };
        let header = Header::reply(Kind::Services, Status::Ok, entries.len() as u16, from.tag);
        replies.put(from, header, &[head.as_bytes(), entries.as_bytes()]);
    }
}
