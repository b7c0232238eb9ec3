//! Views of watched services over real sockets: what a caller picks while instances come and go,
//! and while engines are killed, restarted, emptied and replaced.

use heartline_client::{
    Agent, Balance, Instance, MemberChange, PickError, Registered, Stat, Watch, WatchOptions,
};
use heartline_test_support::*;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

fn agent(engines: &[SocketAddr], replicas: usize) -> Agent {
    let engines: Vec<String> = engines.iter().map(ToString::to_string).collect();
    Agent::builder(&engines.join(",")).replicas(replicas).build().unwrap()
}

fn instance(port: u16) -> Instance {
    Instance::new("users", port).address([127, 0, 0, 1].into()).ttl(Duration::from_millis(600))
}

fn up(agent: &Agent, instance: Instance) -> Registered {
    let registered = agent.register(instance).unwrap();
    registered.wait_up(SOON).unwrap();
    registered
}

fn watch(agent: &Agent) -> Watch {
    let users = agent.watch("users").unwrap();
    users.wait_ready(SOON).unwrap();
    users
}

/// The ports that a view lists.
fn ports(users: &Watch) -> BTreeSet<u16> {
    users.all().iter().map(|endpoint| endpoint.address.port()).collect()
}

#[test]
fn a_view_follows_what_comes_goes_and_changes() {
    let (engine, _) = start(&config());
    let (services, caller) = (agent(engine.addresses(), 1), agent(engine.addresses(), 1));
    let users = caller.watch("users").unwrap();
    assert_eq!(users.pick(), Err(PickError::NotReady));
    assert_eq!(users.wait_ready(Duration::from_millis(300)), Err(PickError::NoInstance));
    let mut changes = users.changes();

    let (one, two) = (up(&services, instance(1)), up(&services, instance(2)));
    eventually("both are in the view", || ports(&users) == BTreeSet::from([1, 2]));
    assert!(users.is_current() && users.age().unwrap() < SOON);
    let picked: BTreeSet<u16> = (0..100).map(|_| users.pick().unwrap().address().port()).collect();
    assert_eq!(picked, BTreeSet::from([1, 2]));

    one.drain();
    eventually("who drains is not picked", || {
        (0..20).all(|_| users.pick().unwrap().address().port() == 2)
    });
    assert_eq!(ports(&users), BTreeSet::from([1, 2]), "and is listed");
    two.set_weight(7);
    eventually("the weight", || users.all().iter().any(|endpoint| endpoint.weight == 7));
    let start = Instant::now();
    drop(one);
    eventually("who leaves is gone", || ports(&users) == BTreeSet::from([2]));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    drop(two);
    eventually("nobody is left", || users.pick() == Err(PickError::NoInstance));

    let told: Vec<MemberChange> = std::iter::from_fn(|| changes.try_next()).collect();
    let joined = told.iter().filter(|change| matches!(change, MemberChange::Joined(_))).count();
    let left = told.iter().filter(|change| matches!(change, MemberChange::Left(_))).count();
    assert_eq!((joined, left), (2, 2), "{told:?}");
}

#[test]
fn one_who_falls_silent_is_left_out_within_its_ttl() {
    let (engine, mut session) = start(&config());
    let services = agent(engine.addresses(), 1);
    let kept = up(&services, instance(1));
    let grant = session.register(&heartline_client::Registration {
        ttl: Duration::from_millis(600),
        ..heartline_client::Registration::new("users", "mute", 2)
    });
    grant.unwrap();
    let began = Instant::now();
    let users = watch(&services);
    eventually("both", || ports(&users).len() == 2);
    eventually("only one", || ports(&users) == BTreeSet::from([1]));
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?} after its registration");
    drop(kept);
}

#[test]
fn an_engine_that_is_killed_and_comes_back_takes_nobody_out() {
    let (state, address) = (Scratch::new(), lasting_address());
    let mut daemon = Daemon::start_on(&state, &[], &address);
    let services = agent(&[daemon.address], 1);
    let all: Vec<Registered> = (1..=20).map(|port| up(&services, instance(port))).collect();
    let caller = agent(&[daemon.address], 1);
    let users = watch(&caller);
    eventually("all", || ports(&users).len() == 20);
    let mut changes = users.changes();
    daemon.signal(Signal::KILL);
    daemon.child.wait().unwrap();
    assert!(users.pick().is_ok(), "the last view goes on");
    daemon = Daemon::start_on(&state, &[], &address);
    eventually("current once more", || users.is_current());
    // Pushes come again.
    let late = up(&services, instance(21));
    eventually("a new one", || ports(&users).len() == 21);
    let left = std::iter::from_fn(|| changes.try_next())
        .filter(|change| matches!(change, MemberChange::Left(_)))
        .count();
    assert_eq!(left, 0);
    drop((all, late, daemon));
}

