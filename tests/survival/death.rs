//! Processes that are killed, stopped or refused, machines that reboot.

use crate::{honoured, is_root, kill, next_edition, times};
use heartline::internals::limits::{ATTRIBUTES_BYTES_MAX, LOOPS_MAX};
use heartline::internals::snapshot::Reader;
use heartline_client::{Lease, Session, Stat};
use heartline_region::{Counter, CountersFile, HeartLine, Region};
use heartline_test_support::*;
use heartline_wire::{self, Header, Kind, Slot};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U16;

/// What an engine has acknowledged.
#[derive(Default)]
struct Known {
    live: Vec<Lease>,
    ended: Vec<Lease>,
}

/// Registers and deregisters until the engine is gone. What was not acknowledged is not known.
fn churn(address: SocketAddr, round: usize, known: &mut Known, random: &mut SmallRng) {
    let mut session = Session::connect(address).unwrap();
    session.set_patience(Duration::from_millis(10));
    for number in 0.. {
        if known.live.len() > 100 && random.random_bool(0.4) {
            let lease = known.live.swap_remove(random.random_range(0..known.live.len()));
            match session.deregister(&lease) {
                Ok(()) => known.ended.push(lease),
                Err(_) => return,
            }
        }
        let mut registration =
            instance(&format!("s{}", number % 7), &format!("i{round}-{number}"), 20_000);
        registration.attributes = vec![format!("number={number}")];
        match session.register(&registration) {
            Ok(grant) => known.live.push(grant.lease),
            Err(_) => return,
        }
    }
}

/// Those who beat through all deaths.
const STEADY_TTL_MS: u64 = 3000;

/// Beats every 50 ms for each, whether or not anybody listens.
fn keep_beating_through(address: SocketAddr, leases: &[Lease], stop: &AtomicBool) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for sequence in 1.. {
        if stop.load(Relaxed) {
            return;
        }
        for chunk in leases.chunks(50) {
            let of = |lease: &Lease| heartline_wire::Beat::from(beat(*lease, sequence));
            let beats: Vec<_> = chunk.iter().map(of).collect();
            let header =
                Header { count: U16::new(beats.len() as u16), ..Header::request(Kind::Beat, 0) };
            let _ = socket.send_to(&[header.as_bytes(), beats.as_bytes()].concat(), address);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Killed at random moments under load: whatever was acknowledged stands, what was given back does
/// not, and nobody is called dead.
#[test]
fn killed_at_random_moments() {
    let (state, mut random) = (Scratch::new(), SmallRng::seed_from_u64(11));
    let kills = times("HEARTLINE_KILLS", 8);
    let (mut known, address) = (Known::default(), lasting_address());
    let snapshot = state.0.join("snapshot");
    let flags = ["--snapshot", snapshot.to_str().unwrap(), "--snapshot-interval", "20ms"];
    let (mut steady, stop) = (Vec::new(), AtomicBool::new(false));
    std::thread::scope(|beaters| {
        let _ending = StopOnDrop(&stop);
        for round in 0..=kills {
            let mut daemon = Daemon::start_on(&state, &flags, &address);
            let mut session = Session::connect(daemon.address).unwrap();
            if round == 0 {
                let of = |n| instance("steady", &format!("i{n}"), STEADY_TTL_MS);
                steady = (0..200).map(|n| session.register(&of(n)).unwrap().lease).collect();
                let (address, leases, stop) = (daemon.address, steady.clone(), &stop);
                beaters.spawn(move || keep_beating_through(address, &leases, stop));
            }
            assert_eq!(
                honoured(&mut session, &known.live, round as u32 + 1),
                known.live.len(),
                "round {round}: acknowledged leases"
            );
            assert_eq!(
                honoured(&mut session, &known.ended, round as u32 + 1),
                0,
                "round {round}: leases that were given back"
            );
            assert_eq!(
                (stat(&mut session, Stat::Downs), stat(&mut session, Stat::Suspect)),
                (0, 0),
                "round {round}"
            );
            if round == kills {
                break;
            }
            let moment = Duration::from_micros(random.random_range(500..120_000));
            std::thread::scope(|scope| {
                let churning =
                    scope.spawn(|| churn(daemon.address, round, &mut known, &mut random));
                std::thread::sleep(moment);
                assert_eq!(stat(&mut session, Stat::Downs), 0, "round {round}, before the kill");
                daemon.signal(Signal::KILL);
                churning.join().unwrap();
            });
            daemon.child.wait().unwrap();
        }
    });
    println!("{kills} kills, {} leases stand, {} ended", known.live.len(), known.ended.len());
}

/// 100,000 leases are ready again a quarter of a second after the process was started.
#[test]
fn a_hundred_thousand_leases_are_back_at_once() {
    let state = Scratch::new();
    let flags = ["--capacity", "100000"];
    let mut daemon = Daemon::start(&state, &flags);
    let address = daemon.address;
    std::thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                let mut session = Session::connect(address).unwrap();
                session.set_patience(Duration::from_secs(5));
                for number in 0..25_000 {
                    session
                        .register(&instance(
                            &format!("s{}", number % 100),
                            &format!("i{part}-{number}"),
                            60_000,
                        ))
                        .unwrap();
                }
            });
        }
    });
    let mut ready = Vec::new();
    for _ in 0..5 {
        kill(&mut daemon);
        let start = Instant::now();
        daemon = Daemon::start(&state, &flags);
        ready.push(start.elapsed());
        assert!(daemon.ready.contains("100000 leases"), "{}", daemon.ready);
    }
    println!("ready after {ready:?}");
    // The least disturbed start of five, and of an optimised program.
    let best = ready.iter().min().unwrap();
    assert!(cfg!(debug_assertions) || *best <= Duration::from_millis(250), "{ready:?}");
    let mut session = Session::connect(daemon.address).unwrap();
    assert_eq!((stat(&mut session, Stat::Up), stat(&mut session, Stat::Downs)), (100_000, 0));
}

