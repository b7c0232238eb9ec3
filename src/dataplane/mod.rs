//! Requests in, replies and commands out: what a loop does with the datagrams it received. No
//! sockets and no clock.
//!
//! Beats are applied here, queries are answered here from the region; whatever changes membership
//! is checked here and passed to the registrar. Frames are decoded in groups and their heart lines
//! prefetched before the first is applied.

mod bucket;
mod cookie;
mod discovery;
mod queries;
mod stats;
mod watching;

pub use cookie::Cookies;

use crate::clock::{Moment, Nanos};
use crate::exchange::{Attributes, Command, Peer, Replies, Requester, WatchCommand};
use crate::limits::{
    BEATS_PER_FRAME_MAX, FRAME_BYTES_MAX, GROUP_BEATS, GROUP_FRAMES, NAKS_BURST, NAKS_PER_SECOND,
    TTL_MS_MAX, TTL_MS_MIN,
};
use crate::region::{Applied, Counter, OwnCounters, Region, Tally, prefetch};
use crate::wire::Cadence;
use crate::wire::{
    Ack, Beat, Declared, Header, Kind, Lease, Nak, NakHead, Register, Reject, Request, Status,
    Update, check_attributes, header_flags, update_fields,
};
use bucket::Bucket;
use crossbeam::queue::ArrayQueue;
use rand::rngs::SmallRng;
use smallvec::SmallVec;
use std::mem::offset_of;
use std::sync::Arc;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

/// A datagram as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its sender, and where it came in.
    pub peer: Peer,
    /// All of it, headers of IP and UDP apart.
    pub bytes: &'a [u8],
}

/// The data plane of one loop.
#[derive(Debug)]
pub struct Dataplane {
    region: Arc<Region>,
    commands: Arc<ArrayQueue<Command>>,
    watch_commands: Arc<ArrayQueue<WatchCommand>>,
    cookies: Cookies,
    epoch: u64,
    naks: Bucket,
    random: SmallRng,
    /// Whose turn it is, for each service.
    turns: Box<[u32]>,
    tally: Tally,
    /// Where others can see the tally.
    counters: Option<OwnCounters>,
    commanded: bool,
    watch_commanded: bool,
}

impl Dataplane {
    /// A data plane over a region. `random` decides random picks only; no secret comes from it.
    pub fn new(
        region: Arc<Region>,
        commands: Arc<ArrayQueue<Command>>,
        watch_commands: Arc<ArrayQueue<WatchCommand>>,
        cookies: Cookies,
        epoch: u64,
        random: SmallRng,
    ) -> Self {
        let services_max = region.geometry().services_max as usize;
        Self {
            region,
            commands,
            watch_commands,
            cookies,
            epoch,
            naks: Bucket::new(NAKS_PER_SECOND, NAKS_BURST),
            random,
            turns: vec![0; services_max].into_boxed_slice(),
            tally: Tally::default(),
            counters: None,
            commanded: false,
            watch_commanded: false,
        }
    }

    /// What the loop has counted so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The same, for what is counted elsewhere in the loop.
    pub fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// From now on [`Self::publish`] shows the tally there.
    pub fn publish_in(&mut self, counters: OwnCounters) {
        self.counters = Some(counters);
    }

    /// Shows others what the loop has counted so far.
    pub fn publish(&self) {
        if let Some(counters) = &self.counters {
            counters.publish(&self.tally);
        }
    }

    /// Whether commands were passed on since this was last asked.
    pub fn take_commanded(&mut self) -> bool {
        std::mem::take(&mut self.commanded)
    }

    /// Counts datagrams that were longer than any buffer.
    pub fn count_truncated(&mut self, count: u64) {
        self.tally.add(Counter::Datagrams, count);
        self.tally.add(Counter::of(Reject::Long), count);
    }

