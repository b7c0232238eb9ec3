//! Several engines: which ones are wanted, and when one is left for another.

use super::*;
use crate::agent::limits::{BACKOFF_CAP, PROBE_CAP, SETTLED_AFTER};
use heartline_wire::Status;

fn at(world: &World, engine: usize) -> bool {
    world.engines[engine].has("a")
}

#[test]
fn the_first_engine_is_used_and_the_others_are_left_alone() {
    let (world, _) = World::with_one(3, 1);
    assert!(at(&world, 0) && !at(&world, 1) && !at(&world, 2));
    assert!(world.sent.iter().all(|(_, link, _)| *link == 0));
}

#[test]
fn silence_is_noticed_and_the_next_engine_is_used() {
    let (mut world, a) = World::with_one(2, 1);
    let since = world.now;
    world.engines[0].is_dead = true;
    world.run_seconds(10);
    assert!(world.is_up(a) && at(&world, 1));
    let silent = world
        .events
        .iter()
        .find(|(at, event)| *at > since && matches!(event, Event::EngineSilent { .. }));
    // At most three intervals until an ack is wanted, then four unanswered requests.
    let after = silent.unwrap().0 - since;
    assert!(after < from_ms(3 * 1125 + 1600), "{after}");
    let health = world.machine.health(world.now);
    assert!(health.engines[0].silent_for.is_some() && health.engines[1].silent_for.is_none());
    assert!(!health.engines[0].is_wanted && health.engines[1].is_wanted);
}

/// Make before break: the lease at the engine that is left is given back only when the other one
/// stands, and an engine that has come back must have answered for ten seconds.
#[test]
fn an_earlier_engine_that_answers_again_for_ten_seconds_is_used_again() {
    let (mut world, a) = World::with_one(2, 1);
    world.engines[0].is_dead = true;
    world.run_seconds(20);
    world.engines[0].is_dead = false;
    let since = world.now;
    while !world.events_since(since).iter().any(|it| matches!(it, Event::EngineBack { .. })) {
        world.run(from_ms(10));
    }
    assert!(world.now - since <= PROBE_CAP + from_ms(20), "probed at a capped back-off");
    let back = world.now;
    while at(&world, 1) {
        assert!(world.is_up(a));
        assert!(at(&world, 1) || at(&world, 0));
        world.run(from_ms(10));
    }
    let after = world.now - back;
    assert!(
        (SETTLED_AFTER - from_ms(20)..SETTLED_AFTER + from_ms(100)).contains(&after),
        "{after}"
    );
    assert!(world.is_up(a) && at(&world, 0));
}

/// An engine that answers but has no room is no reason to leave the other one.
#[test]
fn an_engine_is_not_left_for_one_that_refuses() {
    let (mut world, a) = World::with_one(2, 1);
    world.engines[0].is_dead = true;
    world.run_seconds(20);
    world.engines[0].restart_empty();
    world.engines[0].is_dead = false;
    world.engines[0].refuses = Some(Status::Full);
    for _ in 0..600 {
        world.run(from_ms(100));
        assert!(world.is_up(a) && at(&world, 1));
    }
    assert!(world.engines[0].registers.len() > 3, "it was asked");
    world.engines[0].refuses = None;
    world.run(BACKOFF_CAP + from_ms(10));
    assert!(world.is_up(a) && at(&world, 0) && !at(&world, 1));
}

/// An engine that answers now and then is not used again and again.
#[test]
fn an_engine_that_falls_silent_again_is_not_wanted() {
    let (mut world, a) = World::with_one(2, 1);
    for _ in 0..5 {
        world.engines[0].is_dead = true;
        world.run_seconds(12);
        world.engines[0].is_dead = false;
        world.run_seconds(6);
    }
    let registered = world.sent.iter().filter(|(_, to, kind)| (*to, *kind) == (0, 2)).count();
    assert!(world.is_up(a) && at(&world, 1));
    assert_eq!(registered, 1, "registrations at the engine that comes and goes");
}

