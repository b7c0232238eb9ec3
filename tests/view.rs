//! What processes of the same machine see of an engine without asking it: the real daemon, and
//! views of its files in other processes.
//!
//! What could go wrong: a view says that nobody is there while an engine starts again, goes on
//! reading a file that the engine has left, sleeps through a change, asks the kernel for each
//! lookup, or shows as known what only the secret file has.

use heartline::internals::exchange::{Attributes, Command, Replies, Requester};
use heartline_client::{Change, Declared, Query, Registration, Session, State, Strategy, Version};
use heartline_region::{Cause, Choice, EventKind, Geometry, Member, Place, View, Waited};
use heartline_test_support::*;
use heartline_wire::{Kind, Lease, Name, Register, Reply, ReplyBody, Update, update_fields};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use zerocopy::{FromZeros, IntoBytes};

/// A view in a process of its own runs this test again, told by the environment what to do.
const ROLE: &str = "HEARTLINE_VIEW_ROLE";
const PLACE: &str = "HEARTLINE_VIEW_PLACE";

/// The test of this name once more, as another process with another part to play.
fn other_process(test: &str, role: &str, state: &Scratch) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role).env(PLACE, &state.0);
    command
}

/// The part that this process plays; `None`: the test itself.
fn role() -> Option<(String, View)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, View::open(std::env::var(PLACE).unwrap()).unwrap()))
}

type Facts = (u32, u32, SocketAddr, u16, u8, u8, bool, Version, u32);

fn shown(member: &Member) -> Facts {
    let (state, declared) = (member.state() as u8, member.declared() as u8);
    (
        member.slot().get(),
        member.generation().get(),
        member.address(),
        member.weight(),
        state,
        declared,
        member.is_held(),
        member.version(),
        member.zone_hash(),
    )
}

fn sorted(facts: impl Iterator<Item = Facts>) -> Vec<Facts> {
    let mut facts: Vec<Facts> = facts.collect();
    facts.sort_by_key(|facts| facts.0);
    facts
}

/// The members of a service as discovery answers them, and its version.
fn discovered(session: &mut Session, service: &str) -> (u64, Vec<Facts>) {
    let all = session.discover_all(service, 9).unwrap().unwrap();
    let facts = all.endpoints.iter().map(|endpoint| {
        let (state, declared) = (endpoint.state as u8, endpoint.declared as u8);
        (
            endpoint.slot,
            endpoint.generation,
            endpoint.address,
            endpoint.weight,
            state,
            declared,
            endpoint.held,
            endpoint.version,
            endpoint.zone_hash,
        )
    });
    (all.revision, sorted(facts))
}

fn viewed(view: &View, service: &str) -> (u64, Vec<Facts>) {
    let mut members = Vec::new();
    let revision = view.service(service).unwrap().map_or(0, |s| s.fill(&mut members).unwrap());
    (revision, sorted(members.iter().map(shown)))
}

/// Fifty instances in many forms.
fn populate(session: &mut Session, ttl_ms: u64) -> Vec<heartline_client::Lease> {
    let forms = [Declared::Serving, Declared::Draining, Declared::Maintenance];
    let lease = |number: u16| {
        let registration = Registration {
            weight: number,
            zone: format!("z{}", number % 3),
            version: Version::new(number, 2, 3, 4),
            declared: forms[usize::from(number) % 3],
            ..instance("s", &format!("i{number}"), ttl_ms)
        };
        session.register(&registration).unwrap().lease
    };
    (0..50).map(lease).collect()
}

