//! Endpoints picked without asking: what a pick costs, and whether it is right while others change
//! the list.

use crate::bed::Bed;
use crate::lab::Lab;
use crate::machine;
use crate::population::{Pace, Wanted, register};
use crate::report::{Goal, median};
use heartline::internals::clock;
use heartline_client::{Balance, Picked, Watch, WatchOptions};
use heartline_region::{Choice, Service, View};
use heartline_test_support::lists::{Viewed, endpoint};
use heartline_wire::{Endpoint, Version};
use std::hint::black_box;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Endpoints to pick from.
const MEMBERS: u64 = 100;
/// Picks in a run.
const PICKS: u32 = 1 << 20;
/// Threads that pick while members change.
const THREADS: usize = 8;
/// Changes of the members a second.
const CHANGES: f64 = 1000.0;
/// Picks that are to be made meanwhile, and the longest time for them.
const TOTAL: u64 = 100_000_000;
const LONGEST: Duration = Duration::from_secs(20);
/// Picks of a thread between two looks at the clock.
const GROUP: u64 = 4096;
const DISTURBED: &str = "the engine disturbed a pick, although nothing changes";

/// G8: picks by a process of the same machine, and from the view that a client keeps.
pub(super) fn picks(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    // Only files in a directory can be mapped by others.
    let mut bed = Bed::start(16_384, lab.engine_cpu, &["--snapshot", "off"])?;
    machine::pinned(lab.generator_cpu, || {
        register(&mut bed, &Wanted::new(MEMBERS as u32, 1, "g8")).map(drop)
    })?;
    let view = View::open(bed.state()?).map_err(|error| error.to_string())?;
    let members: Vec<Endpoint> = (0..MEMBERS).map(member).collect();
    let watched = Viewed::of(&members, WatchOptions::new());
    let turns = Viewed::of(&members, WatchOptions::new().balance(Balance::RoundRobin));
    let mut all = (view, [watched.watch.clone(), turns.watch.clone()]);
    let runs =
        lab.pairs(&mut all, |all| of_view(&all.0), |all| Ok(all.1.each_ref().map(of_watch)))?;
    let figure = |what: &str, goal: f64, mut runs: Vec<f64>| {
        let middle = median(&mut runs);
        let (low, high) = (runs[0], runs[runs.len() - 1]);
        let note = format!("{} runs of {PICKS} picks", runs.len());
        Goal { low, high, ..Goal::bound("G8", what, "ns", middle, goal) }.note(note)
    };
    let held = "one of 100 picked, view of the same host";
    let looked_up = "one of 100 picked, service looked up, view of the same host";
    let kept = "one of 100 picked by weight, view of a client";
    let in_turn = "one of 100 picked in turn, view of a client";
    let mut goals = vec![
        figure(held, 100.0, runs.iter().map(|run| run.0[0]).collect()),
        figure(looked_up, 100.0, runs.iter().map(|run| run.0[1]).collect()),
        figure(kept, 50.0, runs.iter().map(|run| run.1[0]).collect()),
        figure(in_turn, 50.0, runs.iter().map(|run| run.1[1]).collect()),
    ];
    goals.extend(beside_changes(lab, watched));
    Ok(goals)
}

/// Nanoseconds for a random pick from a service that was looked up before, and for the same with a
/// lookup each time.
fn of_view(view: &View) -> Result<[f64; 2], String> {
    let (name, mut seed) = (Wanted::service(0), 1_u64);
    let mut draw = || {
        seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        seed
    };
    let look_up = || {
        let service = view.service(black_box(&name)).map_err(|_| DISTURBED)?;
        service.ok_or("the service is not in the view")
    };
    let mut pick = |service: &Service<'_>| {
        let member = service.pick(Choice::Random, &mut draw).map_err(|_| DISTURBED)?;
        black_box(member.ok_or("no member was picked")?.address());
        Ok::<_, String>(())
    };
    let service = look_up()?;
    let begin = machine::own_cpu_ns();
    for _ in 0..PICKS {
        pick(black_box(&service))?;
    }
    let middle = machine::own_cpu_ns();
    for _ in 0..PICKS {
        pick(&look_up()?)?;
    }
    let end = machine::own_cpu_ns();
    Ok([middle - begin, end - middle].map(|spent| spent as f64 / f64::from(PICKS)))
}

