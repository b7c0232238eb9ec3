//! One registration at one engine: granted, kept, lost, taken, ended.

use super::*;
use crate::agent::limits::{BACKOFF_BASE, BACKOFF_CAP};
use crate::registration::Change;
use heartline_wire::{Declared, Status, Version};
use std::time::Duration;

#[test]
fn registers_and_beats_four_times_a_ttl() {
    let (mut world, a) = World::with_one(1, 1);
    assert_eq!(world.machine.standing(a), Standing::Up { engines: 1 });
    let held = world.engines[0].one("a").clone();
    assert_eq!((held.body.ttl_ms.get(), held.declared), (3000, Declared::Serving));
    let since = world.now;
    world.run_seconds(30);
    let beats = world.sent_since(since, 0, Kind::Beat);
    assert!((39..=41).contains(&beats.len()), "{} beats in 30 s", beats.len());
    for pair in beats.windows(2) {
        // Between an ack and the next beat, too, there is never more than an interval and a half.
        assert!(pair[1] - pair[0] <= from_ms(1126), "{pair:?}");
    }
    assert_eq!(world.engines[0].granted, 1);
    assert_eq!(world.engines[0].old, 0);
    assert_eq!(world.machine.health(world.now).late_beats.count, 0);
}

/// An ack is wanted at least once in a TTL, so that a lost nak is noticed.
#[test]
fn an_ack_is_wanted_at_least_once_a_ttl() {
    let (mut world, _) = World::with_one(1, 1);
    world.run_seconds(60);
    let wanted: Vec<Nanos> = world.engines[0]
        .frames
        .iter()
        .filter(|(_, _, wants_ack)| *wants_ack)
        .map(|(at, _, _)| *at)
        .collect();
    assert!(wanted.len() >= 20, "{} acks in 65 s", wanted.len());
    assert!(wanted.windows(2).all(|pair| pair[1] - pair[0] <= from_ms(3000)), "{wanted:?}");
}

#[test]
fn a_beat_says_load_and_state_and_a_request_the_rest() {
    let (mut world, a) = World::with_one(1, 1);
    let since = world.now;
    world.machine.set_load(a, 17);
    world.machine.declare(world.now, a, Declared::Draining);
    world.run(from_ms(1));
    let held = world.engines[0].one("a").clone();
    assert_eq!((held.load, held.declared), (17, Declared::Draining), "at once");
    let change = Change {
        weight: Some(5),
        version: Some(Version::new(1, 2, 3, 0)),
        attributes: Some(vec!["blue".into()]),
        ..Change::default()
    };
    world.machine.update(a, &change).unwrap();
    world.run(from_ms(1));
    let held = world.engines[0].one("a").clone();
    assert_eq!((held.body.weight.get(), held.tail.as_slice()), (5, b"\x04blue".as_slice()));
    assert_eq!(held.body.version, Version::new(1, 2, 3, 0));
    // And all of it is said again after the engine has lost everything.
    world.engines[0].restart_empty();
    world.run_seconds(5);
    let held = world.engines[0].one("a").clone();
    assert_eq!((held.body.weight.get(), held.tail.as_slice()), (5, b"\x04blue".as_slice()));
    assert_eq!((held.load, held.declared), (17, Declared::Draining));
    assert_eq!(world.engines[0].updates, 1, "a registration needs no update after it");
    let wrong = Change { attributes: Some(vec!["=".into()]), ..Change::default() };
    assert!(world.machine.update(a, &wrong).is_err());
    assert!(world.sent_since(since, 0, Kind::Update).len() == 1);
}

#[test]
fn a_lease_that_the_engine_lost_is_replaced_within_a_second_or_two() {
    let (mut world, a) = World::with_one(1, 1);
    let first = world.engines[0].one("a").nonce;
    let since = world.now;
    world.engines[0].restart_empty();
    world.run_seconds(3);
    assert!(world.is_up(a));
    assert_ne!(world.engines[0].one("a").nonce, first, "a registration of its own");
    let events = world.events_since(since);
    assert!(
        matches!(
            events[..],
            [
                Event::Lost { status: Status::Unknown, .. },
                Event::EngineRestarted { .. },
                Event::Up { .. }
            ]
        ),
        "{events:?}"
    );
}

/// A new lease has the numbers of an old one of the process before, in the same frame: the nak is
/// for the old one.
#[test]
fn a_nak_that_names_two_leases_is_for_the_old_one() {
    let (mut world, a) = World::with_one(1, 1);
    // Between two beats.
    world.run(from_ms(100));
    world.engines[0].restart_empty();
    let since = world.now;
    let b = world.register("b");
    world.run_seconds(4);
    assert!(world.is_up(a) && world.is_up(b));
    let lost = |event: &Event| match event {
        Event::Lost { instance, .. } => Some(instance.instance().to_owned()),
        _ => None,
    };
    let lost: Vec<String> = world.events_since(since).iter().filter_map(lost).collect();
    assert_eq!(lost, ["a"]);
}

