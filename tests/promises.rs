//! What `docs/PROTOCOL.md` says beside layouts and timers: who is picked before the first beat,
//! what a repetition does, in which order values are judged, what a cursor from nowhere gives.
//!
//! What could go wrong: a client in another language relies on a sentence of the page, and the
//! engine does something else.

use heartline::internals::clock::Moment;
use heartline::internals::dataplane::Datagram;
use heartline::internals::exchange::Replies;
use heartline::internals::registrar::Registrar;
use heartline_region::Applied;
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::*;
use std::sync::Barrier;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

fn engine() -> Harness {
    Harness::new(64, settings(64), 1)
}

fn registration(instance: &str) -> Register {
    let mut body = Register::new_zeroed();
    (body.nonce, body.ttl_ms, body.weight) = (U64::new(5), U32::new(90), U16::new(100));
    body.service = Name::new("s").unwrap();
    body.instance = Name::new(instance).unwrap();
    body
}

/// The lease, or the status and the count of the refusal.
fn register(engine: &mut Harness, body: &Register, tail: &[u8]) -> Result<Lease, (Status, u16)> {
    let reply = engine.request(peer(1), Kind::Register, &[body.as_bytes(), tail]).unwrap();
    let reply = Reply::decode(&reply).unwrap();
    match reply.body {
        ReplyBody::Granted(granted) => Ok(granted.lease),
        _ => Err((reply.status, reply.header.count.get())),
    }
}

fn beat(lease: Lease, sequence: u32, declared: Declared) -> Beat {
    let flags = U16::new(declared as u16);
    Beat { lease, sequence: U32::new(sequence), load: U16::ZERO, flags }
}

/// The frame of one beat that wants an ack.
fn frame(beat: &Beat) -> Vec<u8> {
    let header = Header {
        count: U16::new(1),
        flags: header_flags::ACK_WANTED,
        ..Header::request(Kind::Beat, 5)
    };
    [header.as_bytes(), beat.as_bytes()].concat()
}

/// Status, cursor and endpoints.
fn discover(
    engine: &mut Harness,
    edit: impl FnOnce(&mut Discover),
) -> (Status, u32, Vec<Endpoint>) {
    let mut body = Discover { service: U64::new(service_id("s")), ..Discover::new_zeroed() };
    edit(&mut body);
    let reply = engine.request(peer(1), Kind::Discover, &[body.as_bytes()]).unwrap();
    let reply = Reply::decode(&reply).unwrap();
    match reply.body {
        ReplyBody::Endpoints(head, endpoints) => {
            (reply.status, head.cursor.get(), endpoints.to_vec())
        }
        _ => (reply.status, 0, Vec::new()),
    }
}

fn picked(engine: &mut Harness) -> (Status, usize) {
    let (status, _, endpoints) =
        discover(engine, |body| body.strategy = Strategy::RoundRobin as u8);
    (status, endpoints.len())
}

fn state(engine: &mut Harness, instance: &str) -> Option<(State, Declared)> {
    let mut body = Describe::new_zeroed();
    (body.service, body.instance) = (Name::new("s").unwrap(), Name::new(instance).unwrap());
    let reply = engine.request(peer(1), Kind::Describe, &[body.as_bytes()]).unwrap();
    match Reply::decode(&reply).unwrap().body {
        ReplyBody::Description(facts, _) => {
            Some((facts.endpoint.state().unwrap(), facts.endpoint.declared()))
        }
        _ => None,
    }
}

