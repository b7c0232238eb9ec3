//! One engine replaces another while clients beat.

use crate::{honoured, kill, next_edition, times};
use heartline_client::{Lease, Session, Stat, Status};
use heartline_test_support::*;
use heartline_wire::{self, Header, Kind, Reply, StatsRequest, header_flags};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::inotify;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U16;

/// What somebody saw who sends a beat every 200 microseconds and wants an answer to each.
#[derive(Debug, Default)]
struct Seen {
    sent: u64,
    answered: u64,
    longest_silence: Duration,
}

fn beat_and_listen(address: SocketAddr, leases: &[Lease], stop: &AtomicBool) -> Seen {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    // The answers to what waited through a long silence come all at once. Forcing takes
    // CAP_NET_ADMIN; without it the default has to do.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20);
    let (mut seen, mut last, mut buffer) = (Seen::default(), Instant::now(), [0; 1500]);
    let mut ended = None;
    loop {
        if !stop.load(Relaxed) {
            let mut header = Header::request(Kind::Beat, seen.sent);
            header.count = U16::new(1);
            header.flags = header_flags::ACK_WANTED;
            let lease = leases[seen.sent as usize % leases.len()];
            let one = heartline_wire::Beat::from(beat(lease, seen.sent as u32 + 1));
            if socket.send(&[header.as_bytes(), one.as_bytes()].concat()).is_ok() {
                seen.sent += 1;
            }
        } else if seen.answered == seen.sent
            || ended.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(2)
        {
            return seen;
        }
        std::thread::sleep(Duration::from_micros(200));
        while socket.recv(&mut buffer).is_ok() {
            seen.answered += 1;
            seen.longest_silence = seen.longest_silence.max(last.elapsed());
            last = Instant::now();
        }
    }
}

/// Every datagram is answered by one engine or the other, and nobody is called dead.
#[test]
fn under_load_nothing_is_lost() {
    let state = Scratch::new();
    let snapshot = state.0.join("snapshot");
    let flags = ["--snapshot", snapshot.to_str().unwrap(), "--snapshot-interval", "20ms"];
    let mut daemon = Daemon::start(&state, &flags);
    let address = daemon.address;
    let mut session = Session::connect(address).unwrap();
    // Each beats ten times a second; whoever is not heard for two seconds is down.
    let leases = register_all(&mut session, 500, 2000);
    let hand_overs = times("HEARTLINE_HAND_OVERS", 6);
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let beating = scope.spawn(|| beat_and_listen(address, &leases, &stop));
        let ending = StopOnDrop(&stop);
        for number in 0..hand_overs {
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(
                (stat(&mut session, Stat::KernelDrops), stat(&mut session, Stat::Downs)),
                (0, 0),
                "before hand-over {number}"
            );
            // The address is the one that was asked for first: --listen stays as it is.
            let next = Daemon::start(&state, &[&flags[..], &["--replace"]].concat());
            assert!(next.ready.contains("leases go on"), "{}", next.ready);
            assert_eq!(daemon.child.wait().unwrap().code(), Some(0), "hand-over {number}");
            daemon = next;
            session.register(&instance("t", &format!("n{number}"), 60_000)).unwrap();
            assert_eq!(stat(&mut session, Stat::Downs), 0, "hand-over {number}");
        }
        drop(ending);
        beating.join().unwrap()
    });
    println!("{hand_overs} hand-overs: {seen:?}");
    assert_eq!(seen.answered, seen.sent);
    assert_eq!(session.discover_all("t", 3).unwrap().unwrap().endpoints.len(), hand_overs);
    assert_eq!(stat(&mut session, Stat::KernelDrops), 0);
}