fn bytes_of(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let names = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file());
    let mut files: Vec<_> =
        names.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

/// Two engines on one state would give the same slots away twice.
#[test]
fn a_second_engine_is_refused_at_once_and_touches_nothing() {
    let state = Scratch::new();
    let snapshot = state.0.join("snapshot");
    let flags = ["--snapshot", snapshot.to_str().unwrap(), "--snapshot-interval", "50ms"];
    let first = Daemon::start(&state, &flags);
    let mut session = Session::connect(first.address).unwrap();
    session.register(&instance("s", "a", 60_000)).unwrap();
    next_edition(&mut session);
    // All but the counters, which go on.
    let bytes = || {
        let mut files = bytes_of(&state.0);
        for (_, bytes) in files.iter_mut().filter(|(path, _)| path.ends_with("public")) {
            bytes[4096..4096 + 512 * (2 + LOOPS_MAX)].fill(0);
        }
        files
    };
    let before = bytes();
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let refused = command(&state, &flags).args(["--listen", "127.0.0.1:0"]).output().unwrap();
        fastest = fastest.min(start.elapsed());
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8(refused.stderr).unwrap().contains("belongs to a running engine"));
    }
    assert!(fastest <= Duration::from_millis(100), "{fastest:?}");
    assert!(before == bytes(), "files have changed");
    // The same snapshot under another state.
    let other = Scratch::new();
    let refused = command(&other, &flags).args(["--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("choose another --snapshot"));
    assert!(before == bytes(), "files have changed");
    println!("refused after {fastest:?}");
}

/// A start that is broken off, refused or killed leaves the memory that it would have moved.
#[test]
fn a_start_that_does_not_succeed_costs_nothing() {
    let state = Scratch::new();
    let address = lasting_address();
    let mut daemon = Daemon::start_on(&state, &[], &address);
    let mut session = Session::connect(daemon.address).unwrap();
    let leases = register_all(&mut session, 100, 60_000);
    let large = ["--capacity", "4000000", "--listen", address.as_str()];
    for (round, signal) in [Signal::TERM, Signal::KILL].into_iter().enumerate() {
        kill(&mut daemon);
        let mut broken =
            command(&state, &large).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let others = state.allocated_bytes();
        eventually("it allocates", || state.allocated_bytes() > others + (64 << 20));
        kill_process(Pid::from_child(&broken), signal).unwrap();
        broken.wait().unwrap();
        // The memory can't be mapped.
        let script = "ulimit -v 30000; exec timeout 5 \"$@\"";
        let refused = Command::new("sh")
            .args(["-c", script, "sh", program(), "--snapshot", "off", "--state"])
            .arg(&state.0)
            .output();
        assert_ne!(refused.unwrap().status.code(), Some(0));
        daemon = Daemon::start_on(&state, &[], &address);
        assert!(daemon.ready.contains("100 leases go on"), "{signal:?}: {}", daemon.ready);
        assert_eq!(
            honoured(&mut Session::connect(daemon.address).unwrap(), &leases, round as u32 + 1),
            100
        );
    }
    assert!(
        !state.0.join("heart.new").exists() && !state.0.join("public.new").exists(),
        "what was left of them is gone"
    );
}

/// The words of a heart line that a snapshot keeps.
fn words(line: &HeartLine) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        line.head(),
        line.lease(Slot::default()).secret,
        line.nonce(),
        line.ttl(),
        line.sequence(),
        line.history(),
        line.last().load,
        line.last().declared,
    )
}

