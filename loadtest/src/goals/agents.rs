//! What an agent costs that beats for many instances.

use crate::agents::AgentProcess;
use crate::bed::Bed;
use crate::lab::Lab;
use crate::machine;
use crate::report::{Goal, median};
use heartline_wire::Stat;
use std::time::{Duration, Instant};

const INSTANCES: u32 = 50_000;
/// Four beats come in it.
const TTL: Duration = Duration::from_secs(4);
/// The cost is stated for so many.
const UNIT: f64 = 10_000.0;
/// How long the agent is watched, and how often.
const WINDOW: Duration = Duration::from_secs(4);
const WINDOWS: usize = 3;

/// G20: CPU of an agent with 50,000 registrations that beat once a second.
pub(super) fn beating(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let mut bed = Bed::start(65_536, lab.engine_cpu, &[])?;
    let agent = AgentProcess::start(lab.generator_cpu, bed.target, INSTANCES, TTL)?;
    let mut shares = Vec::new();
    let first = bed.counters()?;
    let begin = Instant::now();
    for _ in 0..WINDOWS {
        let (before, at) = (agent.cpu_ns(), Instant::now());
        machine::pinned(lab.generator_cpu, || std::thread::sleep(WINDOW));
        let spent = (agent.cpu_ns() - before) as f64 / at.elapsed().as_nanos() as f64;
        shares.push(100.0 * spent / (f64::from(INSTANCES) / UNIT));
    }
    let took = begin.elapsed().as_secs_f64();
    let last = bed.counters()?;
    let per_second = |stat| last.since(&first, stat) as f64 / took;
    let middle = median(&mut shares);
    let what = "CPU of an agent for 10,000 registrations at 1 beat a second";
    let goal = Goal {
        low: shares[0],
        high: shares[WINDOWS - 1],
        ..Goal::bound("G20", what, "% of a core", middle, 2.0)
    };
    Ok(vec![goal.note(format!(
        "of {INSTANCES} in one agent, {WINDOWS} times {} s: {:.0} beats a second counted in {:.0} \
         datagrams, {} declared down, {} live",
        WINDOW.as_secs(),
        per_second(Stat::BeatsAccepted),
        per_second(Stat::Datagrams),
        last.since(&first, Stat::Downs),
        last.get(Stat::Up),
    ))])
}
