//! Agents and engines over real sockets: what a program sees that uses an agent, while engines are
//! killed, restarted and emptied.

use heartline::Config;
use heartline_client::{
    Agent, ClientError, Declared, Event, Instance, Query, Registered, Session, Standing, Stat,
    State, Target,
};
use heartline_test_support::*;
use rustix::process::Signal;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::Receiver;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

fn agent(engines: &[SocketAddr], replicas: usize) -> Agent {
    let engines: Vec<String> = engines.iter().map(ToString::to_string).collect();
    Agent::builder(&engines.join(",")).replicas(replicas).build().unwrap()
}

/// An instance whose death is seen soon.
fn brief(name: &str) -> Instance {
    Instance::new("web", 8080).name(name).ttl(Duration::from_millis(400))
}

fn up(agent: &Agent, instance: Instance) -> Registered {
    let registered = agent.register(instance).unwrap();
    registered.wait_up(SOON).unwrap();
    registered
}

/// How many instances of the service an engine lists.
fn listed(session: &mut Session) -> usize {
    session.discover(&Query::new("web")).unwrap().endpoints.len()
}

/// The events up to and with the first one that is wanted.
fn until(events: &Receiver<Event>, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        seen.push(events.recv_timeout(SOON * 2).unwrap_or_else(|_| panic!("only {seen:?}")));
        if wanted(&seen[seen.len() - 1]) {
            return seen;
        }
    }
}

#[test]
fn registered_in_three_lines_found_and_kept() {
    let (engine, mut session) = start(&config());
    let agent = Agent::connect(&engine.addresses()[0].to_string()).unwrap();
    let web = agent.register(brief("a").zone("eu-1a").tag("canary").load(3)).unwrap();
    web.wait_up(SOON).unwrap();
    let found = session.describe(Target::Names("web", "a")).unwrap();
    assert_eq!(
        (found.zone.as_str(), found.attributes.as_slice()),
        ("eu-1a", &["canary".into()][..])
    );
    assert_eq!(found.endpoint.address, "127.0.0.1:8080".parse().unwrap());
    // Well beyond the TTL.
    std::thread::sleep(Duration::from_millis(1200));
    let found = session.describe(Target::Names("web", "a")).unwrap();
    assert_eq!((found.endpoint.state, found.endpoint.load), (State::Up, 3));
    assert_eq!(web.state(), Standing::Up { engines: 1 });
    assert_eq!(stat(&mut session, Stat::Downs), 0);
    let health = agent.health();
    assert!(health.beats >= 8 && health.engines[0].beating == 1, "{health:?}");
    assert_eq!(health.engines[0].epoch, stat(&mut session, Stat::Epoch));
}

#[test]
fn what_an_instance_says_of_itself_arrives() {
    let (engine, mut session) = start(&config());
    let agent = agent(engine.addresses(), 1);
    let web = up(&agent, brief("a").declared(Declared::Maintenance));
    let mut declares = |declared| {
        eventually("it is declared", || {
            let found = session.describe(Target::Names("web", "a")).unwrap();
            found.endpoint.declared == declared
        });
    };
    declares(Declared::Maintenance);
    web.serve();
    declares(Declared::Serving);
    web.drain();
    declares(Declared::Draining);
    web.maintenance();
    declares(Declared::Maintenance);
    web.set_weight(7);
    web.set_load(9);
    eventually("weight and load", || {
        let found = session.describe(Target::Names("web", "a")).unwrap().endpoint;
        (found.weight, found.load) == (7, 9)
    });
}

#[test]
fn a_drop_deregisters() {
    let (engine, mut session) = start(&config());
    let agent = agent(engine.addresses(), 1);
    let (a, b, c) = (up(&agent, brief("a")), up(&agent, brief("b")), up(&agent, brief("c")));
    let started = Instant::now();
    a.deregister().unwrap();
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
    eventually("a has left", || listed(&mut session) == 2);
    drop(b);
    eventually("b has left", || listed(&mut session) == 1);
    // The handle of the registration keeps the agent.
    drop(agent);
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(listed(&mut session), 1);
    let started = Instant::now();
    drop(c);
    assert!(started.elapsed() < Duration::from_millis(400), "{:?}", started.elapsed());
    eventually("c has left", || listed(&mut session) == 0);
    assert_eq!(stat(&mut session, Stat::Downs), 0, "all of them said good-bye");
}

