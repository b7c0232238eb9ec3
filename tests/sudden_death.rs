//! The death of a process, as the kernel tells it through the local socket: real processes that are
//! killed, that leave, and whose engine ends.
//!
//! What could go wrong: an instance lives on for a TTL although its process is dead, or is called
//! dead although it lives: because it said good-bye to the socket, the engine ended, or a stranger
//! says so.

use heartline_client::{Lease, Local, LocalReader, Session, Stat, State, Status, Target};
use heartline_region::{Cause, Counter, Event, EventKind, View, Waited};
use heartline_test_support::*;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a process that this test starts is to do, and with which engine.
const ROLE: &str = "HEARTLINE_DEATH_ROLE";
const PLACE: &str = "HEARTLINE_DEATH_PLACE";

/// Nothing is silent for so long in these tests: whoever is down died of something else.
const TTL_MS: u64 = 60_000;

/// Started as a process of its own: registers, shows its lease, and does what its role says.
#[test]
fn process() {
    let (Ok(role), Ok(place)) = (std::env::var(ROLE), std::env::var(PLACE)) else { return };
    let (state, address) = place.split_once(' ').unwrap();
    if role == "agent" {
        return agent(state, address);
    }
    let mut session = Session::connect(address.parse().unwrap()).unwrap();
    let name = std::process::id().to_string();
    let lease = session.register(&instance("s", &name, TTL_MS)).unwrap().lease;
    let mut local = Local::connect(state).unwrap();
    local.show(&lease).unwrap();
    println!("shown {} {} {}", lease.slot(), lease.generation(), lease.secret());
    // Until the test says so, or kills it.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    match role.as_str() {
        "lets go" => local.let_go().unwrap(),
        "takes back" => local.take_back(&lease).unwrap(),
        _ => {}
    }
}

/// Registers by an agent, which does the rest, and tells the lease once the engine was shown it.
fn agent(state: &str, address: &str) {
    let agent = heartline_client::Agent::connect(address).unwrap();
    let name = std::process::id().to_string();
    let instance = heartline_client::Instance::new("s", 80).name(&name);
    let registered = agent.register(instance.ttl(Duration::from_millis(TTL_MS))).unwrap();
    registered.wait_up(Duration::from_secs(5)).unwrap();
    let mut session = Session::connect(address.parse().unwrap()).unwrap();
    let endpoint = session.describe(Target::Names("s", &name)).unwrap().endpoint;
    // A connection that shows nothing yet makes no difference.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!state.is_empty());
    println!("shown {} {} 1", endpoint.slot, endpoint.generation);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

struct Process {
    child: Child,
    lease: Lease,
}

impl Process {
    fn start(role: &str, state: &Scratch, daemon: &Daemon) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process", "--nocapture"])
            .env(ROLE, role)
            .env(PLACE, format!("{} {}", state.0.display(), daemon.address))
            .env("HEARTLINE_STATE", &state.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find_map(|line| line.split_once("shown ").map(|(_, l)| l.to_owned()));
        let numbers: Vec<u64> =
            line.unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
        let lease = Lease::from_parts(numbers[0] as u32, numbers[1] as u32, numbers[2]);
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, lease }
    }

    fn go_on(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Events of a lease after a number.
fn events(view: &View, after: u64, lease: &Lease) -> Vec<Event> {
    let all = view.events(after).map(|event| event.unwrap().1);
    all.filter(|event| event.slot.get() == lease.slot()).collect()
}

fn state_of(session: &mut Session, lease: &Lease) -> State {
    session.describe(Target::Slot(lease.slot(), lease.generation())).unwrap().endpoint.state
}

/// Waits until a lease is down, and tells why.
fn down(view: &mut View, after: u64, lease: &Lease) -> Cause {
    let start = Instant::now();
    loop {
        let all = events(view, after, lease);
        if let Some(event) = all.iter().find(|event| event.kind == EventKind::Down) {
            return event.cause;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "still up: {all:?}");
        let head = view.head();
        let found = events(view, after, lease);
        if found.iter().all(|event| event.kind != EventKind::Down) {
            view.wait(head, Duration::from_secs(1));
        }
    }
}

#[test]
fn a_killed_process_is_down_at_once() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let mut view = View::open(&state.0).unwrap();
    let mut latencies = Vec::new();
    for _ in 0..20 {
        let mut process = Process::start("waits", &state, &daemon);
        session.beat(&[process.lease.beat(1, 0)]).unwrap();
        let head = view.head();
        let start = Instant::now();
        process.child.kill().unwrap();
        assert_eq!(down(&mut view, head, &process.lease), Cause::Died);
        latencies.push(start.elapsed());
        process.child.wait().unwrap();
        assert_eq!(state_of(&mut session, &process.lease), State::Down);
    }
    latencies.sort();
    println!("killed to seen by a watcher: p50 {:?}, worst {:?}", latencies[10], latencies[19]);
    assert!(latencies[10] < Duration::from_millis(100), "{latencies:?}");
    // Events are seen before the counters are published.
    eventually("all are counted", || stat(&mut session, Stat::Downs) == 20);
}

/// Another process that has the lease, or one that was wrongly taken for dead, beats it back.
#[test]
fn a_beat_revives_whose_process_died() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let mut view = View::open(&state.0).unwrap();
    let mut process = Process::start("waits", &state, &daemon);
    let (lease, head) = (process.lease, view.head());
    session.beat(&[lease.beat(1, 0)]).unwrap();
    process.kill();
    down(&mut view, head, &lease);
    // Looks of the registrar do not: the beats before the death count for nothing.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(state_of(&mut session, &lease), State::Down);
    session.beat(&[lease.beat(2, 0)]).unwrap();
    eventually("it is up again", || state_of(&mut session, &lease) == State::Up);
    let told = events(&view, head, &lease);
    assert_eq!((told.last().unwrap().kind, told.len()), (EventKind::Revived, 2));
}

