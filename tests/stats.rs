//! What an engine counts is in its public file, for each thread apart. A loop answers stats from
//! there while the registrar is busy, and anybody reads it there when the engine is dead.

use heartline::internals::clock::boot_id;
use heartline::internals::dataplane::Datagram;
use heartline::internals::exchange::{Command, Replies};
use heartline_region::{Counter, CountersFile, Place, Tally};
use heartline_wire::{
    Generation, Header, Kind, Reject, Reply, ReplyBody, Request, Slot, Stat, StatsRequest, Status,
};

use heartline_test_support::{Harness, config, eventually, instance, peer, settings, start, stat};
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::path::PathBuf;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

/// The numbers that a harness answers, without a step of its registrar.
fn ask(engine: &mut Harness) -> Result<Vec<u64>, Status> {
    let reply = engine
        .request(peer(1), Kind::Stats, &[StatsRequest::new_zeroed().as_bytes()])
        .expect("an answer at once");
    let reply = Reply::decode(&reply).unwrap();
    match reply.body {
        ReplyBody::Stats(numbers) => Ok(numbers.iter().map(|number| number.get()).collect()),
        _ => Err(reply.status),
    }
}

/// Every counter that is a number of stats is told as that number, the others make up theirs.
#[test]
fn each_number_is_told_from_its_counters() {
    let mut engine = Harness::new(16, settings(16), 1);
    let (mut loops, mut registrar) = (Tally::default(), Tally::default());
    for (at, &counter) in (1..).zip(Counter::ALL) {
        loops.set(counter, at);
        registrar.set(counter, 1000 * at);
    }
    registrar.set(Counter::Loops, 1);
    registrar.set(Counter::Started, engine.now - 7_000_000);
    loops.set(Counter::Started, 0);
    registrar.set(Counter::SnapshotAt, engine.now - 5_000_000);
    loops.set(Counter::SnapshotAt, 0);
    *engine.dataplane.tally_mut() = loops.clone();
    engine.counters.publish(&registrar);
    let numbers = ask(&mut engine).unwrap();
    // The request itself is counted before it is answered.
    loops.add(Counter::Datagrams, 1);
    loops.add(Counter::BytesReceived, 32);
    let sum = |counter| loops.get(counter) + registrar.get(counter);
    let mut told = BTreeSet::new();
    for &counter in Counter::ALL {
        if let Some(stat) = counter.stat() {
            assert_eq!(numbers[stat as usize], sum(counter), "{counter:?}");
            told.insert(stat as usize);
        }
    }
    let rejected: u64 = Counter::REJECTS.iter().map(|&reason| sum(reason)).sum();
    let others = [
        (Stat::UptimeNs, 7_000_000),
        (Stat::Capacity, 16),
        (Stat::Services, 0),
        (Stat::FramesBad, rejected),
        (Stat::KernelDrops, sum(Counter::DropsTold).max(sum(Counter::DropsRead))),
        (Stat::FeedSequence, 0),
        (Stat::HoldMs, 0),
        (Stat::HoldSilent, 0),
        (Stat::HoldLive, 0),
        (Stat::SnapshotAgeMs, 5),
    ];
    for (stat, expected) in others {
        assert_eq!(numbers[stat as usize], expected, "{stat:?}");
        assert!(told.insert(stat as usize), "{stat:?} is told twice");
    }
    assert_eq!(told.len(), Stat::ALL.len());
}

#[test]
fn labels_are_distinct() {
    let counters = Counter::ALL.iter().map(|counter| counter.about().label);
    let labels: BTreeSet<&str> = counters.chain(Stat::ALL.map(|stat| stat.about().label)).collect();
    let shared = Counter::ALL.iter().filter(|counter| counter.stat().is_some()).count();
    assert_eq!(labels.len(), Counter::ALL.len() + Stat::ALL.len() - shared);
}

