//! What a seed stands for: the size of the engine, its clients, and the list of faults.

use heartline::internals::clock::{Nanos, from_ms};
use heartline_test_support::seeds::{self, FaultClass};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What can go wrong. The names are what `HEARTLINE_FAULTS` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Datagrams get lost, 1 to 30 % of them.
    Loss,
    /// Datagrams come twice.
    Duplication,
    /// All datagrams are slower.
    Delay,
    /// Some datagrams are late by up to four TTLs.
    Reorder,
    /// Hosts and engine can't reach one another, in one direction or both.
    Partition,
    /// A client's address or port changes under it.
    Rebind,
    /// The whole engine stands still for 0.1 to 20 TTLs.
    Pause,
    /// One thread of the engine stands still.
    Stall,
    /// Loops take long for each batch.
    Slow,
    /// The engine dies, stops in order or is replaced; after a death it comes back with its memory,
    /// but for one in eight.
    Crash,
    /// A client dies, silently or with the kernel telling of it; perhaps it comes back with the
    /// same identity.
    Death,
    /// Half of all clients or more die at once, and come back.
    Massacre,
    /// Another process claims the identity of a client.
    Twin,
    /// Datagrams recorded earlier are sent again.
    Replay,
    /// More datagrams than the socket's queue holds.
    Flood,
    /// Datagrams without an answer, so densely that loops doze.
    Dense,
    /// Random and mutated datagrams.
    Hostile,
    /// More registrations than the table, the quota or the directory hold.
    Crowd,
}

impl FaultClass for Class {
    const ALL: &'static [(Self, &'static str)] = &[
        (Class::Loss, "loss"),
        (Class::Duplication, "duplication"),
        (Class::Delay, "delay"),
        (Class::Reorder, "reorder"),
        (Class::Partition, "partition"),
        (Class::Rebind, "rebind"),
        (Class::Pause, "pause"),
        (Class::Stall, "stall"),
        (Class::Slow, "slow"),
        (Class::Crash, "crash"),
        (Class::Death, "death"),
        (Class::Massacre, "massacre"),
        (Class::Twin, "twin"),
        (Class::Replay, "replay"),
        (Class::Flood, "flood"),
        (Class::Dense, "dense"),
        (Class::Hostile, "hostile"),
        (Class::Crowd, "crowd"),
    ];
}

/// A fault of this simulation.
pub(crate) type Fault = seeds::Fault<Class>;

/// One instance and the process that beats for it.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) host: u8,
    pub(crate) ttl_ms: u32,
    pub(crate) starts: Nanos,
}

/// Everything that a seed decides before the first event. Times count from the start of the
/// simulation.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The usual TTL; all other times follow it.
    pub(crate) scale: Nanos,
    /// Faults happen before this time; after it comes the quiet end.
    pub(crate) length: Nanos,
    pub(crate) capacity: u32,
    pub(crate) quota: u32,
    pub(crate) hold: bool,
    pub(crate) tombstone: Nanos,
    pub(crate) loops: usize,
    /// Sockets of each loop: listening addresses.
    pub(crate) sockets: usize,
    /// How long a loop that has nothing to do spins.
    pub(crate) spin: Nanos,
    pub(crate) command_queue: usize,
    pub(crate) socket_queue: usize,
    pub(crate) clients: Vec<ClientPlan>,
    pub(crate) faults: Vec<Fault>,
}

/// The usual TTLs, in milliseconds: from the tick of the wheel to a quarter of the longest TTL
/// there is.
const SCALES_MS: [u64; 8] = [4, 20, 100, 500, 3_000, 30_000, 600_000, 21_600_000];

impl Plan {
    /// The plan of a seed. `seconds` replaces its length.
    pub(crate) fn new(seed: u64, seconds: Option<u64>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let scale = from_ms(SCALES_MS[random.random_range(0..SCALES_MS.len())]);
        let length =
            seconds.map_or(scale * random.random_range(10..50), |seconds| from_ms(seconds * 1000));
        let count = if random.random_bool(0.3) {
            random.random_range(1..8)
        } else {
            random.random_range(8..36)
        };
        let services = random.random_range(1..6);
        let mut clients = Vec::new();
        for number in 0..count {
            let ttl = scale / from_ms(1) * [1, 1, 1, 2, 4][random.random_range(0..5)];
            clients.push(ClientPlan {
                service: format!("s{}", random.random_range(0..services)),
                instance: format!("i{number}"),
                host: number as u8 % 200 + 1,
                ttl_ms: ttl as u32,
                starts: random.random_range(0..scale * 2),
            });
        }
        let capacity = if random.random_bool(0.25) { 16 } else { (count as u32 * 3 / 2).max(16) };
        let faults = (0..random.random_range(0..24))
            .map(|number| fault(&mut random, number, scale, length))
            .collect();
        Self {
            seed,
            scale,
            length,
            capacity,
            quota: if random.random_bool(0.2) { 3 } else { capacity },
            hold: random.random_bool(0.8),
            tombstone: scale * random.random_range(1..10),
            loops: random.random_range(1..4),
            sockets: random.random_range(1..3),
            spin: if random.random_bool(0.1) { 5_000 } else { 0 },
            command_queue: if random.random_bool(0.3) { 4 } else { 2048 },
            socket_queue: if random.random_bool(0.3) { 16 } else { 400 },
            clients,
            faults,
        }
    }
}

fn fault(random: &mut StdRng, number: usize, scale: Nanos, length: Nanos) -> Fault {
    let (class, _) = Class::ALL[random.random_range(0..Class::ALL.len())];
    let from = random.random_range(0..length);
    let tenth = scale / 10;
    let span = match class {
        Class::Pause => tenth * random.random_range(1..200),
        // While a loop stands still the registrar looks every millisecond: hours of that would
        // simulate nothing else.
        Class::Stall => (tenth * random.random_range(1..40)).min(from_ms(2000)),
        Class::Twin | Class::Death | Class::Massacre => scale * random.random_range(1..20),
        _ => tenth * random.random_range(1..100),
    };
    Fault { number, class, from, until: from + span, seed: random.random() }
}