/// A cookie is good until a reply says that it is not: a successor goes on accepting it, an engine
/// that starts anew does not.
#[test]
fn cookies_outlive_a_hand_over_and_no_restart() {
    let (state, listen) = (Scratch::new(), lasting_address());
    let mut daemon = Daemon::start_on(&state, &[], &listen);
    let mut session = Session::connect(daemon.address).unwrap();
    let request = StatsRequest { cookie: session.hello().unwrap().cookie.into(), reserved: [0; 8] };
    let frame = [Header::request(Kind::Stats, 7).as_bytes(), request.as_bytes()].concat();
    let answered = |daemon: &Daemon| {
        let (socket, mut buffer) = (UdpSocket::bind("127.0.0.1:0").unwrap(), [0; 1500]);
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(&frame, daemon.address).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        Reply::decode(&buffer[..length]).unwrap().status
    };
    assert_eq!(answered(&daemon), Status::Ok);
    let mut next = Daemon::start_on(&state, &["--replace"], &listen);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    assert_eq!(answered(&next), Status::Ok, "after a hand-over");
    kill(&mut next);
    let anew = Daemon::start_on(&state, &[], &listen);
    assert_eq!(answered(&anew), Status::Cookie, "after a restart");
}

/// Waits until an engine whose successor is dead has ended or serves.
fn has_ended(daemon: &mut Daemon) -> bool {
    let mut ended = false;
    eventually("it has ended or serves", || {
        ended = daemon.child.try_wait().unwrap().is_some();
        ended || Session::connect(daemon.address).is_ok_and(|mut session| session.hello().is_ok())
    });
    ended
}

/// A new version that crashes, at any moment, leaves the old one at work, or has taken over.
#[test]
fn a_successor_that_dies_is_survived() {
    let (state, mut random) = (Scratch::new(), SmallRng::seed_from_u64(5));
    // One address for all of them, since successors listen where the old one does.
    let listen = lasting_address();
    let mut daemon = Daemon::start_on(&state, &[], &listen);
    let mut session = Session::connect(daemon.address).unwrap();
    session.set_patience(Duration::from_secs(20));
    let leases = register_all(&mut session, 200, 60_000);
    let deaths = times("HEARTLINE_HAND_OVERS", 6) as u32 * 2;
    let (mut survived, mut taken) = (0, 0);
    for round in 0..deaths {
        let mut next = command(&state, &["--replace", "--listen", &listen])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random.random_range(0..40_000)));
        kill_process(Pid::from_child(&next), Signal::KILL).unwrap();
        next.wait().unwrap();
        // It goes on by itself, unless it had handed over: then the next one goes on with what the
        // dead one left.
        if has_ended(&mut daemon) {
            taken += 1;
            daemon = Daemon::start_on(&state, &[], &listen);
            session = Session::connect(daemon.address).unwrap();
        } else {
            survived += 1;
        }
        assert_eq!(honoured(&mut session, &leases, round + 1), leases.len(), "round {round}");
        assert_eq!(stat(&mut session, Stat::Downs), 0, "round {round}");
    }
    println!(
        "{deaths} successors died: {survived} times the old engine went on, {taken} times it had ended"
    );
    assert!(survived > 0);
}

#[test]
fn a_successor_that_does_not_fit_is_told_why() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &["--cores", "0"]);
    let mut session = Session::connect(daemon.address).unwrap();
    let lease = session.register(&instance("s", "a", 60_000)).unwrap().lease;
    let refusal = |flags: &[&str]| {
        let output = command(&state, flags).arg("--replace").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let other = refusal(&["--listen", "127.0.0.1:1", "--cores", "0"]);
    assert!(
        other.contains("goes on: this engine listens on 127.0.0.1:0, not on 127.0.0.1:1"),
        "{other}"
    );
    if heartline::Config::default().loop_cores().len() > 1 {
        assert!(refusal(&["--listen", "127.0.0.1:0"]).contains("this engine has 1 loops"));
    }
    assert_eq!(honoured(&mut session, &[lease], 1), 1);
}

