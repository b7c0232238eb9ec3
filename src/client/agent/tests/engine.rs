//! An engine of a few lines: it follows `docs/PROTOCOL.md` as far as an agent sees, and does as the
//! test says.

use heartline_wire::time::{Nanos, from_ms};
use heartline_wire::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromZeros, IntoBytes};

/// What an engine knows of a lease.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) nonce: u64,
    pub(super) body: Register,
    pub(super) tail: Vec<u8>,
    pub(super) from: Ipv4Addr,
    pub(super) ttl: Nanos,
    pub(super) sequence: u32,
    pub(super) load: u16,
    pub(super) declared: Declared,
    pub(super) heard: Nanos,
}

pub(super) struct Engine {
    pub(super) epoch: u64,
    /// It takes nothing in and says nothing.
    pub(super) is_dead: bool,
    /// The status of every register request, if not what it deserves.
    pub(super) refuses: Option<Status>,
    /// By service and instance name.
    pub(super) held: BTreeMap<(String, String), Held>,
    /// Whose lease a slot is.
    slots: Vec<(String, String)>,
    pub(super) replaced: Vec<Lease>,
    pub(super) granted: u32,
    pub(super) cookies: u64,
    /// Beats whose sequence was not newer.
    pub(super) old: u64,
    /// Frames of beats and how many beats each had.
    pub(super) frames: Vec<(Nanos, u16, bool)>,
    pub(super) registers: Vec<Nanos>,
    pub(super) updates: u32,
}

