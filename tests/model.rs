//! The engine's tables against plain maps: after every step of a random history, both must tell the
//! same.
//!
//! What could go wrong: an index that loses a key when a neighbour is deleted, a list that keeps a
//! removed slot, an endpoint that shows an old weight, a verdict a tick early, a lease that works
//! after it ended. A failing seed is in the panic message; `HEARTLINE_SEEDS=N..N` replays it.

use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::exchange::Peer;
use heartline::internals::registrar::Settings;
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const SERVICES: u64 = 5;
const NAMES: u64 = 12;
const CAPACITY: u32 = 24;
const TOMBSTONE: Nanos = from_ms(60);

#[derive(Clone, Debug, PartialEq)]
struct Member {
    lease: Lease,
    nonce: u64,
    replaced_nonce: u64,
    source: Peer,
    ttl: Nanos,
    last: Nanos,
    sequence: u32,
    load: u16,
    declared: Declared,
    weight: u16,
    attributes: Vec<u8>,
    state: State,
    down_at: Nanos,
}

/// What the engine must know, kept the simple way.
#[derive(Default)]
struct Model {
    members: BTreeMap<(String, String), Member>,
    ended: Vec<(Lease, Status)>,
    versions: BTreeMap<String, u64>,
}

impl Model {
    /// One millisecond has passed.
    fn age(&mut self, now: Nanos) {
        let mut buried = Vec::new();
        for (identity, member) in &mut self.members {
            let silent = now - member.last;
            let before = member.state;
            if member.state == State::Up && silent >= member.ttl - member.ttl / 3 {
                member.state = State::Suspect;
            }
            if member.state == State::Suspect && silent >= member.ttl {
                (member.state, member.down_at) = (State::Down, now);
            }
            if before != member.state {
                *self.versions.get_mut(&identity.0).unwrap() += 1;
            }
            if before == State::Down && now >= member.down_at + TOMBSTONE.max(member.ttl) {
                buried.push(identity.clone());
            }
        }
        for identity in buried {
            self.end(&identity, Status::Removed);
        }
    }

    fn end(&mut self, identity: &(String, String), status: Status) {
        let member = self.members.remove(identity).unwrap();
        self.ended.push((member.lease, status));
        *self.versions.get_mut(&identity.0).unwrap() += 1;
    }
}

struct World {
    engine: Harness,
    model: Model,
    random: StdRng,
}