#[test]
fn two_replicas_beat_at_two_engines() {
    let (mut world, a) = World::with_one(2, 2);
    assert_eq!(world.machine.standing(a), Standing::Up { engines: 2 });
    // With one dead, the instance stays at the other, and comes back to it.
    world.engines[1].is_dead = true;
    world.run_seconds(10);
    assert_eq!(world.machine.standing(a), Standing::Up { engines: 1 });
    let heard = world.engines[1].one("a").heard;
    world.engines[1].restart_warm();
    world.engines[1].is_dead = false;
    world.run_seconds(2);
    assert_eq!(world.machine.standing(a), Standing::Up { engines: 2 });
    assert!(world.engines[1].one("a").heard > heard && world.engines[1].granted == 1);
    assert_eq!(world.engines[0].granted, 1, "the other one noticed nothing");
}

#[test]
fn two_replicas_of_three_engines_move_on() {
    let (mut world, a) = World::with_one(3, 2);
    assert!(at(&world, 0) && at(&world, 1) && !at(&world, 2));
    world.engines[0].is_dead = true;
    world.run_seconds(15);
    assert!(at(&world, 1) && at(&world, 2));
    assert_eq!(world.machine.standing(a), Standing::Up { engines: 2 });
    world.engines[0].is_dead = false;
    world.run_seconds(20);
    assert!(at(&world, 0) && at(&world, 1) && !at(&world, 2), "in order");
    assert_eq!(world.machine.standing(a), Standing::Up { engines: 2 });
}

/// With no engine the agent beats on: the only one may come back with its leases.
#[test]
fn beats_go_on_while_the_only_engine_is_silent() {
    let (mut world, a) = World::with_one(1, 1);
    world.engines[0].is_dead = true;
    world.run_seconds(30);
    assert_eq!(world.machine.standing(a), Standing::Silent);
    let since = world.now;
    world.run_seconds(6);
    assert!(world.sent_since(since, 0, Kind::Beat).len() >= 7);
    world.engines[0].is_dead = false;
    world.run_seconds(1);
    assert!(world.is_up(a) && world.engines[0].granted == 1);
}

/// An engine that is started after its agents: it is found within the longest wait of the probes.
#[test]
fn an_engine_that_comes_late_is_found() {
    let mut world = World::new(1, 1);
    world.engines[0].is_dead = true;
    let a = world.register("a");
    world.run_seconds(300);
    assert_eq!(world.machine.standing(a), Standing::Pending);
    let probes = world.sent_since(world.now - 100 * NANOS_PER_SECOND, 0, Kind::Hello).len();
    assert!((20..70).contains(&probes), "{probes} hellos in 100 s");
    world.engines[0].is_dead = false;
    world.run(PROBE_CAP + from_ms(10));
    assert!(world.is_up(a));
}

/// Nobody listens there, says the kernel: the next engine is tried at once.
#[test]
fn a_refused_hello_is_enough_at_the_start() {
    let mut world = World::new(2, 1);
    world.engines[0].is_dead = true;
    let a = world.register("a");
    world.drive();
    world.machine.refused(world.now, LinkId(0));
    world.run(from_ms(2));
    assert!(world.is_up(a) && at(&world, 1));
    // An engine that has answered may be on its way back.
    world.machine.refused(world.now, LinkId(1));
    world.run(from_ms(2));
    assert!(world.machine.health(world.now).engines[1].silent_for.is_none());
}

#[test]
fn a_socket_that_fails_is_opened_again_but_not_all_the_time() {
    let (mut world, _) = World::with_one(1, 1);
    for _ in 0..100 {
        world.machine.send_failed(world.now, LinkId(0));
    }
    let opens = (0..200).filter(|_| matches!(world.machine.poll(world.now), Output::Open { .. }));
    assert_eq!(opens.count(), 1);
    assert_eq!(world.machine.health(world.now).send_failures, 100);
}