impl Engine {
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            epoch,
            is_dead: false,
            refuses: None,
            held: BTreeMap::new(),
            slots: Vec::new(),
            replaced: Vec::new(),
            granted: 0,
            cookies: epoch * 1000,
            old: 0,
            frames: Vec::new(),
            registers: Vec::new(),
            updates: 0,
        }
    }

    /// Another process is in its place, which has its leases.
    pub(super) fn restart_warm(&mut self) {
        self.epoch += 100;
        self.cookies += 1;
    }

    /// Another process is in its place, which has nothing.
    pub(super) fn restart_empty(&mut self) {
        self.restart_warm();
        self.held.clear();
        self.slots.clear();
        self.replaced.clear();
    }

    /// Another agent takes an identity.
    pub(super) fn replace(&mut self, name: &str) {
        let held = self.held.get_mut(&("s".into(), name.into())).unwrap();
        self.replaced.push(held.lease);
        held.lease.generation = (held.lease.generation.get() + 1).into();
        held.nonce = 0;
    }

    pub(super) fn one(&self, name: &str) -> &Held {
        &self.held[&("s".to_owned(), name.to_owned())]
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.held.contains_key(&("s".to_owned(), name.to_owned()))
    }

    pub(super) fn receive(&mut self, now: Nanos, from: Ipv4Addr, frame: &[u8]) -> Option<Vec<u8>> {
        if self.is_dead {
            return None;
        }
        let request = Request::decode(frame).expect("agents send what passes the gate");
        Some(match request {
            Request::Hello(header) => {
                let mut welcome = Welcome::new_zeroed();
                welcome.cookie = self.cookie(from).into();
                welcome.epoch = self.epoch.into();
                welcome.cookie_ms = 60_000.into();
                reply(Kind::Hello, header, Status::Ok, 0, welcome.as_bytes())
            }
            Request::Register(header, body, tail) => {
                self.registers.push(now);
                match self.register(now, from, body, tail) {
                    Ok(granted) => reply(Kind::Register, header, Status::Ok, 0, granted.as_bytes()),
                    Err(status) => reply(Kind::Register, header, status, 0, &[]),
                }
            }
            Request::Beat(header, beats) => return self.beats(now, header, beats),
            Request::Update(header, update, tail) => {
                self.updates += 1;
                let held = self.held.values_mut().find(|it| it.lease == update.lease);
                let Some(held) = held else {
                    return Some(reply(Kind::Update, header, Status::Unknown, 0, &[]));
                };
                held.body.weight = update.weight;
                held.body.version = update.version;
                held.tail = tail.to_vec();
                let changed = Changed { epoch: self.epoch.into() };
                reply(Kind::Update, header, Status::Ok, 0, changed.as_bytes())
            }
            other => panic!("an agent does not send {other:?}"),
        })
    }

    fn cookie(&self, from: Ipv4Addr) -> u64 {
        self.cookies << 32 | u64::from(from.to_bits())
    }

    fn register(
        &mut self,
        now: Nanos,
        from: Ipv4Addr,
        body: &Register,
        tail: &[u8],
    ) -> Result<Granted, Status> {
        if body.cookie.get() != self.cookie(from) {
            return Err(Status::Cookie);
        }
        assert_ne!(body.nonce.get(), 0);
        if let Some(status) = self.refuses {
            return Err(status);
        }
        let identity = (body.service.as_str().to_owned(), body.instance.as_str().to_owned());
        let ttl = from_ms(body.ttl_ms.get().into());
        let standing = self.held.get(&identity);
        if let Some(held) = standing
            && held.nonce != body.nonce.get()
            && held.from != from
            && now < held.heard + held.ttl
        {
            return Err(Status::Conflict);
        }
        if standing.is_none_or(|held| held.nonce != body.nonce.get()) {
            self.slots.push(identity.clone());
            self.granted += 1;
            let lease = Lease {
                slot: (self.slots.len() as u32 - 1).into(),
                generation: 1.into(),
                secret: (self.epoch << 32 | u64::from(self.granted)).into(),
            };
            let held = Held {
                lease,
                nonce: body.nonce.get(),
                body: *body,
                tail: tail.to_vec(),
                from,
                ttl,
                sequence: 0,
                load: 0,
                declared: Declared::from_bits(body.declared.into()),
                heard: now,
            };
            if let Some(former) = self.held.insert(identity.clone(), held) {
                self.replaced.push(former.lease);
            }
        }
        let lease = self.held[&identity].lease;
        let cadence = self.cadence(now, lease, ttl);
        let mut granted = Granted::new_zeroed();
        (granted.lease, granted.epoch) = (lease, self.epoch.into());
        granted.interval_us = cadence.interval_us.into();
        granted.phase_us = cadence.phase_us.into();
        granted.ttl_ms = body.ttl_ms;
        Ok(granted)
    }

    fn cadence(&self, now: Nanos, lease: Lease, ttl: Nanos) -> Cadence {
        Cadence::new(lease.slot(), time::Span::from_nanos(ttl), time::Moment::from_nanos(now))
    }

    fn beats(&mut self, now: Nanos, header: &Header, beats: &[Beat]) -> Option<Vec<u8>> {
        let wants_ack = header.flags & header_flags::ACK_WANTED != 0;
        self.frames.push((now, beats.len() as u16, wants_ack));
        let (mut naks, mut accepted, mut old) = (Vec::new(), 0_u16, 0_u16);
        for beat in beats {
            let identity = self.slots.get(beat.lease.slot.get() as usize);
            let held = identity.and_then(|identity| self.held.get_mut(identity));
            let Some(held) = held.filter(|held| held.lease == beat.lease) else {
                let is_replaced = self.replaced.contains(&beat.lease);
                let reason = if is_replaced { Status::Replaced } else { Status::Unknown };
                let (slot, generation) = (beat.lease.slot, beat.lease.generation);
                naks.push(Nak { slot, generation, reason: reason as u8, reserved: [0; 7] });
                continue;
            };
            let ahead = beat.sequence.get().wrapping_sub(held.sequence);
            if ahead == 0 || ahead >= 1 << 31 {
                old += 1;
                continue;
            }
            accepted += 1;
            (held.sequence, held.heard) = (beat.sequence.get(), now);
            held.load = beat.load.get();
            held.declared = Declared::from_bits(beat.flags.get().into());
            if held.declared == Declared::Leaving {
                self.held.remove(&self.slots[beat.lease.slot.get() as usize]);
            }
        }
        self.old += u64::from(old);
        if !naks.is_empty() {
            let head = NakHead { epoch: self.epoch.into() };
            let body = [head.as_bytes(), naks.as_bytes()].concat();
            return Some(reply(Kind::Beat, header, Status::Nak, naks.len() as u16, &body));
        }
        if !wants_ack {
            return None;
        }
        // To a lease that has just left it says anything.
        let first = &self.slots[beats[0].lease.slot.get() as usize];
        let ttl = self.held.get(first).map_or(from_ms(3000), |held| held.ttl);
        let cadence = self.cadence(now, beats[0].lease, ttl);
        let mut ack = Ack::new_zeroed();
        (ack.epoch, ack.accepted, ack.old) = (self.epoch.into(), accepted.into(), old.into());
        ack.interval_us = cadence.interval_us.into();
        ack.phase_us = cadence.phase_us.into();
        Some(reply(Kind::Beat, header, Status::Ok, accepted, ack.as_bytes()))
    }
}

fn reply(kind: Kind, to: &Header, status: Status, count: u16, body: &[u8]) -> Vec<u8> {
    let header = Header { count: U16::new(count), ..Header::reply(kind, status, count, to.tag) };
    [header.as_bytes(), body].concat()
}
