//! How late the engine declares instances down, and that it declares no live ones down.

use crate::bed::Bed;
use crate::floors::timer_lateness;
use crate::lab::Lab;
use crate::machine;
use crate::population::{Beats, Wanted, register};
use crate::report::{Chart, Goal, merged, micros, number};
use crate::scenarios::live;
use crate::scenarios::massacre;
use hdrhistogram::Histogram;
use heartline_wire::Stat;
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

/// The engine looks at its timers this often.
const TICK_US: f64 = 1e3;

/// The dead of G9 fall silent over a quarter of it, and had beaten up to a quarter before: the bare
/// timer runs for both.
const LATENESS_TTL: Duration = Duration::from_secs(8);
/// Runs of each population.
const ROUNDS: usize = 3;
/// A run in which the engine itself stood still or lost datagrams is done again; at most this often
/// in all.
const TRIES: usize = 2;

/// G9: how late verdicts come.
pub(super) fn lateness(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let (mut timers, mut few, mut many) = (Vec::new(), Vec::new(), Vec::new());
    let mut deaf = 0;
    for _ in 0..ROUNDS {
        for (instances, all) in [(10_000, &mut few), (1_000_000, &mut many)] {
            let (late, was_deaf) = of_population(lab, instances)?;
            deaf += u32::from(was_deaf);
            all.push(late);
        }
        timers.push(timer_lateness(lab.engine_cpu, LATENESS_TTL / 2)?);
    }
    let note = format!(
        "in {deaf} of {} runs the machine stood still for 20 ms or more, and verdicts were put off",
        2 * ROUNDS
    );
    let p99 = |histogram: &Histogram<u64>| micros(histogram, 0.99);
    let tick = |histogram: &Histogram<u64>| p99(histogram) + TICK_US;
    let pairs =
        |ours: &[Histogram<u64>], floor: &[Histogram<u64>], of: &dyn Fn(&Histogram<u64>) -> f64| {
            ours.iter().zip(floor).map(|(ours, floor)| (p99(ours), of(floor))).collect::<Vec<_>>()
        };
    let what = "lateness of verdicts p99, a million leases";
    let few_what = "lateness of verdicts p99, 10,000 leases";
    let timer = "bare timer p99 + 1 tick";
    let goals = [
        Goal::ratio("G9", few_what, "µs", &pairs(&few, &timers, &tick), 1.5).against(timer),
        Goal::ratio("G9", what, "µs", &pairs(&many, &timers, &tick), 1.5).against(timer),
        Goal::ratio("G9", what, "µs", &pairs(&many, &few, &p99), 1.5).against("10,000 leases"),
    ]
    .map(|goal| goal.note(note.clone()))
    .to_vec();
    let title = format!(
        "Of a million, the dead are found {} ms after their deadline at p99",
        number(goals[1].ours / 1e3)
    );
    let (few, many, timers) = (merged(&few), merged(&many), merged(&timers));
    let lines = [("10,000 leases", &few), ("a million leases", &many), ("bare timer", &timers)];
    lab.charts.push(Chart::latencies(title, &lines));
    Ok(goals)
}

/// Nanoseconds from deadline to verdict, as a client sees them. Whether the engine was deaf
/// meanwhile in each try.
fn of_population(lab: &Lab, instances: u32) -> Result<(Histogram<u64>, bool), String> {
    let mut tries = 1;
    loop {
        let mut bed = Bed::start(instances, lab.engine_cpu, &[])?;
        let (late, deafness) = machine::pinned(lab.generator_cpu, || {
            live::lateness(&mut bed, instances, LATENESS_TTL)
        })?;
        if deafness == 0 || tries == TRIES {
            return Ok((late, deafness > 0));
        }
        tries += 1;
    }
}

/// G10: a million fall silent at once.
pub(super) fn massacre(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let mut bed = Bed::start(1_000_000, lab.engine_cpu, &["--hold", "off"])?;
    let outcome = machine::pinned(lab.generator_cpu, || {
        massacre::measure(&mut bed, 1_000_000, Duration::from_secs(15))
    })?;
    Ok(vec![
        Goal::bound(
            "G10",
            "990,000 of a million fall silent: first deadline to last verdict",
            "s",
            outcome.took.as_secs_f64(),
            2.0,
        )
        .note(format!("{} declared down", outcome.downs)),
        Goal::bound("G10", "beats of the survivors lost meanwhile", "", outcome.lost as f64, 0.0)
            .note(format!("{} sent", outcome.beats)),
    ])
}