#[test]
fn the_last_view_is_kept_and_then_refused() {
    let (state, address) = (Scratch::new(), lasting_address());
    let daemon = Daemon::start_on(&state, &[], &address);
    let agent = agent(&[daemon.address], 1);
    let _one = up(&agent, instance(1));
    let options = WatchOptions::new().max_stale(Duration::from_secs(4)).balance(Balance::Random);
    let users = agent.watch_with("users", options).unwrap();
    users.wait_ready(SOON).unwrap();
    drop(daemon);
    let gone = Instant::now();
    let mut degraded = false;
    while let Ok(picked) = users.pick() {
        degraded |= picked.degraded().is_some();
        assert!(gone.elapsed() < Duration::from_secs(12), "picked too long");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(degraded, "it said so first");
    assert_eq!(users.pick(), Err(PickError::Stale));
    assert!(users.age().unwrap() >= Duration::from_secs(4));
}

#[test]
fn of_two_engines_one_may_die() {
    let (first, second) = (start(&config()), start(&config()));
    let engines = [first.0.addresses()[0], second.0.addresses()[0]];
    let services = agent(&engines, 2);
    let all: Vec<Registered> = (1..=5).map(|port| up(&services, instance(port))).collect();
    let caller = agent(&engines, 2);
    let users = watch(&caller);
    eventually("all", || ports(&users).len() == 5);
    let mut changes = users.changes();
    first.0.join();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(users.pick().is_ok());
        assert_eq!(ports(&users).len(), 5);
        std::thread::sleep(Duration::from_millis(10));
    }
    let seen: Vec<MemberChange> = std::iter::from_fn(|| changes.try_next()).collect();
    assert!(!seen.iter().any(|change| matches!(change, MemberChange::Left(_))), "{seen:?}");
    drop(all);
    eventually("they leave at the other", || ports(&users).is_empty());
}

#[test]
fn callers_fail_over_with_the_services() {
    let (first, mut second) = (start(&config()), start(&config()));
    let engines = [first.0.addresses()[0], second.0.addresses()[0]];
    let services = agent(&engines, 1);
    let one = up(&services, instance(1));
    let caller = agent(&engines, 1);
    let users = watch(&caller);
    assert_eq!(stat(&mut second.1, Stat::Registered), 0);
    first.0.join();
    eventually("the service is at the second", || stat(&mut second.1, Stat::Up) == 1);
    eventually("and its callers are", || users.is_current() && ports(&users).len() == 1);
    let two = up(&services, instance(2));
    eventually("pushes come from there", || ports(&users).len() == 2);
    drop((one, two));
}

#[test]
fn handles_end_watches() {
    let (engine, mut session) = start(&config());
    let agent = agent(engine.addresses(), 1);
    let users = agent.watch("users").unwrap();
    let same = agent.watch("users").unwrap();
    let others = agent.watch("others").unwrap();
    eventually("two watches stand", || stat(&mut session, Stat::Watches) == 2);
    drop((users, others));
    eventually("one is left", || stat(&mut session, Stat::Watches) == 1);
    // A watch keeps its agent.
    drop(agent);
    std::thread::sleep(Duration::from_millis(300));
    assert_ne!(same.pick(), Err(PickError::Ended));
    drop(same);
    eventually("none is left", || stat(&mut session, Stat::Watches) == 0);
}

/// The memory of an engine on this machine is read, also without a push.
#[test]
fn an_engine_of_this_machine_is_read() {
    let (state, address) = (Scratch::new(), lasting_address());
    let daemon = Daemon::start_on(&state, &[], &address);
    let engine = daemon.address.to_string();
    let services = Agent::builder(&engine).build().unwrap();
    let caller = Agent::builder(&engine).state(&state.0).build().unwrap();
    let users = caller.watch("users").unwrap();
    eventually("the engine has answered", || users.is_current());
    let mut took = Vec::new();
    for port in 1..=20 {
        let one = up(&services, instance(port));
        eventually("it is there", || ports(&users).contains(&port));
        let start = Instant::now();
        one.deregister().unwrap();
        while ports(&users).contains(&port) {
            assert!(start.elapsed() < SOON);
            std::thread::yield_now();
        }
        took.push(start.elapsed());
    }
    took.sort();
    println!("deregistered to out of the view: {:?} (median), {:?}", took[10], took[19]);
    assert_eq!(users.pick(), Err(PickError::NoInstance));
}