/// An exit without a word is a death; a farewell is none.
#[test]
fn who_says_farewell_is_not_dead() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let mut view = View::open(&state.0).unwrap();
    for role in ["lets go", "takes back"] {
        let mut process = Process::start(role, &state, &daemon);
        let head = view.head();
        process.go_on();
        assert_eq!(view.wait(head, Duration::from_millis(200)), Waited::Nothing, "{role}");
        assert_eq!(state_of(&mut session, &process.lease), State::Up, "{role}");
    }
    let mut process = Process::start("exits", &state, &daemon);
    let head = view.head();
    process.go_on();
    assert_eq!(down(&mut view, head, &process.lease), Cause::Died);
}

/// Its connection breaks because the engine ended: that says nothing of the process.
#[test]
fn an_engine_that_ends_blames_nobody() {
    let (state, listen) = (Scratch::new(), lasting_address());
    let mut daemon = Daemon::start_on(&state, &[], &listen);
    let mut view = View::open(&state.0).unwrap();
    let mut processes: Vec<Process> = Vec::new();
    // Killed, stopped in order, and replaced while it runs.
    for signal in [Some(Signal::KILL), Some(Signal::TERM), None] {
        // New ones each time: those of the round before have not connected again.
        processes.extend((0..3).map(|_| Process::start("waits", &state, &daemon)));
        let head = view.head();
        let flags: &[&str] = if signal.is_none() { &["--replace"] } else { &[] };
        if let Some(signal) = signal {
            daemon.signal(signal);
            daemon.child.wait().unwrap();
        }
        let next = Daemon::start_on(&state, flags, &listen);
        daemon.child.wait().unwrap();
        daemon = next;
        view.refresh().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let mut session = Session::connect(daemon.address).unwrap();
        assert_eq!(stat(&mut session, Stat::Downs), 0, "{signal:?}");
        for process in &processes {
            assert_eq!(state_of(&mut session, &process.lease), State::Up, "{signal:?}");
            assert_eq!(events(&view, head, &process.lease), []);
        }
        // The next engine serves the socket as the one before did.
        let mut local = Local::connect(&state.0).unwrap();
        assert_eq!(local.epoch(), session.hello().unwrap().epoch);
        local.show(&processes[0].lease).unwrap();
        local.let_go().unwrap();
    }
    let head = view.head();
    let mut local = Local::connect(&state.0).unwrap();
    local.show(&processes[1].lease).unwrap();
    drop(local);
    assert_eq!(down(&mut view, head, &processes[1].lease), Cause::Died, "shown again, it counts");
}

fn refused(view: &View) -> u64 {
    view.counters().sum(Counter::LocalRefused)
}