#[test]
fn an_instance_may_register_before_it_is_ready() {
    for first in [Declared::Draining, Declared::Maintenance] {
        let mut engine = engine();
        let body = Register { declared: first as u8, ..registration("a") };
        let lease = register(&mut engine, &body, b"").unwrap();
        assert_eq!(state(&mut engine, "a"), Some((State::Up, first)));
        assert_eq!(picked(&mut engine), (Status::NoneHealthy, 0));
        assert_eq!(discover(&mut engine, |_| {}).2[0].declared(), first, "listed, and marked");
        // A repetition with the same nonce is checked, and changes nothing.
        assert_eq!(register(&mut engine, &registration("a"), b""), Ok(lease));
        assert_eq!(state(&mut engine, "a"), Some((State::Up, first)));
        // Another engine goes on with it.
        let (region, writer) = engine.registrar.release();
        engine.registrar = Registrar::resume(region, writer, settings(64), engine.now);
        assert_eq!(state(&mut engine, "a"), Some((State::Up, first)));
        engine.send(peer(1), &frame(&beat(lease, 1, first)));
        assert_eq!(picked(&mut engine), (Status::NoneHealthy, 0), "not ready yet");
        engine.send(peer(1), &frame(&beat(lease, 2, Declared::Serving)));
        assert_eq!(picked(&mut engine), (Status::Ok, 1), "ready");
        // A replacement says for itself what it is.
        let body = Register { nonce: U64::new(6), ..registration("a") };
        register(&mut engine, &body, b"").unwrap();
        assert_eq!(state(&mut engine, "a"), Some((State::Up, Declared::Serving)));
    }
    // What field 66 can't say is refused, and nothing is registered.
    for declared in [3, 4, 255] {
        let mut engine = engine();
        let body = Register { declared, ..registration("a") };
        assert_eq!(register(&mut engine, &body, b""), Err((Status::Invalid, 66)));
        assert_eq!(engine.registrar.counts().registered, 0);
    }
}

/// What a beat says is acknowledged before the registrar acts on it. The next engine does so when
/// this one dies in between.
#[test]
fn what_a_beat_said_before_a_death_is_done_after_it() {
    let draining = Some((State::Up, Declared::Draining));
    for (declared, after) in [(Declared::Draining, draining), (Declared::Leaving, None)] {
        let mut engine = engine();
        let lease = register(&mut engine, &registration("a"), b"").unwrap();
        let bytes = frame(&beat(lease, 1, declared));
        let datagram = Datagram { peer: peer(1), bytes: &bytes };
        engine.dataplane.receive(engine.now, [datagram].into_iter(), &mut Replies::default());
        assert!(engine.commands.pop().is_some(), "it dies with the engine");
        let (region, writer) = engine.registrar.release();
        engine.registrar = Registrar::resume(region, writer, settings(64), engine.now);
        assert_eq!(state(&mut engine, "a"), after);
    }
}

#[test]
fn those_that_were_never_ready_are_not_held_and_prove_nothing() {
    let mut engine = engine();
    for number in 0..24 {
        let declared = [Declared::Serving, Declared::Draining, Declared::Maintenance][number % 3];
        let body = Register { declared: declared as u8, ..registration(&format!("i{number}")) };
        register(&mut engine, &body, b"").unwrap();
    }
    assert_eq!(engine.registrar.counts().serving, 8);
    engine.pass(92);
    let counts = engine.registrar.counts();
    assert_eq!((counts.held, counts.down), (8, 16));
}

