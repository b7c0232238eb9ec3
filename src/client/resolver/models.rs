//! A follow against an engine that is a plain map, through a network that drops, doubles, delays
//! and reorders.
//!
//! What could go wrong: a change is missed and the list stays wrong for good, an old push undoes a
//! newer one, a list of two moments is taken for one, an engine that started anew is not noticed,
//! the engine is asked without end.

use super::follow::{Follow, Received};
use super::merge::Source;
use crate::draw::Draw;
use heartline_wire::balance::mix;
use heartline_wire::time::{NANOS_PER_SECOND, Nanos, from_ms};
use heartline_wire::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// Seeds that failed a property once are kept under `tests/regressions` and tried first.
fn kept_seeds(cases: u32) -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, FileFailurePersistence};
    let kept = FileFailurePersistence::SourceParallel("../tests/regressions/client");
    Config { failure_persistence: Some(Box::new(kept)), cases, ..Config::default() }
}

const COOKIE: u64 = 77;
const SERVICE: &str = "users";
const PAGE: usize = 4;
const SLOTS: u64 = 12;
const FULL_CREDIT: u32 = 256 << 10;

/// A watch in the engine's memory.
struct Standing {
    tag: u64,
    secret: u64,
    number: u32,
    received: u32,
    until: Nanos,
    credit: u32,
    version: u64,
    beacon_at: Nanos,
    beacons: u32,
}

/// The engine: a list, its versions, and at most one watch.
struct Engine {
    epoch: u64,
    version: u64,
    members: BTreeMap<u32, Endpoint>,
    /// The version at which each slot last changed.
    changed: BTreeMap<u32, u64>,
    watch: Option<Standing>,
    hold: u8,
    requests: u32,
    pulls: u32,
}

impl Engine {
    fn new() -> Self {
        Self {
            epoch: 1,
            version: 0,
            members: BTreeMap::new(),
            changed: BTreeMap::new(),
            watch: None,
            hold: 0,
            requests: 0,
            pulls: 0,
        }
    }

    /// A member joins, leaves, or becomes another.
    fn change(&mut self, draw: &mut Draw) {
        let slot = draw.below(SLOTS) as u32;
        self.version += 1;
        self.changed.insert(slot, self.version);
        if draw.below(3) == 0 {
            self.members.remove(&slot);
            return;
        }
        let mut entry = Endpoint::new_zeroed();
        (entry.slot, entry.generation) = (slot.into(), U32::new(self.version as u32));
        entry.state = 1 + draw.below(2) as u8;
        (entry.port, entry.weight) = (80.into(), (draw.below(9) as u16).into());
        entry.address[15] = slot as u8;
        self.members.insert(slot, entry);
    }

    /// Begins anew, with its members or without.
    fn restart(&mut self, keeps: bool) {
        self.epoch += 1;
        self.watch = None;
        if !keeps {
            self.members.clear();
            self.changed.clear();
            self.version = 0;
        }
    }

    fn proof(watch: &Standing) -> u64 {
        mix(watch.secret ^ u64::from(watch.number))
    }

