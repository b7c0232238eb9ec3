//! Workloads whose instructions are counted: `.ci/counts` runs each under callgrind and compares
//! with `counts.txt`.
//!
//! `counts NAME REPEATS` runs one; only what happens inside [`measured`] is counted. Instructions,
//! other than times, are the same on every run of one binary.

use heartline::internals::clock::from_ms;
use heartline::internals::dataplane::Datagram;
use heartline::internals::exchange::Replies;
use heartline::internals::registrar::Observed;
use heartline_client::WatchOptions;
use heartline_region::{Choice, Counter, Geometry, Place, ServiceNumber, View};
use heartline_test_support::lists::{Viewed, endpoint};
use heartline_test_support::{Harness, Scratch, peer, settings};
use heartline_wire::*;
use std::hint::black_box;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const LEASES: u32 = 4000;
const NAMES: [&str; 8] = [
    "beat",
    "beats-50",
    "discover-1",
    "discover-25",
    "index-lookup",
    "pick-100",
    "wheel-tick",
    "view-100",
];

/// The only function that is counted.
#[inline(never)]
fn measured(repeats: u64, mut work: impl FnMut(u64)) {
    for repeat in 0..repeats {
        work(repeat);
    }
}

/// An engine with many instances of 40 services, and their leases.
fn engine() -> (Harness, Vec<Lease>) {
    engine_in(&Place::Scratch)
}

fn engine_in(place: &Place) -> (Harness, Vec<Lease>) {
    let mut engine = Harness::in_place(place, Geometry::new(4096, 64), settings(4096), 1);
    let leases = (0..LEASES).map(|number| {
        let mut body = Register::new_zeroed();
        (body.nonce, body.ttl_ms) = (U64::new(5), U32::new(3_600_000));
        body.service = Name::new(&format!("service-{}", number % 40)).unwrap();
        body.instance = Name::new(&format!("instance-{number}")).unwrap();
        let reply = engine.request(peer(1), Kind::Register, &[body.as_bytes()]).unwrap();
        let ReplyBody::Granted(granted) = Reply::decode(&reply).unwrap().body else {
            panic!("refused")
        };
        granted.lease
    });
    let leases = leases.collect();
    (engine, leases)
}

fn beats(repeats: u64, batch: usize) {
    let (mut engine, leases) = engine();
    let mut replies = Replies::default();
    let frames: Vec<Vec<u8>> = (0..repeats)
        .map(|repeat| {
            let beats: Vec<Beat> = (0..batch)
                .map(|number| {
                    let lease = leases[(repeat as usize * batch + number) % leases.len()];
                    Beat { lease, sequence: U32::new(repeat as u32 + 1), ..Beat::new_zeroed() }
                })
                .collect();
            let header =
                Header { count: U16::new(batch as u16), ..Header::request(Kind::Beat, repeat) };
            [header.as_bytes(), beats.as_bytes()].concat()
        })
        .collect();
    let now = engine.now;
    let peer = peer(1);
    measured(repeats, |repeat| {
        let datagram = Datagram { peer, bytes: &frames[repeat as usize] };
        engine.dataplane.receive(now + repeat, std::iter::once(datagram), &mut replies);
    });
    assert!(replies.is_empty());
    assert_eq!(engine.dataplane.tally().get(Counter::BeatsAccepted), repeats * batch as u64);
}

fn discover(repeats: u64, limit: u16) {
    let (mut engine, _) = engine();
    let cookie = U64::new(engine.cookies.make(&peer(1).ip, engine.now));
    let body = Discover {
        cookie,
        service: U64::new(service_id("service-7")),
        limit: U16::new(limit),
        ..Discover::new_zeroed()
    };
    let frame = [Header::request(Kind::Discover, 1).as_bytes(), body.as_bytes()].concat();
    let mut replies = Replies::default();
    let (now, peer) = (engine.now, peer(1));
    measured(repeats, |_| {
        replies.clear();
        engine.dataplane.receive(
            now,
            std::iter::once(Datagram { peer, bytes: &frame }),
            &mut replies,
        );
    });
    assert_eq!(
        replies.iter().next().map(|(_, reply)| reply.len()),
        Some(32 + 48 * usize::from(limit))
    );
}

fn index_lookup(repeats: u64) {
    let (engine, _) = engine();
    let names: Vec<Name> =
        (0..LEASES).map(|number| Name::new(&format!("instance-{number}")).unwrap()).collect();
    let services: Vec<(ServiceNumber, u64)> = (0..40)
        .map(|number| service_id(&format!("service-{number}")))
        .map(|id| (engine.region.find_service(id).unwrap().unwrap(), id))
        .collect();
    measured(repeats, |repeat| {
        let number = repeat as usize % names.len();
        let (service, id) = services[number % 40];
        let found = engine.region.find_instance(service, id, &names[number]);
        assert!(black_box(found).is_ok_and(|slot| slot.is_some()));
    });
}

/// One endpoint of a hundred, through the view of a client.
fn pick(repeats: u64) {
    let members: Vec<Endpoint> = (0..100).map(endpoint).collect();
    let viewed = Viewed::of(&members, WatchOptions::new());
    let watch = viewed.watch.clone();
    // The first pick of a thread seeds its random numbers.
    assert!(watch.pick().is_ok());
    measured(repeats, |_| {
        assert!(black_box(watch.pick()).is_ok());
    });
}

fn wheel_tick(repeats: u64) {
    let (mut engine, _) = engine();
    let start = engine.now;
    measured(repeats, |repeat| {
        let now = start + from_ms(1 + repeat);
        black_box(engine.registrar.tick(&Observed { now, drained: now, drops: 0, stall: 0 }));
    });
    assert_eq!(engine.registrar.counts().up, LEASES);
}

/// One endpoint picked from the hundred of a service, through the files of the engine.
fn view(repeats: u64) {
    let state = Scratch::new();
    let (_engine, _) = engine_in(&Place::Directory(state.0.clone()));
    let view = View::open(&state.0).unwrap();
    let mut drawn = 1_u64;
    let mut draw = || {
        drawn = drawn.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        drawn
    };
    measured(repeats, |_| {
        let service = view.service("service-7").unwrap().unwrap();
        assert!(black_box(service.pick(Choice::Random, &mut draw)).is_ok_and(|one| one.is_some()));
    });
}

fn run(name: &str, repeats: u64) {
    match name {
        "beat" => beats(repeats, 1),
        "beats-50" => beats(repeats, 50),
        "discover-1" => discover(repeats, 1),
        "discover-25" => discover(repeats, 25),
        "index-lookup" => index_lookup(repeats),
        "pick-100" => pick(repeats),
        "wheel-tick" => wheel_tick(repeats),
        "view-100" => view(repeats),
        other => panic!("{other} is none of {NAMES:?}"),
    }
}

fn main() {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    match &words[..] {
        [name, repeats] => run(name, repeats.parse().expect("a number of repeats")),
        // `cargo bench` and `cargo test --benches` come here: each workload once, so that none of
        // them rots.
        _ => NAMES.iter().for_each(|name| run(name, 40)),
    }
}