/// The ack of a beat says that it counted; the registrar does the rest a moment later.
#[test]
fn a_revived_instance_may_be_down_until_the_registrar_has_looked() {
    let mut engine = engine();
    let lease = register(&mut engine, &registration("a"), b"").unwrap();
    engine.pass(95);
    assert_eq!(state(&mut engine, "a"), Some((State::Down, Declared::Serving)));
    let mut replies = Replies::default();
    let bytes = frame(&beat(lease, 1, Declared::Draining));
    let datagram = Datagram { peer: peer(1), bytes: &bytes };
    engine.dataplane.receive(engine.now, [datagram].into_iter(), &mut replies);
    let acked = replies.iter().next().map(|(_, reply)| Reply::decode(reply).unwrap().status);
    assert_eq!(acked, Some(Status::Ok));
    // Asked before the registrar takes its commands.
    let mut body = Describe::new_zeroed();
    (body.slot, body.generation) = (lease.slot, lease.generation);
    let mut query = [Header::request(Kind::Describe, 9).as_bytes(), body.as_bytes()].concat();
    query.resize(1232, 0);
    let datagram = Datagram { peer: peer(1), bytes: &query };
    replies.clear();
    engine.dataplane.receive(engine.now, [datagram].into_iter(), &mut replies);
    let reply = replies.iter().next().expect("a description").1;
    let ReplyBody::Description(facts, _) = Reply::decode(reply).unwrap().body else {
        panic!("no description")
    };
    assert_eq!(facts.endpoint.state(), Some(State::Down), "not looked at yet");
    assert_eq!((facts.endpoint.age_ms.get(), facts.history.get() & 1), (0, 0), "and has beaten");
    // The harness has the registrar take its commands with each datagram.
    engine.send(peer(1), &[]);
    assert_eq!(state(&mut engine, "a"), Some((State::Up, Declared::Draining)));
}

/// A copy of a register that the network held back until the lease had ended is a registration like
/// any other. Nobody beats for what it grants.
#[test]
fn a_register_that_arrives_after_its_lease_ended_grants_another_that_falls_silent() {
    let mut engine = engine();
    let body = registration("a");
    let lease = register(&mut engine, &body, b"").unwrap();
    assert_eq!(register(&mut engine, &body, b""), Ok(lease), "as long as it stands: the same");
    engine.request(peer(1), Kind::Deregister, &[lease.as_bytes()]).unwrap();
    let other = register(&mut engine, &body, b"").unwrap();
    assert_ne!(lease, other);
    engine.pass(95);
    assert_eq!(state(&mut engine, "a"), Some((State::Down, Declared::Serving)), "after its TTL");
    engine.pass(100);
    assert_eq!(state(&mut engine, "a"), None, "after its tombstone");
    // The next registration from the same address replaces it at any time.
    let late = register(&mut engine, &body, b"").unwrap();
    let own = Register { nonce: U64::new(6), ..body };
    assert_ne!(register(&mut engine, &own, b"").unwrap(), late);
}

/// The first beat is on time if it comes within half a TTL after the grant.
#[test]
fn the_grant_counts_as_the_beat_before_the_first() {
    for (wait, on_time) in [(45, 1), (46, 0)] {
        let mut engine = engine();
        let lease = register(&mut engine, &registration("a"), b"").unwrap();
        engine.pass(wait);
        engine.send(peer(1), &frame(&beat(lease, 1, Declared::Serving)));
        let history = engine.region.lines()[lease.slot.get() as usize].history();
        assert_eq!(history, on_time, "after {wait} of 90 ms");
    }
}

/// Copies of one beat that reach two receiving threads at the same instant are judged at the same
/// instant. What that may cost is bounded: each counts once or twice.
#[test]
fn copies_of_a_beat_at_the_same_instant_count_once_or_twice() {
    const BEATS: u32 = 20_000;
    let mut engine = engine();
    let lease = register(&mut engine, &registration("a"), b"").unwrap();
    let (line, now) = (&engine.region.lines()[lease.slot.get() as usize], engine.now);
    let barrier = Barrier::new(2);
    let counted = || {
        let mut counted = Vec::new();
        for sequence in 1..=BEATS {
            if sequence % 64 == 0 {
                barrier.wait();
            }
            let applied =
                line.apply(&beat(lease, sequence, Declared::Serving), Moment::from_nanos(now));
            assert!(matches!(applied, Applied::Accepted | Applied::Old), "{applied:?}");
            counted.push(applied == Applied::Accepted);
        }
        counted
    };
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(counted);
        (counted(), other.join().unwrap())
    });
    let twice = one.iter().zip(&other).filter(|(one, other)| **one && **other).count();
    let never = one.iter().zip(&other).filter(|(one, other)| !**one && !**other).count();
    println!("{twice} of {BEATS} counted twice");
    assert_eq!(never, 0, "a beat that was newer to both and counted for neither");
    let next = beat(lease, BEATS + 1, Declared::Serving);
    assert_eq!(line.apply(&next, Moment::from_nanos(now)), Applied::Accepted);
    assert_eq!(line.apply(&next, Moment::from_nanos(now)), Applied::Old);
}

