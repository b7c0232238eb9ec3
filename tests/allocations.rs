//! The loops allocate nothing after start, whatever they are asked; nor do picks.

use heartline::Config;
use heartline_client::{
    Balance, Beat, Change, Lease, Query, Registration, Stat, Strategy, Target, WatchOptions,
    ZoneFilter,
};
use heartline_test_support::lists::{Viewed, endpoint};
use heartline_test_support::*;
use heartline_wire::{Header, Kind};
use std::alloc::{GlobalAlloc, Layout, System};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use zerocopy::IntoBytes;

/// Counts allocations of the threads in [`WATCHED`], and of the one that picks.
struct Counting;

static WATCHED: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static PICKS: AtomicU32 = AtomicU32::new(0);
static ALLOCATIONS_OF_PICKS: AtomicU64 = AtomicU64::new(0);

fn own_tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

fn note() {
    let tid = own_tid();
    if PICKS.load(Relaxed) == tid {
        ALLOCATIONS_OF_PICKS.fetch_add(1, Relaxed);
    }
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

/// Watch requests and receipts with a good cookie, and with none.
fn watch(engine: &heartline::Engine) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(engine.addresses()[0]).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 2048];
    let mut ask = |frame: &[u8]| {
        socket.send(frame).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    };
    let welcome = ask(&[Header::request(Kind::Hello, 1).as_bytes(), &[0; 48]].concat());
    let cookie = u64::from_le_bytes(welcome[16..24].try_into().unwrap());
    let watcher = Watcher::new(1, "s");
    for cookie in [0, cookie] {
        for ttl_ms in [1, 1000] {
            assert!(matches!(ask(&watcher.request(cookie, ttl_ms)).len(), 16 | 56));
        }
        for _ in 0..100 {
            socket.send(&watcher.receipt(cookie)).unwrap();
        }
    }
}

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
            tag: Some("canary".into()),
            zone: ZoneFilter::Preferred("z".into()),
            ..Query::new("s")
        };
        assert_eq!(session.discover(&query).unwrap().endpoints.len(), 25);
    }
    session.describe(Target::Names("s", "i7")).unwrap();
    session.services().unwrap();
    session.update(&leases[0], &Change { weight: Some(5), ..Change::default() }).unwrap();
    let unknown = Lease::from_parts(leases[0].slot(), 9, leases[0].secret());
    session.beat(&vec![beat(unknown, 1); 50]).unwrap();
    session.socket().send(&[1; 900]).unwrap();
    session.deregister(&leases[1]).unwrap();
    watch(&engine);
    // The others fall silent: the loops drain for every verdict, and are asked again.
    eventually("all are down", || stat(&mut session, Stat::Up) == 0);
    assert_eq!(ALLOCATIONS.load(Relaxed), 0);
    drop(engine);
}

#[test]
fn picks_allocate_nothing() {
    for balance in [
        Balance::RoundRobin,
        Balance::Random,
        Balance::Weighted,
        Balance::LeastInFlight,
        Balance::PeakEwma,
        Balance::Rendezvous,
        Balance::Maglev,
    ] {
        let members: Vec<_> = (0..100).map(endpoint).collect();
        let viewed = Viewed::of(&members, WatchOptions::new().balance(balance));
        PICKS.store(own_tid(), Relaxed);
        for key in 0..1000_u64 {
            assert!(viewed.watch.pick().is_ok() && viewed.watch.pick_by_key(key).is_ok());
            viewed.watch.call().unwrap().succeeded();
        }
        PICKS.store(0, Relaxed);
        assert_eq!(ALLOCATIONS_OF_PICKS.load(Relaxed), 0, "{balance:?}");
    }
}
