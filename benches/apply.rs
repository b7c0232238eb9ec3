//! Decoding and applying beats in memory, beside a walk that stores to as many random 64-byte
//! lines: what a beat costs beyond its line, what prefetching in groups saves, and what huge pages
//! would save.
//!
//! `cargo bench --bench apply`; with `HEARTLINE_BENCH_LARGE=1` also at 16 M leases (6 GiB). One
//! iteration is 1,000 beats for random leases, elements are beats.

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use heartline::dataplane::{Datagram, Dataplane};
use heartline::exchange::{Peer, Replies};
use heartline::limits::GROUP_BEATS;
use heartline::region::{Geometry, prefetch};
use heartline_test_support::START;
use heartline_test_support::fleet::{Fleet, LONG_TTL_MS};
use memmap2::{Advice, MmapMut, MmapOptions};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use zerocopy::FromBytes;

const BEATS: usize = 1000;
/// Bytes and words of a heart line.
const LINE_BYTES: usize = 64;
const LINE_WORDS: usize = LINE_BYTES / 8;

/// A way to hand frames to the data plane.
type Take = fn(&mut Dataplane, &[Vec<u8>], &mut Replies);

/// Hands frames to the data plane as a loop does that has received all of them: it takes as many as
/// make a group.
fn in_groups(dataplane: &mut Dataplane, frames: &[Vec<u8>], replies: &mut Replies) {
    let mut datagrams =
        frames.iter().map(|bytes| Datagram { peer: Peer::default(), bytes }).peekable();
    while datagrams.peek().is_some() {
        dataplane.receive(START + 1, &mut datagrams, replies);
    }
}

/// Hands frames to the data plane one by one, as a loop does that receives one datagram at a time:
/// no line is asked for before its frame.
fn frame_by_frame(dataplane: &mut Dataplane, frames: &[Vec<u8>], replies: &mut Replies) {
    for bytes in frames {
        dataplane.receive(
            START + 1,
            std::iter::once(Datagram { peer: Peer::default(), bytes }),
            replies,
        );
    }
}

fn beats(group: &mut BenchmarkGroup<'_, WallTime>, leases: u32) {
    let before = huge_page_kib();
    let mut fleet = Fleet::new(Geometry::new(leases, 0), leases, LONG_TTL_MS);
    let bytes = fleet.region.geometry().heart_bytes() + fleet.region.geometry().public_bytes();
    println!(
        "{leases} leases: region of {} MiB, {} MiB of it on huge pages",
        bytes >> 20,
        (huge_page_kib() - before) >> 10
    );
    let (dataplane, beats) = (&mut fleet.dataplane, &mut fleet.beats);
    let mut replies = Replies::default();
    for beats_per_frame in [50, 1] {
        for (name, take) in [("in groups", in_groups as Take), ("frame by frame", frame_by_frame)] {
            group.bench_function(
                BenchmarkId::new(format!("frames of {beats_per_frame}, {name}"), leases),
                |bencher| {
                    bencher.iter_batched(
                        || beats.frames(BEATS / beats_per_frame, beats_per_frame),
                        |frames| {
                            take(dataplane, &frames, &mut replies);
                            frames
                        },
                        BatchSize::LargeInput,
                    );
                },
            );
        }
    }
    let tally = dataplane.tally();
    assert_eq!((tally.bad, tally.old, tally.refused), (0, 0, 0));
}

/// Anonymous memory for so many lines, faulted in.
fn memory(lines: u32, huge: bool) -> MmapMut {
    let mut memory = MmapOptions::new()
        .len(lines as usize * LINE_BYTES)
        .map_anon()
        .expect("memory for the lines");
    let before = huge_page_kib();
    let advice = if huge { Advice::HugePage } else { Advice::NoHugePage };
    let refused = memory.advise(advice).err();
    memory.fill(1);
    if huge {
        let given = (huge_page_kib().saturating_sub(before)) >> 10;
        let wanted = memory.len() >> 20;
        match refused {
            Some(error) => println!("{lines} lines: the kernel refused huge pages: {error}"),
            None => println!("{lines} lines: {given} of {wanted} MiB on huge pages"),
        }
    }
    memory
}

/// Memory of this process on huge pages, anonymous and shared.
fn huge_page_kib() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let kinds = text.lines().filter_map(|line| {
        line.strip_prefix("AnonHugePages:").or_else(|| line.strip_prefix("ShmemPmdMapped:"))
    });
    kinds.filter_map(|rest| rest.split_whitespace().next()?.parse::<usize>().ok()).sum()
}

/// Stores to random lines; `ahead`: asks for a group of lines before it stores to the first of
/// them.
fn walk(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, words: &[AtomicU64], ahead: bool) {
    let lines = words.len() / LINE_WORDS;
    let mut random = SmallRng::seed_from_u64(3);
    group.bench_function(BenchmarkId::new(name, lines), |bencher| {
        bencher.iter_batched(
            || (0..BEATS).map(|_| random.random_range(0..lines) * LINE_WORDS).collect::<Vec<_>>(),
            |places| {
                for places in places.chunks(GROUP_BEATS) {
                    if ahead {
                        places.iter().for_each(|&at| prefetch(&words[at]));
                    }
                    places.iter().for_each(|&at| words[at].store(7, Relaxed));
                }
                places
            },
            BatchSize::LargeInput,
        );
    });
}

fn walks(group: &mut BenchmarkGroup<'_, WallTime>, lines: u32) {
    let mut small = memory(lines, false);
    let words: &[AtomicU64] =
        <[AtomicU64]>::mut_from_bytes(&mut small).expect("a mapping is aligned");
    walk(group, "line walk", words, false);
    walk(group, "line walk, prefetched", words, true);
    drop(small);
    let mut huge = memory(lines, true);
    let words: &[AtomicU64] =
        <[AtomicU64]>::mut_from_bytes(&mut huge).expect("a mapping is aligned");
    walk(group, "line walk, prefetched, huge pages", words, true);
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(BEATS as u64));
    let mut sizes = vec![1 << 16, 1 << 20];
    if std::env::var_os("HEARTLINE_BENCH_LARGE").is_some_and(|value| value == "1") {
        sizes.push(1 << 24);
    } else {
        println!("{} leases: skipped; HEARTLINE_BENCH_LARGE=1 includes them (6 GiB)", 1 << 24);
    }
    for leases in sizes {
        beats(&mut group, leases);
        walks(&mut group, leases);
    }
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