/// No registrar takes a command here: what it has shown before is told, and what the loop counts.
#[test]
fn stats_is_answered_while_the_registrar_stands_still() {
    let mut engine = Harness::new(16, settings(16), 1);
    let (slot, generation) = (Slot::default(), Generation::default());
    while engine.commands.push(Command::Look { slot, generation, leaving: false }).is_ok() {}
    let cookie = U64::new(engine.cookies.make(&peer(1).ip, engine.now));
    let body = StatsRequest { cookie, reserved: [0; 8] };
    let frame = [Header::request(Kind::Stats, 1).as_bytes(), body.as_bytes()].concat();
    let datagrams = [&b"HL"[..], &frame].map(|bytes| Datagram { peer: peer(1), bytes });
    let mut replies = Replies::default();
    engine.dataplane.receive(engine.now, datagrams.into_iter(), &mut replies);
    let (_, reply) = replies.iter().next().expect("an answer at once");
    let reply = Reply::decode(reply).unwrap();
    let ReplyBody::Stats(numbers) = reply.body else { panic!("{:?}", reply.status) };
    assert_eq!(numbers[Stat::Datagrams as usize].get(), 2);
    assert_eq!(numbers[Stat::FramesBad as usize].get(), 1, "the one in the same batch");
    assert_eq!(engine.commands.len(), engine.commands.capacity(), "the registrar is not asked");
}

/// Until the registrar has counted the members of the engine before, the answer is busy.
#[test]
fn nothing_is_told_before_the_members_are_counted() {
    let mut engine = Harness::new(16, settings(16), 1);
    engine.counters.publish(&Tally::default());
    assert_eq!(ask(&mut engine), Err(Status::Busy));
    assert!(ask(&mut engine).is_ok(), "the registrar has looked");
}

/// A stop and a look at the file: sums, loops, and each reason to refuse a datagram.
#[test]
fn counters_outlive_their_engine() {
    let place = PathBuf::from(format!("/dev/shm/heartline-stats-{}", std::process::id()));
    let mut config = config();
    (config.state, config.snapshot) = (Place::Directory(place.clone()), None);
    let (engine, mut session) = start(&config);
    session.register(&instance("payments", "a", 60_000)).unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let bad = [(Reject::Short, &b"HL"[..]), (Reject::Magic, &[0; 16]), (Reject::Long, &[0; 1233])];
    for (count, (reason, bytes)) in (1..).zip(bad) {
        assert_eq!(Request::decode(bytes).unwrap_err(), reason);
        for _ in 0..count {
            stranger.send_to(bytes, engine.addresses()[0]).unwrap();
        }
    }
    eventually("they are counted", || stat(&mut session, Stat::FramesBad) == 6);
    let public = place.join("public");
    let alive = CountersFile::open(&public, boot_id()).unwrap();
    assert_eq!(alive.loops(), engine.cores().len());
    assert_eq!(alive.sum(Counter::Registered), 1);
    engine.join();
    let dead = CountersFile::open(&public, boot_id()).unwrap();
    assert_eq!(dead.sums(), alive.sums(), "the same memory");
    for (count, (reason, _)) in (1..).zip(bad) {
        assert_eq!(dead.sum(Counter::of(reason)), count, "{reason:?}");
    }
    let loops = (0..dead.loops()).map(|number| dead.of_loop(number, Counter::Datagrams));
    assert_eq!(loops.sum::<u64>(), dead.sum(Counter::Datagrams));
    assert_eq!((dead.sum(Counter::Registered), dead.sum(Counter::Up)), (1, 1));
    assert!(dead.sum(Counter::CpuNs) > 0 && dead.sum(Counter::MemoryBytes) > 0);
    let (engine, mut session) = start(&config);
    assert_eq!(engine.resumed(), 1);
    assert_eq!(stat(&mut session, Stat::FramesBad), 0, "they begin anew");
    assert_eq!(stat(&mut session, Stat::Up), 1);
    engine.join();
    std::fs::remove_dir_all(&place).unwrap();
}
