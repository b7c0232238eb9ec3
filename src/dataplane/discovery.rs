//! Discover: the endpoints of a service, filtered and chosen under its sequence lock.

use super::{Dataplane, refuse_field};
use crate::clock::Moment;
use crate::exchange::{Replies, Requester};
use crate::limits::{
    ATTRIBUTES_BYTES_MAX, CAPACITY_MAX, DISCOVER_RETRIES, ENDPOINTS_PER_FRAME_MAX,
};
use crate::region::{DirectoryEntry, HeartLine, Region, ServiceMeta, ServiceNumber};
use crate::wire::balance::{self, Chosen, Members, mix};
use crate::wire::{
    Declared, Discover, DiscoverHead, Endpoint, Filter, Header, Kind, Slot, State, Status,
    Strategy, has_tag, header_flags,
};
use rand::Rng;
use smallvec::SmallVec;
use std::cell::Cell;
use std::mem::offset_of;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

/// Set in cursors once the preferred zone was found to have no endpoint that may be answered.
const ANY_ZONE: u32 = 1 << 31;
/// Set in cursors once the preferred zone was found to have one.
const IN_ZONE: u32 = 1 << 30;
const _: () = assert!(CAPACITY_MAX < IN_ZONE);

/// Fills in what the heart line knows.
pub(super) fn fill_in(endpoint: &mut Endpoint, line: &HeartLine, now: Moment) {
    let last = line.last();
    endpoint.load = U16::new(last.load);
    endpoint.age_ms = U32::new(now.saturating_since(last.at).ms().min(u64::from(u32::MAX)) as u32);
}

/// The members of a service that a request may be answered with. Read inside the service's
/// sequence: what it says of a list that is being changed is thrown away.
struct Candidates<'a> {
    region: &'a Region,
    meta: ServiceMeta,
    request: &'a Discover,
    filter: Filter,
    /// Picking strategies leave out who doesn't serve; `all` lists them.
    serving_only: bool,
    zone: bool,
    /// Some member may be answered at all, whatever the filters say.
    seen_healthy: Cell<bool>,
}

impl Candidates<'_> {
    fn slot(&self, position: u32) -> Option<Slot> {
        self.region.listed(self.meta.list, position)
    }

    fn endpoint(&self, position: u32) -> Option<Endpoint> {
        Some(self.region.endpoints().get(self.slot(position)?.index())?.entry())
    }

    fn is_healthy(&self, endpoint: &Endpoint) -> bool {
        let suspect = endpoint.state == State::Suspect as u8;
        !(suspect && self.filter.has(Filter::NO_SUSPECT)
            || self.serving_only && endpoint.declared() != Declared::Serving)
    }

    fn passes(&self, position: u32, endpoint: &Endpoint) -> bool {
        let filter = self.filter;
        if filter.has(Filter::VERSION_EXACT) && endpoint.version != self.request.version {
            return false;
        }
        if filter.has(Filter::VERSION_COMPATIBLE)
            && !endpoint.version.is_compatible_with(self.request.version)
        {
            return false;
        }
        if self.zone && !self.is_in_zone(position, endpoint) {
            return false;
        }
        !filter.has(Filter::TAG) || self.is_tagged(position)
    }

    /// The hash sorts out almost all others; the record has the last word.
    fn is_in_zone(&self, position: u32, endpoint: &Endpoint) -> bool {
        endpoint.zone.get() == self.request.zone.hash32()
            && self
                .slot(position)
                .and_then(|slot| self.region.records().read(slot))
                .is_some_and(|record| record.zone == self.request.zone)
    }

    fn is_tagged(&self, position: u32) -> bool {
        let mut tail = [0; ATTRIBUTES_BYTES_MAX];
        self.slot(position)
            .and_then(|slot| self.region.records().attributes(slot, &mut tail))
            .is_some_and(|tail| has_tag(tail, self.request.tag.bytes()))
    }
}

impl Members for Candidates<'_> {
    fn count(&self) -> u32 {
        self.meta.listed
    }

    fn is_eligible(&self, position: u32) -> bool {
        let Some(endpoint) = self.endpoint(position) else { return false };
        if !self.is_healthy(&endpoint) {
            return false;
        }
        self.seen_healthy.set(true);
        self.passes(position, &endpoint)
    }

    fn weight(&self, position: u32) -> u16 {
        self.endpoint(position).map_or(0, |endpoint| endpoint.weight.get())
    }

    fn load(&self, position: u32) -> u16 {
        self.slot(position)
            .and_then(|slot| self.region.lines().get(slot.index()))
            .map_or(0, |line| line.last().load)
    }

    fn identity(&self, position: u32) -> u64 {
        self.endpoint(position)
            .map_or(0, |endpoint| balance::identity(endpoint.address, endpoint.port.get()))
    }
}

/// What one undisturbed read of a service answers. Each try fills it anew in its place: a frame of
/// endpoints is too much to be moved.
struct Answer {
    status: Status,
    revision: u64,
    cursor: u32,
    endpoints: SmallVec<[Endpoint; ENDPOINTS_PER_FRAME_MAX]>,
}

impl Default for Answer {
    fn default() -> Self {
        Self { status: Status::Ok, revision: 0, cursor: 0, endpoints: SmallVec::new() }
    }
}