    /// Bytes that the private tables take.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.turns)
    }

    /// Handles the datagrams received at `now`, at most [`GROUP_FRAMES`] of them and
    /// [`GROUP_BEATS`] beats; returns how many it took. Each makes at most one reply.
    pub fn receive<'a>(
        &mut self,
        now: Nanos,
        datagrams: impl Iterator<Item = Datagram<'a>>,
        replies: &mut Replies,
    ) -> usize {
        let now = Moment::from_nanos(now);
        let lines = self.region.lines();
        let mut group: SmallVec<[(Peer, Request<'a>, u16); GROUP_FRAMES]> = SmallVec::new();
        let (mut taken, mut beats_taken, mut bytes_taken) = (0, 0, 0);
        for datagram in datagrams {
            taken += 1;
            bytes_taken += datagram.bytes.len() as u64;
            match Request::decode(datagram.bytes) {
                Ok(request) => {
                    if let Request::Beat(_, beats) = request {
                        beats_taken += beats.len();
                        // Slots that don't exist are found out later: asking for what is not there
                        // changes nothing.
                        let ask = |beat: &Beat| {
                            prefetch(lines.as_ptr().wrapping_add(beat.lease.slot().index()));
                        };
                        // Eight at a time: without link-time optimisation the compiler does not
                        // unroll the loop.
                        let (eights, rest) = beats.as_chunks::<8>();
                        for [a, b, c, d, e, f, g, h] in eights {
                            let [(), ..] = [a, b, c, d, e, f, g, h].map(ask);
                        }
                        rest.iter().for_each(ask);
                    }
                    group.push((datagram.peer, request, datagram.bytes.len() as u16));
                }
                Err(reason) => self.tally.add_rejected(reason),
            }
            if taken == GROUP_FRAMES || beats_taken + BEATS_PER_FRAME_MAX > GROUP_BEATS {
                break;
            }
        }
        self.tally.add(Counter::Datagrams, taken as u64);
        self.tally.add(Counter::BytesReceived, bytes_taken);
        for (peer, request, length) in group.iter() {
            match request {
                &Request::Beat(header, beats) => self.beats(now, peer, header, beats, replies),
                request => self.other_request(now, peer, request, *length, replies),
            }
        }
        taken
    }

    #[inline]
    fn beats(
        &mut self,
        now: Moment,
        peer: &Peer,
        header: &Header,
        beats: &[Beat],
        replies: &mut Replies,
    ) {
        let mut others = None;
        let lines = self.region.lines();
        for beat in beats {
            let slot = beat.lease.slot();
            let applied = match lines.get(slot.index()) {
                Some(line) => line.apply(beat, now),
                None => Applied::Refused(Status::Unknown),
            };
            if applied != Applied::Accepted {
                self.commanded |= applied == Applied::Attention;
                NotAccepted::add(&mut others, applied, beat, &self.region, &self.commands);
            }
        }
        if let Some(others) = others {
            return self.not_all_accepted(now, peer, header, beats, others, replies);
        }
        self.tally.add(Counter::BeatsAccepted, beats.len() as u64);
        if header.flags & header_flags::ACK_WANTED != 0 {
            self.ack(now, peer, header, &beats[0], beats.len() as u16, 0, replies);
        }
    }

    #[cold]
    fn not_all_accepted(
        &mut self,
        now: Moment,
        peer: &Peer,
        header: &Header,
        beats: &[Beat],
        others: NotAccepted,
        replies: &mut Replies,
    ) {
        let NotAccepted { old, again, refused } = others;
        let accepted = beats.len() as u16 - old - again - refused.len() as u16;
        self.tally.add(Counter::BeatsAccepted, u64::from(accepted));
        self.tally.add(Counter::BeatsOld, u64::from(old));
        if !refused.is_empty() {
            self.nak(now, peer, header, &refused, replies);
        } else if header.flags & header_flags::ACK_WANTED != 0 {
            self.ack(now, peer, header, &beats[0], accepted, old, replies);
        }
    }

    #[cold]
    fn nak(
        &mut self,
        now: Moment,
        peer: &Peer,
        header: &Header,
        refused: &[Nak],
        replies: &mut Replies,
    ) {
        self.tally.add(Counter::BeatsRefused, refused.len() as u64);
        if !self.naks.take(now) {
            self.tally.add(Counter::NaksSuppressed, 1);
            return;
        }
        // A nak is never longer than the beats it refuses; see the assertions at `wire::Nak`.
        let to = Requester { peer: *peer, tag: header.tag, budget: FRAME_BYTES_MAX as u16 };
        let head = NakHead { epoch: U64::new(self.epoch) };
        let reply = Header::reply(Kind::Beat, Status::Nak, refused.len() as u16, header.tag);
        replies.put(&to, reply, &[head.as_bytes(), refused.as_bytes()]);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call, and a struct for it would be built for nothing else"
    )]
    fn ack(
        &mut self,
        now: Moment,
        peer: &Peer,
        header: &Header,
        first: &Beat,
        accepted: u16,
        old: u16,
        replies: &mut Replies,
    ) {
        let slot = first.lease.slot();
        let cadence = Cadence::new(slot, self.region.lines()[slot.index()].ttl(), now);
        let ack = Ack {
            epoch: U64::new(self.epoch),
            interval_us: U32::new(cadence.interval_us),
            phase_us: U32::new(cadence.phase_us),
            accepted: U16::new(accepted),
            old: U16::new(old),
            reserved: [0; 4],
        };
        // An ack is never longer than one beat; see the assertions at `wire::Ack`.
        let to = Requester { peer: *peer, tag: header.tag, budget: FRAME_BYTES_MAX as u16 };
        replies.put(
            &to,
            Header::reply(Kind::Beat, Status::Ok, accepted, header.tag),
            &[ack.as_bytes()],
        );
    }

    /// Everything but beats.
    #[inline(never)]
    fn other_request(
        &mut self,
        now: Moment,
        peer: &Peer,
        request: &Request<'_>,
        length: u16,
        replies: &mut Replies,
    ) {
        // Whether the cookie proves the address, and the requester that follows from it.
        let check = |header: &Header, cookie: u64| {
            let proved = self.cookies.check(&peer.ip, cookie, now.nanos());
            let budget = if proved { FRAME_BYTES_MAX as u16 } else { length };
            (proved, Requester { peer: *peer, tag: header.tag, budget })
        };
        let requester = |header: &Header, cookie: u64| check(header, cookie).1;
        match *request {
            Request::Beat(..) => {}
            Request::Hello(header) => {
                let from = requester(header, 0);
                self.hello(now, &from, replies);
            }
            Request::Register(header, body, tail) => {
                let (proved, from) = check(header, body.cookie.get());
                self.register(&from, proved, body, tail, replies);
            }
            Request::Update(header, body, tail) => {
                let from = requester(header, 0);
                self.update(&from, body, tail, replies);
            }
            Request::Deregister(header, body) => {
                let from = requester(header, 0);
                // Strangers with guessed leases end here; the registrar checks again.
                if let Err(status) = self.verify(&body.lease) {
                    return replies.put_status(&from, Kind::Deregister, status);
                }
                self.command(
                    &from,
                    Kind::Deregister,
                    Command::Deregister { from, lease: body.lease },
                    replies,
                );
            }
            Request::Describe(header, body) => {
                let from = requester(header, body.cookie.get());
                self.describe(now, &from, body, replies);
            }
            Request::Services(header, body) => {
                let from = requester(header, body.cookie.get());
                self.services(&from, body, replies);
            }
            Request::Discover(header, body) => {
                let from = requester(header, body.cookie.get());
                self.discover(now, &from, body, replies);
            }
            Request::Stats(header, body) => {
                let (proved, from) = check(header, body.cookie.get());
                if !proved {
                    return replies.put_status(&from, Kind::Stats, Status::Cookie);
                }
                self.stats(now, &from, replies);
            }
            Request::Watch(header, body) => {
                let (proved, from) = check(header, body.cookie.get());
                self.watch(&from, proved, body, replies);
            }
            Request::Received(header, body) => {
                let (proved, from) = check(header, body.cookie.get());
                self.received(&from, proved, body);
            }
        }
    }

    fn verify(&self, lease: &Lease) -> Result<(), Status> {
        self.region.lines().get(lease.slot().index()).ok_or(Status::Unknown)?.verify(lease)
    }

    /// Passes a command on, or answers that the queue is full.
    fn command(&mut self, from: &Requester, kind: Kind, command: Command, replies: &mut Replies) {
        self.commanded = true;
        if self.commands.push(command).is_err() {
            replies.put_status(from, kind, Status::Busy);
        }
    }

    fn register(
        &mut self,
        from: &Requester,
        proved: bool,
        body: &Register,
        tail: &[u8],
        replies: &mut Replies,
    ) {
        if !proved {
            return replies.put_status(from, Kind::Register, Status::Cookie);
        }
        if let Some(field) = wrong_field(body, tail) {
            return refuse_field(from, Kind::Register, field, replies);
        }
        if tail.len() > self.region.geometry().attributes_bytes {
            return replies.put_status(from, Kind::Register, Status::TooLarge);
        }
        let command =
            Command::Register { from: *from, request: *body, attributes: Attributes::new(tail) };
        self.command(from, Kind::Register, command, replies);
    }

    fn update(&mut self, from: &Requester, body: &Update, tail: &[u8], replies: &mut Replies) {
        let fields = body.fields.get();
        if fields & update_fields::ATTRIBUTES == 0 && !tail.is_empty() {
            return refuse_field(from, Kind::Update, offset_of!(Update, fields), replies);
        }
        if !check_attributes(tail) {
            return refuse_field(from, Kind::Update, size_of::<Update>(), replies);
        }
        if tail.len() > self.region.geometry().attributes_bytes {
            return replies.put_status(from, Kind::Update, Status::TooLarge);
        }
        if let Err(status) = self.verify(&body.lease) {
            return replies.put_status(from, Kind::Update, status);
        }
        if fields & update_fields::LOAD != 0 {
            self.region.lines()[body.lease.slot().index()].set_load(body.load.get());
        }
        let command =
            Command::Update { from: *from, request: *body, attributes: Attributes::new(tail) };
        self.command(from, Kind::Update, command, replies);
    }
}

