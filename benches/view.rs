//! What a process of the same machine reads from an engine's memory: lookups, picks and whole lists
//! among 100 members, with nothing asked of the engine or the kernel.
//!
//! `cargo bench --bench view`; elements are members.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use heartline_region::{Choice, Geometry, Place, View};
use heartline_test_support::{Harness, Scratch, peer, settings};
use heartline_wire::{Kind, Name, Register};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const MEMBERS: u16 = 100;

fn engine(state: &Scratch) -> Harness {
    let place = Place::Directory(state.0.clone());
    let mut engine = Harness::in_place(&place, Geometry::new(4096, 64), settings(4096), 1);
    for number in 0..MEMBERS {
        let body = Register {
            nonce: U64::new(5),
            ttl_ms: U32::new(3_600_000),
            port: U16::new(number + 1),
            weight: U16::new(number + 1),
            service: Name::new("payments").expect("a name"),
            instance: Name::new(&format!("instance-{number}")).expect("a name"),
            ..Register::new_zeroed()
        };
        engine.request(peer(1), Kind::Register, &[body.as_bytes()]).expect("a reply");
    }
    engine
}

fn view(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("view of 100");
    let state = Scratch::new();
    let _engine = engine(&state);
    let view = View::open(&state.0).expect("files of an engine");
    let mut drawn = 1_u64;
    let mut draw = || {
        drawn = drawn.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        drawn
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("service", |bencher| {
        bencher.iter(|| view.service("payments").map(|service| service.map(|s| s.revision())));
    });
    group.bench_function("instance", |bencher| {
        bencher.iter(|| view.instance("payments", "instance-77"));
    });
    for choice in [Choice::Random, Choice::RoundRobin(50), Choice::Weighted, Choice::Rendezvous(7)]
    {
        group.bench_function(format!("pick {choice:?}"), |bencher| {
            bencher.iter(|| {
                let service = view.service("payments").expect("undisturbed").expect("it is there");
                service.pick(choice, &mut draw)
            });
        });
    }
    group.throughput(Throughput::Elements(MEMBERS.into()));
    let mut members = Vec::new();
    group.bench_function("all", |bencher| {
        bencher.iter(|| {
            let service = view.service("payments").expect("undisturbed").expect("it is there");
            service.fill(&mut members)
        });
    });
    assert_eq!(members.len(), usize::from(MEMBERS));
    group.finish();
}

criterion_group!(benches, view);
criterion_main!(benches);