/// What else it keeps of a member.
fn record(region: &Region, slot: Slot) -> impl PartialEq + std::fmt::Debug + use<> {
    let (endpoint, record) =
        (&region.endpoints()[slot.index()], region.records().read(slot).unwrap());
    let mut buffer = [0; ATTRIBUTES_BYTES_MAX];
    let attributes = region.records().attributes(slot, &mut buffer).unwrap().to_vec();
    let service = region.directory()[endpoint.service().index()].name();
    (
        endpoint.entry().as_bytes().to_vec(),
        service,
        record.instance,
        record.source,
        record.replaced_nonce,
        attributes,
    )
}

/// An orderly stop under load: everything is on the disk, and at once.
#[test]
fn stopped_in_order_the_snapshot_equals_memory() {
    let state = Scratch::new();
    let snapshot = state.0.join("snapshot");
    let mut daemon = Daemon::start(
        &state,
        &["--snapshot", snapshot.to_str().unwrap(), "--snapshot-interval", "100ms"],
    );
    let address = daemon.address;
    let stop = AtomicBool::new(false);
    let took = std::thread::scope(|scope| {
        for part in 0..2 {
            let stop = &stop;
            scope.spawn(move || {
                let mut session = Session::connect(address).unwrap();
                session.set_patience(Duration::from_millis(10));
                let (mut leases, mut sequence) = (Vec::new(), 0);
                while !stop.load(Relaxed) {
                    sequence += 1;
                    let name = format!("i{part}-{sequence}");
                    let Ok(grant) = session.register(&instance("s", &name, 20_000)) else { return };
                    leases.push(grant.lease);
                    for chunk in leases.chunks(50) {
                        let beats: Vec<_> =
                            chunk.iter().map(|lease| beat(*lease, sequence)).collect();
                        if session.send_beats(&beats).is_err() {
                            return;
                        }
                    }
                }
            });
        }
        let mut session = Session::connect(address).unwrap();
        eventually("both halves were written, with many leases", || {
            stat(&mut session, Stat::Snapshot) >= 4 && stat(&mut session, Stat::Up) > 100
        });
        let start = Instant::now();
        daemon.signal(Signal::TERM);
        let code = daemon.child.wait().unwrap().code();
        let took = start.elapsed();
        stop.store(true, Relaxed);
        assert_eq!(code, Some(0));
        took
    });
    assert!(took <= Duration::from_secs(2), "{took:?}");
    let (memory, _) = Region::attach(&state.0, heartline::internals::clock::boot_id()).unwrap();
    let geometry = memory.geometry().clone();
    let scratch = heartline_region::Place::Scratch;
    let (loaded, right) = Region::create(
        &scratch,
        geometry,
        heartline_region::Run::default(),
        &AtomicBool::new(false),
    )
    .unwrap();
    let file = std::fs::File::open(&snapshot).unwrap();
    let loaded_edition = Reader::open(&file)
        .unwrap()
        .load(&loaded, &right, heartline::internals::clock::now())
        .unwrap()
        .unwrap();
    let mut leases = 0;
    for (slot, (old, new)) in memory.lines().iter().zip(loaded.lines()).enumerate() {
        if old.head().1.is_leased() {
            leases += 1;
            assert_eq!(words(old), words(new), "slot {slot}");
            let number = Slot::new(slot as u32);
            assert_eq!(record(&memory, number), record(&loaded, number), "slot {slot}");
        } else {
            assert!(!new.head().1.is_leased(), "slot {slot}");
        }
    }
    println!("stopped after {took:?}; {leases} leases are in edition {}", loaded_edition.edition);
    assert!(leases > 10 && leases == loaded_edition.leases);
}