/// Of several wrong values the first in the order of the page is named.
#[test]
fn wrong_values_are_judged_in_the_documented_order() {
    let mut engine = engine();
    let blank = Name::from_array(std::array::from_fn(|at| [1, b' '].get(at).map_or(0, |b| *b)));
    let mut body = Register::new_zeroed();
    body.declared = 3;
    body.zone = Label::from_array(std::array::from_fn(|at| [1, b' '].get(at).map_or(0, |b| *b)));
    body.instance = blank;
    let wrong = [b"\x01=".as_slice(), &[b"\x01a".as_slice(); 33].concat()].concat();
    let mut judged = |body: &mut Register, tail: &[u8]| {
        body.attributes_len = U16::new(tail.len() as u16);
        register(&mut engine, body, tail)
    };
    let invalid = |field| Err((Status::Invalid, field));
    assert_eq!(judged(&mut body, &wrong), invalid(24));
    body.nonce = U64::new(1);
    assert_eq!(judged(&mut body, &wrong), invalid(52));
    body.ttl_ms = U32::new(90);
    assert_eq!(judged(&mut body, &wrong), invalid(66));
    body.declared = 0;
    assert_eq!(judged(&mut body, &wrong), invalid(72));
    body.zone = Label::EMPTY;
    assert_eq!(judged(&mut body, &wrong), invalid(104));
    body.service = Name::new("s").unwrap();
    assert_eq!(judged(&mut body, &wrong), invalid(168));
    body.instance = Name::new("a").unwrap();
    assert_eq!(judged(&mut body, &wrong), invalid(232));
    assert_eq!(judged(&mut body, &wrong[2..]), Err((Status::TooLarge, 0)));
    let lease = judged(&mut body, b"").unwrap();

    let mut refused = |kind, parts: &[&[u8]]| {
        let reply = engine.request(peer(1), kind, parts).unwrap();
        let reply = Reply::decode(&reply).unwrap();
        (reply.status, reply.header.count.get())
    };
    let mut update = Update { lease, ..Update::new_zeroed() };
    update.lease.secret = U64::new(lease.secret.get() ^ 1);
    update.attributes_len = U16::new(wrong.len() as u16);
    assert_eq!(refused(Kind::Update, &[update.as_bytes(), &wrong]), (Status::Invalid, 32));
    update.fields = U16::new(update_fields::ATTRIBUTES);
    assert_eq!(refused(Kind::Update, &[update.as_bytes(), &wrong]), (Status::Invalid, 48));
    update.attributes_len = U16::new(wrong.len() as u16 - 2);
    assert_eq!(refused(Kind::Update, &[update.as_bytes(), &wrong[2..]]), (Status::TooLarge, 0));
    update.attributes_len = U16::ZERO;
    assert_eq!(refused(Kind::Update, &[update.as_bytes()]), (Status::Unknown, 0));

    let mut body = Discover { strategy: 6, filter: 3, ..Discover::new_zeroed() };
    assert_eq!(refused(Kind::Discover, &[body.as_bytes()]), (Status::Invalid, 54));
    body.strategy = 0;
    assert_eq!(refused(Kind::Discover, &[body.as_bytes()]), (Status::Invalid, 55));
    body.filter = 0;
    assert_eq!(refused(Kind::Discover, &[body.as_bytes()]), (Status::NoService, 0));
}

