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

use invariants::{INVARIANTS, Seen, Violation};
use plan::{Class, Fault, Plan};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use world::{Report, World};

/// What the environment chooses.
#[derive(Clone, Debug)]
struct Options {
    first: u64,
    last: u64,
    seconds: Option<u64>,
    faults: Vec<String>,
    minutes: Option<u64>,
}

impl Options {
    fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name: &str| {
            text(name).map(|text| {
                text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number"))
            })
        };
        let seeds = text("HEARTLINE_SEEDS")
            .unwrap_or_else(|| format!("1..{}", if cfg!(debug_assertions) { 150 } else { 1000 }));
        let (first, last) = seeds
            .split_once("..")
            .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
            .unwrap_or_else(|| panic!("HEARTLINE_SEEDS={seeds} is not FIRST..LAST, both included"));
        let faults: Vec<String> = text("HEARTLINE_FAULTS")
            .map(|text| text.split(',').map(|part| part.trim().to_owned()).collect())
            .unwrap_or_default();
        for fault in &faults {
            let known = fault == "none"
                || fault.parse::<usize>().is_ok()
                || Class::ALL.iter().any(|(_, name)| name == fault);
            assert!(
                known,
                "HEARTLINE_FAULTS: {fault} is neither a number nor one of {:?}",
                Class::ALL.map(|(_, name)| name)
            );
        }
        Self {
            first,
            last,
            seconds: number("HEARTLINE_SIM_SECONDS"),
            faults,
            minutes: number("HEARTLINE_SIM_MINUTES"),
        }
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::new(seed, self.seconds);
        if !self.faults.is_empty() {
            plan.faults.retain(|fault| self.faults.iter().any(|chosen| is_chosen(fault, chosen)));
        }
        plan
    }
}

fn is_chosen(fault: &Fault, chosen: &str) -> bool {
    chosen.parse() == Ok(fault.number) || chosen == fault.class.name()
}

/// Why a run failed, and when in its simulated time.
#[derive(Clone, Debug)]
struct Failure {
    at_ms: f64,
    violation: Violation,
}

/// Runs a plan. A panic of the engine is a violation like any other.
fn run(plan: &Plan) -> Result<Report, Failure> {
    let result = catch_unwind(AssertUnwindSafe(|| World::new(plan).run()));
    match result {
        Ok(Ok(report)) => Ok(report),
        Ok(Err((at, violation))) => Err(Failure { at_ms: at as f64 / 1e6, violation }),
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            Err(Failure { at_ms: f64::NAN, violation: Violation { invariant: "no panic", what } })
        }
    }
}

/// The shortest list of faults with which it still fails that leaving out parts, ever smaller ones,
/// leads to.
fn shrink(mut faults: Vec<Fault>, mut fails: impl FnMut(&[Fault]) -> bool) -> Vec<Fault> {
    let mut part = faults.len().div_ceil(2);
    while part > 0 && !faults.is_empty() {
        let mut start = 0;
        let before = faults.len();
        while start < faults.len() {
            let without: Vec<Fault> = faults
                .iter()
                .enumerate()
                .filter(|(at, _)| !(start..start + part).contains(at))
                .map(|(_, fault)| *fault)
                .collect();
            if fails(&without) {
                faults = without;
            } else {
                start += part;
            }
        }
        if faults.len() == before || part > 1 {
            part /= 2;
        }
    }
    faults
}

/// Tells a failure so that it can be replayed: with the fewest faults that cause it.
fn explain(options: &Options, seed: u64, failure: &Failure) -> String {
    let plan = options.plan(seed);
    let smaller = shrink(plan.faults.clone(), |faults| {
        let again = run(&Plan { faults: faults.to_vec(), ..plan.clone() });
        again.is_err_and(|other| other.violation.invariant == failure.violation.invariant)
    });
    let last = run(&Plan { faults: smaller.clone(), ..plan.clone() })
        .err()
        .unwrap_or_else(|| failure.clone());
    let numbers: Vec<String> = smaller.iter().map(|fault| fault.number.to_string()).collect();
    let listed: Vec<String> = smaller.iter().map(|fault| format!("    fault {fault}")).collect();
    let sentence = INVARIANTS
        .iter()
        .find(|(name, _)| *name == last.violation.invariant)
        .map_or("nothing panics", |(_, text)| text);
    let faults = if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
    format!(
        "seed {seed} breaks {}: {sentence}\n  at {:.6} ms: {}\n  {} of {} faults are needed:\n{}\n  replay: HEARTLINE_SEEDS={seed}..{seed} {}HEARTLINE_FAULTS={faults} cargo test --release --test clients",
        last.violation.invariant,
        last.at_ms,
        last.violation.what,
        smaller.len(),
        plan.faults.len(),
        listed.join("\n"),
        options
            .seconds
            .map_or(String::new(), |seconds| format!("HEARTLINE_SIM_SECONDS={seconds} ")),
    )
}