/// A reboot empties tmpfs; clients that just go on beating are known.
#[test]
fn a_reboot_costs_no_lease() {
    let state = Scratch::new();
    let disk = Scratch::new();
    let snapshot = disk.0.join("heartline.snapshot");
    let flags =
        ["--snapshot", snapshot.to_str().unwrap(), "--snapshot-interval", "20ms", "--hold", "off"];
    let mut daemon = Daemon::start(&state, &flags);
    let mut session = Session::connect(daemon.address).unwrap();
    let leases = register_all(&mut session, 300, 3000);
    session.deregister(&leases[7]).unwrap();
    let revision = session.discover_all("s", 3).unwrap().unwrap().revision;
    next_edition(&mut session);
    kill(&mut daemon);
    std::fs::remove_dir_all(&state.0).unwrap();
    std::fs::create_dir(&state.0).unwrap();
    let daemon = Daemon::start(&state, &flags);
    assert!(daemon.ready.contains("299 leases"), "{}", daemon.ready);
    let mut session = Session::connect(daemon.address).unwrap();
    let found = session.discover_all("s", 3).unwrap().unwrap();
    assert!(found.revision > revision && found.endpoints.len() == 299, "revisions grow on");
    assert_eq!(honoured(&mut session, &leases, 100), 299);
    assert_eq!(stat(&mut session, Stat::Downs), 0);
    // The silent have one TTL, and go then.
    eventually("the silent are down", || stat(&mut session, Stat::Down) == 299);
}

/// Memory files of another boot hold clock readings that mean nothing: the snapshot is what counts.
#[test]
fn memory_of_another_boot_is_not_gone_on_with() {
    if !is_root("another boot id, in a mount namespace") {
        return;
    }
    let state = Scratch::new();
    let snapshot = state.0.join("snapshot");
    let flags = ["--snapshot", snapshot.to_str().unwrap(), "--snapshot-interval", "20ms"];
    let mut daemon = Daemon::start(&state, &flags);
    let mut session = Session::connect(daemon.address).unwrap();
    let leases = register_all(&mut session, 20, 60_000);
    next_edition(&mut session);
    kill(&mut daemon);
    let id = state.0.join("boot_id");
    std::fs::write(&id, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let mut inside = Command::new("unshare");
    let script =
        format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", id.display());
    inside
        .args(["-m", "sh", "-c", &script, "sh", program()])
        .args(flags)
        .arg("--state")
        .arg(&state.0);
    let daemon = Daemon::spawn(inside.args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped()));
    assert!(daemon.ready.contains("20 leases"), "{}", daemon.ready);
    assert_eq!(honoured(&mut Session::connect(daemon.address).unwrap(), &leases, 9), 20);
    drop(session);
}

/// What a killed engine has counted is read from the file that it left.
#[test]
fn counters_survive_a_kill() {
    let state = Scratch::new();
    let mut daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    session.register(&instance("payments", "a", 60_000)).unwrap();
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"HL", daemon.address).unwrap();
    eventually("it is counted", || stat(&mut session, Stat::FramesBad) == 1);
    let datagrams = stat(&mut session, Stat::Datagrams);
    kill(&mut daemon);
    let counters =
        CountersFile::open(&state.0.join("public"), heartline::internals::clock::boot_id())
            .unwrap();
    assert_eq!((counters.sum(Counter::Registered), counters.sum(Counter::Up)), (1, 1));
    assert_eq!((counters.sum(Counter::FramesShort), counters.sums().rejected()), (1, 1));
    assert_eq!(counters.sum(Counter::Datagrams), datagrams);
}
