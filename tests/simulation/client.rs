//! A client process: it registers, beats, asks and changes as section 8 of `docs/PROTOCOL.md` says.
//! Its requests are those of `heartline_client::proto`, driven with simulated time.

use crate::plan::ClientPlan;
use crate::world::{Happening, World};
use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::exchange::Peer;
use heartline_client::Registration;
use heartline_client::proto::{Caller, Failure, Step, encode_registration};
use heartline_wire::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::net::SocketAddr;
use std::time::Duration;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Attributes that are well-formed, and longer than the simulated engines keep.
const TOO_LONG: &[u8] = &[66; 67];

/// What a client waits for an answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    Registering,
    Beating,
    Other,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) plan: ClientPlan,
    pub(crate) peer: Peer,
    caller: Caller,
    random: StdRng,
    pub(crate) alive: bool,
    /// It leaves no more: the end of the simulation is near.
    pub(crate) calm: bool,
    /// It gives up when another takes its identity.
    pub(crate) yields: bool,
    pub(crate) lease: Option<Lease>,
    former: Option<Lease>,
    /// A beat of another client that may go in the same frame, as an agent of a host sends them.
    neighbour: Option<Beat>,
    interval: Nanos,
    sequence: u32,
    declared: u16,
    nonce: u64,
    next_beat: Nanos,
    next_other: Nanos,
    doing: Doing,
    /// What discovery was asked last, and whether it is to be asked for the next page.
    page: Option<Discover>,
    asked_page: bool,
    pub(crate) refused: Option<Status>,
    /// Number of the wake-up that counts.
    pub(crate) wake: u64,
}

pub(crate) fn peer(host: u8, port: u16) -> Peer {
    Peer { ip: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 10, 0, 0, host], port, ..Peer::default() }
}

impl Client {
    pub(crate) fn new(plan: ClientPlan, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut caller = Caller::new(random.next_u64());
        let ttl = from_ms(plan.ttl_ms.into());
        caller.set_patience((ttl / 4).clamp(100_000, from_ms(200)));
        Self {
            peer: peer(plan.host, random.random_range(1024..60_000)),
            plan,
            caller,
            random,
            alive: true,
            calm: false,
            yields: false,
            lease: None,
            former: None,
            neighbour: None,
            interval: ttl / 4,
            sequence: 0,
            declared: 0,
            nonce: 0,
            next_beat: 0,
            next_other: 0,
            doing: Doing::Nothing,
            page: None,
            asked_page: false,
            refused: None,
            wake: 0,
        }
    }

    fn ttl(&self) -> Nanos {
        from_ms(self.plan.ttl_ms.into())
    }

    /// The process ends without a word.
    pub(crate) fn die(&mut self) {
        self.alive = false;
    }

    /// A new process with the same identity, which knows nothing of the one before.
    pub(crate) fn restart(&mut self, now: Nanos) {
        let port = self.random.random_range(1024..60_000);
        let former = self.lease.take();
        *self = Self { former, ..Self::new(self.plan.clone(), self.random.next_u64()) };
        (self.peer.port, self.next_beat) = (port, now);
    }

    pub(crate) fn rebind(&mut self, other_host: bool) {
        self.peer.port = self.random.random_range(1024..60_000);
        if other_host {
            self.peer.ip[15] ^= 0x40;
        }
    }

    /// The beat that comes next, for somebody else to send.
    fn next_beat_for_another(&self) -> Option<Beat> {
        let lease = self.lease.filter(|_| self.alive)?;
        let flags = U16::new(self.declared);
        Some(Beat {
            lease,
            sequence: U32::new(self.sequence.wrapping_add(1)),
            load: U16::new(7),
            flags,
        })
    }

    /// What it does now; the datagrams that it sends, and when it is to be woken.
    fn step(&mut self, now: Nanos) -> (Vec<Vec<u8>>, Nanos) {
        let mut sent = Vec::new();
        for _ in 0..64 {
            let next = match self.caller.step(now) {
                Step::Send(frame) => {
                    sent.push(frame.to_vec());
                    continue;
                }
                Step::Wait(until) => until,
                Step::Answered | Step::Failed(_) if self.doing == Doing::Nothing => Nanos::MAX,
                Step::Answered => {
                    self.answered(now);
                    continue;
                }
                Step::Failed(failure) => {
                    self.failed(now, failure);
                    continue;
                }
            };
            let due = if self.lease.is_some() {
                self.next_beat.min(self.next_other)
            } else {
                self.next_beat
            };
            let is_waiting =
                self.doing != Doing::Nothing && !(self.lease.is_some() && self.next_beat <= now);
            if is_waiting || due > now {
                // Who waits for an answer is woken for the next beat all the same.
                let beat = if self.lease.is_some() && self.doing != Doing::Nothing {
                    self.next_beat
                } else {
                    due
                };
                let until = if self.doing == Doing::Nothing {
                    due
                } else if self.lease.is_some() {
                    next.min(beat)
                } else {
                    next
                };
                return (sent, until.max(now + 1));
            }
            self.act(now, &mut sent);
        }
        (sent, now + self.ttl())
    }