impl World {
    fn new(seed: u64) -> Self {
        let settings = Settings { hold: false, tombstone_min: TOMBSTONE, ..settings(CAPACITY) };
        Self {
            engine: Harness::new(CAPACITY, settings, seed),
            model: Model::default(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    fn identity(&mut self) -> (String, String) {
        (
            format!("s{}", self.random.random_range(0..SERVICES)),
            format!("i{}", self.random.random_range(0..NAMES)),
        )
    }

    fn some_member(&mut self) -> Option<(String, String)> {
        let at = self.random.random_range(0..self.model.members.len().max(1));
        self.model.members.keys().nth(at).cloned()
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..25 => self.register(),
            25..65 => self.beat(),
            65..72 => self.update(),
            72..76 => self.deregister(),
            76..80 => self.beat_for_the_dead(),
            _ => {
                for _ in 0..self.random.random_range(1..12) {
                    self.engine.pass(1);
                    self.model.age(self.engine.now);
                }
            }
        }
        self.compare();
    }

    /// Whether a registration gets a lease of its own or the standing one; else the status.
    fn expected(
        &self,
        identity: &(String, String),
        nonce: u64,
        from: Peer,
    ) -> Result<bool, Status> {
        match self.model.members.get(identity) {
            Some(member) if member.nonce == nonce => Ok(false),
            Some(member) if member.replaced_nonce == nonce => Err(Status::Replaced),
            Some(member) if member.state != State::Down && member.source.ip != from.ip => {
                Err(Status::Conflict)
            }
            None if self.model.members.len() == CAPACITY as usize => Err(Status::Full),
            _ => Ok(true),
        }
    }

    fn register(&mut self) {
        let (service, name) = self.identity();
        let from = peer(self.random.random_range(1..4));
        let nonce = self.random.random_range(1..6);
        let attributes =
            if self.random.random_bool(0.5) { b"\x06canary".to_vec() } else { Vec::new() };
        let mut body = Register::new_zeroed();
        body.nonce = U64::new(nonce);
        body.weight = U16::new(self.random.random_range(0..500));
        body.ttl_ms = U32::new(3 * self.random.random_range(1..30));
        body.service = Name::new(&service).unwrap();
        body.instance = Name::new(&name).unwrap();
        body.attributes_len = U16::new(attributes.len() as u16);
        (body.port, body.declared) =
            (U16::new(80), [0, 0, 0, 1, 2][self.random.random_range(0..5)]);
        let identity = (service, name);
        let expected = self.expected(&identity, nonce, from);
        let mut reply = self
            .engine
            .request(from, Kind::Register, &[body.as_bytes(), &attributes])
            .expect("an answer");
        while Reply::decode(&reply).unwrap().status == Status::Busy {
            // Every slot is in quarantine until the loops have drained.
            self.engine.pass(1);
            self.model.age(self.engine.now);
            if !self.model.members.contains_key(&identity) && expected == Ok(false) {
                return;
            }
            reply = self
                .engine
                .request(from, Kind::Register, &[body.as_bytes(), &attributes])
                .expect("an answer");
        }
        let reply = Reply::decode(&reply).unwrap();
        match (expected, reply.body) {
            (Err(status), _) => assert_eq!(reply.status, status),
            (Ok(false), ReplyBody::Granted(granted)) => {
                assert_eq!(granted.lease, self.model.members[&identity].lease, "the same nonce")
            }
            (Ok(true), ReplyBody::Granted(granted)) => {
                let version = self.model.versions.entry(identity.0.clone()).or_insert(0);
                *version += 1;
                let replaced_nonce =
                    self.model.members.get(&identity).map_or(0, |member| member.nonce);
                if self.model.members.contains_key(&identity) {
                    self.model.end(&identity, Status::Replaced);
                }
                let member = Member {
                    lease: granted.lease,
                    nonce,
                    replaced_nonce,
                    source: from,
                    ttl: from_ms(body.ttl_ms.get().into()),
                    last: self.engine.now,
                    sequence: 0,
                    load: 0,
                    declared: Declared::from_bits(body.declared.into()),
                    weight: body.weight.get(),
                    attributes,
                    state: State::Up,
                    down_at: 0,
                };
                self.model.ended.retain(|(lease, _)| lease.slot != member.lease.slot);
                self.model.members.insert(identity, member);
            }
            (expected, _) => panic!("expected {expected:?}, answered {:?}", reply.status),
        }
    }

    fn beat(&mut self) {
        let Some(identity) = self.some_member() else { return };
        let old = self.random.random_bool(0.2);
        let declared = match self.random.random_range(0..30) {
            0 => Declared::Draining,
            1 => Declared::Maintenance,
            2 => Declared::Leaving,
            _ => self.model.members[&identity].declared,
        };
        let member = self.model.members.get_mut(&identity).unwrap();
        let sequence = if old {
            member.sequence
        } else {
            member.sequence + 1 + self.random.random_range(0..3)
        };
        let load = self.random.random_range(0..1000);
        let beat = Beat {
            lease: member.lease,
            sequence: U32::new(sequence),
            load: U16::new(load),
            flags: U16::new(declared as u16),
        };
        if !old {
            let events =
                u64::from(member.state != State::Up) + u64::from(member.declared != declared);
            (member.last, member.sequence, member.load, member.declared) =
                (self.engine.now, sequence, load, declared);
            member.state = State::Up;
            if declared == Declared::Leaving {
                self.model.end(&identity, Status::Removed);
            } else {
                *self.model.versions.get_mut(&identity.0).unwrap() += events;
            }
        }
        let ack = self.send_beat(beat);
        let ReplyBody::Ack(ack) = Reply::decode(&ack).unwrap().body else {
            panic!("a standing lease was refused")
        };
        assert_eq!((ack.accepted.get(), ack.old.get()), if old { (0, 1) } else { (1, 0) });
    }

    /// An ended lease changes nothing and is told why.
    fn beat_for_the_dead(&mut self) {
        if self.model.ended.is_empty() {
            return;
        }
        let (lease, status) = self.model.ended[self.random.random_range(0..self.model.ended.len())];
        let nak = self.send_beat(Beat {
            lease,
            sequence: U32::new(1 << 30),
            load: U16::ZERO,
            flags: U16::ZERO,
        });
        let ReplyBody::Nak(_, naks) = Reply::decode(&nak).unwrap().body else {
            panic!("an ended lease was accepted")
        };
        assert_eq!(Status::from_u8(naks[0].reason), Some(status));
    }

    fn send_beat(&mut self, beat: Beat) -> Vec<u8> {
        let header = Header {
            count: U16::new(1),
            flags: header_flags::ACK_WANTED,
            ..Header::request(Kind::Beat, 5)
        };
        let frame = [header.as_bytes(), beat.as_bytes()].concat();
        self.engine.send(peer(9), &frame).expect("an answer")
    }

    fn update(&mut self) {
        let Some(identity) = self.some_member() else { return };
        let member = self.model.members.get_mut(&identity).unwrap();
        member.weight = self.random.random_range(0..500);
        member.attributes = b"\x04tier".to_vec();
        let body = Update {
            lease: member.lease,
            fields: U16::new(update_fields::WEIGHT | update_fields::ATTRIBUTES),
            weight: U16::new(member.weight),
            load: U16::ZERO,
            attributes_len: U16::new(5),
            version: Version::default(),
        };
        *self.model.versions.get_mut(&identity.0).unwrap() += 1;
        let reply =
            self.engine.request(peer(9), Kind::Update, &[body.as_bytes(), b"\x04tier"]).unwrap();
        assert_eq!(Reply::decode(&reply).unwrap().status, Status::Ok);
    }

    fn deregister(&mut self) {
        let Some(identity) = self.some_member() else { return };
        let lease = self.model.members[&identity].lease;
        self.model.end(&identity, Status::Removed);
        let reply = self.engine.request(peer(9), Kind::Deregister, &[lease.as_bytes()]).unwrap();
        assert_eq!(Reply::decode(&reply).unwrap().status, Status::Ok);
        let again = self.engine.request(peer(9), Kind::Deregister, &[lease.as_bytes()]).unwrap();
        assert_eq!(Reply::decode(&again).unwrap().status, Status::Removed);
    }

    /// Everything that can be asked gives what the model says.
    fn compare(&mut self) {
        let mut services = BTreeSet::new();
        for service in 0..SERVICES {
            let service = format!("s{service}");
            self.compare_service(&service);
            if self.model.members.keys().any(|(of, _)| *of == service) {
                services.insert(service);
            }
        }
        let reply = self
            .engine
            .request(peer(9), Kind::Services, &[Services::new_zeroed().as_bytes()])
            .unwrap();
        let ReplyBody::Services(head, entries) = Reply::decode(&reply).unwrap().body else {
            panic!("no services")
        };
        assert_eq!(
            entries.iter().map(|entry| entry.name.to_string()).collect::<BTreeSet<_>>(),
            services
        );
        assert_eq!(head.services.get() as usize, services.len());
        for service in 0..SERVICES {
            for name in 0..NAMES {
                self.compare_instance(&format!("s{service}"), &format!("i{name}"));
            }
        }
        let counts = self.engine.registrar.counts();
        let count = |state: State| {
            self.model.members.values().filter(|member| member.state == state).count() as u32
        };
        assert_eq!(
            (counts.up, counts.suspect, counts.down),
            (count(State::Up), count(State::Suspect), count(State::Down))
        );
    }

    fn compare_service(&mut self, service: &str) {
        let mut body = Discover::new_zeroed();
        body.service = U64::new(service_id(service));
        let reply = self.engine.request(peer(9), Kind::Discover, &[body.as_bytes()]).unwrap();
        let reply = Reply::decode(&reply).unwrap();
        let members: Vec<&Member> = self
            .model
            .members
            .iter()
            .filter(|((of, _), _)| of == service)
            .map(|(_, member)| member)
            .collect();
        let mut expected: Vec<(u32, u32, u16, u16, u8, u8)> = members
            .iter()
            .filter(|member| member.state != State::Down)
            .map(|m| {
                (
                    m.lease.slot.get(),
                    m.lease.generation.get(),
                    m.weight,
                    m.load,
                    m.state as u8,
                    m.declared as u8,
                )
            })
            .collect();
        let status =
            match (self.model.versions.contains_key(service), members.len(), expected.len()) {
                (false, ..) => Status::NoService,
                (_, 0, _) => Status::NoneRegistered,
                (_, _, 0) => Status::NoneHealthy,
                _ => Status::Ok,
            };
        assert_eq!(reply.status, status);
        if let ReplyBody::Endpoints(head, endpoints) = reply.body {
            let mut seen: Vec<_> = endpoints
                .iter()
                .map(|e| {
                    (
                        e.slot.get(),
                        e.generation.get(),
                        e.weight.get(),
                        e.load.get(),
                        e.state,
                        e.flags,
                    )
                })
                .collect();
            seen.sort_unstable();
            expected.sort_unstable();
            assert_eq!(seen, expected);
            // The first version of a service is whatever the feed had come to; from there on every
            // change is one step.
            let base = head.version.get() - self.model.versions[service];
            let first = self
                .engine
                .feed()
                .iter()
                .find(|event| event[3] == service_id(service))
                .map_or(0, |event| event[4] - 1);
            assert_eq!(base, first, "versions of {service}");
        }
    }

    fn compare_instance(&mut self, service: &str, name: &str) {
        let mut body = Describe::new_zeroed();
        body.service = Name::new(service).unwrap();
        body.instance = Name::new(name).unwrap();
        let reply = self.engine.request(peer(9), Kind::Describe, &[body.as_bytes()]).unwrap();
        let reply = Reply::decode(&reply).unwrap();
        match (self.model.members.get(&(service.to_owned(), name.to_owned())), reply.body) {
            (None, _) => assert_eq!(reply.status, Status::NoInstance),
            (Some(member), ReplyBody::Description(facts, attributes)) => {
                assert_eq!(facts.endpoint.state(), Some(member.state), "{service}/{name}");
                assert_eq!(facts.endpoint.slot, member.lease.slot);
                assert_eq!(attributes, member.attributes);
                assert_eq!(
                    u64::from(facts.endpoint.age_ms.get()),
                    (self.engine.now - member.last) / 1_000_000
                );
            }
            (Some(_), _) => panic!("{service}/{name} is not described: {:?}", reply.status),
        }
    }
}

fn seeds(default: std::ops::Range<u64>) -> std::ops::RangeInclusive<u64> {
    let text = std::env::var("HEARTLINE_SEEDS").unwrap_or_default();
    match text.split_once("..").map(|(first, last)| (first.parse(), last.parse())) {
        Some((Ok(first), Ok(last))) => first..=last,
        _ => default.start..=default.end - 1,
    }
}

#[test]
fn tables_and_maps_tell_the_same() {
    for seed in seeds(1..41) {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut world = World::new(seed);
            for _ in 0..600 {
                world.step();
            }
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed} failed; replay with HEARTLINE_SEEDS={seed}..{seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Two engines that are told the same at the same times write the same history, byte for byte.
#[test]
fn the_same_seed_gives_the_same_feed() {
    let history = |seed| {
        let mut world = World::new(seed);
        for _ in 0..2000 {
            world.step();
        }
        world.engine.feed()
    };
    let (one, other) = (history(99), history(99));
    assert!(one.len() > 500, "{} events", one.len());
    assert_eq!(one, other);
    assert_ne!(one, history(100));
}
