//! A million leases: what beats cost, what memory they take, what idling costs, how fast they are
//! registered.

use super::beats::beside_sinks;
use crate::bed::Bed;
use crate::cost::engine_cost;
use crate::floors::LineWalk;
use crate::lab::Lab;
use crate::machine;
use crate::population::{Beats, Wanted, register};
use crate::report::{Goal, median};
use heartline_wire::Stat;
use std::time::{Duration, Instant};

const MILLION: u32 = 1_000_000;
/// How long idling is watched: a whole TTL, as timers of leases that were registered together are
/// looked at together.
const IDLE: Duration = Duration::from_secs(30);
/// How long an empty engine is watched.
const EMPTY: Duration = Duration::from_secs(5);

/// G2, G3, G13, G14 with beats, G17: all on one engine with a million leases.
pub(super) fn million(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let (cpu, engine_cpu) = (lab.generator_cpu, lab.engine_cpu);
    let wanted = Wanted::new(MILLION, 1000, "g2").ttl(Duration::from_secs(30));
    let fill = || {
        let mut bed = Bed::start(MILLION, engine_cpu, &[])?;
        let begin = Instant::now();
        let leases = machine::pinned(cpu, || register(&mut bed, &wanted))?;
        Ok::<_, String>((f64::from(MILLION) / begin.elapsed().as_secs_f64(), bed, leases))
    };
    let mut rates = vec![fill()?.0, fill()?.0];
    let (rate, mut bed, leases) = fill()?;
    rates.push(rate);
    let spread = format!(
        "from {:.0} to {:.0}",
        rates.iter().copied().fold(f64::MAX, f64::min),
        rates.iter().copied().fold(0.0, f64::max)
    );
    let what = "registrations a second, acknowledged and distinct";
    let goal = Goal::bound("G17", what, "", median(&mut rates), 200_000.0).at_least();
    let mut goals = vec![goal.note(format!(
        "a million three times, {spread}; one registrar, one client with 1,024 registrations \
         under way"
    ))];
    let mut beats = Beats::new(bed.target, leases, 50)?;
    let mut walk = machine::pinned(engine_cpu, || LineWalk::new(MILLION as usize, true))?;
    let stores = || 50.0 * machine::pinned(engine_cpu, || walk.walk(true));
    let what = "CPU a datagram with 50 beats for random ones of a million leases";
    for (name, pairs) in beside_sinks(lab, &mut bed, &mut beats, stores)? {
        let goal = Goal::ratio("G2", what, "ns", &pairs, 1.25);
        goals.push(goal.against(format!("{name} + 50 prefetched line stores")));
    }
    let per_second = |(bed, beats): &mut (&mut Bed, &mut Beats), batch| {
        beats.set_batch(batch);
        engine_cost(bed, beats).map(|cost| cost.beats_per_second)
    };
    let gains = lab.pairs(
        &mut (&mut bed, &mut beats),
        |both| per_second(both, 50),
        |both| per_second(both, 1),
    )?;
    beats.set_batch(50);
    goals.push(
        Goal::ratio("G3", "beats a CPU second, 50 a datagram", "", &gains, 20.0)
            .at_least()
            .against("one a datagram"),
    );
    let resident = machine::resident_bytes(bed.pid()?) as f64 / f64::from(MILLION);
    let counted = bed.counters()?.get(Stat::MemoryBytes) as f64 / f64::from(MILLION);
    goals.push(
        Goal::bound("G13", "memory a lease, all of the process", "B", resident, 512.0).note(
            format!("resident memory of the process; its tables and buffers alone: {counted:.1} B"),
        ),
    );
    goals.push(idle_million(lab, &mut bed, &mut beats)?);
    Ok(goals)
}

/// CPU time of the threads that are no loops, while a million leases beat four times in 30 s.
fn idle_million(lab: &Lab, bed: &mut Bed, beats: &mut Beats) -> Result<Goal, String> {
    let pid = bed.pid()?;
    let others = |pid| {
        machine::tasks(pid)
            .iter()
            .filter(|task| !task.is_loop())
            .map(|task| task.cpu_ns)
            .sum::<u64>()
    };
    beats.aim(bed.target)?;
    let rate = beats.rate(Duration::from_millis(7500));
    let downs = bed.counters()?.get(Stat::Downs);
    let before = (others(pid), machine::process_cpu_ns(pid));
    machine::pinned(lab.generator_cpu, || beats.run(IDLE, Some(rate)))?;
    let after = (others(pid), machine::process_cpu_ns(pid));
    let percent = |ns: u64| 100.0 * ns as f64 / IDLE.as_nanos() as f64;
    let all = percent(after.1 - before.1);
    let lost = bed.counters()?.get(Stat::Downs) - downs;
    Ok(Goal::bound(
        "G14",
        "CPU beside the loops, a million leases at TTL 30 s",
        "% of a core",
        percent(after.0 - before.0),
        3.0,
    )
    .note(format!(
        "all threads: {all:.2} % for 133,333 beats a second in batches of 50; {lost} declared down"
    )))
}

/// G14 for an empty engine.
pub(super) fn empty(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let bed = Bed::start(65_536, lab.engine_cpu, &[])?;
    let mut shares = Vec::new();
    for _ in 0..2 {
        let before = machine::process_cpu_ns(bed.pid()?);
        std::thread::sleep(EMPTY);
        shares.push(
            100.0 * (machine::process_cpu_ns(bed.pid()?) - before) as f64 / EMPTY.as_nanos() as f64,
        );
    }
    Ok(vec![Goal::bound("G14", "CPU of an empty engine", "% of a core", median(&mut shares), 0.1)])
}