/// A cursor that no reply gave is not refused: the list goes on from some place, or is at its end.
#[test]
fn a_cursor_out_of_the_blue_goes_on_somewhere() {
    let mut engine = engine();
    for number in 0..20 {
        let body = Register { ttl_ms: U32::new(60_000), ..registration(&format!("i{number}")) };
        register(&mut engine, &body, b"").unwrap();
    }
    for cursor in (0..25).chain([1000, 1 << 30, 1 << 31, u32::MAX]) {
        let (status, next, endpoints) =
            discover(&mut engine, |body| body.cursor = U32::new(cursor));
        let place = cursor as usize & ((1 << 30) - 1);
        let expected = (Status::Ok, 0, 20_usize.saturating_sub(place));
        assert_eq!((status, next, endpoints.len()), expected, "{cursor}");
        let body = Services { cursor: U32::new(cursor), ..Services::new_zeroed() };
        let reply = engine.request(peer(1), Kind::Services, &[body.as_bytes()]).unwrap();
        let ReplyBody::Services(head, services) = Reply::decode(&reply).unwrap().body else {
            panic!("no services")
        };
        let expected = (0, usize::from(cursor == 0));
        assert_eq!((head.cursor.get(), services.len()), expected, "{cursor}");
    }
    for strategy in 1..6 {
        let (status, next, endpoints) = discover(&mut engine, |body| {
            (body.strategy, body.cursor) = (strategy, U32::new(1000));
        });
        assert_eq!((status, next, endpoints.len()), (Status::Ok, 0, 1), "strategy {strategy}");
    }
}

/// The reply to a request without a cookie is whole if the padding has room for it, and cut down if
/// one byte is missing. Register and stats need a cookie, however long they are.
#[test]
fn padding_makes_room_as_documented() {
    let mut engine = engine();
    let tail = b"\x06canary";
    let body = Register { attributes_len: U16::new(7), ..registration("a") };
    let lease = register(&mut engine, &body, tail).unwrap();
    let header = |kind| Header::request(kind, 7).as_bytes().to_vec();
    let describe =
        Describe { slot: lease.slot, generation: lease.generation, ..Describe::new_zeroed() };
    let discover = Discover { service: U64::new(service_id("s")), ..Discover::new_zeroed() };
    for (kind, body, whole) in [
        (Kind::Describe, describe.as_bytes(), 264 + tail.len()),
        (Kind::Services, Services::new_zeroed().as_bytes(), 32 + 88),
        (Kind::Discover, discover.as_bytes(), 32 + 48),
    ] {
        let frame = [header(kind), body.to_vec()].concat();
        for (length, fits) in [(whole, true), (1232, true), (whole - 1, false)] {
            let mut frame = frame.clone();
            // A request that is longer than its reply without padding always has room.
            if length < frame.len() {
                continue;
            }
            frame.resize(length, 0);
            let reply = engine.send(peer(3), &frame).unwrap();
            let expected = if fits { (whole, Status::Ok as u8) } else { (16, 1) };
            assert_eq!((reply.len(), reply[7]), expected, "{kind:?} in {length} bytes");
            assert_eq!(reply[3], kind as u8 | 0x80);
            assert_eq!(u16::from_le_bytes([reply[4], reply[5]]), u16::from(fits), "the count");
        }
    }
    let mut stats = [header(Kind::Stats), StatsRequest::new_zeroed().as_bytes().to_vec()].concat();
    stats.resize(1232, 0);
    let reply = engine.send(peer(3), &stats).unwrap();
    assert_eq!((reply.len(), reply[7]), (16, Status::Cookie as u8));
    let frame = [header(Kind::Register), body.as_bytes().to_vec(), tail.to_vec()].concat();
    let reply = engine.send(peer(3), &frame).unwrap();
    assert_eq!((reply.len(), reply[7]), (16, Status::Cookie as u8));
    assert!(engine.send(peer(3), &[frame, vec![0; 8]].concat()).is_none(), "no request");
}