    fn act(&mut self, now: Nanos, sent: &mut Vec<Vec<u8>>) {
        match self.lease {
            None => self.register(),
            Some(lease) if self.next_beat <= now => self.beat(now, lease, sent),
            Some(lease) => self.other(now, lease, sent),
        }
    }

    fn register(&mut self) {
        if self.doing != Doing::Registering && self.nonce == 0 {
            self.nonce = self.random.next_u64() | 1;
        }
        let tags = ["canary", "rack=b12", "tier=1"];
        let attributes =
            tags[..usize::from(self.plan.host % 4)].iter().map(|tag| (*tag).to_owned()).collect();
        let registration = Registration {
            address: SocketAddr::from(([0, 0, 0, 0], 8000 + u16::from(self.plan.host))),
            zone: ["", "eu-1a", "eu-1b"][usize::from(self.plan.host % 3)].into(),
            version: Version::new(1, u16::from(self.plan.host % 4), 0, 0),
            weight: u16::from(self.plan.host) * 10 % 70,
            attributes: if self.plan.instance == "x1" { vec!["x".repeat(80)] } else { attributes },
            ttl: Duration::from_millis(self.plan.ttl_ms.into()),
            declared: self.first_declared(),
            nonce: self.nonce,
            ..Registration::new(&self.plan.service, &self.plan.instance, 0)
        };
        let (body, tail) = encode_registration(&registration).unwrap();
        self.doing = Doing::Registering;
        self.caller.begin(Kind::Register, 0, 0, &[body.as_bytes(), &tail]);
    }

    /// What it says of itself when it registers: mostly that it serves, now and then that it
    /// leaves, which is refused. A repeated request says the same.
    fn first_declared(&self) -> Declared {
        match self.nonce >> 1 & 63 {
            0 if !self.calm => Declared::Leaving,
            bits => Declared::from_bits((bits & 7).saturating_sub(5)),
        }
    }

    fn beat(&mut self, now: Nanos, lease: Lease, sent: &mut Vec<Vec<u8>>) {
        // Now and then far ahead, so that sequences wrap.
        self.sequence =
            self.sequence.wrapping_add(if self.random.random_bool(0.02) { 1 << 30 } else { 1 });
        let mut declared = self.declared;
        match self.random.random_range(0..200) {
            0 if !self.calm => declared = 3,
            1..6 => declared = self.random.random_range(0..3),
            _ => {}
        }
        if declared != 3 {
            self.declared = declared;
        }
        let beat = Beat {
            lease,
            sequence: U32::new(self.sequence),
            load: U16::new(self.random.random_range(0..500)),
            flags: U16::new(declared),
        };
        let mut beats = vec![beat];
        if declared == 3 && self.random.random_bool(0.5) {
            // Once said, a farewell stands, whatever later beats say.
            self.sequence = self.sequence.wrapping_add(1);
            beats.push(Beat { sequence: U32::new(self.sequence), flags: U16::ZERO, ..beat });
        }
        if let Some(former) = self.former
            && self.random.random_bool(0.05)
        {
            beats.push(Beat { lease: former, ..beat });
        }
        if declared != 3
            && self.random.random_bool(0.2)
            && let Some(neighbour) = self.neighbour.take()
        {
            beats.push(neighbour);
        }
        self.next_beat = now + self.interval;
        if declared == 3 {
            self.former = self.lease.take();
            self.next_beat = now + self.ttl() * 2;
            self.nonce = 0;
        }
        if declared != 3 && self.random.random_bool(0.7) {
            self.doing = Doing::Beating;
            self.caller.begin(
                Kind::Beat,
                beats.len() as u16,
                header_flags::ACK_WANTED,
                &[beats.as_bytes()],
            );
        } else {
            self.doing = Doing::Nothing;
            sent.push(
                self.caller
                    .datagram(Kind::Beat, beats.len() as u16, 0, &[beats.as_bytes()])
                    .to_vec(),
            );
        }
    }