/// Whoever has no lease can't harm one, whatever it sends.
#[test]
fn strangers_cost_nothing_and_are_counted() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let mut view = View::open(&state.0).unwrap();
    let mode = std::fs::metadata(state.0.join("local")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o666, "the secrets are the right");
    let lease = session.register(&instance("s", "a", TTL_MS)).unwrap().lease;
    let (head, before) = (view.head(), refused(&view));
    let connect = || UnixStream::connect(state.0.join("local")).unwrap();
    // A secret that is guessed, and slots that are none.
    let mut local = Local::connect(&state.0).unwrap();
    for wrong in [
        Lease::from_parts(lease.slot(), lease.generation(), lease.secret() ^ 1),
        Lease::from_parts(lease.slot(), lease.generation() + 1, lease.secret()),
        Lease::from_parts(u32::MAX, 1, 1),
    ] {
        match local.show(&wrong) {
            Err(heartline_client::ClientError::Refused { status: Status::Unknown, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    drop(local);
    // Garbage, and garbage behind a lease that was shown.
    for start in [Vec::new(), LocalReader::show(&lease).to_vec()] {
        let mut stranger = connect();
        stranger.write_all(&start).unwrap();
        let _ = stranger.write_all(&[0xA5; 4096]);
        let mut answers = Vec::new();
        let _ = stranger.read_to_end(&mut answers);
        assert!(answers.len() <= 24 + 16, "{answers:?}");
    }
    eventually("all are counted", || refused(&view) >= before + 5);
    // More connections than one user may have.
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(Local::connect(&state.0).unwrap());
    }
    assert!(Local::connect(&state.0).is_err());
    let connections = || view.counters().sum(Counter::LocalConnections);
    eventually("they are counted", || connections() == 64);
    drop(held);
    eventually("there is room again", || Local::connect(&state.0).is_ok());
    assert_eq!(view.clone().wait(head, Duration::from_millis(100)), Waited::Nothing);
    assert_eq!(state_of(&mut session, &lease), State::Up);
    view.refresh().unwrap();
}

/// One agent with many leases: all of them are down, however small the queue is.
#[test]
fn all_leases_of_an_agent_die_with_it() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let leases = register_all(&mut session, 5000, TTL_MS);
    let mut local = Local::connect(&state.0).unwrap();
    for lease in &leases {
        local.show(lease).unwrap();
    }
    local.take_back(&leases[77]).unwrap();
    let start = Instant::now();
    drop(local);
    eventually("all are down", || stat(&mut session, Stat::Down) == 4999);
    println!("4999 leases were down after {:?}", start.elapsed());
    assert_eq!(state_of(&mut session, &leases[77]), State::Up);
    assert_eq!((stat(&mut session, Stat::Held), stat(&mut session, Stat::Up)), (0, 1));
}

/// An agent shows its leases by itself.
#[test]
fn an_agent_that_is_killed_is_down_at_once() {
    let (state, address) = (Scratch::new(), lasting_address());
    let mut daemon = Daemon::start_on(&state, &[], &address);
    let agent = heartline_client::Agent::connect(&daemon.address.to_string()).unwrap();
    let users = agent.watch("s").unwrap();
    let mut view = View::open(&state.0).unwrap();
    let mut took = Vec::new();
    for _ in 0..5 {
        let mut process = Process::start("agent", &state, &daemon);
        let after = view.head();
        let killed = Instant::now();
        process.kill();
        assert_eq!(down(&mut view, after, &process.lease), Cause::Died);
        took.push(killed.elapsed());
    }
    println!("killed to down: {took:?}");
    assert!(took.iter().min().unwrap() < &Duration::from_millis(500), "{took:?}");
    // Another run of the engine is shown the leases again.
    let mut process = Process::start("agent", &state, &daemon);
    eventually("its caller sees it", || users.pick().is_ok());
    daemon.signal(Signal::KILL);
    daemon.child.wait().unwrap();
    daemon = Daemon::start_on(&state, &[], &address);
    let mut session = Session::connect(daemon.address).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(stat(&mut session, Stat::Downs), 0, "the end of an engine says nothing");
    assert_eq!(state_of(&mut session, &process.lease), State::Up);
    view = View::open(&state.0).unwrap();
    let after = view.head();
    process.kill();
    assert_eq!(down(&mut view, after, &process.lease), Cause::Died);
}
