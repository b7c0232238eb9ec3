//! Deterministic simulation: the real registrar, data planes, region and client requests, with
//! simulated time, threads and network, under faults; an oracle that knows the protocol watches
//! every step. A seed decides everything.
//!
//! ```text
//! cargo test --release --test simulation                       # 2,000 seeds
//! HEARTLINE_SEEDS=7..7 cargo test --release --test simulation  # one seed
//! HEARTLINE_SEEDS=7..7 HEARTLINE_FAULTS=3,5 ...                # with some faults of its list only
//! HEARTLINE_FAULTS=loss,pause HEARTLINE_SIM_SECONDS=60 ...     # some classes, a fixed length
//! HEARTLINE_SIM_MINUTES=60 ...                                 # further seeds for an hour
//! ```

mod checks;
mod client;
mod engine;
mod frames;
mod network;
mod oracle;
mod plan;
mod tables;
mod threads;
mod world;

use heartline::internals::clock::Nanos;
use heartline_test_support::seeds::{self, Report, Simulation, Violation};
use oracle::{INVARIANTS, Seen};
use plan::{Class, Fault, Plan};
use world::World;

/// The simulation of the engine.
struct Engines;

impl Simulation for Engines {
    type Plan = Plan;
    type Class = Class;
    type Seen = (Seen, u64);

    const TARGET: &'static str = "simulation";
    const SEEDS: u64 = 2000;
    const INVARIANTS: &'static [(&'static str, &'static str)] = &INVARIANTS;
    const REACHED: &'static [(Seen, u64)] = &REACHED;

    fn plan(seed: u64, seconds: Option<u64>) -> Plan {
        Plan::new(seed, seconds)
    }

    fn faults(plan: &mut Plan) -> &mut Vec<Fault> {
        &mut plan.faults
    }

    fn run(plan: &Plan) -> Result<Report<(Seen, u64)>, (Nanos, Violation)> {
        World::new(plan).run()
    }
}

/// What a run of many seeds must have come by: each kind of event with its cause (kind in the low
/// byte, cause above it), and each status with the kind of its request (kind in the low byte,
/// status above it).
const REACHED: [(Seen, u64); 61] = {
    use Seen::{Answer, Doze, Event, Stop};
    [
        (Event, 0x101),
        (Event, 0x202),
        (Event, 0x303),
        (Event, 0x404),
        (Event, 0x305),
        (Event, 0x505),
        (Event, 0xB05),
        (Event, 0x206),
        (Event, 0x107),
        (Event, 0x208),
        (Event, 0x109),
        (Event, 0x609),
        (Event, 0x709),
        (Event, 0x809),
        (Event, 0x40A),
        (Event, 0x50B),
        (Event, 0x90C),
        (Event, 0xA0C),
        (Answer, 0x001),
        (Answer, 0x002),
        (Answer, 0x102),
        (Answer, 0x202),
        (Answer, 0x302),
        (Answer, 0x402),
        (Answer, 0x502),
        (Answer, 0x602),
        (Answer, 0x802),
        (Answer, 0x902),
        (Answer, 0xB02),
        (Answer, 0x003),
        (Answer, 0xD03),
        (Answer, 0x004),
        (Answer, 0x204),
        (Answer, 0x804),
        (Answer, 0x904),
        (Answer, 0xA04),
        (Answer, 0xB04),
        (Answer, 0xC04),
        (Answer, 0x005),
        (Answer, 0x905),
        (Answer, 0xA05),
        (Answer, 0xB05),
        (Answer, 0xC05),
        (Answer, 0x006),
        (Answer, 0x106),
        (Answer, 0x206),
        (Answer, 0x1206),
        (Answer, 0x007),
        (Answer, 0x107),
        (Answer, 0x008),
        (Answer, 0x108),
        (Answer, 0x208),
        (Answer, 0xE08),
        (Answer, 0xF08),
        (Answer, 0x1008),
        (Answer, 0x1108),
        (Answer, 0x109),
        (Answer, 0x009),
        (Doze, 0),
        (Stop, 0),
        (Stop, 1),
    ]
};

#[test]
fn no_seed_breaks_an_invariant() {
    seeds::hold::<Engines>();
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    seeds::repeat::<Engines>();
}