    /// Something else than beating.
    fn other(&mut self, now: Nanos, lease: Lease, sent: &mut Vec<Vec<u8>>) {
        self.next_other = now + self.random.random_range(self.ttl() / 8..self.ttl() * 2);
        self.doing = Doing::Other;
        if let Some(page) = self.page.take_if(|_| self.asked_page) {
            self.next_other = now + self.ttl() / 16;
            return self.caller.begin(Kind::Discover, 0, 0, &[page.as_bytes()]);
        }
        match self.random.random_range(0..22) {
            20..22 => {
                // Without a cookie, and with some room for the reply.
                let (kind, body) = match self.random.random_range(0..3) {
                    0 => (Kind::Services, Services::new_zeroed().as_bytes().to_vec()),
                    1 => (
                        Kind::Describe,
                        Describe {
                            slot: lease.slot,
                            generation: lease.generation,
                            ..Describe::new_zeroed()
                        }
                        .as_bytes()
                        .to_vec(),
                    ),
                    _ => (Kind::Discover, self.question().as_bytes().to_vec()),
                };
                let padding = vec![0; self.random.random_range(0..1232 - 16 - body.len())];
                self.doing = Doing::Nothing;
                sent.push(self.caller.datagram(kind, 0, 0, &[&body, &padding]).to_vec());
            }
            0 if !self.calm => {
                self.caller.begin(Kind::Deregister, 0, 0, &[lease.as_bytes()]);
                (self.former, self.lease, self.nonce) = (Some(lease), None, 0);
                self.next_beat = now + self.ttl() * 2;
            }
            1..5 => {
                let mut body = Update { lease, ..Update::new_zeroed() };
                body.fields = U16::new(self.random.random_range(0..16));
                body.weight = U16::new(self.random.random_range(0..100));
                body.load = U16::new(self.random.random_range(0..100));
                body.version = Version::new(1, self.random.random_range(0..4), 1, 0);
                let tail: &[u8] = match self.random.random_range(0..10) {
                    0 => TOO_LONG,
                    1..7 => b"\x06canary\x05tag=2",
                    _ => b"",
                };
                let tail = if body.fields.get() & 8 != 0 { tail } else { b"" };
                body.attributes_len = U16::new(tail.len() as u16);
                self.caller.begin(Kind::Update, 0, 0, &[body.as_bytes(), tail]);
            }
            5..9 => {
                let mut body = Describe::new_zeroed();
                if self.random.random_bool(0.7) {
                    body.service = Name::new(&self.plan.service).unwrap();
                    // One name without the other is no question.
                    body.instance = Name::new(if self.random.random_bool(0.03) {
                        ""
                    } else {
                        &self.plan.instance
                    })
                    .unwrap();
                } else {
                    let other = self.former.unwrap_or(lease);
                    (body.slot, body.generation) = (other.slot, other.generation);
                }
                self.caller.begin(Kind::Describe, 0, 0, &[body.as_bytes()]);
            }
            9 => self.caller.begin(Kind::Stats, 0, 0, &[StatsRequest::new_zeroed().as_bytes()]),
            10 => self.caller.begin(Kind::Services, 0, 0, &[Services::new_zeroed().as_bytes()]),
            _ => {
                let body = self.question();
                (self.page, self.asked_page) = (Some(body), false);
                self.caller.begin(Kind::Discover, 0, 0, &[body.as_bytes()]);
            }
        }
    }

    fn question(&mut self) -> Discover {
        let random = &mut self.random;
        let mut body = Discover::new_zeroed();
        body.service =
            U64::new(service_id(if random.random_bool(0.8) { &self.plan.service } else { "s0" }));
        body.limit = U16::new(if random.random_bool(0.5) { 0 } else { random.random_range(1..30) });
        body.strategy = random.random_range(0..6);
        if random.random_bool(0.5) {
            body.filter = random.random_range(0..64);
        }
        if random.random_bool(0.25) {
            // Lists of a zone in short pages.
            (body.strategy, body.filter, body.limit) = (0, 8, U16::new(random.random_range(1..4)));
        }
        body.version = Version::new(1, random.random_range(0..4), 0, 0);
        body.key = U64::new(random.next_u64());
        body.zone = Label::new(["", "eu-1a", "eu-1b"][random.random_range(0..3)]).unwrap();
        body.tag = Label::new(["", "canary", "rack=b12"][random.random_range(0..3)]).unwrap();
        if random.random_bool(0.1) {
            body.cursor = U32::new(random.random_range(0..40));
        }
        body
    }