/// G11: no instance is declared down for beats that the engine did not hear.
pub(super) fn false_downs(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let mut goals = vec![after_a_stop(lab)?];
    // The fewer are lost, the more beats it takes until three in a row are.
    for (percent, instances, beats) in [(1, 300_000, 400), (5, 100_000, 40), (20, 100_000, 40)] {
        goals.push(under_loss(lab, percent, instances, beats)?);
    }
    Ok(goals)
}

fn after_a_stop(lab: &Lab) -> Result<Goal, String> {
    let mut bed = Bed::start(16_384, lab.engine_cpu, &[])?;
    let ttl = Duration::from_millis(500);
    let pid = Pid::from_raw(bed.pid()? as i32).ok_or("no process")?;
    machine::pinned(lab.generator_cpu, || {
        let leases = register(&mut bed, &Wanted::new(10_000, 100, "g11").ttl(ttl))?;
        let mut beats = Beats::new(bed.target, leases, 50)?;
        let rate = beats.rate(ttl / 4);
        beats.run(Duration::from_secs(1), Some(rate))?;
        let signal = |signal| kill_process(pid, signal).map_err(|error| error.to_string());
        signal(Signal::STOP)?;
        beats.run(Duration::from_secs(2), Some(rate))?;
        signal(Signal::CONT)?;
        beats.run(Duration::from_secs(2), Some(rate))?;
        let downs = bed.counters()?.get(Stat::Downs) as f64;
        Ok(Goal::bound(
            "G11",
            "false downs of 10,000 in a 2 s stop of the engine, TTL 500 ms",
            "",
            downs,
            0.0,
        ))
    })
}

/// Every beat is lost with a probability of its own; three in a row are one too many.
fn under_loss(lab: &Lab, percent: u32, instances: u32, count: u32) -> Result<Goal, String> {
    let interval = Duration::from_millis(200);
    let mut bed = Bed::start(instances, lab.engine_cpu, &["--hold", "off"])?;
    let loss = f64::from(percent) / 100.0;
    let (downs, count, deaf) = machine::pinned(lab.generator_cpu, || {
        // Three intervals fit into a TTL and a half of one is left.
        let wanted = Wanted::new(instances, 1000, "g11").ttl(interval * 7 / 2);
        let leases = register(&mut bed, &wanted)?;
        let mut beats = Beats::new(bed.target, leases, 50)?;
        let rate = beats.rate(interval);
        beats.run(interval * 5, Some(rate))?;
        let before = bed.counters()?;
        let sent = beats.sent;
        beats.lose(loss);
        beats.run(interval * count, Some(rate))?;
        beats.lose(0.0);
        // What was sent, not what should have been: a generator that can't keep up sends less.
        let count = ((beats.sent - sent) as f64 * 50.0 / f64::from(instances)).max(3.0);
        beats.run(interval * 5, Some(rate))?;
        let after = bed.counters()?;
        Ok::<_, String>((
            after.since(&before, Stat::Downs),
            count,
            after.since(&before, Stat::Deafness),
        ))
    })?;
    // A run of at least three losses begins at a beat that is lost, and is followed by two more,
    // after one that was not.
    let expected = f64::from(instances) * loss.powi(3) * (1.0 + (count - 3.0) * (1.0 - loss));
    // What chance adds to few events: two standard deviations of a Poisson distribution.
    let chance = 2.0 / expected.sqrt();
    let what = format!("downs under {percent} % loss, TTL of 3.5 beats");
    let goal = Goal::ratio("G11", what, "", &[(downs as f64, expected)], 1.2)
        .against("binomial expectation");
    // Too few say that the engine was deaf, and that nothing was measured.
    let goal = Goal { met: goal.met && goal.ratio >= 1.0 - chance.max(0.2), ..goal };
    Ok(goal.note(format!(
        "{instances} instances, {count:.0} beats each; two standard deviations of the expectation \
         are {:.0} %; the engine was deaf {deaf} times",
        chance * 100.0
    )))
}