#[test]
fn a_view_shows_what_discovery_answers() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let leases = populate(&mut session, 60_000);
    let view = View::open(&state.0).unwrap();
    assert_eq!(viewed(&view, "s"), discovered(&mut session, "s"));
    assert_eq!(view.epoch(), Some(session.hello().unwrap().epoch));
    assert_eq!(view.services().unwrap().1, 1);
    assert_eq!(view.hold(), Ok(None));
    session.update(&leases[7], &Change { weight: Some(999), ..Change::default() }).unwrap();
    session.deregister(&leases[9]).unwrap();
    session.beat(&[leases[12].beat(1, 321)]).unwrap();
    assert_eq!(viewed(&view, "s"), discovered(&mut session, "s"));
    let of = |name: &str| view.instance("s", name).unwrap();
    assert_eq!(of("i7").unwrap().weight(), 999);
    assert_eq!(of("i12").unwrap().load(), Some(321));
    assert!(of("i12").unwrap().last_beat() > of("i11").unwrap().last_beat());
    assert!(of("i9").is_none() && of("i50").is_none() && of("").is_none());
    assert!(view.instance("other", "i7").unwrap().is_none());
    assert!(view.members("other").unwrap().is_empty());
    let kinds: Vec<EventKind> = view.events(50).map(|event| event.unwrap().1.kind).collect();
    assert_eq!(kinds[..2], [EventKind::Updated, EventKind::Gone]);
    // Picks are of those who take requests.
    let service = view.service("s").unwrap().unwrap();
    assert_eq!((service.listed(), service.total(), service.revision()), (49, 49, 52));
    let mut number = 1_u64;
    let mut draw = || {
        number = number.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        number
    };
    let mut picked = BTreeSet::new();
    for choice in [Choice::Random, Choice::Weighted, Choice::RoundRobin(4), Choice::Rendezvous(5)] {
        for _ in 0..500 {
            let member = service.pick(choice, &mut draw).unwrap().unwrap();
            assert_eq!((member.declared(), member.state()), (Declared::Serving, State::Up));
            if choice == Choice::Random {
                picked.insert(member.slot().get());
            }
        }
    }
    assert_eq!(picked.len(), 16, "every third, but the one that has left");
    let mut query = Query { strategy: Strategy::Rendezvous, key: 77, ..Query::new("s") };
    for key in 0..50 {
        query.key = key;
        let same = service.pick(Choice::Rendezvous(key), &mut draw).unwrap().unwrap();
        assert_eq!(session.discover(&query).unwrap().endpoints[0].slot, same.slot().get());
    }
}

/// Whoever may not read the secret file has a view without what only that one knows.
#[test]
fn what_only_the_secret_file_has_is_absent_for_others() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let lease = session.register(&instance("s", "a", 60_000)).unwrap().lease;
    session.beat(&[lease.beat(1, 321)]).unwrap();
    let other = Scratch::new();
    // The same file, in a place where the heart file can't be reached.
    std::fs::hard_link(state.0.join("public"), other.0.join("public")).unwrap();
    let (whole, part) = (View::open(&state.0).unwrap(), View::open(&other.0).unwrap());
    assert_eq!((whole.has_heart(), part.has_heart()), (true, false));
    let of = |view: &View| view.instance("s", "a").unwrap().unwrap();
    assert_eq!((of(&whole).load(), of(&part).load()), (Some(321), None));
    assert_eq!(of(&part).last_beat(), None);
    assert_eq!(shown(&of(&whole)), shown(&of(&part)));
}

/// An engine that is killed leaves a view that answers; the next one goes on in the same file, and
/// nobody is ever said to be gone.
#[test]
fn a_view_outlives_its_engine() {
    let state = Scratch::new();
    let mut daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    populate(&mut session, 60_000);
    let mut view = View::open(&state.0).unwrap();
    let (before, epoch) = (viewed(&view, "s"), view.epoch());
    for round in 0..3 {
        daemon.signal(Signal::KILL);
        daemon.child.wait().unwrap();
        assert_eq!(viewed(&view, "s"), before);
        assert_eq!(view.epoch() == epoch, round == 0);
        let stop = AtomicBool::new(false);
        let reader = view.clone();
        daemon = std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let (mut looks, mut busy) = (0_u64, 0_u64);
                while !stop.load(Relaxed) {
                    match reader.members("s") {
                        Ok(members) => assert_eq!(members.len(), 50),
                        Err(_) => busy += 1,
                    }
                    looks += 1;
                }
                (looks, busy)
            });
            let ending = StopOnDrop(&stop);
            let next = Daemon::start(&state, &[]);
            drop(ending);
            println!("looks, of them busy: {:?}", looking.join().unwrap());
            next
        });
        assert!(!view.refresh().unwrap(), "the file is the same");
        assert_ne!(view.epoch(), epoch);
    }
    let mut session = Session::connect(daemon.address).unwrap();
    assert_eq!(viewed(&view, "s"), discovered(&mut session, "s"));
    session.register(&instance("s", "new", 60_000)).unwrap();
    assert!(view.instance("s", "new").unwrap().is_some());
    daemon.signal(Signal::TERM);
    daemon.child.wait().unwrap();
    assert_eq!(viewed(&view, "s").1.len(), 51, "stopped in order, it is the same");
}

