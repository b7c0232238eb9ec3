//! The decode gate alone: what it costs to check a frame, by what is in it. All frames lie in the
//! first-level cache.
//!
//! `cargo bench --bench decode`; elements are beats where a frame has beats, else frames.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use heartline_wire::{
    Beat, Discover, Header, Kind, Label, Name, Register, Reject, Request, service_id,
};
use std::hint::black_box;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const ATTRIBUTES: &[u8] = b"\x06canary\x08rack=b12";

fn beats(count: usize) -> Vec<u8> {
    let header = Header { count: U16::new(count as u16), ..Header::request(Kind::Beat, 1) };
    let beats = vec![Beat { sequence: U32::new(1), ..Beat::new_zeroed() }; count];
    [header.as_bytes(), beats.as_bytes()].concat()
}

fn discover() -> Vec<u8> {
    let body = Discover {
        service: U64::new(service_id("payments")),
        limit: U16::new(25),
        zone: Label::new("eu-west-1a").expect("a label"),
        tag: Label::new("canary").expect("a label"),
        ..Discover::new_zeroed()
    };
    [Header::request(Kind::Discover, 1).as_bytes(), body.as_bytes()].concat()
}

fn register() -> Vec<u8> {
    let body = Register {
        nonce: U64::new(5),
        ttl_ms: U32::new(10_000),
        attributes_len: U16::new(ATTRIBUTES.len() as u16),
        zone: Label::new("eu-west-1a").expect("a label"),
        service: Name::new("payments").expect("a name"),
        instance: Name::new("payments-7d4b9c6f5-x2x9k").expect("a name"),
        ..Register::new_zeroed()
    };
    [Header::request(Kind::Register, 1).as_bytes(), body.as_bytes(), ATTRIBUTES].concat()
}

/// Frames that are refused: at the first check, and at the last one of a full frame.
fn refused() -> [(&'static str, Vec<u8>, Reject); 2] {
    let mut foreign = beats(1);
    foreign[0] = b'X';
    let mut last_flag = beats(50);
    let end = last_flag.len();
    last_flag[end - 1] = 0x80;
    [
        ("refused for its magic", foreign, Reject::Magic),
        ("refused for its 50th beat", last_flag, Reject::Reserved),
    ]
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let accepted = [
        ("1 beat", beats(1), 1),
        ("50 beats", beats(50), 50),
        ("discover", discover(), 1),
        ("register", register(), 1),
    ];
    for (name, frame, elements) in &accepted {
        assert!(Request::decode(frame).is_ok(), "{name}");
        group.throughput(Throughput::Elements(*elements));
        group.bench_function(*name, |bencher| bencher.iter(|| Request::decode(black_box(frame))));
    }
    group.throughput(Throughput::Elements(1));
    for (name, frame, reason) in &refused() {
        assert_eq!(Request::decode(frame).err(), Some(*reason), "{name}");
        group.bench_function(*name, |bencher| bencher.iter(|| Request::decode(black_box(frame))));
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