    fn receive(&mut self, now: Nanos, frame: &[u8], draw: &mut Draw) -> Option<Vec<u8>> {
        self.requests += 1;
        match Request::decode(frame).expect("a follow sends good frames") {
            Request::Watch(header, body) => {
                assert_eq!((body.cookie.get(), body.service.get()), (COOKIE, service_id(SERVICE)));
                Some(self.watch(now, header.tag.get(), body, draw))
            }
            Request::Received(header, body) => {
                if let Some(watch) = &mut self.watch
                    && watch.tag == header.tag.get()
                    && mix(watch.secret ^ u64::from(body.number.get())) == body.proof.get()
                {
                    watch.received = watch.received.max(body.number.get());
                    watch.credit = FULL_CREDIT;
                }
                None
            }
            Request::Discover(header, body) => {
                self.pulls += 1;
                Some(self.page(header.tag.get(), body.cursor.get()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn watch(&mut self, now: Nanos, tag: u64, body: &Watch, draw: &mut Draw) -> Vec<u8> {
        if !self.watch.as_ref().is_some_and(|watch| watch.tag == tag && now < watch.until) {
            self.watch = Some(Standing {
                tag,
                secret: draw.next(),
                number: 0,
                received: 0,
                until: now,
                credit: 0,
                version: self.version,
                beacon_at: Nanos::MAX,
                beacons: 0,
            });
        }
        let watch = self.watch.as_mut().unwrap();
        let proof = mix(watch.secret ^ u64::from(body.number.get()));
        let is_proved = body.proof.get() == proof;
        let ttl_ms = if is_proved { body.ttl_ms.get() } else { body.ttl_ms.get().min(1000) };
        watch.credit = if is_proved { FULL_CREDIT } else { 1232 };
        watch.until = now + from_ms(ttl_ms.into());
        if is_proved {
            watch.received = watch.received.max(body.number.get());
        }
        let mut reply = Watching::new_zeroed();
        reply.proof = Self::proof(watch).into();
        (reply.version, reply.epoch) = (self.version.into(), self.epoch.into());
        (reply.number, reply.ttl_ms) = (watch.number.into(), ttl_ms.into());
        (reply.credit, reply.hold_percent) = (watch.credit.into(), self.hold);
        let header = Header::reply(Kind::Watch, Status::Ok, 0, tag.into());
        [header.as_bytes(), reply.as_bytes()].concat()
    }

    fn page(&self, tag: u64, cursor: u32) -> Vec<u8> {
        if self.version == 0 {
            let header = Header::reply(Kind::Discover, Status::NoService, 0, tag.into());
            return header.as_bytes().to_vec();
        }
        let entries: Vec<Endpoint> =
            self.members.values().skip(cursor as usize).take(PAGE).copied().collect();
        let next = cursor as usize + entries.len();
        let mut head = DiscoverHead::new_zeroed();
        head.version = self.version.into();
        head.cursor = if next < self.members.len() { next as u32 } else { 0 }.into();
        let status = if self.members.is_empty() { Status::NoneRegistered } else { Status::Ok };
        let header = Header::reply(Kind::Discover, status, entries.len() as u16, tag.into());
        [header.as_bytes(), head.as_bytes(), entries.as_bytes()].concat()
    }

    /// What is pushed at this millisecond.
    fn pushes(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        let Some(watch) = &mut self.watch else { return Vec::new() };
        if now >= watch.until || watch.credit < 1232 {
            return Vec::new();
        }
        let is_beacon = watch.version == self.version;
        if is_beacon && (watch.received == watch.number || now < watch.beacon_at) {
            return Vec::new();
        }
        let mut entries = Vec::new();
        for (&slot, _) in self.changed.iter().filter(|(_, at)| **at > watch.version) {
            let gone = Endpoint { slot: slot.into(), ..Endpoint::new_zeroed() };
            entries.push(self.members.get(&slot).copied().unwrap_or(gone));
        }
        watch.number += 1;
        let mut head = PushHead::new_zeroed();
        head.proof = Self::proof(watch).into();
        (head.before, head.after) = (watch.version.into(), self.version.into());
        (head.number, head.hold_percent) = (watch.number.into(), self.hold);
        let mut header =
            Header::reply(Kind::Push, Status::Ok, entries.len() as u16, watch.tag.into());
        header.flags = header_flags::RECEIPT_WANTED;
        let frame = [header.as_bytes(), head.as_bytes(), entries.as_bytes()].concat();
        watch.credit -= frame.len() as u32;
        watch.version = self.version;
        watch.beacons = if is_beacon { watch.beacons + 1 } else { 0 };
        let wait = (from_ms(5) << watch.beacons.saturating_sub(8).min(8)).min(NANOS_PER_SECOND);
        watch.beacon_at = now + wait;
        vec![frame]
    }
}

/// Faults in thousandths.
#[derive(Clone, Copy, Debug)]
struct Faults {
    dropped: u64,
    /// Of pushes, beside those.
    pushes_dropped: u64,
    doubled: u64,
    /// Longest delay.
    delay: Nanos,
}

const NONE: Faults = Faults { dropped: 0, pushes_dropped: 0, doubled: 0, delay: 0 };

struct World {
    now: Nanos,
    draw: Draw,
    faults: Faults,
    engine: Engine,
    follow: Follow,
    /// Arrival, to the engine or not, datagram.
    on_the_way: VecDeque<(Nanos, bool, Vec<u8>)>,
    cookie: u64,
    /// Versions that the list has had, by epoch.
    versions: BTreeSet<(u64, u64)>,
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let mut draw = Draw::new(seed);
        let follow = Follow::new(SERVICE, draw.next());
        let (engine, on_the_way) = (Engine::new(), VecDeque::new());
        let versions = BTreeSet::new();
        Self { now: 1, draw, faults, engine, follow, on_the_way, cookie: COOKIE, versions }
    }

    fn send(&mut self, to_engine: bool, frame: Vec<u8>) {
        let faults = self.faults;
        if self.draw.below(1000) < faults.dropped {
            return;
        }
        let copies = 1 + u64::from(self.draw.below(1000) < faults.doubled);
        for _ in 0..copies {
            let at = self.now + from_ms(1) / 4 + self.draw.below(faults.delay + 1);
            self.on_the_way.push_back((at, to_engine, frame.clone()));
        }
    }

    /// One quarter of a millisecond.
    fn step(&mut self) {
        self.now += from_ms(1) / 4;
        while let Some(at) = self.on_the_way.iter().position(|one| one.0 <= self.now) {
            let (_, to_engine, frame) = self.on_the_way.remove(at).unwrap();
            if to_engine {
                if let Some(reply) = self.engine.receive(self.now, &frame, &mut self.draw) {
                    self.send(false, reply);
                }
                continue;
            }
            let reply = Reply::decode(&frame).unwrap();
            if self.follow.owns_tag(reply.header.tag.get()) {
                let before: Vec<Endpoint> = self.follow.members().copied().collect();
                let changes = self.follow.changes();
                let received = self.follow.receive(self.now, &reply);
                let is_same = before.iter().eq(self.follow.members());
                assert!(is_same || received == Received::Changed, "a change that is not told");
                assert_eq!(received == Received::Changed, self.follow.changes() != changes);
                self.versions.insert((self.follow.epoch(), self.follow.version()));
            }
        }
        if self.now.is_multiple_of(from_ms(1)) || self.now % from_ms(1) < from_ms(1) / 4 {
            for push in self.engine.pushes(self.now) {
                if self.draw.below(1000) >= self.faults.pushes_dropped {
                    self.send(false, push);
                }
            }
        }
        let mut frames = 0;
        while let Some(frame) = self.follow.poll(self.now, Some(self.cookie)) {
            frames += 1;
            assert!(frames < 5, "frames without end");
            self.send(true, frame.bytes().to_vec());
        }
        assert!(self.follow.due() > self.now, "due again at once");
    }

    fn pass(&mut self, time: Nanos) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    fn is_equal(&self) -> bool {
        self.follow.is_current(self.now)
            && self.follow.members().eq(self.engine.members.values())
            && self.follow.version() == self.engine.version
            && self.follow.epoch() == self.engine.epoch
    }
}

proptest! {
    #![proptest_config(kept_seeds(150))]

    /// Whatever happened before, the list is the engine's soon after the last change.
    #[test]
    fn the_final_list_is_the_engines(
        seed: u64,
        dropped in 0_u64..500,
        doubled in 0_u64..300,
        delay_ms in 0_u64..40,
        restarts in 0_u64..4,
    ) {
        let faults = Faults { dropped, pushes_dropped: 0, doubled, delay: from_ms(delay_ms) };
        let mut world = World::new(seed, faults);
        for _ in 0..400 {
            for _ in 0..world.draw.below(4) {
                world.engine.change(&mut world.draw);
            }
            if world.draw.below(200) < restarts {
                let keeps = world.draw.below(2) == 0;
                world.engine.restart(keeps);
                if world.draw.below(2) == 0 {
                    world.follow.restart(world.now);
                }
            }
            if world.draw.below(300) < restarts {
                world.follow.restart(world.now);
            }
            let pause = world.draw.below(from_ms(5));
            world.pass(pause);
        }
        world.faults = NONE;
        // A renewal comes within a third of a watch's time, and finds out whatever else did not.
        world.pass(from_ms(10_000));
        prop_assert!(world.is_equal(), "{:?} {:?}", world.follow, world.engine.members);
        let idle = world.engine.requests;
        world.pass(from_ms(9_000));
        prop_assert!(world.engine.requests - idle <= 6, "asks without a reason");
    }
}

/// Times from the last of many changes to the right list, sorted, for 300 seeds.
fn healing(faults: Faults) -> Vec<Nanos> {
    let mut healed: Vec<Nanos> = (0..300).map(|seed| heal(seed, faults)).collect();
    healed.sort_unstable();
    healed
}

fn heal(seed: u64, faults: Faults) -> Nanos {
    let mut world = World::new(seed, NONE);
    world.engine.change(&mut world.draw);
    world.pass(from_ms(20));
    assert!(world.is_equal(), "seed {seed}: no list after 20 ms without faults");
    world.faults = faults;
    for _ in 0..100 {
        world.engine.change(&mut world.draw);
        world.pass(from_ms(1));
    }
    let start = world.now;
    while !world.is_equal() {
        world.step();
        assert!(world.now < start + from_ms(2000), "seed {seed} does not heal");
    }
    world.now - start
}

/// A fifth of the pushes is lost while a thousand changes a second come.
#[test]
fn lost_pushes_heal_within_50_ms() {
    let healed = healing(Faults { pushes_dropped: 200, ..NONE });
    assert!(healed[299] <= from_ms(50), "{} ms", healed[299] / 1_000_000);
}

/// Of the answers as much is lost, and of the requests and receipts.
#[test]
fn losses_both_ways_heal_soon() {
    let healed = healing(Faults { dropped: 200, doubled: 50, delay: from_ms(1), ..NONE });
    let (median, most) = (healed[150] / 1_000_000, healed[290] / 1_000_000);
    assert!(median <= 50 && most <= 500, "{median} ms in the median, {most} ms of 97 %");
}

#[test]
fn a_first_request_is_confirmed_with_the_proof_at_once() {
    let mut world = World::new(1, NONE);
    world.engine.change(&mut world.draw);
    world.pass(from_ms(3));
    let watch = world.engine.watch.as_ref().unwrap();
    assert!(watch.credit > 1232 && watch.until > world.now + from_ms(9_000), "proved");
    assert!(world.is_equal());
    // Renewed every third of 10 s, and a little sooner.
    let before = world.engine.requests;
    world.pass(from_ms(30_000));
    assert!((9..=13).contains(&(world.engine.requests - before)), "{}", world.engine.requests);
    assert!(world.follow.age(world.now).unwrap() <= from_ms(3_400));
}

/// Without receipts the engine stops at the end of its credit, and goes on with beacons till then.
#[test]
fn a_push_is_acknowledged_when_that_is_wanted() {
    let mut world = World::new(7, NONE);
    world.pass(from_ms(5));
    for _ in 0..20 {
        world.engine.change(&mut world.draw);
        world.pass(from_ms(3));
        let watch = world.engine.watch.as_ref().unwrap();
        assert_eq!((watch.received, watch.beacons), (watch.number, 0));
    }
    assert_eq!(world.engine.watch.as_ref().unwrap().number, 20);
}

#[test]
fn pulls_keep_their_distance_while_the_list_changes_under_them() {
    let mut world = World::new(2, NONE);
    // Three pages, and a change between each two.
    while world.engine.members.len() < 2 * PAGE + 1 {
        world.engine.change(&mut world.draw);
    }
    world.engine.watch = None;
    let start = world.now;
    while world.now < start + from_ms(200) {
        world.engine.change(&mut world.draw);
        world.step();
    }
    // At most one beginning each 5 ms, of three pages.
    assert!(world.engine.pulls <= 3 * 41, "{} pages in 200 ms", world.engine.pulls);
    world.pass(from_ms(60));
    assert!(world.is_equal());
}

#[test]
fn without_a_cookie_nothing_is_sent_and_a_refused_one_waits() {
    let mut follow = Follow::new(SERVICE, 3);
    assert!(follow.poll(5, None).is_none());
    assert_eq!(follow.due(), Nanos::MAX, "a new cookie is reason to poll");
    let frame = follow.poll(5, Some(1)).unwrap();
    let tag = u64::from_le_bytes(frame.bytes()[8..16].try_into().unwrap());
    let refused = Header::reply(Kind::Watch, Status::Cookie, 0, tag.into());
    let reply = Reply::decode(refused.as_bytes()).unwrap();
    assert_eq!(follow.receive(6, &reply), Received::WantsCookie);
    assert!(follow.poll(7, Some(1)).is_none(), "the same cookie");
    assert!(follow.due() < Nanos::MAX && follow.due() > from_ms(100));
    assert!(follow.poll(8, Some(2)).is_some(), "another one");
    let busy = Header::reply(Kind::Watch, Status::Quota, 0, tag.into());
    assert_eq!(follow.receive(9, &Reply::decode(busy.as_bytes()).unwrap()), Received::Nothing);
    assert_eq!(follow.trouble(), Some(Status::Quota));
    assert!(follow.due() > from_ms(700), "refusals are not repeated at once");
}

#[test]
fn a_dead_engine_is_asked_less_and_less() {
    let mut follow = Follow::new(SERVICE, 4);
    let (mut now, mut sent) = (1, Vec::new());
    while now < 60 * NANOS_PER_SECOND {
        while follow.poll(now, Some(1)).is_some() {
            sent.push(now);
        }
        now = follow.due();
    }
    assert!((18..30).contains(&sent.len()), "{} requests in a minute", sent.len());
    assert!(sent[1] - sent[0] <= from_ms(200) && sent[2] - sent[1] <= from_ms(400));
}

#[test]
fn an_end_is_said_once_and_nothing_afterwards() {
    let mut world = World::new(5, NONE);
    world.engine.change(&mut world.draw);
    world.pass(from_ms(5));
    let frame = world.follow.end().unwrap();
    let Ok(Request::Watch(_, body)) = Request::decode(frame.bytes()) else { panic!("no watch") };
    assert_eq!(body.ttl_ms.get(), 0);
    assert!(world.follow.end().is_none());
    assert!(world.follow.poll(Nanos::MAX - 1, Some(COOKIE)).is_none());
    assert_eq!(world.follow.due(), Nanos::MAX);
    assert!(Follow::new(SERVICE, 1).end().is_none(), "a watch that never stood has no end");
}

#[test]
fn a_hold_is_told_with_and_without_changes() {
    let mut world = World::new(6, NONE);
    world.engine.change(&mut world.draw);
    world.pass(from_ms(5));
    world.engine.hold = 60;
    world.engine.change(&mut world.draw);
    world.pass(from_ms(5));
    assert_eq!(world.follow.hold_percent(), 60);
    let source = Source { follow: &world.follow, engine: 0, is_reachable: true };
    assert!(source.speaks(world.now));
}