/// A successor goes on in the same file, or leaves it for a larger one; whoever waits for events is
/// told.
#[test]
fn a_view_follows_a_hand_over() {
    let state = Scratch::new();
    let mut daemon = Daemon::start(&state, &["--capacity", "1000"]);
    let mut session = Session::connect(daemon.address).unwrap();
    populate(&mut session, 60_000);
    let mut view = View::open(&state.0).unwrap();
    let before = viewed(&view, "s");
    let next = Daemon::start(&state, &["--capacity", "1000", "--replace"]);
    daemon.child.wait().unwrap();
    assert!(!view.refresh().unwrap() && !view.is_left());
    assert_eq!(viewed(&view, "s"), before);
    session = Session::connect(next.address).unwrap();
    assert_eq!(view.epoch(), Some(session.hello().unwrap().epoch));
    let (mut waiting, head) = (view.clone(), view.head());
    let (moved, mut next) = std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let waited = waiting.wait(head, Duration::from_secs(60));
            (waited, waiting, Instant::now())
        });
        let larger = Daemon::start(&state, &["--capacity", "3000", "--replace"]);
        let (waited, moved, when) = waiter.join().unwrap();
        assert_eq!(waited, Waited::Moved);
        println!("noticed {:?} before the ready line was read", when.elapsed());
        (moved, larger)
    });
    assert!(view.is_left() && !moved.is_left());
    assert_eq!(viewed(&view, "s"), before, "the file that was left stays readable");
    session = Session::connect(next.address).unwrap();
    assert_eq!(viewed(&moved, "s"), discovered(&mut session, "s"));
    assert_eq!(viewed(&moved, "s").1, before.1);
    assert!(view.refresh().unwrap() && viewed(&view, "s") == viewed(&moved, "s"));
    // And a restart that moves: memory of another size, no successor.
    next.signal(Signal::KILL);
    next.child.wait().unwrap();
    let grown = Daemon::start(&state, &["--capacity", "5000"]);
    assert!(view.is_left() && view.refresh().unwrap());
    session = Session::connect(grown.address).unwrap();
    assert_eq!(viewed(&view, "s"), discovered(&mut session, "s"));
    assert_eq!(viewed(&view, "s").1, before.1);
}

/// Another process sleeps on a word that it has mapped read-only, and wakes when the registrar says
/// so.
#[test]
fn another_process_is_woken_by_an_event() {
    if let Some((_, mut view)) = role() {
        let mut seen = view.head();
        println!("ready");
        for _ in 0..50 {
            assert_eq!(view.wait(seen, Duration::from_secs(60)), Waited::Events);
            let newest = view.events(seen).last().unwrap().unwrap().1;
            assert_eq!((newest.kind, newest.cause), (EventKind::Registered, Cause::Request));
            seen = view.head();
            println!("event {}", newest.at.nanos());
        }
        return;
    }
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let mut child = other_process("another_process_is_woken_by_an_event", "wait", &state)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(lines).map(Result::unwrap);
    assert!(lines.any(|line| line.contains("ready")));
    let mut latencies: Vec<Duration> = (0..50)
        .map(|number| {
            // It sleeps by now; a look without a wake-up would come up to 250 ms later.
            std::thread::sleep(Duration::from_millis(5));
            let start = Instant::now();
            session.register(&instance("s", &format!("i{number}"), 60_000)).unwrap();
            lines.by_ref().find(|line| line.starts_with("event")).unwrap();
            start.elapsed()
        })
        .collect();
    assert!(child.wait().unwrap().success());
    latencies.sort();
    println!("registered to seen: p50 {:?}, p98 {:?}", latencies[25], latencies[49]);
    assert!(latencies[25] < Duration::from_millis(60), "{latencies:?}");
}

/// From now on the kernel ends the process at any system call but the one that ends it
/// (seccomp(2), `SECCOMP_MODE_FILTER`). Returns whether it will.
fn renounce_the_kernel() -> bool {
    let step = |code: u32, yes, no, k| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_exit_group as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: whole numbers, and a program that lives during the call.
    let set = |what, value: usize, more: *const libc::sock_fprog| unsafe {
        libc::prctl(what, value, more, 0, 0)
    };
    set(libc::PR_SET_NO_NEW_PRIVS, 1, std::ptr::null()) == 0
        && set(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as usize, &program) == 0
}

