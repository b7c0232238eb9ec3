//! Decoding and applying beats in memory, beside a walk that stores to as many random 64-byte lines: what a beat costs beyond its line.
//!
//! `cargo bench --bench apply`; one iteration is one group of frames, elements are beats.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::queue::ArrayQueue;
use heartline::clock::from_ms;
use heartline::dataplane::{Cookies, Datagram, Dataplane};
use heartline::exchange::{Attributes, Command, Peer, Replies, Requester};
use heartline::limits::{COMMAND_QUEUE, FRAME_BYTES_MAX};
use heartline::region::{Geometry, Place, Region};
use heartline::registrar::{DenyList, Registrar, Settings};
use heartline::wire::{Beat, Header, Kind, Lease, Name, Register, Reply, ReplyBody};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const BEATS_PER_FRAME: usize = 50;
const FRAMES: usize = 20;

/// A line of its own, as large as a heart line.
#[repr(C, align(64))]
struct Line([AtomicU64; 8]);

struct Fleet {
    dataplane: Dataplane,
    leases: Vec<Lease>,
    sequences: Vec<u32>,
    random: SmallRng,
}

impl Fleet {
    fn new(leases: u32) -> Self {
        let mut random = SmallRng::seed_from_u64(1);
        let (region, writer) =
            Region::create(&Place::Scratch, Geometry::new(leases, 0), (1, 2), 7, &AtomicBool::new(false)).expect("memory for the region");
        let region = Arc::new(region);
        let settings = Settings { quota: leases, hold: true, tombstone_min: from_ms(1000), deny: DenyList::default(), epoch: 7 };
        let mut registrar = Registrar::new(Arc::clone(&region), writer, settings, 1);
        let from = Requester { peer: Peer::default(), tag: U64::ZERO, budget: FRAME_BYTES_MAX as u16 };
        let mut replies = Replies::default();
        let granted = (0..leases).map(|number| {
            let mut request = Register::new_zeroed();
            (request.nonce, request.ttl_ms) = (U64::new(1), U32::new(86_400_000));
            request.service = Name::new(&format!("s{}", number % 1000)).expect("a name");
            request.instance = Name::new(&format!("i{number}")).expect("a name");
            let command = Command::Register { from, request, attributes: Attributes::new(&[]) };
            registrar.handle(2, &command, &mut || random.next_u64(), &mut replies);
            let lease = replies.iter().next().and_then(|(_, frame)| match Reply::decode(frame).ok()?.body {
                ReplyBody::Granted(granted) => Some(granted.lease),
                _ => None,
            });
            replies.clear();
            lease.expect("a lease")
        });
        let leases: Vec<Lease> = granted.collect();
        let commands = Arc::new(ArrayQueue::new(COMMAND_QUEUE));
        let dataplane = Dataplane::new(region, commands, Cookies::new((1, 2)), 7, SmallRng::seed_from_u64(2));
        Self { dataplane, sequences: vec![0; leases.len()], leases, random }
    }

    /// Frames of beats for random leases.
    fn frames(&mut self) -> Vec<Vec<u8>> {
        let header = Header { count: U16::new(BEATS_PER_FRAME as u16), ..Header::request(Kind::Beat, 1) };
        (0..FRAMES)
            .map(|_| {
                let mut frame = header.as_bytes().to_vec();
                for _ in 0..BEATS_PER_FRAME {
                    let at = self.random.random_range(0..self.leases.len());
                    self.sequences[at] += 1;
                    let beat = Beat { lease: self.leases[at], sequence: U32::new(self.sequences[at]), load: U16::ZERO, flags: U16::ZERO };
                    frame.extend_from_slice(beat.as_bytes());
                }
                frame
            })
            .collect()
    }
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements((FRAMES * BEATS_PER_FRAME) as u64));
    for leases in [1 << 16, 1 << 20] {
        let mut fleet = Fleet::new(leases);
        let mut replies = Replies::default();
        group.bench_function(BenchmarkId::new("beats", leases), |bencher| {
            let fleet = std::cell::RefCell::new(&mut fleet);
            bencher.iter_batched(
                || fleet.borrow_mut().frames(),
                |frames| {
                    let mut datagrams = frames.iter().map(|bytes| Datagram { peer: Peer::default(), bytes }).peekable();
                    while datagrams.peek().is_some() {
                        fleet.borrow_mut().dataplane.receive(3, &mut datagrams, &mut replies);
                    }
                    frames
                },
                BatchSize::LargeInput,
            );
        });
        let lines: Vec<Line> = (0..leases).map(|_| Line(Default::default())).collect();
        let mut random = SmallRng::seed_from_u64(3);
        group.bench_function(BenchmarkId::new("line walk", leases), |bencher| {
            bencher.iter_batched(
                || (0..FRAMES * BEATS_PER_FRAME).map(|_| random.random_range(0..lines.len())).collect::<Vec<_>>(),
                |walk| {
                    walk.iter().for_each(|&at| lines[at].0[0].store(7, Relaxed));
                    walk
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
