//! An engine that is killed between two stores of one step leaves half of it behind. Whoever goes
//! on with its memory must end the step or undo it: a version that grew without an event, a member
//! that is listed and not found, new attributes of half the length would be there for good.
//!
//! Each action is done once to count its stores, then killed at every one of them; what is resumed
//! then must agree with itself, and each member must be as before the action or as after it. The
//! resumption is killed, too.

mod world;

use heartline::internals::clock::NANOS_PER_MS;
use heartline_killpoints::sync::kill_at;
use heartline_wire::{Declared, update_fields};
use std::collections::BTreeMap;
use world::{Member, NOT_READY, View, World};

type Action = (&'static str, fn(&mut World), fn(&mut World));

/// What is there, and what is done to it.
const ACTIONS: [Action; 25] = [
    ("the first of a service", |_| {}, |world| world.register("s", "a", 1)),
    (
        "one more of a service",
        |world| world.register("s", "a", 1),
        |world| world.register("s", "b", 1),
    ),
    (
        "one that is not ready",
        |world| world.register("s", "a", 1),
        |world| world.register("s", "b", NOT_READY),
    ),
    (
        "the place of an empty service for another name with its id",
        |world| {
            world.register("8yn0iYCKYHlIj4-BwPqk", "a", 1);
            world.deregister("8yn0iYCKYHlIj4-BwPqk", "a");
        },
        |world| world.register("GReLUrM4wMqfg9yzV3KQ", "a", 2),
    ),
    (
        "a list that grows",
        |world| world.register_all("s", 4),
        |world| world.register("s", "more", 1),
    ),
    (
        "a list that shrinks",
        |world| world.register_all("s", 9),
        |world| (3..9).for_each(|n| world.deregister("s", &format!("i{n}"))),
    ),
    ("a replacement", |world| world.register_all("s", 3), |world| world.register("s", "i1", 2)),
    (
        "a replacement of the only one",
        |world| world.register("s", "a", 1),
        |world| world.register("s", "a", 2),
    ),
    (
        "an update",
        |world| world.register_all("s", 2),
        |world| world.update("s", "i0", !update_fields::LOAD, &[7; 60]),
    ),
    (
        "attributes",
        |world| world.register_all("s", 2),
        |world| world.update("s", "i1", update_fields::ATTRIBUTES, &[9; 3]),
    ),
    ("a farewell", |world| world.register_all("s", 3), |world| world.deregister("s", "i0")),
    (
        "the last one's farewell",
        |world| world.register("s", "a", 1),
        |world| world.deregister("s", "a"),
    ),
    ("a farewell by beat", |world| world.register_all("s", 2), |world| world.beat("s", "i0", 3)),
    (
        "draining",
        |world| world.register_all("s", 2),
        |world| world.beat("s", "i0", Declared::Draining as u16),
    ),
    ("suspicion", |world| world.register_all("s", 2), |world| world.pass(70)),
    (
        "up again",
        |world| {
            world.register_all("s", 2);
            world.pass(70);
        },
        |world| world.beat("s", "i1", 0),
    ),
    (
        "silence of a few",
        |world| {
            world.register_all("s", 3);
            world.pass(70);
        },
        |world| world.pass(32),
    ),
    (
        "silence of many, held",
        |world| {
            world.register_all("s", 9);
            world.pass(70);
        },
        |world| world.pass(32),
    ),
    (
        "the end of a hold",
        |world| {
            world.register_all("s", 9);
            world.pass(102);
        },
        |world| (0..5).for_each(|n| world.beat("s", &format!("i{n}"), 0)),
    ),
    (
        "let go after the longest hold",
        |world| {
            world.register_all("s", 9);
            world.pass(102);
        },
        |world| world.pass(310),
    ),
    ("deafness after drops", |world| world.register_all("s", 2), |world| world.look(1, 0)),
    (
        "deafness after a stall",
        |world| world.register_all("s", 2),
        |world| world.look(0, 30 * NANOS_PER_MS),
    ),
    (
        "a revival",
        |world| {
            world.register_all("s", 2);
            world.pass(110);
        },
        |world| world.beat("s", "i0", 0),
    ),
    (
        "a burial",
        |world| {
            world.register_all("s", 2);
            world.pass(110);
        },
        |world| world.pass(110),
    ),
    (
        "a service in the place of an empty one",
        |world| {
            (0..16).for_each(|n| world.register(&format!("s{n}"), "a", 1));
            world.deregister("s5", "a");
        },
        |world| world.register("new", "a", 1),
    ),
];

fn prepared(prepare: fn(&mut World)) -> World {
    let mut world = World::new();
    prepare(&mut world);
    world
}

/// Every member as before or as after; no other service.
fn compare(what: &str, before: &View, after: &View, found: &View) {
    let stands = |view: &View, identity| -> Option<Member> { view.get(identity).cloned() };
    let mut identities: Vec<_> = before.keys().chain(after.keys()).chain(found.keys()).collect();
    identities.dedup();
    for identity in identities {
        let (old, new, is) =
            (stands(before, identity), stands(after, identity), stands(found, identity));
        assert!(
            is == old || is == new,
            "{what}: {identity:?} is {is:?}, was {old:?}, should become {new:?}"
        );
    }
}

#[test]
fn killed_at_every_store_a_step_is_whole_or_not_there() {
    let mut points = BTreeMap::new();
    for (name, prepare, act) in ACTIONS {
        let before = prepared(prepare).killed_and_resumed().check(name);
        let mut world = prepared(prepare);
        let (_, stores) = kill_at(u64::MAX - 1, || act(&mut world));
        assert!(stores >= 2, "{name}: {stores} stores are no step to be killed in");
        let after = world.killed_and_resumed().check(name);
        // Some actions are nothing after the time that a death takes: whoever is silent gets grace.
        for point in 0..stores {
            let what = format!("{name}, killed at store {point} of {stores}");
            let mut world = prepared(prepare);
            let (ended, _) = kill_at(point, || act(&mut world));
            assert!(!ended, "{what}");
            let resumed = world.killed_and_resumed();
            let found = resumed.check(&what);
            compare(&what, &before, &after, &found);
            resumed.register("another", "one", 1);
            resumed.check(&what);
            // The capacity is 16.
            assert_eq!(
                resumed.killed_and_resumed().check(&what).len(),
                (found.len() + 1).min(16),
                "{what}"
            );
        }
        points.insert(name, stores);
    }
    println!("{} kill points: {points:?}", points.values().sum::<u64>());
}

/// Dying again while going on must not cost more than dying once.
#[test]
fn killed_while_going_on_nothing_more_is_lost() {
    let mut count = 0;
    for (name, prepare, act) in ACTIONS {
        let before = prepared(prepare).killed_and_resumed().check(name);
        let mut world = prepared(prepare);
        let (_, stores) = kill_at(u64::MAX - 1, || act(&mut world));
        assert!(stores >= 2, "{name}: {stores} stores are no step to be killed in");
        let after = world.killed_and_resumed().check(name);
        // The last but one is where many a step is struck out.
        for point in [stores / 4, stores / 2, stores * 3 / 4, stores - 2] {
            let halfway = || {
                let mut world = prepared(prepare);
                kill_at(point, || act(&mut world));
                world
            };
            let mut second = 0;
            loop {
                let what =
                    format!("{name}, killed at store {point} and at store {second} of going on");
                let mut world = halfway();
                let ended = world.killed_in_resumption(second);
                let found = world.killed_and_resumed().check(&what);
                compare(&what, &before, &after, &found);
                count += 1;
                if ended {
                    break;
                }
                // All of the first hundred, where the step is ended and indexes are made; of the
                // others, one in seven.
                second += if second < 100 { 1 } else { 7 };
            }
        }
    }
    println!("{count} deaths while going on");
}

/// A step that an engine can't have begun is forgotten, whatever its words are.
#[test]
fn a_damaged_step_is_forgotten() {
    let mut world = World::new();
    world.register_all("s", 3);
    let before = world.killed_and_resumed().check("before");
    for seed in 0..2000_u64 {
        let mut world = World::new();
        world.register_all("s", 3);
        world.damage_step(seed);
        let found = world.killed_and_resumed().check(&format!("damage {seed}"));
        assert_eq!(found, before, "damage {seed}");
    }
}
