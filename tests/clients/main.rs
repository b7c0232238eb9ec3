//! Deterministic simulation of clients: real agents and resolvers against one or two engines of
//! the real parts, with simulated time and network, under faults. What must hold is looked at with
//! every step. A seed decides everything.
//!
//! `tests/simulation` does the same for the threads of an engine.
//!
//! ```text
//! cargo test --release --test clients                       # 1,000 seeds
//! HEARTLINE_SEEDS=7..7 cargo test --release --test clients  # one seed
//! HEARTLINE_SEEDS=7..7 HEARTLINE_FAULTS=3,5 ...             # with some faults of its list only
//! HEARTLINE_FAULTS=loss,pause HEARTLINE_SIM_SECONDS=60 ...  # some classes, a fixed length
//! HEARTLINE_SIM_MINUTES=60 ...                              # further seeds for an hour
//! HEARTLINE_SIM_TELL=1 ... -- --nocapture                   # what agents and engines tell
//! ```

mod agent;
mod caller;
mod engine;
mod faults;
mod invariants;
mod network;
mod plan;
mod scenes;
mod storm;
mod world;

use heartline::internals::clock::Nanos;
use heartline_test_support::seeds::{self, Report, Simulation, Violation};
use invariants::{INVARIANTS, Seen};
use plan::{Class, Fault, Plan};
use world::World;

/// The simulation of agents and engines.
struct Clients;

impl Simulation for Clients {
    type Plan = Plan;
    type Class = Class;
    type Seen = (Seen, u64);

    const TARGET: &'static str = "clients";
    const SEEDS: u64 = 1000;
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

/// What a run of many seeds must have come by: see [`Seen`].
const REACHED: [(Seen, u64); 44] = {
    use Seen::{Event, Pick, Push, Register, Start, Watch};
    [
        (Seen::Fault, 0),
        (Seen::Fault, 1),
        (Seen::Fault, 2),
        (Seen::Fault, 3),
        (Seen::Fault, 4),
        (Seen::Fault, 5),
        (Seen::Fault, 6),
        (Seen::Fault, 7),
        (Seen::Fault, 8),
        (Seen::Fault, 9),
        (Seen::Fault, 10),
        (Seen::Fault, 11),
        (Seen::Fault, 12),
        (Seen::Fault, 13),
        (Seen::Fault, 14),
        (Seen::Fault, 15),
        (Event, 1),
        (Event, 2),
        (Event, 3),
        (Event, 6),
        (Event, 7),
        (Event, 8),
        (Event, 9),
        (Event, 10),
        (Event, 11),
        (Event, 0x103),
        (Event, 0x104),
        (Event, 0x105),
        (Event, 0x109),
        (Register, 0),
        (Register, 3),
        (Register, 4),
        (Register, 5),
        (Register, 9),
        (Register, 11),
        (Watch, 0),
        (Watch, 9),
        (Push, 0),
        (Push, 2),
        (Pick, 0),
        (Pick, 1),
        (Start, 0),
        (Start, 1),
        (Start, 2),
    ]
};

#[test]
fn no_seed_breaks_an_invariant() {
    seeds::hold::<Clients>();
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    seeds::repeat::<Clients>();
}