#[test]
fn a_panic_that_unwinds_deregisters() {
    let (engine, mut session) = start(&config());
    let engines = engine.addresses().to_vec();
    let service = std::thread::spawn(move || {
        let agent = agent(&engines, 1);
        let _web = up(&agent, Instance::new("web", 8080).name("a"));
        panic!("on purpose");
    });
    assert!(service.join().is_err());
    eventually("it has left", || listed(&mut session) == 0);
    assert_eq!(stat(&mut session, Stat::Downs), 0);
}

#[test]
fn killed_and_restarted_with_its_memory_nobody_is_down() {
    let (state, address) = (Scratch::new(), lasting_address());
    let mut daemon = Daemon::start_on(&state, &[], &address);
    let agent = agent(&[daemon.address], 1);
    let events = agent.events();
    let all: Vec<Registered> = (0..200)
        .map(|n| agent.register(Instance::new("web", 8080).name(&format!("i{n}"))).unwrap())
        .collect();
    all.iter().for_each(|web| web.wait_up(SOON).unwrap());
    daemon.signal(Signal::KILL);
    daemon.child.wait().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let daemon = Daemon::start_on(&state, &[], &address);
    until(&events, |event| matches!(event, Event::EngineRestarted { .. }));
    std::thread::sleep(Duration::from_secs(4));
    let mut session = Session::connect(daemon.address).unwrap();
    assert_eq!((stat(&mut session, Stat::Downs), stat(&mut session, Stat::Up)), (0, 200));
    assert_eq!(stat(&mut session, Stat::Registered), 0, "every lease was kept");
    let others: Vec<Event> = events.try_iter().collect();
    assert!(!others.iter().any(|it| matches!(it, Event::Lost { .. })), "{others:?}");
}

#[test]
fn restarted_without_its_memory_everybody_is_back() {
    let (state, address) = (Scratch::new(), lasting_address());
    let mut daemon = Daemon::start_on(&state, &[], &address);
    let agent = agent(&[daemon.address], 1);
    let all: Vec<Registered> =
        (0..120).map(|n| agent.register(brief(&format!("i{n}"))).unwrap()).collect();
    all.iter().for_each(|web| web.wait_up(SOON).unwrap());
    daemon.signal(Signal::KILL);
    daemon.child.wait().unwrap();
    let empty = Scratch::new();
    let daemon = Daemon::start_on(&empty, &[], &address);
    let mut session = Session::connect(daemon.address).unwrap();
    eventually("all are back", || stat(&mut session, Stat::Up) == 120);
    eventually("and the agent knows", || {
        all.iter().all(|web| web.state() == Standing::Up { engines: 1 })
    });
}

#[test]
fn with_two_replicas_the_loss_of_an_engine_is_not_seen_at_the_other() {
    let (state, address) = (Scratch::new(), lasting_address());
    let first = Daemon::start_on(&state, &[], &address);
    let (second, mut session) = start(&config());
    let agent = agent(&[first.address, second.addresses()[0]], 2);
    let events = agent.events();
    let web = agent.register(brief("a")).unwrap();
    eventually("up at both", || web.state() == Standing::Up { engines: 2 });
    drop(first);
    until(&events, |event| matches!(event, Event::EngineSilent { .. }));
    assert_eq!(web.state(), Standing::Up { engines: 1 });
    assert_eq!((listed(&mut session), stat(&mut session, Stat::Downs)), (1, 0));
    let again = Daemon::start_on(&state, &[], &address);
    eventually("up at both again", || web.state() == Standing::Up { engines: 2 });
    let mut other = Session::connect(again.address).unwrap();
    assert_eq!(listed(&mut other), 1);
}

