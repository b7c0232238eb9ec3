//! Who is silent, with a real engine: mass silence is held and ends, floods and drops blame nobody,
//! beats of a batch all count.

use heartline::Config;
use heartline_client::{Query, Stat, State, Target};
use heartline_test_support::*;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Few that fall silent are simply down: a guard that starts in small sets keeps the dead alive
/// (eureka #1459).
#[test]
fn small_sets_are_never_held() {
    for count in [1, 2, 3, 7] {
        let (_engine, mut session) = start(&config());
        register_all(&mut session, count, 300);
        let start = Instant::now();
        eventually("all are down", || stat(&mut session, Stat::Down) == count as u64);
        assert!(start.elapsed() < Duration::from_millis(900), "{count}: {:?}", start.elapsed());
        assert_eq!(stat(&mut session, Stat::Holds), 0);
    }
}

/// Many that fall silent together are held: suspect, marked, explained, and down after three TTLs
/// more at the latest.
#[test]
fn mass_silence_is_held_visible_and_bounded() {
    for count in [8, 1000] {
        let (_engine, mut session) = start(&config());
        let leases = register_all(&mut session, count, 2000);
        for (n, lease) in leases.iter().enumerate() {
            session.send_beats(&[beat(*lease, n as u32 + 1)]).unwrap();
        }
        let start = Instant::now();
        eventually("all are held", || stat(&mut session, Stat::Held) == count as u64);
        assert!(start.elapsed() >= Duration::from_millis(1950));
        let page = session.discover(&Query::new("s")).unwrap();
        assert!(
            page.endpoints.iter().all(|e| e.held && e.state == State::Suspect),
            "held is a mark, not a state"
        );
        assert!(page.hold_percent >= 50);
        let described = session.describe(Target::from(&leases[0])).unwrap();
        let hold = described.hold.expect("a hold is on");
        assert!(
            hold.silent >= 8 && hold.age >= Duration::from_millis(1) && hold.live >= hold.silent
        );
        assert_eq!((stat(&mut session, Stat::Holds), stat(&mut session, Stat::Downs)), (1, 0));
        eventually("the hold is over and all are down", || {
            stat(&mut session, Stat::Down) == count as u64
        });
        let held_for = start.elapsed();
        assert!(held_for >= Duration::from_millis(7900), "{count}: let go after {held_for:?}");
        assert!(held_for < Duration::from_millis(9500), "{count}: let go after {held_for:?}");
        assert_eq!(stat(&mut session, Stat::HoldMs), 0, "the hold has ended");
    }
}

/// Beats that come so densely that loops doze: they all count, who is silent is found, who asks is
/// answered, and the engine stops.
#[test]
fn a_loop_that_dozes_is_still_there() {
    let (engine, mut session) = start(&config());
    let lease = register_all(&mut session, 1, 60_000)[0];
    let silent = session.register(&instance("s", "silent", 300)).unwrap().lease;
    let (begin, mut sent) = (Instant::now(), 0);
    // Nobody asks anything meanwhile: not even whether it is down.
    while begin.elapsed() < Duration::from_millis(600) {
        for _ in 0..10 {
            sent += 1;
            session.send_beats(&[beat(lease, sent)]).unwrap();
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    let asked = Instant::now();
    let described = session.describe(Target::from(&silent)).unwrap();
    assert_eq!(described.endpoint.state, State::Down, "silent for two TTLs");
    assert!(asked.elapsed() < Duration::from_millis(50), "answered after {:?}", asked.elapsed());
    assert_eq!(stat(&mut session, Stat::BeatsAccepted), u64::from(sent));
    let stopped = Instant::now();
    drop(engine);
    assert!(stopped.elapsed() < Duration::from_secs(2));
}

#[test]
fn who_comes_back_from_a_hold_was_never_down() {
    let (_engine, mut session) = start(&config());
    let leases = register_all(&mut session, 40, 400);
    eventually("all are held", || stat(&mut session, Stat::Held) == 40);
    for lease in &leases {
        session.send_beats(&[beat(*lease, 1)]).unwrap();
    }
    eventually("all are up", || stat(&mut session, Stat::Up) == 40);
    assert_eq!((stat(&mut session, Stat::Downs), stat(&mut session, Stat::HoldMs)), (0, 0));
}

#[test]
fn a_minority_is_down_at_once_and_hold_can_be_switched_off() {
    for (hold, beating) in [(true, 60), (false, 0)] {
        let (engine, mut session) = start(&Config { hold, ..config() });
        let leases = register_all(&mut session, 80, 500);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                keep_beating(&engine, &leases[..beating], Duration::from_millis(60), &stop)
            });
            eventually("the others are down", || {
                stat(&mut session, Stat::Down) == 80 - beating as u64
            });
            stop.store(true, Relaxed);
        });
        assert_eq!(stat(&mut session, Stat::Holds), 0);
    }
}

/// Expiry is never early, and late by little: the contract is [TTL, TTL + 1 tick] of observed time.
#[test]
fn down_comes_after_the_deadline_and_soon() {
    let (_engine, mut session) = start(&config());
    let mut late = Vec::new();
    for round in 0..20 {
        let grant = session.register(&instance("s", &format!("i{round}"), 50)).unwrap();
        let before = Instant::now();
        session.beat(&[beat(grant.lease, 1)]).unwrap();
        while session.describe(Target::from(&grant.lease)).unwrap().endpoint.state != State::Down {}
        let elapsed = before.elapsed();
        assert!(elapsed >= Duration::from_millis(50), "early: {elapsed:?}");
        late.push(elapsed - Duration::from_millis(50));
    }
    late.sort();
    println!("lateness: median {:?}, worst {:?}", late[10], late[19]);
}

#[test]
fn the_shortest_and_the_longest_ttl() {
    let (_engine, mut session) = start(&config());
    session.register(&instance("s", "brief", 1)).unwrap();
    session.register(&instance("s", "lasting", 86_400_000)).unwrap();
    eventually("one is down", || stat(&mut session, Stat::Down) == 1);
    let page = session.discover(&Query::new("s")).unwrap();
    assert_eq!(page.endpoints.len(), 1);
}