/// An engine that is killed and comes back with its leases remembers the last sequences: they have
/// to go on, or every beat is old and the instance is down in the end.
#[test]
fn sequences_go_on_after_another_epoch() {
    let (mut world, a) = World::with_one(1, 1);
    let since = world.now;
    world.engines[0].is_dead = true;
    world.run(from_ms(900));
    world.engines[0].is_dead = false;
    world.engines[0].restart_warm();
    world.run_seconds(10);
    assert!(world.is_up(a));
    assert_eq!((world.engines[0].old, world.engines[0].granted), (0, 1));
    assert!(world.now - world.engines[0].one("a").heard < from_ms(1200));
    let events = world.events_since(since);
    assert!(matches!(events[..], [Event::EngineRestarted { .. }]), "{events:?}");
}

#[test]
fn a_second_agent_with_the_same_identity_is_reported_and_not_fought() {
    let (mut world, a) = World::with_one(2, 2);
    let since = world.now;
    world.engines[0].replace("a");
    world.run_seconds(60);
    assert_eq!(world.machine.standing(a), Standing::Replaced);
    let events = world.events_since(since);
    assert!(matches!(events[..], [Event::Replaced { .. }]), "{events:?}");
    assert_eq!(world.engines[0].granted, 1, "the identity is left to the other");
    assert!(!world.engines[1].has("a"), "and given up everywhere");
    assert!(world.sent_since(since + from_ms(2000), 0, Kind::Beat).is_empty());
    assert!(!world.machine.is_empty());
    world.machine.deregister(world.now, a);
    world.run(from_ms(1));
    assert!(world.machine.is_empty());
}

#[test]
fn deregistered_in_one_exchange_whatever_stage_it_is_in() {
    let (mut world, a) = World::with_one(1, 1);
    world.machine.deregister(world.now, a);
    assert_eq!(world.machine.standing(a), Standing::Ended);
    world.run(3 * LATENCY);
    assert!(!world.engines[0].has("a") && world.machine.is_empty());
    // While its request is under way, and while it waits.
    let b = world.register("b");
    world.run(LATENCY / 2);
    world.machine.deregister(world.now, b);
    world.run_seconds(1);
    assert!(!world.engines[0].has("b") && world.machine.has_ended(b));
    world.engines[0].refuses = Some(Status::Full);
    let c = world.register("c");
    world.run_seconds(1);
    world.machine.deregister(world.now, c);
    assert!(world.machine.has_ended(c));
    world.engines[0].refuses = None;
    world.run_seconds(60);
    assert!(world.engines[0].held.is_empty());
}

/// A farewell that gets lost is said again, and given up after some seconds.
#[test]
fn a_farewell_is_repeated() {
    let (mut world, a) = World::with_one(1, 1);
    world.engines[0].is_dead = true;
    world.machine.deregister(world.now, a);
    world.run(from_ms(300));
    world.engines[0].is_dead = false;
    world.run_seconds(1);
    assert!(!world.engines[0].has("a") && world.machine.has_ended(a));
    let b = world.register("b");
    world.run_seconds(5);
    world.engines[0].is_dead = true;
    world.machine.deregister(world.now, b);
    world.run_seconds(7);
    assert!(world.machine.has_ended(b));
}

#[test]
fn what_will_not_change_is_asked_once() {
    for status in [Status::Denied, Status::Collision, Status::TooLarge, Status::Invalid] {
        let mut world = World::new(1, 1);
        world.engines[0].refuses = Some(status);
        let a = world.register("a");
        world.run_seconds(100);
        assert_eq!(world.machine.standing(a), Standing::Refused(status));
        assert_eq!(world.engines[0].registers.len(), 1, "{status:?}");
        let told =
            |event: &Event| matches!(event, Event::Refused { status: it, .. } if *it == status);
        assert_eq!(world.events_since(0).iter().filter(|event| told(event)).count(), 1);
        // Another process may have another deny list, and an update may have mended it.
        world.engines[0].refuses = None;
        world.machine.update(a, &Change { weight: Some(1), ..Change::default() }).unwrap();
        world.run_seconds(1);
        assert!(world.is_up(a), "{status:?}");
    }
}