#[test]
fn the_next_engine_is_used_when_the_first_is_not_there() {
    let (engine, mut session) = start(&config());
    let nowhere: SocketAddr = lasting_address().parse().unwrap();
    let agent = agent(&[nowhere, engine.addresses()[0]], 1);
    let started = Instant::now();
    let _web = up(&agent, brief("a"));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(listed(&mut session), 1);
    let health = agent.health();
    assert!(health.engines[0].silent_for.is_some() && health.engines[1].is_wanted);
}

#[test]
fn a_host_name_is_resolved() {
    let config = Config { listen: vec![([127, 0, 0, 1], 0).into()], ..config() };
    let (engine, _) = start(&config);
    let port = engine.addresses()[0].port();
    let agent = Agent::connect(&format!("localhost:{port}")).unwrap();
    up(&agent, brief("a"));
}

#[test]
fn a_second_agent_with_the_same_identity_replaces_the_first_which_does_not_fight() {
    let (engine, mut session) = start(&config());
    let (first, second) = (agent(engine.addresses(), 1), agent(engine.addresses(), 1));
    let events = first.events();
    let old = up(&first, brief("a"));
    let new = up(&second, brief("a"));
    until(&events, |event| matches!(event, Event::Replaced { .. }));
    assert_eq!(old.state(), Standing::Replaced);
    assert_eq!(old.wait_up(SOON), Err(Standing::Replaced), "nothing would come of waiting");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(stat(&mut session, Stat::Registered), 2, "no third registration");
    drop(old);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!((new.state(), listed(&mut session)), (Standing::Up { engines: 1 }, 1));
}

#[test]
fn a_refusal_is_told_and_ends_the_waiting() {
    let (engine, _) = start(&Config { attributes_bytes: 8, ..config() });
    let told = Arc::new(AtomicU32::new(0));
    let counted = told.clone();
    let agent = Agent::builder(&engine.addresses()[0].to_string())
        .on_event(move |event| {
            if matches!(event, Event::Refused { .. }) {
                counted.fetch_add(1, Relaxed);
                panic!("a callback that panics costs no beat");
            }
        })
        .build()
        .unwrap();
    let long = agent.register(brief("a").tag("longer than eight bytes")).unwrap();
    let refused = Standing::Refused(heartline_client::Status::TooLarge);
    assert_eq!(long.wait_up(SOON), Err(refused));
    up(&agent, brief("b"));
    assert_eq!(told.load(Relaxed), 1);
    assert!(matches!(agent.register(brief("white space")), Err(ClientError::Text { .. })));
    assert!(matches!(Agent::connect("no port:x"), Err(ClientError::Value(_))));
}

/// Wakes a thread: all the runtime that a future needs.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut future, start) = (pin!(future), Instant::now());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(start.elapsed() < SOON, "nobody woke the task");
        std::thread::park_timeout(SOON);
    }
}

#[test]
fn being_up_can_be_awaited_without_a_runtime() {
    let (engine, _) = start(&config());
    let agent = agent(engine.addresses(), 1);
    let web = agent.register(brief("a")).unwrap();
    assert_eq!(block_on(web.up()), Ok(()));
    let when_up = web.up();
    web.deregister().unwrap();
    assert_eq!(block_on(when_up), Err(Standing::Ended));
}

/// A reader that is too slow is told how many events it missed.
#[test]
fn lost_events_are_counted_and_said() {
    let (engine, _) = start(&Config { capacity: 4096, ..config() });
    let agent = agent(engine.addresses(), 1);
    let events = agent.events();
    let all: Vec<Registered> = (0..1500)
        .map(|n| agent.register(Instance::new("web", 8080).name(&format!("i{n}"))).unwrap())
        .collect();
    all.iter().for_each(|web| web.wait_up(SOON).unwrap());
    eventually("the channel is full", || agent.health().events_lost == 1500 - 1024);
    assert_eq!(events.try_iter().count(), 1024);
    drop(all);
    let seen = until(&events, |event| matches!(event, Event::Ended { .. }));
    assert_eq!(seen[0], Event::EventsLost { count: 1500 - 1024 });
}
