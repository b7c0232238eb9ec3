//! Which endpoint a strategy picks, through the whole data plane, and what only chance would find:
//! names whose hashes are equal, and limits.
//!
//! What could go wrong: clients and engine compute different scores, the least loaded is not the
//! one that is picked, two names share one list.

use heartline_region::Counter;
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::*;
use std::collections::BTreeSet;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

fn engine() -> Harness {
    Harness::new(64, settings(64), 3)
}

fn register(
    engine: &mut Harness,
    service: &str,
    instance: &str,
    edit: impl FnOnce(&mut Register),
) -> Result<Lease, Status> {
    let mut body = Register::new_zeroed();
    (body.nonce, body.ttl_ms, body.weight) = (U64::new(5), U32::new(60_000), U16::new(100));
    body.service = Name::new(service).unwrap();
    body.instance = Name::new(instance).unwrap();
    edit(&mut body);
    let reply = engine.request(peer(1), Kind::Register, &[body.as_bytes()]).unwrap();
    let reply = Reply::decode(&reply).unwrap();
    match reply.body {
        ReplyBody::Granted(granted) => Ok(granted.lease),
        _ => Err(reply.status),
    }
}

fn discover(engine: &mut Harness, edit: impl FnOnce(&mut Discover)) -> (Status, Vec<Endpoint>) {
    let mut body = Discover { service: U64::new(service_id("s")), ..Discover::new_zeroed() };
    edit(&mut body);
    let reply = engine.request(peer(1), Kind::Discover, &[body.as_bytes()]).unwrap();
    let reply = Reply::decode(&reply).unwrap();
    let ReplyBody::Endpoints(_, endpoints) = reply.body else { panic!("{:?}", reply.status) };
    (reply.status, endpoints.to_vec())
}

