//! What `docs/PROTOCOL.md` says beside layouts and timers: who is picked before the first beat, what
//! a repetition does, in which order values are judged, what a cursor from nowhere gives.
//!
//! What could go wrong: a client in another language relies on a sentence of the page, and the
//! engine does something else.

mod common {
    pub(crate) mod harness;
}

use common::harness::{Harness, peer, settings};
use heartline::registrar::Registrar;
use heartline::wire::*;
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