/// The beats of a frame that did not simply count.
#[derive(Default)]
struct NotAccepted {
    old: u16,
    /// Farewells that must be sent again.
    again: u16,
    refused: SmallVec<[Nak; BEATS_PER_FRAME_MAX]>,
}

impl NotAccepted {
    #[cold]
    #[inline(never)]
    fn add(
        others: &mut Option<Self>,
        applied: Applied,
        beat: &Beat,
        region: &Region,
        commands: &ArrayQueue<Command>,
    ) {
        let Lease { slot, generation, .. } = beat.lease;
        let others = others.get_or_insert_default();
        match applied {
            Applied::Accepted => {}
            Applied::Old => others.old += 1,
            Applied::Attention => others.again += u16::from(!ask_attention(region, commands, beat)),
            Applied::Refused(status) => others.refused.push(Nak {
                slot,
                generation,
                reason: status as u8,
                reserved: [0; 7],
            }),
        }
    }
}

/// Asks the registrar to look at a slot. `false`: it has too much to do, and the beat, a farewell,
/// must be sent again.
#[cold]
fn ask_attention(region: &Region, commands: &ArrayQueue<Command>, beat: &Beat) -> bool {
    let slot = beat.lease.slot();
    let leaving = Declared::from_bits(beat.flags.get().into()) == Declared::Leaving;
    if commands.push(Command::Look { slot, generation: beat.lease.generation(), leaving }).is_ok() {
        return true;
    }
    let registered = region.endpoints()[slot.index()].entry().declared();
    region.lines()[slot.index()].forget_declared(registered);
    !leaving
}

/// Answers that a field of the body is not accepted: the count is its offset in the frame.
fn refuse_field(from: &Requester, kind: Kind, field: usize, replies: &mut Replies) {
    let offset = (size_of::<Header>() + field) as u16;
    replies.put(from, Header::reply(kind, Status::Invalid, offset, from.tag), &[]);
}

/// The offset of the first field of a registration that has a value which is not accepted.
fn wrong_field(body: &Register, tail: &[u8]) -> Option<usize> {
    if body.nonce.get() == 0 {
        return Some(offset_of!(Register, nonce));
    }
    if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&body.ttl_ms.get()) {
        return Some(offset_of!(Register, ttl_ms));
    }
    if body.declared >= Declared::Leaving as u8 {
        return Some(offset_of!(Register, declared));
    }
    if !body.zone.is_visible() {
        return Some(offset_of!(Register, zone));
    }
    if body.service.is_empty() || !body.service.is_visible() {
        return Some(offset_of!(Register, service));
    }
    if body.instance.is_empty() || !body.instance.is_visible() {
        return Some(offset_of!(Register, instance));
    }
    (!check_attributes(tail)).then_some(size_of::<Register>())
}
