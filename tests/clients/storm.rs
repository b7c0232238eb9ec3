//! A thousand agents whose engine lost everything: they come back by themselves, and spread out.

use crate::plan::{AgentPlan, InstancePlan, Plan};
use crate::world::{Happening, START, World};
use heartline::internals::clock::{NANOS_PER_SECOND, Nanos, from_ms};

const AGENTS: usize = 1_000;
const DIES: Nanos = 10 * NANOS_PER_SECOND;
const BIN: Nanos = from_ms(100);

fn plan() -> Plan {
    let agent = |number: usize| AgentPlan {
        host: (number % 250) as u8 + 1,
        replicas: 1,
        instances: vec![InstancePlan {
            service: format!("s{}", number % 10),
            name: format!("i{number}"),
            port: number as u16 + 1,
            ttl_ms: 3_000,
            weight: 1,
        }],
        watched: Vec::new(),
        starts: from_ms(number as u64),
    };
    Plan {
        seed: 1,
        ttl: from_ms(3_000),
        length: DIES + from_ms(1),
        engines: 1,
        capacity: 2_048,
        quota: 2_048,
        hold: true,
        tombstone: from_ms(60_000),
        command_queue: 2_048,
        socket_queue: 4_096,
        agents: (0..AGENTS).map(agent).collect(),
        push_loss: 0,
        faults: Vec::new(),
    }
}

/// The engine is dead for so long. The requests that its successor gets in each tenth of a second
/// from its start on: hellos and registrations.
fn comes_back_after(downtime: Nanos) -> Vec<(usize, usize)> {
    let mut world = World::new(&plan());
    world.counts_requests();
    world.schedule(START + DIES, Happening::Dies(0));
    world.schedule(START + DIES + downtime, Happening::Revives(0));
    world.run_until(START + DIES + downtime + 60 * NANOS_PER_SECOND).expect("nothing is broken");
    let engine = world.places[0].engine.as_ref().expect("it lives");
    assert_eq!(engine.members() as usize, AGENTS, "everybody is back");
    let from = START + DIES + downtime;
    let bins = 60 * NANOS_PER_SECOND / BIN;
    let in_bin = |times: &[Nanos], bin: u64| {
        let range = from + bin * BIN..from + (bin + 1) * BIN;
        times.iter().filter(|at| range.contains(at)).count()
    };
    let (hellos, registers) = world.requests.expect("they were counted");
    (0..bins).map(|bin| (in_bin(&hellos, bin), in_bin(&registers, bin))).collect()
}

/// In each tenth of a second a tenth of all agents register on average, for the first wait is drawn
/// from a second. A Poisson number with this mean is beyond 150 once in a million times.
#[test]
fn a_thousand_agents_that_lost_everything_come_back_spread_out() {
    for downtime in [from_ms(300), from_ms(20_000)] {
        let bins = comes_back_after(downtime);
        let (hellos, registers): (Vec<usize>, Vec<usize>) = bins.into_iter().unzip();
        println!("down for {} ms", downtime / from_ms(1));
        println!("  hellos in each 100 ms: {:?}", &hellos[..80]);
        println!("  registrations in each 100 ms: {:?}", &registers[..80]);
        let peak = registers.iter().max().copied().unwrap_or(0);
        assert!(peak <= 150, "{peak} registrations in a tenth of a second");
        assert!(registers.iter().sum::<usize>() <= AGENTS * 11 / 10, "hardly any is repeated");
        let peak = hellos.iter().max().copied().unwrap_or(0);
        assert!(peak <= 300, "{peak} hellos in a tenth of a second");
    }
}