/// Full jitter: the waits of many agents are spread from nothing to the ceiling, which doubles up
/// to 30 s.
#[test]
fn refusals_are_answered_with_longer_waits_that_are_spread() {
    for (status, longest) in [
        (Status::Full, BACKOFF_BASE),
        (Status::Quota, BACKOFF_BASE),
        (Status::Conflict, BACKOFF_BASE),
        (Status::Busy, from_ms(16)),
    ] {
        let mut firsts = Vec::new();
        for seed in 0..200 {
            let mut world = World::seeded(1, 1, [seed, seed]);
            world.engines[0].refuses = Some(status);
            let a = world.register("a");
            world.run_seconds(200);
            assert_eq!(world.machine.standing(a), Standing::BackOff(status));
            let waits: Vec<Nanos> =
                world.engines[0].registers.windows(2).map(|pair| pair[1] - pair[0]).collect();
            firsts.push(waits[0]);
            for (refusals, wait) in waits.iter().enumerate() {
                let ceiling = (longest << refusals.min(20)).min(BACKOFF_CAP);
                assert!(*wait <= ceiling + 3 * LATENCY, "{status:?} {refusals}: {waits:?}");
            }
            let since = world.now;
            world.engines[0].refuses = None;
            world.run(BACKOFF_CAP + from_ms(1));
            assert!(world.is_up(a));
            let told = world.events_since(0);
            let told = told.iter().filter(|it| matches!(it, Event::BackOff { .. })).count();
            assert!(world.now > since && told == waits.len() + 1);
        }
        let mean = firsts.iter().sum::<Nanos>() / 200;
        let (low, high) = (firsts.iter().filter(|it| **it < longest / 4).count(), longest * 3 / 4);
        let high = firsts.iter().filter(|it| **it > high).count();
        assert!((longest * 4 / 10..longest * 6 / 10).contains(&mean), "{status:?}: {mean}");
        assert!(low > 25 && high > 25, "{status:?}: {low} short waits, {high} long ones of 200");
    }
}

/// The cookie of an engine process before is refused: the agent proves its address again.
#[test]
fn a_cookie_that_is_refused_is_asked_for_again() {
    let (mut world, _) = World::with_one(1, 1);
    world.engines[0].cookies += 1;
    let b = world.register("b");
    let since = world.now;
    world.run(from_ms(50));
    assert!(world.is_up(b));
    assert_eq!(world.sent_since(since, 0, Kind::Hello).len(), 1);
    // And one whose time is over is not even tried.
    world.run_seconds(70);
    world.engines[0].cookies += 1;
    let (c, since) = (world.register("c"), world.now);
    world.run(from_ms(1));
    assert!(world.is_up(c));
    assert_eq!(world.sent_since(since, 0, Kind::Register).len(), 1);
}

/// Another address: an identity that lives can't be registered from there, so the lease is given
/// back first. An instance with an address of its own only beats on.
#[test]
fn a_changed_address_is_registered_anew() {
    let (mut world, a) = World::with_one(1, 1);
    let own = Instance::new("s", 80).name("b").address("192.0.2.1".parse().unwrap());
    let b = world.machine.register(&own).unwrap();
    world.run_seconds(2);
    let since = world.now;
    world.address = Ipv4Addr::new(10, 0, 0, 2);
    world.machine.opened(world.now, LinkId(0), IpAddr::V4(world.address));
    world.run(from_ms(100));
    assert!(world.is_up(a) && world.is_up(b));
    assert_eq!(world.engines[0].one("a").from, world.address);
    assert_eq!(world.engines[0].granted, 3, "one of them has a new lease");
    let events = world.events_since(since);
    assert!(matches!(events[..], [Event::AddressChanged { .. }, Event::Up { .. }]), "{events:?}");
}

/// The farewell of an instance whose address changed tells that another agent has its identity.
#[test]
fn replaced_while_its_address_changes_is_reported() {
    let (mut world, a) = World::with_one(1, 1);
    world.run_seconds(2);
    world.engines[0].replace("a");
    world.address = Ipv4Addr::new(10, 0, 0, 2);
    world.machine.opened(world.now, LinkId(0), IpAddr::V4(world.address));
    let since = world.now;
    world.run_seconds(60);
    assert_eq!(world.machine.standing(a), Standing::Replaced);
    let events = world.events_since(since);
    assert!(matches!(events[..], [.., Event::Replaced { .. }]), "{events:?}");
}

/// A thread that was stopped finds that it is late, says so, and blames no engine for it.
#[test]
fn lateness_is_our_own_fault() {
    let (mut world, a) = World::with_one(1, 1);
    let since = world.now;
    world.starve(from_ms(9000));
    world.run_seconds(5);
    assert!(world.is_up(a));
    let health = world.machine.health(world.now);
    assert_eq!((health.starvation.count, health.late_beats.count), (1, 1));
    assert!(health.starvation.max > Duration::from_secs(7), "{health:?}");
    assert!(health.late_beats.last > Duration::from_secs(7), "{health:?}");
    let events = world.events_since(since);
    assert!(matches!(events[..], [Event::Late { .. }]), "{events:?}");
}