/// What a run of many seeds must have come by: see [`Seen`].
const REACHED: [(Seen, u64); 44] = {
    use Seen::{Event, Fault, Pick, Push, Register, Start, Watch};
    [
        (Fault, 0),
        (Fault, 1),
        (Fault, 2),
        (Fault, 3),
        (Fault, 4),
        (Fault, 5),
        (Fault, 6),
        (Fault, 7),
        (Fault, 8),
        (Fault, 9),
        (Fault, 10),
        (Fault, 11),
        (Fault, 12),
        (Fault, 13),
        (Fault, 14),
        (Fault, 15),
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

#[derive(Default)]
struct Totals {
    seeds: AtomicU64,
    simulated_ms: AtomicU64,
    steps: AtomicU64,
    seen: Mutex<BTreeSet<(Seen, u64)>>,
}

#[test]
fn no_seed_breaks_an_invariant() {
    let options = Options::from_environment();
    println!("{options:?}");
    let until = options.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let (next, stop) = (AtomicU64::new(options.first), AtomicBool::new(false));
    let (totals, failures) = (Totals::default(), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    // What panics is caught and told once, with its seed.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let seed = next.fetch_add(1, SeqCst);
                    if until.map_or(seed > options.last, |until| Instant::now() >= until) {
                        return;
                    }
                    match run(&options.plan(seed)) {
                        Ok(report) => {
                            totals.seeds.fetch_add(1, SeqCst);
                            totals.simulated_ms.fetch_add(report.simulated / 1_000_000, SeqCst);
                            totals.steps.fetch_add(report.steps, SeqCst);
                            totals.seen.lock().unwrap().extend(report.seen);
                        }
                        Err(failure) => {
                            stop.store(true, SeqCst);
                            failures.lock().unwrap().push((seed, failure));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let told: Vec<String> =
        failures.iter().map(|(seed, failure)| explain(&options, *seed, failure)).collect();
    std::panic::set_hook(hook);
    assert!(told.is_empty(), "\n{}", told.join("\n"));
    println!(
        "{} seeds, {:.3} simulated days, {} steps, no failure",
        totals.seeds.load(SeqCst),
        totals.simulated_ms.load(SeqCst) as f64 / 86_400_000.0,
        totals.steps.load(SeqCst),
    );
    let seen = totals.seen.into_inner().unwrap();
    let missing: Vec<&(Seen, u64)> = REACHED.iter().filter(|what| !seen.contains(what)).collect();
    println!(
        "reached {} of {} kinds of faults, events, answers and pushes",
        REACHED.len() - missing.len(),
        REACHED.len()
    );
    if options.last - options.first >= 999 && options.faults.is_empty() {
        assert!(missing.is_empty(), "never reached, so not tested: {missing:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let options = Options { faults: Vec::new(), seconds: None, minutes: None, first: 0, last: 0 };
    for seed in [11, 12, 13] {
        let reports = [(); 2].map(|()| run(&options.plan(seed)).expect("a seed without failure"));
        assert_eq!(reports[0], reports[1], "seed {seed}");
    }
    assert_ne!(run(&options.plan(11)).ok(), run(&options.plan(12)).ok());
}

#[test]
fn a_failing_list_is_shrunk_to_what_it_needs() {
    let fault = |number| Fault { number, class: Class::Loss, from: 0, until: 1, seed: 0 };
    let needs = |faults: &[Fault]| {
        [3, 17].iter().all(|number| faults.iter().any(|fault| fault.number == *number))
    };
    let shrunk = shrink((0..24).map(fault).collect(), needs);
    assert_eq!(shrunk.iter().map(|fault| fault.number).collect::<Vec<_>>(), [3, 17]);
    assert!(shrink((0..24).map(fault).collect(), |_| true).is_empty());
}