/// A process that may ask the kernel for nothing looks up all the same.
#[test]
fn lookups_make_no_system_call() {
    if let Some((role, view)) = role() {
        let mut members = Vec::with_capacity(64);
        let strict = renounce_the_kernel();
        if role == "call" {
            rustix::thread::sched_yield();
        }
        let mut found = 0_u64;
        for turn in 0..20_000 {
            let Ok(Some(service)) = view.service("s") else { break };
            let picked = service.pick(Choice::RoundRobin(turn), || 1).is_ok_and(|m| m.is_some());
            let listed = service.fill(&mut members).is_ok() && members.len() == 50;
            let named = service.instance("i3").is_ok_and(|member| member.is_some());
            let told = view.events(0).count() == 50 && view.hold() == Ok(None);
            found += u64::from(picked && listed && named && told && !view.is_left());
        }
        let code = i32::from(!strict || found != 20_000);
        // SAFETY: ends the process.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    populate(&mut Session::connect(daemon.address).unwrap(), 60_000);
    let ended = |role| other_process("lookups_make_no_system_call", role, &state).status().unwrap();
    let looked = ended("look");
    assert!(looked.success(), "{looked}");
    assert_eq!(ended("call").signal(), Some(libc::SIGSYS), "a call would have been seen");
}

/// A hundred instances whose version is their weight.
fn register_many(fleet: &mut Harness) -> Vec<Lease> {
    let mut register = Register::new_zeroed();
    (register.nonce, register.ttl_ms) = (5.into(), 3_600_000.into());
    (register.port, register.weight) = (7.into(), 7.into());
    register.version = Version::new(7, 0, 0, 0);
    register.service = Name::new("s").unwrap();
    let lease = |number| {
        register.instance = Name::new(&format!("i{number}")).unwrap();
        let reply = fleet.request(peer(1), Kind::Register, &[register.as_bytes()]).unwrap();
        match Reply::decode(&reply).unwrap().body {
            ReplyBody::Granted(granted) => granted.lease,
            other => panic!("{other:?}"),
        }
    };
    (0..100).map(lease).collect()
}

/// Readers of several threads beside a registrar that never rests: whatever is picked is whole, as
/// one change left it.
#[test]
fn picks_are_whole_while_members_change() {
    let state = Scratch::new();
    let mut fleet = Harness::in_place(
        &Place::Directory(state.0.clone()),
        Geometry::new(1024, 16),
        settings(1024),
        1,
    );
    let leases = register_many(&mut fleet);
    let view = View::open(&state.0).unwrap();
    let stop = AtomicBool::new(false);
    let looking = |view: View, mut number: u64| {
        let mut seen = (0_u64, 0_u64, 0_u64);
        while !stop.load(Relaxed) {
            let draw = || {
                number = number.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                number
            };
            let picked = view.service("s").and_then(|service| {
                service.map_or(Ok(None), |service| service.pick(Choice::Random, draw))
            });
            match picked {
                Ok(Some(member)) => {
                    seen.0 += 1;
                    seen.1 += u64::from(member.version() != Version::new(member.weight(), 0, 0, 0));
                }
                Ok(None) => panic!("nobody is there"),
                Err(_) => seen.2 += 1,
            }
        }
        seen
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4)
            .map(|seed| {
                let view = view.clone();
                scope.spawn(move || looking(view, seed))
            })
            .collect();
        let ending = StopOnDrop(&stop);
        let (start, mut changes) = (Instant::now(), 0_u16);
        let mut replies = Replies::default();
        let from = Requester { peer: peer(1), tag: 1.into(), budget: 1232 };
        while start.elapsed() < Duration::from_millis(500) {
            changes = changes % 60_000 + 1;
            let mut request = Update::new_zeroed();
            request.lease = leases[usize::from(changes) % leases.len()];
            request.fields = (update_fields::WEIGHT | update_fields::VERSION).into();
            request.weight = changes.into();
            request.version = Version::new(changes, 0, 0, 0);
            let attributes = Attributes::new(&[]);
            fleet.handle(&Command::Update { from, request, attributes }, &mut replies);
            replies.clear();
        }
        drop(ending);
        for thread in threads {
            let (picks, torn, busy) = thread.join().unwrap();
            println!("{picks} picks, {torn} torn, {busy} given up");
            assert!(picks > 1000 && torn == 0);
        }
    });
}