/// A successor with another capacity that dies at any moment costs no lease, whoever goes on then.
#[test]
fn a_successor_that_dies_while_it_moves_leases_costs_none() {
    let (state, mut random) = (Scratch::new(), SmallRng::seed_from_u64(6));
    let listen = lasting_address();
    let mut daemon = Daemon::start_on(&state, &[], &listen);
    let mut session = Session::connect(daemon.address).unwrap();
    session.set_patience(Duration::from_secs(20));
    let mut leases = register_all(&mut session, 200, 60_000);
    let (mut survived, mut ended) = (0, 0);
    for round in 0..times("HEARTLINE_HAND_OVERS", 6) as u32 {
        let capacity = (70_000 + 1000 * round).to_string();
        let flags = ["--replace", "--listen", &listen, "--capacity", &capacity];
        let mut next =
            command(&state, &flags).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.random_range(0..120_000)));
        kill_process(Pid::from_child(&next), Signal::KILL).unwrap();
        next.wait().unwrap();
        if has_ended(&mut daemon) {
            ended += 1;
            daemon = Daemon::start_on(&state, &[], &listen);
            session = Session::connect(daemon.address).unwrap();
        } else {
            survived += 1;
        }
        assert_eq!(honoured(&mut session, &leases, round + 1), leases.len(), "round {round}");
        leases
            .push(session.register(&instance("s", &format!("more{round}"), 60_000)).unwrap().lease);
        daemon.signal(Signal::KILL);
        daemon.child.wait().unwrap();
        daemon = Daemon::start_on(&state, &[], &listen);
        session = Session::connect(daemon.address).unwrap();
        assert!(
            daemon.ready.contains(&format!("{} leases go on", leases.len())),
            "round {round}: {}",
            daemon.ready
        );
    }
    println!("the old engine went on {survived} times and had ended {ended} times");
}

/// Another capacity is another layout: leases move, and it is said.
#[test]
fn another_layout_is_moved_into() {
    let state = Scratch::new();
    let snapshot = state.0.join("snapshot");
    let flags = ["--snapshot", snapshot.to_str().unwrap(), "--capacity"];
    let mut first = Daemon::start(&state, &[&flags[..], &["1000"]].concat());
    let mut session = Session::connect(first.address).unwrap();
    let leases = register_all(&mut session, 500, 60_000);
    assert_eq!(honoured(&mut session, &leases, 7), 500);
    let second = Daemon::start(
        &state,
        &[&flags[..], &["3000", "--attributes", "200", "--replace"]].concat(),
    );
    assert_eq!(first.child.wait().unwrap().code(), Some(0));
    assert!(
        second.ready.contains("capacity 3000") && second.ready.contains("500 leases"),
        "{}",
        second.ready
    );
    assert_eq!(honoured(&mut session, &leases, 7), 0, "sequences go on");
    assert_eq!(honoured(&mut session, &leases, 8), 500);
    assert_eq!(session.discover_all("s", 3).unwrap().unwrap().endpoints.len(), 500);
    // And into one that is too small they do not.
    let refused = command(&state, &["--capacity", "100", "--listen", "127.0.0.1:0", "--replace"])
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("a lease in slot 499"), "{said}");
    assert_eq!(honoured(&mut session, &leases, 9), 500, "the one before goes on");
}

/// Makes memory look as if another version of the program had written it: the format, at offset 8
/// of both files.
fn make_foreign(state: &Scratch) {
    for name in ["heart", "public"] {
        let file = File::options().write(true).open(state.0.join(name)).unwrap();
        file.write_all_at(&99_u32.to_ne_bytes(), 8).unwrap();
    }
}

