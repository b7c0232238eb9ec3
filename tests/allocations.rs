//! The loops allocate nothing after start, whatever they are asked.

use heartline::Config;
use heartline::wire::*;
use heartline_client::{Query, Registration, Target};
use heartline_test_support::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use zerocopy::byteorder::little_endian::{U16, U32};

/// Counts allocations of the threads in [`WATCHED`].
struct Counting;

static WATCHED: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn note() {
    let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    if WATCHED.iter().any(|watched| watched.load(Relaxed) == tid) {
        ALLOCATIONS.fetch_add(1, Relaxed);
    }
}

// SAFETY: everything is passed on to the system allocator; counting touches atomics only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn loops_allocate_nothing_after_start() {
    let (engine, mut session) = start(&Config { capacity: 2048, ..config() });
    let tids = engine.loop_threads();
    assert!(tids.len() <= WATCHED.len());
    for (watched, tid) in WATCHED.iter().zip(&tids) {
        let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap();
        assert!(name.starts_with("heartline-"), "thread {tid} is {name}, not a loop");
        watched.store(*tid, Relaxed);
    }
    let mut leases = Vec::new();
    for number in 0..300 {
        let registration = Registration {
            attributes: vec!["canary".into()],
            zone: "z".into(),
            ..instance("s", &format!("i{number}"), 500)
        };
        leases.push(session.register(&registration).unwrap().lease);
    }
    for sequence in 1..40 {
        for chunk in leases.chunks(50) {
            let beats: Vec<Beat> = chunk.iter().map(|lease| beat(*lease, sequence)).collect();
            session.beat(&beats).unwrap();
        }
    }
    for strategy in [
        Strategy::All,
        Strategy::Random,
        Strategy::RoundRobin,
        Strategy::Weighted,
        Strategy::Rendezvous,
        Strategy::TwoChoices,
    ] {
        let query = Query {
            strategy,
            limit: 25,
            filter: Filter::TAG | Filter::ZONE_PREFERRED,
            tag: "canary".into(),
            zone: "z".into(),
            ..Query::new("s")
        };
        assert_eq!(session.discover(&query).unwrap().endpoints.len(), 25);
    }
    session.describe(Target::Names("s", "i7")).unwrap();
    session.services().unwrap();
    let change = Update {
        lease: leases[0],
        fields: U16::new(update_fields::WEIGHT),
        weight: U16::new(5),
        load: U16::ZERO,
        attributes_len: U16::ZERO,
        version: Version::default(),
    };
    session.update(&change, &[]).unwrap();
    let unknown = Lease { generation: U32::new(9), ..leases[0] };
    session.beat(&vec![beat(unknown, 1); 50]).unwrap();
    session.socket().send(&[1; 900]).unwrap();
    session.deregister(&leases[1]).unwrap();
    // The others fall silent: the loops drain for every verdict, and are asked again.
    eventually("all are down", || stat(&mut session, Stat::Up) == 0);
    assert_eq!(ALLOCATIONS.load(Relaxed), 0);
    drop(engine);
}
