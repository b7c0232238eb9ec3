//! Single scenes: many changes at once, and pushes that get lost.

use crate::plan::{AgentPlan, InstancePlan, Plan};
use crate::world::{Happening, START, World};
use heartline::internals::clock::{NANOS_PER_SECOND, Nanos, from_ms};
use heartline_wire::Declared;

/// One engine, an agent with so many instances of a service, and agents that watch it.
fn plan(instances: usize, watchers: usize, push_loss: u32) -> Plan {
    let instance = |at: usize| InstancePlan {
        service: "s0".into(),
        name: format!("i{at}"),
        port: at as u16 + 1,
        ttl_ms: 3_000,
        weight: 1,
    };
    let agent = |host: u8, instances: usize, watched: Vec<String>| AgentPlan {
        host,
        replicas: 1,
        instances: (0..instances).map(instance).collect(),
        watched,
        starts: 0,
    };
    let watchers = (0..watchers).map(|at| agent(at as u8 + 2, 0, vec!["s0".into()]));
    Plan {
        seed: 3,
        ttl: from_ms(3_000),
        length: from_ms(1),
        engines: 1,
        capacity: 2_048,
        quota: 2_048,
        hold: true,
        tombstone: from_ms(60_000),
        command_queue: 2_048,
        socket_queue: 4_096,
        agents: std::iter::once(agent(1, instances, Vec::new())).chain(watchers).collect(),
        push_loss,
        faults: Vec::new(),
    }
}

impl World {
    /// All instances of the first agent declare the same, at once.
    fn all_declare(&mut self, declared: Declared) {
        let now = self.now;
        if let Some(process) = &mut self.agents[0].process {
            for owned in &process.owned {
                process.machine.declare(now, owned.id, declared);
            }
        }
        self.wake_agent(0, now);
    }

    /// Lets time pass.
    fn passes(&mut self, time: Nanos) {
        let until = self.now + time;
        self.run_until(until).expect("nothing is broken");
    }
}

/// More changes in one round than pushes tell: watchers are told to pull, and do.
#[test]
fn five_hundred_changes_at_once_are_seen() {
    let mut world = World::new(&plan(500, 4, 0));
    world.passes(2 * NANOS_PER_SECOND);
    for declared in [Declared::Draining, Declared::Serving, Declared::Maintenance] {
        world.all_declare(declared);
        world.passes(from_ms(60));
        world.viewed().expect("the views are what the engine says");
    }
    assert!(world.seen.contains(&(crate::invariants::Seen::Push, 1)), "nobody had to pull");
}

/// A change every millisecond while a fifth of all pushes gets lost: 50 ms after the last one every
/// view has it. A lost last push is told of by a beacon, every 5 ms; a gap costs one pull.
#[test]
fn views_heal_within_50_ms_of_the_last_change_though_pushes_get_lost() {
    let mut world = World::new(&plan(25, 40, 20));
    world.passes(2 * NANOS_PER_SECOND);
    for round in 0..20 {
        for at in 0..200 {
            let seed = change(round, at);
            world.schedule(world.now + at * from_ms(1), Happening::Churn(0, seed));
        }
        world.passes(from_ms(200));
        world.passes(world.changed_at + from_ms(50) - world.now);
        world.viewed().expect("the views are what the engine says");
    }
}

/// An engine that was stopped for longer than watches stand pushes nothing to those that ended
/// meanwhile, before it has looked at their times.
#[test]
fn an_engine_that_was_stopped_pushes_nothing_to_watches_that_are_over() {
    let mut world = World::new(&plan(5, 3, 0));
    world.passes(2 * NANOS_PER_SECOND);
    world.agent_dies(2);
    if let Some(engine) = &mut world.places[0].engine {
        engine.paused_until = world.now + 12 * NANOS_PER_SECOND;
    }
    world.passes(10 * NANOS_PER_SECOND);
    world.all_declare(Declared::Draining);
    world.passes(12 * NANOS_PER_SECOND);
    world.viewed().expect("the others see what has changed");
}

/// One of the instances declares something.
fn change(round: u64, at: u64) -> u64 {
    (round * 1_000 + at).wrapping_mul(0x9E37_79B9_7F4A_7C15) & !7
}

#[test]
fn the_scenes_begin_well() {
    let mut world = World::new(&plan(25, 3, 0));
    world.passes(NANOS_PER_SECOND);
    world.recovered().expect("all are up");
    world.viewed().expect("all are seen");
    assert!(world.now >= START + NANOS_PER_SECOND);
}