    fn answered(&mut self, now: Nanos) {
        let doing = std::mem::replace(&mut self.doing, Doing::Nothing);
        let reply = self.caller.reply();
        let status = reply.status;
        match (doing, reply.body) {
            (Doing::Registering, ReplyBody::Granted(granted)) => {
                self.former = self.lease.replace(granted.lease).or(self.former);
                self.declared = self.first_declared() as u16;
                (self.sequence, self.refused) = (0, None);
                self.interval = Nanos::from(granted.interval_us.get()) * 1000;
                self.next_beat = now + Nanos::from(granted.phase_us.get()) * 1000;
                self.next_other = now + self.ttl() / 2;
                self.nonce = 0;
            }
            (Doing::Registering, _) => {
                self.refused = Some(status);
                self.nonce = 0;
                let wait = self.ttl() / 2 + self.random.random_range(0..self.ttl());
                self.next_beat = if self.yields { Nanos::MAX } else { now + wait };
            }
            // Whatever the epoch: a lease stands as long as its beats are accepted.
            (Doing::Beating, ReplyBody::Ack(ack)) => {
                self.next_beat = now + Nanos::from(ack.phase_us.get()) * 1000
            }
            (Doing::Beating, ReplyBody::Nak(_, naks)) => {
                let lease = self.lease;
                let own = naks.iter().find(|nak| {
                    lease.is_some_and(|lease| {
                        (lease.slot, lease.generation) == (nak.slot, nak.generation)
                    })
                });
                if own.is_some() {
                    self.start_over(now);
                }
            }
            (Doing::Other, ReplyBody::Endpoints(head, _)) => {
                // A page that is not the last: the next one is asked for soon.
                let cursor = head.cursor;
                self.asked_page = cursor.get() != 0;
                self.page = self.page.map(|page| Discover { cursor, ..page });
                self.next_other =
                    if self.asked_page { now + self.interval / 8 } else { self.next_other };
            }
            _ => {}
        }
    }

    fn start_over(&mut self, now: Nanos) {
        (self.former, self.lease, self.nonce) = (self.lease, None, 0);
        self.next_beat = if self.yields { Nanos::MAX } else { now };
    }

    fn failed(&mut self, now: Nanos, failure: Failure) {
        if std::mem::replace(&mut self.doing, Doing::Nothing) == Doing::Registering {
            // The request may have been done: the same nonce gets the same lease.
            if let Failure::Refused(status) = failure {
                self.refused = Some(status);
            }
            self.next_beat = now + self.ttl() / 2;
        }
    }
}

impl World {
    /// A client acts, and is woken again when it wants.
    pub(crate) fn client_acts(&mut self, number: usize) {
        let now = self.now;
        let client = &mut self.clients[number];
        client.calm = now >= self.quiet_from;
        if !client.alive {
            return;
        }
        let neighbour = (number + 1) % self.clients.len();
        let beat = self.clients[neighbour].next_beat_for_another();
        let client = &mut self.clients[number];
        client.neighbour = beat.filter(|_| neighbour != number);
        let offered = client.neighbour.is_some();
        let (sent, until) = client.step(now);
        let taken = offered && client.neighbour.is_none();
        let next = self.clients[neighbour].sequence.wrapping_add(u32::from(taken));
        self.clients[neighbour].sequence = next;
        let client = &mut self.clients[number];
        client.wake += 1;
        let (peer, wake) = (client.peer, client.wake);
        if until < Nanos::MAX {
            self.schedule(until, Happening::Client(number, wake));
        }
        for frame in sent {
            self.send_to_engine(Some(number), peer, frame);
        }
    }

    /// A datagram has come to a client's host.
    pub(crate) fn client_receives(&mut self, peer: Peer, bytes: &[u8]) {
        let now = self.now;
        let Some(number) = self.clients.iter().position(|client| {
            client.alive && (client.peer.ip, client.peer.port) == (peer.ip, peer.port)
        }) else {
            return;
        };
        self.clients[number].caller.receive(now, bytes);
        self.client_acts(number);
    }
}
