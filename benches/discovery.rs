//! Discovery as a loop answers it, request in and reply out: by how many endpoints are answered,
//! and by strategy among 1,000 members.
//!
//! `cargo bench --bench discovery`; one iteration is one answer (40 for the 1,000 in pages),
//! elements are endpoints.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heartline::internals::dataplane::Datagram;
use heartline::internals::exchange::Replies;
use heartline::internals::limits::{ENDPOINT_BYTES, ENDPOINTS_PER_FRAME_MAX, HEADER_BYTES};
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::{
    Discover, DiscoverHead, Header, Kind, Name, Register, Reply, ReplyBody, Strategy, service_id,
};
use std::mem::offset_of;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const MANY: u32 = 1000;
const STRATEGIES: [Strategy; 6] = [
    Strategy::All,
    Strategy::Random,
    Strategy::RoundRobin,
    Strategy::Weighted,
    Strategy::Rendezvous,
    Strategy::TwoChoices,
];
/// Where the cursor is in a request.
const CURSOR: usize = HEADER_BYTES + offset_of!(Discover, cursor);

/// An engine with a service of each size, named after it. Weights and loads differ.
fn engine(sizes: &[u32]) -> Harness {
    let mut engine = Harness::new(4096, settings(4096), 1);
    for size in sizes {
        for number in 0..*size {
            let body = Register {
                nonce: U64::new(5),
                ttl_ms: U32::new(3_600_000),
                port: U16::new(number as u16 + 1),
                weight: U16::new(number as u16 % 100 + 1),
                service: Name::new(&format!("of-{size}")).expect("a name"),
                instance: Name::new(&format!("instance-{number}")).expect("a name"),
                ..Register::new_zeroed()
            };
            let reply =
                engine.request(peer(1), Kind::Register, &[body.as_bytes()]).expect("a reply");
            let ReplyBody::Granted(granted) = Reply::decode(&reply).expect("a frame").body else {
                panic!("refused")
            };
            engine.region.lines()[granted.lease.slot.get() as usize]
                .set_load((number * 7919 % 1009) as u16);
        }
    }
    engine
}

fn request(engine: &Harness, size: u32, strategy: Strategy, limit: u16) -> Vec<u8> {
    let body = Discover {
        cookie: U64::new(engine.cookies.make(&peer(1).ip, engine.now)),
        service: U64::new(service_id(&format!("of-{size}"))),
        key: U64::new(42),
        limit: U16::new(limit),
        strategy: strategy as u8,
        ..Discover::new_zeroed()
    };
    [Header::request(Kind::Discover, 1).as_bytes(), body.as_bytes()].concat()
}

/// One answer; returns the endpoints in it and the cursor of the next page.
fn answer(engine: &mut Harness, request: &[u8], replies: &mut Replies) -> (usize, u32) {
    replies.clear();
    engine.dataplane.receive(
        engine.now,
        std::iter::once(Datagram { peer: peer(1), bytes: request }),
        replies,
    );
    let (_, reply) = replies.iter().next().expect("a reply");
    let (head, endpoints) =
        DiscoverHead::ref_from_prefix(&reply[HEADER_BYTES..]).expect("longer than its head");
    (endpoints.len() / ENDPOINT_BYTES, head.cursor.get())
}

/// All pages of a service; returns how many endpoints were in them.
fn pages(engine: &mut Harness, request: &mut [u8], replies: &mut Replies) -> usize {
    let (mut endpoints, mut cursor) = (0, 0);
    loop {
        request[CURSOR..CURSOR + 4].copy_from_slice(&u32::to_le_bytes(cursor));
        let (more, next) = answer(engine, request, replies);
        endpoints += more;
        if next == 0 {
            return endpoints;
        }
        cursor = next;
    }
}

fn sizes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("discovery/endpoints");
    let mut engine = engine(&[1, 25, MANY]);
    let mut replies = Replies::default();
    for size in [1, 25] {
        let request = request(&engine, size, Strategy::All, 0);
        assert_eq!(answer(&mut engine, &request, &mut replies), (size as usize, 0));
        group.throughput(Throughput::Elements(size.into()));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| answer(&mut engine, &request, &mut replies));
        });
    }
    let mut request = request(&engine, MANY, Strategy::All, 0);
    assert_eq!(pages(&mut engine, &mut request, &mut replies), MANY as usize);
    group.throughput(Throughput::Elements(MANY.into()));
    group.bench_function(BenchmarkId::from_parameter("1000 in pages"), |bencher| {
        bencher.iter(|| pages(&mut engine, &mut request, &mut replies));
    });
    group.finish();
}

fn strategies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("discovery/of 1000");
    let mut engine = engine(&[MANY]);
    let mut replies = Replies::default();
    for strategy in STRATEGIES {
        for limit in [1, ENDPOINTS_PER_FRAME_MAX as u16] {
            let request = request(&engine, MANY, strategy, limit);
            assert_eq!(answer(&mut engine, &request, &mut replies).0, usize::from(limit));
            group.throughput(Throughput::Elements(limit.into()));
            group.bench_function(BenchmarkId::new(format!("{strategy:?}"), limit), |bencher| {
                bencher.iter(|| answer(&mut engine, &request, &mut replies));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, sizes, strategies);
criterion_main!(benches);