/// Nanoseconds for a pick.
fn of_watch(watch: &Watch) -> f64 {
    let begin = machine::own_cpu_ns();
    for _ in 0..PICKS {
        let picked = black_box(watch).pick();
        black_box(picked.expect("a member can be picked").address());
    }
    (machine::own_cpu_ns() - begin) as f64 / f64::from(PICKS)
}

/// The member that came with this change. Everything in it follows from the change.
fn member(change: u64) -> Endpoint {
    let number = change as u32;
    Endpoint {
        slot: ((change % MEMBERS) as u32).into(),
        generation: number.into(),
        version: Version::from_u64(change),
        port: (1 + (change % 60_000) as u16).into(),
        zone: number.into(),
        ..endpoint(number)
    }
}

/// Counts of the picks beside changes.
#[derive(Default)]
struct Outcomes {
    picks: AtomicU64,
    stale: AtomicU64,
    torn: AtomicU64,
    stop: AtomicBool,
    /// The last change of which publication has begun, and the last that is published.
    begun: AtomicU64,
    published: AtomicU64,
}

/// Picks of several threads while one member after the other is replaced by a new one.
fn beside_changes(lab: &Lab, mut watched: Viewed) -> [Goal; 2] {
    let outcomes = Outcomes::default();
    let last = MEMBERS - 1;
    outcomes.begun.store(last, Relaxed);
    outcomes.published.store(last, Relaxed);
    let watch = watched.watch.clone();
    let (begin, mut changes) = (Instant::now(), 0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let cpu = if thread % 2 == 0 { lab.engine_cpu } else { lab.generator_cpu };
            let (watch, outcomes) = (&watch, &outcomes);
            scope.spawn(move || {
                machine::pin(cpu);
                while !outcomes.stop.load(Relaxed) {
                    pick_group(watch, outcomes);
                }
            });
        }
        changes = change(&mut watched, &outcomes, begin);
        outcomes.stop.store(true, Relaxed);
    });
    let took = begin.elapsed().as_secs_f64();
    let (picks, stale, torn) =
        (outcomes.picks.load(Relaxed), outcomes.stale.load(Relaxed), outcomes.torn.load(Relaxed));
    let note = format!(
        "{picks} picks of {THREADS} threads beside {changes} changes in {took:.1} s, {:.0} a second",
        changes as f64 / took
    );
    [("stale", stale), ("torn", torn)].map(|(how, count)| {
        let what = format!("{how} picks of {THREADS} threads, {CHANGES:.0} changes a second");
        Goal::bound("G8", what, "", count as f64, 0.0).note(note.clone())
    })
}

/// Replaces members at their times until enough picks are made; returns how many.
fn change(watched: &mut Viewed, outcomes: &Outcomes, begin: Instant) -> u64 {
    let mut pace = Pace::new(clock::now(), CHANGES);
    let mut change = MEMBERS;
    while outcomes.picks.load(Relaxed) < TOTAL && begin.elapsed() < LONGEST {
        if let (0, at) = pace.due(clock::now()) {
            std::thread::sleep(Duration::from_nanos(at.saturating_sub(clock::now())));
            continue;
        }
        pace.done(1);
        // A pick that sees the view sees this as well: publication is a release.
        outcomes.begun.store(change, Relaxed);
        watched.push(0, &[member(change)]);
        outcomes.published.store(change, Release);
        change += 1;
    }
    change - MEMBERS
}

/// Makes some picks and holds each against what was published.
fn pick_group(watch: &Watch, outcomes: &Outcomes) {
    let (mut stale, mut torn) = (0, 0);
    for _ in 0..GROUP {
        let published = outcomes.published.load(Acquire);
        let Ok(picked) = watch.pick() else {
            torn += 1;
            continue;
        };
        let (begun, change) = (outcomes.begun.load(Relaxed), picked.version().as_u64());
        torn += u64::from(!is_whole(&picked, change) || change > begun);
        stale += u64::from(change + MEMBERS <= published);
    }
    outcomes.picks.fetch_add(GROUP, Relaxed);
    outcomes.stale.fetch_add(stale, Relaxed);
    outcomes.torn.fetch_add(torn, Relaxed);
}

/// Whether all that was picked came with one change.
fn is_whole(picked: &Picked, change: u64) -> bool {
    let expected = member(change);
    (picked.address(), picked.slot(), picked.generation(), picked.zone_hash())
        == (
            expected.socket_addr(),
            expected.slot.get(),
            expected.generation.get(),
            expected.zone.get(),
        )
}
