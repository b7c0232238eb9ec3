//! What a seed stands for: engines, agents, what they register and watch, and the list of faults.

use heartline::internals::clock::{Nanos, from_ms};
use heartline_test_support::seeds::{self, FaultClass};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What can go wrong. The names are what `HEARTLINE_FAULTS` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Datagrams get lost, 1 to 40 % of them.
    Loss,
    /// Datagrams come twice.
    Duplication,
    /// All datagrams are slower.
    Delay,
    /// Some datagrams are late by up to a second.
    Reorder,
    /// Some agents and an engine can't reach one another, in one direction or both.
    Partition,
    /// An agent's address changes: behind a translator, or its own.
    Address,
    /// An agent's process is stopped: no steps, and its datagrams wait.
    Stop,
    /// An agent's steps come late.
    Starve,
    /// An agent is killed, and perhaps started again.
    Kill,
    /// A second agent with the identities of another one.
    Twin,
    /// An engine stands still.
    Pause,
    /// An engine is killed, and its memory stays or is lost; or another one takes its place.
    Crash,
    /// Members come, go and change.
    Churn,
    /// Watch requests from ports of a proved address that receive nothing.
    Spoof,
    /// Datagrams recorded earlier are sent again.
    Replay,
    /// Random and mutated datagrams, to engines and agents.
    Hostile,
}

impl FaultClass for Class {
    const ALL: &'static [(Self, &'static str)] = &[
        (Class::Loss, "loss"),
        (Class::Duplication, "duplication"),
        (Class::Delay, "delay"),
        (Class::Reorder, "reorder"),
        (Class::Partition, "partition"),
        (Class::Address, "address"),
        (Class::Stop, "stop"),
        (Class::Starve, "starve"),
        (Class::Kill, "kill"),
        (Class::Twin, "twin"),
        (Class::Pause, "pause"),
        (Class::Crash, "crash"),
        (Class::Churn, "churn"),
        (Class::Spoof, "spoof"),
        (Class::Replay, "replay"),
        (Class::Hostile, "hostile"),
    ];
}

/// A fault of this simulation.
pub(crate) type Fault = seeds::Fault<Class>;

/// What an agent registers.
#[derive(Clone, Debug)]
pub(crate) struct InstancePlan {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) ttl_ms: u64,
    pub(crate) weight: u16,
}

/// One agent: a process on a host.
#[derive(Clone, Debug)]
pub(crate) struct AgentPlan {
    pub(crate) host: u8,
    /// Engines at which each instance is to be registered at once.
    pub(crate) replicas: usize,
    pub(crate) instances: Vec<InstancePlan>,
    pub(crate) watched: Vec<String>,
    pub(crate) starts: Nanos,
}

/// Everything that a seed decides before the first event. Times count from the start of the
/// simulation.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The usual TTL.
    pub(crate) ttl: Nanos,
    /// Faults happen before this time; after it comes the quiet end.
    pub(crate) length: Nanos,
    pub(crate) engines: usize,
    pub(crate) capacity: u32,
    pub(crate) quota: u32,
    pub(crate) hold: bool,
    pub(crate) tombstone: Nanos,
    pub(crate) command_queue: usize,
    pub(crate) socket_queue: usize,
    /// Percent of pushes that get lost, beside the faults.
    pub(crate) push_loss: u32,
    pub(crate) agents: Vec<AgentPlan>,
    pub(crate) faults: Vec<Fault>,
}

/// The usual TTLs in milliseconds: below the patience of an agent, around it, and above.
const TTLS_MS: [u64; 6] = [40, 200, 1_000, 3_000, 3_000, 20_000];

impl Plan {
    /// The plan of a seed. `seconds` replaces its length.
    pub(crate) fn new(seed: u64, seconds: Option<u64>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let ttl_ms = TTLS_MS[random.random_range(0..TTLS_MS.len())];
        let unit = from_ms(ttl_ms.max(500));
        let length =
            seconds.map_or(unit * random.random_range(6..24), |seconds| from_ms(seconds * 1000));
        let engines = random.random_range(1..3);
        let count = match random.random_range(0..10) {
            0 => random.random_range(12..31),
            1..4 => random.random_range(6..12),
            _ => random.random_range(2..6),
        };
        let services = random.random_range(1..5);
        let agents: Vec<AgentPlan> = (0..count)
            .map(|number| agent(&mut random, number, ttl_ms, services, engines))
            .collect();
        let instances: u32 = agents.iter().map(|agent| agent.instances.len() as u32).sum();
        let faults = (0..random.random_range(0..16))
            .map(|number| fault(&mut random, number, unit, length))
            .collect();
        Self {
            seed,
            ttl: from_ms(ttl_ms),
            length,
            engines,
            capacity: if random.random_bool(0.1) { 16 } else { (instances * 2).max(16) },
            quota: if random.random_bool(0.1) { 6 } else { u32::MAX / 2 },
            hold: random.random_bool(0.7),
            tombstone: unit * random.random_range(1..8),
            command_queue: if random.random_bool(0.3) { 4 } else { 2048 },
            socket_queue: if random.random_bool(0.3) { 24 } else { 400 },
            push_loss: 0,
            agents,
            faults,
        }
    }
}

fn agent(
    random: &mut StdRng,
    number: usize,
    ttl_ms: u64,
    services: usize,
    engines: usize,
) -> AgentPlan {
    let instances = (0..random.random_range(1..9))
        .map(|at| InstancePlan {
            service: format!("s{}", random.random_range(0..services)),
            name: format!("a{number}-{at}"),
            port: (1000 + number * 10 + at) as u16,
            ttl_ms: ttl_ms * [1, 1, 1, 2, 4][random.random_range(0..5)],
            weight: random.random_range(0..200),
        })
        .collect();
    let mut watched: Vec<String> = (0..random.random_range(0..5))
        .map(|_| format!("s{}", random.random_range(0..services)))
        .collect();
    watched.sort();
    watched.dedup();
    AgentPlan {
        // Some hosts have several agents.
        host: (number * 2 / 3) as u8 + 1,
        replicas: random.random_range(1..engines + 1),
        instances,
        watched,
        starts: random.random_range(0..from_ms(2000)),
    }
}

fn fault(random: &mut StdRng, number: usize, unit: Nanos, length: Nanos) -> Fault {
    let (class, _) = Class::ALL[random.random_range(0..Class::ALL.len())];
    let from = random.random_range(0..length);
    let tenth = unit / 10;
    let span = match class {
        Class::Stop | Class::Pause | Class::Crash => tenth * random.random_range(1..80),
        Class::Twin | Class::Kill => unit * random.random_range(1..10),
        _ => tenth * random.random_range(1..100),
    };
    Fault { number, class, from, until: from + span, seed: random.random() }
}