/// The score of PROTOCOL.md, section 5.8.
fn score(key: u64, address: [u8; 16], port: u16, weight: u16) -> f64 {
    fn mix(x: u64) -> u64 {
        let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ x >> 31
    }
    let high = u64::from_be_bytes(address[..8].try_into().unwrap());
    let low = u64::from_be_bytes(address[8..].try_into().unwrap());
    let identity = mix(mix(high ^ u64::from(port)) ^ low);
    let u = ((mix(mix(key) ^ identity) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    u.ln() / f64::from(weight)
}

#[test]
fn rendezvous_orders_by_the_documented_score() {
    let mut engine = engine();
    for number in 0..9_u8 {
        register(&mut engine, "s", &format!("i{number}"), |body| {
            body.address = [0x20, 1, 0xD, 0xB8, number, 7, 0, 0, 0, 1, 2, 3, 4, 5, 6, number * 11];
            body.port = U16::new(8000 + u16::from(number) * 300);
            body.weight = U16::new(1 + u16::from(number) * 40);
        })
        .unwrap();
    }
    for key in 0..200_u64 {
        let key = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (_, picked) = discover(&mut engine, |body| {
            (body.strategy, body.limit, body.key) =
                (Strategy::Rendezvous as u8, U16::new(9), U64::new(key));
        });
        let scores: Vec<f64> = picked
            .iter()
            .map(|one| score(key, one.address, one.port.get(), one.weight.get()))
            .collect();
        assert_eq!(scores.len(), 9);
        assert!(scores.is_sorted_by(|one, next| one >= next), "key {key:x}: {scores:?}");
    }
}

#[test]
fn two_choices_picks_the_less_loaded_of_two() {
    let mut engine = engine();
    for (number, load) in [(0, 300), (1, 200)] {
        let lease =
            register(&mut engine, "s", &format!("i{number}"), |body| body.port = U16::new(number))
                .unwrap();
        let header = Header { count: U16::new(1), ..Header::request(Kind::Beat, 5) };
        let beat = Beat { lease, sequence: U32::new(1), load: U16::new(load), flags: U16::ZERO };
        assert!(engine.send(peer(9), &[header.as_bytes(), beat.as_bytes()].concat()).is_none());
    }
    for _ in 0..100 {
        let (_, picked) = discover(&mut engine, |body| body.strategy = Strategy::TwoChoices as u8);
        assert_eq!((picked.len(), picked[0].port.get(), picked[0].load.get()), (1, 1, 200));
    }
}

#[test]
fn weighted_picks_come_as_drawn() {
    let mut engine = engine();
    for weight in [1, 60_000] {
        register(&mut engine, "s", &format!("i{weight}"), |body| body.weight = U16::new(weight))
            .unwrap();
    }
    let heavy_first = (0..200).filter(|_| {
        let (_, picked) = discover(&mut engine, |body| {
            (body.strategy, body.limit) = (Strategy::Weighted as u8, U16::new(2))
        });
        picked.len() == 2 && picked[0].weight.get() == 60_000
    });
    assert!(heavy_first.count() > 190);
}

/// Two names with one id, found by their publishers: the second is refused, and never takes the
/// place of the first.
#[test]
fn a_second_service_with_the_same_id_is_refused() {
    let (first, second) = ("8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ");
    assert_eq!(service_id(first), service_id(second));
    let mut engine = engine();
    register(&mut engine, first, "a", |_| {}).unwrap();
    assert_eq!(register(&mut engine, second, "b", |_| {}), Err(Status::Collision));
    let mut body = Describe::new_zeroed();
    (body.service, body.instance) = (Name::new(second).unwrap(), Name::new("a").unwrap());
    let reply = engine.request(peer(1), Kind::Describe, &[body.as_bytes()]).unwrap();
    assert_eq!(Reply::decode(&reply).unwrap().status, Status::NoInstance);
}

/// A service whose last instance has left is in nobody's way, whatever became of that instance.
#[test]
fn a_service_without_instances_gives_way_to_another_with_its_id() {
    let names = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];
    let mut engine = engine();
    let id = U64::new(service_id(names[0]));
    let version = |engine: &mut Harness| {
        let body = Discover { service: id, ..Discover::new_zeroed() };
        let reply = engine.request(peer(1), Kind::Discover, &[body.as_bytes()]).unwrap();
        match Reply::decode(&reply).unwrap().body {
            ReplyBody::Endpoints(head, _) => head.version.get(),
            _ => 0,
        }
    };
    let mut before = 0;
    for (own, other) in [(0, 1), (1, 0), (0, 1)].map(|(own, other)| (names[own], names[other])) {
        let lease = register(&mut engine, own, "a", |_| {}).unwrap();
        assert_eq!(register(&mut engine, other, "b", |_| {}), Err(Status::Collision), "{own}");
        assert!(version(&mut engine) > before, "versions of one id never go back");
        before = version(&mut engine);
        let reply = engine.request(peer(1), Kind::Services, &[Services::new_zeroed().as_bytes()]);
        let reply = reply.unwrap();
        let ReplyBody::Services(_, services) = Reply::decode(&reply).unwrap().body else {
            panic!("no services")
        };
        let shown: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(shown, [own]);
        engine.request(peer(1), Kind::Deregister, &[lease.as_bytes()]).unwrap();
    }
    // A tombstone is an instance that may come back: it keeps the place.
    register(&mut engine, names[0], "a", |body| body.ttl_ms = U32::new(10)).unwrap();
    engine.pass(15);
    assert_eq!(engine.registrar.counts().down, 1);
    assert_eq!(register(&mut engine, names[1], "b", |_| {}), Err(Status::Collision));
    engine.pass(100);
    register(&mut engine, names[1], "b", |_| {}).unwrap();
}

/// Endpoints carry 32 bits of their zone's hash; the whole zone decides.
#[test]
fn zones_with_the_same_hash_are_told_apart() {
    let (own, other) = ("zone-280181", "zone-1852080");
    assert_eq!(Label::new(own).unwrap().hash32(), Label::new(other).unwrap().hash32());
    let mut engine = engine();
    register(&mut engine, "s", "a", |body| body.zone = Label::new(own).unwrap()).unwrap();
    for (zone, status) in [(own, Status::Ok), (other, Status::AllFiltered)] {
        let (found, _) = discover(&mut engine, |body| {
            (body.filter, body.zone) = (Filter::ZONE_ONLY, Label::new(zone).unwrap())
        });
        assert_eq!(found, status, "{zone}");
    }
}

/// Whoever could guess a secret could end the lease: it comes from the random numbers and from
/// nothing else.
#[test]
fn secrets_come_from_randomness_alone() {
    let secrets = |seed| {
        let mut engine = Harness::new(64, settings(64), seed);
        (0..40)
            .map(|number| {
                register(&mut engine, "s", &format!("i{number}"), |_| {}).unwrap().secret.get()
            })
            .collect::<BTreeSet<u64>>()
    };
    let (one, other) = (secrets(1), secrets(2));
    assert_eq!((one.len(), other.len()), (40, 40));
    assert!(one.is_disjoint(&other), "the same secrets under other random numbers");
    let ones: u32 = one.iter().map(|secret| secret.count_ones()).sum();
    assert!((1100..1460).contains(&ones), "{ones} of 2560 bits are set");
}

/// A flood of beats for leases that ended is answered a thousand times at once, ten thousand times
/// a second, and no more.
#[test]
fn naks_are_limited() {
    let mut engine = engine();
    let header = Header { count: U16::new(1), ..Header::request(Kind::Beat, 5) };
    let frame = [header.as_bytes(), Beat::new_zeroed().as_bytes()].concat();
    let answered =
        |engine: &mut Harness| (0..3000).filter(|_| engine.send(peer(9), &frame).is_some()).count();
    assert_eq!(answered(&mut engine), 1000);
    engine.now += 50_000_000;
    assert_eq!(answered(&mut engine), 500);
    assert_eq!(engine.dataplane.tally().get(Counter::NaksSuppressed), 4500);
}