/// Memory that this version can't read: a snapshot leads from there to here, and it is said;
/// without one nothing is touched.
#[test]
fn memory_of_another_version_is_left_by_way_of_a_snapshot() {
    let (state, disk) = (Scratch::new(), Scratch::new());
    let snapshot = disk.0.join("snapshot");
    let flags = [
        "--snapshot",
        snapshot.to_str().unwrap(),
        "--snapshot-interval",
        "20ms",
        "--listen",
        "127.0.0.1:0",
    ];
    // Each has a file for what it says: two that write to one overwrite one another.
    let start = |said: &str, more: &[&str]| {
        Daemon::spawn(
            command(&state, &[&flags[..], more].concat())
                .stderr(File::create(disk.0.join(said)).unwrap()),
        )
    };
    let mut daemon = start("first", &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let leases = register_all(&mut session, 300, 60_000);
    // It is said after the engine is ready.
    let tells = |said: &str, texts: [&str; 2]| {
        let told = || std::fs::read_to_string(disk.0.join(said)).unwrap();
        eventually(&texts.join(" and "), || texts.iter().all(|text| told().contains(text)));
    };
    // While it runs, to one that replaces it.
    make_foreign(&state);
    let second = start("second", &["--replace"]);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    daemon = second;
    assert_eq!(honoured(&mut session, &leases, 1), 300);
    tells("second", ["could not go on with the memory", "all leases were moved"]);
    next_edition(&mut session);
    // After its death, with the snapshot.
    kill(&mut daemon);
    make_foreign(&state);
    daemon = start("third", &[]);
    session = Session::connect(daemon.address).unwrap();
    assert_eq!(honoured(&mut session, &leases, 2), 300);
    tells("third", ["could not go on with the memory", "300 leases from edition"]);
    // And without.
    kill(&mut daemon);
    make_foreign(&state);
    let files = || ["heart", "public"].map(|name| std::fs::read(state.0.join(name)).unwrap());
    let before = files();
    let refused = command(&state, &["--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        !refused.stderr.is_empty() && files() == before,
        "refused, and the files are as they were"
    );
}

/// The worst moment: the old engine has stopped, and the new one can't start its threads. The old
/// one goes on, with all that has arrived.
#[test]
fn a_successor_that_fails_after_the_old_one_stopped_is_survived() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &["--cores", "0"]);
    let mut session = Session::connect(daemon.address).unwrap();
    let leases = register_all(&mut session, 200, 20_000);
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let beating = scope.spawn(|| beat_and_listen(daemon.address, &leases, &stop));
        let ending = StopOnDrop(&stop);
        for fails in [1, 2] {
            // The first thread it makes is a loop, the second the registrar.
            let inject = format!("inject=clone3,clone:error=EAGAIN:when={fails}");
            let mut traced = Command::new("strace");
            traced
                .args([
                    "-f",
                    "-qq",
                    "-o",
                    "/dev/null",
                    "-e",
                    "trace=clone3,clone",
                    "-e",
                    &inject,
                    program(),
                ])
                .arg("--state")
                .arg(&state.0);
            traced.args([
                "--listen",
                "127.0.0.1:0",
                "--cores",
                "0",
                "--replace",
                "--snapshot",
                "off",
            ]);
            let output = traced.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(
                output.status.code() == Some(1)
                    && said.contains("Resource temporarily unavailable"),
                "{said}"
            );
        }
        drop(ending);
        beating.join().unwrap()
    });
    println!("two successors failed: {seen:?}");
    assert_eq!(seen.answered, seen.sent);
    assert_eq!((stat(&mut session, Stat::Downs), stat(&mut session, Stat::Up)), (0, 200));
    session.register(&instance("s", "another", 20_000)).unwrap();
}

/// An engine that has the state but does not listen for successors yet, since it starts or goes on
/// after a hand-over that failed, is waited for.
#[test]
fn a_successor_waits_for_an_engine_that_does_not_listen_yet() {
    let state = Scratch::new();
    let lock = File::create(state.0.join("lock")).unwrap();
    lock.lock().unwrap();
    let opens = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&opens, state.0.join("lock"), inotify::WatchFlags::OPEN).unwrap();
    let address = lasting_address();
    let mut command = command(&state, &["--replace", "--listen", &address]);
    let mut daemon = Daemon::unready(command.stdout(Stdio::piped()), &address);
    eventually("it asks for the lock", || rustix::io::read(&opens, &mut [0; 256]).is_ok());
    std::thread::sleep(Duration::from_millis(300));
    assert!(daemon.child.try_wait().unwrap().is_none(), "it waits");
    let mut session = Session::connect(daemon.address).unwrap();
    session.set_patience(Duration::from_millis(10));
    assert!(session.hello().is_err(), "and serves nobody");
    drop(lock);
    eventually("it serves", || session.hello().is_ok());
}
