//! Everything at once: loss, copies, reordering, engines that die and come back, with and without
//! their leases, changed addresses, and a program that registers, changes and deregisters. When it
//! is over, whatever is registered is up, and nothing else is.

use super::*;
use crate::agent::limits::BACKOFF_CAP;
use crate::agent::packs::NO_PACK;
use crate::agent::post::{NO_POST, Stage};
use crate::registration::Change;
use heartline_wire::{Declared, Status};
use std::collections::BTreeSet;

/// What holds between any two steps of a machine.
fn check(machine: &Machine) {
    for (at, link) in machine.links.iter().enumerate() {
        let in_packs = machine
            .posts
            .iter()
            .filter(|post| post.link == at && matches!(post.stage, Stage::Up | Stage::Leaving));
        let mut places = BTreeSet::new();
        for post in in_packs {
            assert_ne!(post.pack, NO_PACK);
            let place = link.packs.get(post.pack).posts()[usize::from(post.place)];
            let found = &machine.posts[place as usize];
            assert!(std::ptr::eq(found, post), "a place is another post's: {post:?}");
            let (slot, generation) = (post.lease.slot, post.lease.generation);
            let mut named = link.packs.get(post.pack).matching(slot, generation);
            assert!(named.any(|number| number == place));
            assert!(places.insert((post.pack, post.place)));
        }
        assert_eq!(places.len(), link.packs.beating());
    }
    let mut used = 0;
    for (number, member) in machine.members.iter().enumerate() {
        for (link, &post) in member.posts.iter().enumerate().filter(|(_, post)| **post != NO_POST) {
            let post = &machine.posts[post as usize];
            assert_eq!((post.member as usize, post.link), (number, link));
            assert_ne!(post.stage, Stage::Free);
            used += 1;
        }
    }
    assert_eq!(machine.posts.len() - machine.free_posts.len(), used);
    let live = machine.members.iter().filter(|member| member.is_live).count();
    assert_eq!(live, machine.live_members);
    assert_eq!(machine.members.len() - machine.free_members.len(), live);
}

/// One thing that happens to an engine, the agent, or the network.
fn happen(world: &mut World, registered: &mut Vec<(RegistrationId, String)>, next: &mut u32) {
    let engines = world.engines.len() as u64;
    let engine = (world.random.next() % engines) as usize;
    let which = |world: &mut World, count: usize| (world.random.next() % count as u64) as usize;
    match world.random.next() % 14 {
        0 => world.engines[engine].is_dead = true,
        1 | 2 => world.engines[engine].is_dead = false,
        3 => world.engines[engine].restart_warm(),
        4 => world.engines[engine].restart_empty(),
        5 => {
            world.faults = Faults {
                lost: world.random.next() % 60,
                doubled: world.random.next() % 30,
                late: world.random.next() % 30,
            };
        }
        6 => {
            let host = (world.random.next() % 3) as u8;
            world.address = Ipv4Addr::new(10, 0, 0, host);
            world.machine.opened(world.now, LinkId(engine), IpAddr::V4(world.address));
        }
        7 => {
            let refuses = [None, Some(Status::Busy), Some(Status::Full), Some(Status::Denied)];
            let at = which(world, 4);
            world.engines[engine].refuses = refuses[at];
        }
        8 => {
            let time = world.random.up_to(4 * NANOS_PER_SECOND);
            world.starve(time);
        }
        9 if !registered.is_empty() => {
            let at = which(world, registered.len());
            let weight = Some(world.random.next() as u16);
            let change = Change { weight, load: Some(*next as u16), ..Change::default() };
            world.machine.update(registered[at].0, &change).unwrap();
        }
        10 if !registered.is_empty() => {
            let at = which(world, registered.len());
            let declared = Declared::from_bits(world.random.next() % 3);
            world.machine.declare(world.now, registered[at].0, declared);
        }
        11 if !registered.is_empty() => {
            let at = which(world, registered.len());
            let (id, _) = registered.swap_remove(at);
            world.machine.deregister(world.now, id);
        }
        _ => {
            *next += 1;
            let name = format!("i{next}");
            registered.push((world.register(&name), name));
        }
    }
}

fn survive(seed: u64) {
    let (engines, replicas) = [(1, 1), (2, 1), (2, 2), (3, 2)][(seed % 4) as usize];
    let mut world = World::seeded(engines, replicas, [seed, !seed]);
    let (mut registered, mut next) = (Vec::new(), 0);
    for _ in 0..300 {
        happen(&mut world, &mut registered, &mut next);
        let time = world.random.up_to(NANOS_PER_SECOND / 2);
        world.run(time);
        check(&world.machine);
    }
    world.faults = Faults::default();
    // Late refusals are those of the process before.
    world.run_seconds(2);
    for engine in &mut world.engines {
        (engine.is_dead, engine.refuses) = (false, None);
        // What was refused for good is asked again of another process.
        engine.restart_warm();
    }
    // The last address holds everywhere; leases of another one are down by then.
    for link in 0..engines {
        world.machine.opened(world.now, LinkId(link), IpAddr::V4(world.address));
    }
    world.run(2 * BACKOFF_CAP + from_ms(5000));
    check(&world.machine);
    let now = world.now;
    for (id, name) in &registered {
        let standing = world.machine.standing(*id);
        let posts = world.machine.posts_of(id.member);
        let posts = posts.iter().map(|post| &world.machine.posts[*post as usize]);
        let is_up = standing == Standing::Up { engines: replicas };
        assert!(is_up, "seed {seed}: {name} {standing:?} {:?}", posts.collect::<Vec<_>>());
    }
    for (at, (engine, link)) in world.engines.iter().zip(&world.machine.links).enumerate() {
        let alive = engine.held.iter().filter(|(_, held)| now < held.heard + held.ttl);
        let alive: BTreeSet<&str> = alive.map(|((_, name), _)| name.as_str()).collect();
        let wanted = registered.iter().map(|(_, name)| name.as_str());
        let wanted: BTreeSet<&str> = if link.wanted { wanted.collect() } else { BTreeSet::new() };
        assert_eq!(alive, wanted, "seed {seed}, engine {at}");
        for (id, name) in registered.iter().filter(|_| link.wanted) {
            let member = world.machine.member(*id).unwrap();
            let held = engine.one(name);
            assert_eq!(held.declared, member.declared(), "seed {seed}: {name}");
            assert_eq!(held.load, member.load, "seed {seed}: {name}");
            assert_eq!(held.body.weight, member.body.weight, "seed {seed}: {name}");
        }
    }
    world.machine.stop(world.now);
    world.run_seconds(1);
    assert!(world.machine.is_empty(), "seed {seed}");
}

#[test]
fn whatever_happens_everything_registered_is_up_in_the_end() {
    for seed in 0..300 {
        let outcome = std::panic::catch_unwind(|| survive(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