impl Dataplane {
    pub(super) fn discover(
        &mut self,
        now: Moment,
        from: &Requester,
        body: &Discover,
        replies: &mut Replies,
    ) {
        let Some(strategy) = Strategy::from_u8(body.strategy) else {
            return refuse_field(from, Kind::Discover, offset_of!(Discover, strategy), replies);
        };
        let filter = Filter(body.filter);
        if !filter.is_valid() {
            return refuse_field(from, Kind::Discover, offset_of!(Discover, filter), replies);
        }
        let service = match self.region.find_service(body.service.get()) {
            Ok(Some(service)) => service,
            Ok(None) => return replies.put_status(from, Kind::Discover, Status::NoService),
            Err(_) => return replies.put_status(from, Kind::Discover, Status::Busy),
        };
        let region = std::sync::Arc::clone(&self.region);
        let Some(entry) = region.directory().get(service.index()) else {
            return replies.put_status(from, Kind::Discover, Status::NoService);
        };
        let mut answer = Answer::default();
        let read = || self.answer(now, entry, service, strategy, body, &mut answer);
        if entry.sequence().read_within(DISCOVER_RETRIES, read).is_none() {
            return replies.put_status(from, Kind::Discover, Status::Busy);
        }
        let Ok(hold) = region.hold() else {
            return replies.put_status(from, Kind::Discover, Status::Busy);
        };
        let head = DiscoverHead {
            version: U64::new(answer.revision),
            cursor: U32::new(answer.cursor),
            hold_percent: hold.map_or(0, |hold| hold.percent()),
            reserved: [0; 3],
        };
        let mut header =
            Header::reply(Kind::Discover, answer.status, answer.endpoints.len() as u16, from.tag);
        header.flags = if hold.is_some() { header_flags::HOLD } else { 0 };
        replies.put(from, header, &[head.as_bytes(), answer.endpoints.as_bytes()]);
    }

    fn answer(
        &mut self,
        now: Moment,
        entry: &DirectoryEntry,
        service: ServiceNumber,
        strategy: Strategy,
        request: &Discover,
        answer: &mut Answer,
    ) {
        let region = std::sync::Arc::clone(&self.region);
        let meta = entry.meta();
        answer.endpoints.clear();
        (answer.status, answer.revision, answer.cursor) = (Status::Ok, meta.revision, 0);
        if meta.id != request.service.get() || !entry.is_used() {
            answer.status = Status::NoService;
            return;
        }
        let filter = Filter(request.filter);
        // Only lists have pages.
        let cursor = if strategy == Strategy::All { request.cursor.get() } else { 0 };
        let from = cursor & !(ANY_ZONE | IN_ZONE);
        let preferred = filter.has(Filter::ZONE_PREFERRED) && cursor & ANY_ZONE == 0;
        let mut candidates = Candidates {
            region: &region,
            meta,
            request,
            filter,
            serving_only: strategy != Strategy::All,
            zone: filter.has(Filter::ZONE_ONLY) || preferred,
            seen_healthy: Cell::new(false),
        };
        let mut chosen = self.choose(&candidates, service, strategy, request, from);
        let mut mark = cursor & (ANY_ZONE | IN_ZONE);
        if preferred && !chosen.picks.is_empty() {
            mark |= IN_ZONE;
        } else if preferred && chosen.next == 0 && mark == 0 {
            // The whole list has nobody there: any zone will do, from the start.
            candidates.zone = false;
            mark = ANY_ZONE;
            chosen = self.choose(&candidates, service, strategy, request, 0);
        }
        answer.cursor = if chosen.next != 0 { chosen.next | mark } else { 0 };
        for &position in &chosen.picks {
            if let Some(slot) = candidates.slot(position)
                && let (Some(line), Some(endpoint)) =
                    (region.lines().get(slot.index()), region.endpoints().get(slot.index()))
            {
                let mut endpoint = endpoint.entry();
                fill_in(&mut endpoint, line, now);
                answer.endpoints.push(endpoint);
            }
        }
        if answer.endpoints.is_empty() && answer.cursor == 0 && cursor == 0 {
            answer.status = match (meta.total, candidates.seen_healthy.get()) {
                (0, _) => Status::NoneRegistered,
                (_, false) => Status::NoneHealthy,
                (_, true) => Status::AllFiltered,
            };
        }
    }

    fn choose(
        &mut self,
        candidates: &Candidates<'_>,
        service: ServiceNumber,
        strategy: Strategy,
        request: &Discover,
        from: u32,
    ) -> Chosen {
        let page_full = match (usize::from(request.limit.get()), strategy) {
            (0, Strategy::All) => ENDPOINTS_PER_FRAME_MAX,
            (0, _) => 1,
            (limit, _) => limit.min(ENDPOINTS_PER_FRAME_MAX),
        };
        let random = &mut self.random;
        let draw = || random.next_u64();
        // Each arm makes the whole, so that nothing is copied.
        match strategy {
            Strategy::All => balance::page(candidates, from, page_full),
            Strategy::Random => {
                Chosen { picks: balance::random(candidates, page_full, draw), next: 0 }
            }
            Strategy::RoundRobin => {
                let turn = self.turns[service.index()];
                let (picks, turn) = balance::round_robin(candidates, turn, page_full);
                self.turns[service.index()] = turn;
                Chosen { picks, next: 0 }
            }
            Strategy::Weighted => {
                Chosen { picks: balance::weighted(candidates, page_full, draw), next: 0 }
            }
            Strategy::Rendezvous => {
                let key = mix(request.key.get());
                Chosen { picks: balance::rendezvous(candidates, page_full, key), next: 0 }
            }
            Strategy::TwoChoices => {
                Chosen { picks: balance::two_choices(candidates, page_full, draw), next: 0 }
            }
        }
    }
}
