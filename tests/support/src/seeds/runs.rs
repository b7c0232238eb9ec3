//! Many seeds on all CPUs, the first failure explained, and what was reached.

use super::fault::shrink;
use super::{Fault, FaultClass, Options, Trace};
use heartline::internals::clock::Nanos;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// An invariant that is broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Its name; [`Simulation::INVARIANTS`] has its sentence.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

/// Whether everything holds.
pub type Verdict = Result<(), Violation>;

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report<S> {
    /// All that happened.
    pub trace: Trace,
    /// Simulated time.
    pub simulated: Nanos,
    /// Things that happened.
    pub steps: u64,
    /// What the run has come by.
    pub seen: BTreeSet<S>,
}

/// A simulation: plans, and how one is run.
pub trait Simulation: 'static {
    /// Everything that a seed decides before the first event.
    type Plan: Clone;
    /// Kinds of faults.
    type Class: FaultClass;
    /// What a run can come by.
    type Seen: Copy + fmt::Debug + Ord + Send;

    /// The test that runs it.
    const TARGET: &'static str;
    /// Seeds of a run without further word, when built for release; a debug build runs a seventh.
    const SEEDS: u64;
    /// The invariants: names and sentences.
    const INVARIANTS: &'static [(&'static str, &'static str)];
    /// What [`Self::SEEDS`] seeds must come by.
    const REACHED: &'static [Self::Seen];

    /// The plan of a seed. `seconds` replaces its length.
    fn plan(seed: u64, seconds: Option<u64>) -> Self::Plan;

    /// The faults of a plan.
    fn faults(plan: &mut Self::Plan) -> &mut Vec<Fault<Self::Class>>;

    /// Runs a plan.
    ///
    /// # Errors
    /// What broke, and when.
    fn run(plan: &Self::Plan) -> Result<Report<Self::Seen>, (Nanos, Violation)>;
}

/// Why a run failed, and when in its simulated time.
#[derive(Clone, Debug)]
pub struct Failure {
    at_ms: f64,
    violation: Violation,
}

/// Runs a plan. A panic is a violation like any other.
///
/// # Errors
/// What broke.
pub fn run<S: Simulation>(plan: &S::Plan) -> Result<Report<S::Seen>, Failure> {
    match catch_unwind(AssertUnwindSafe(|| S::run(plan))) {
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

fn plan<S: Simulation>(options: &Options, seed: u64) -> S::Plan {
    let mut plan = S::plan(seed, options.seconds);
    S::faults(&mut plan).retain(|fault| options.keeps(fault));
    plan
}

/// A plan with other faults.
fn with<S: Simulation>(plan: &S::Plan, faults: &[Fault<S::Class>]) -> S::Plan {
    let mut plan = plan.clone();
    *S::faults(&mut plan) = faults.to_vec();
    plan
}

/// Tells a failure so that it can be replayed: with the fewest faults that cause it.
fn explain<S: Simulation>(options: &Options, seed: u64, failure: &Failure) -> String {
    let mut plan = plan::<S>(options, seed);
    let all = S::faults(&mut plan).clone();
    let smaller = shrink(all.clone(), |faults| {
        let again = run::<S>(&with::<S>(&plan, faults));
        again.is_err_and(|other| other.violation.invariant == failure.violation.invariant)
    });
    let last = run::<S>(&with::<S>(&plan, &smaller)).err().unwrap_or_else(|| failure.clone());
    let numbers: Vec<String> = smaller.iter().map(|fault| fault.number.to_string()).collect();
    let listed: Vec<String> = smaller.iter().map(|fault| format!("    fault {fault}")).collect();
    let sentence = S::INVARIANTS
        .iter()
        .find(|(name, _)| *name == last.violation.invariant)
        .map_or("nothing panics", |(_, text)| text);
    let faults = if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
    let seconds = options.seconds.map(|seconds| format!("HEARTLINE_SIM_SECONDS={seconds} "));
    format!(
        "seed {seed} breaks {}: {sentence}\n  at {:.6} ms: {}\n  {} of {} faults are needed:\n{}\n  \
         replay: HEARTLINE_SEEDS={seed}..{seed} {}HEARTLINE_FAULTS={faults} \
         cargo test --release --test {}",
        last.violation.invariant,
        last.at_ms,
        last.violation.what,
        smaller.len(),
        all.len(),
        listed.join("\n"),
        seconds.unwrap_or_default(),
        S::TARGET,
    )
}

struct Totals<S> {
    seeds: AtomicU64,
    simulated_ms: AtomicU64,
    steps: AtomicU64,
    seen: Mutex<BTreeSet<S>>,
}

/// Runs the seeds that the environment chooses, and panics with the explanation of what broke, or
/// when too little was reached.
pub fn hold<S: Simulation>() {
    let default = if cfg!(debug_assertions) { S::SEEDS.div_ceil(7) } else { S::SEEDS };
    let options = Options::from_environment::<S::Class>(default);
    println!("{options:?}");
    let totals = Totals {
        seeds: AtomicU64::new(0),
        simulated_ms: AtomicU64::new(0),
        steps: AtomicU64::new(0),
        seen: Mutex::new(BTreeSet::new()),
    };
    // What panics is caught and told once, with its seed.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let failures = run_all::<S>(&options, &totals);
    let told: Vec<String> =
        failures.iter().map(|(seed, failure)| explain::<S>(&options, *seed, failure)).collect();
    std::panic::set_hook(hook);
    assert!(told.is_empty(), "\n{}", told.join("\n"));
    println!(
        "{} seeds, {:.3} simulated days, {} steps, no failure",
        totals.seeds.load(SeqCst),
        totals.simulated_ms.load(SeqCst) as f64 / 86_400_000.0,
        totals.steps.load(SeqCst),
    );
    let seen = totals.seen.into_inner().unwrap();
    let missing: Vec<&S::Seen> = S::REACHED.iter().filter(|what| !seen.contains(what)).collect();
    let reached = S::REACHED.len() - missing.len();
    println!("reached {reached} of {} kinds of what a run can come by", S::REACHED.len());
    if options.last - options.first >= S::SEEDS - 1 && options.faults.is_empty() {
        assert!(missing.is_empty(), "never reached, so not tested: {missing:?}");
    }
}

/// The failures of the seeds; after the first one no further seed begins.
fn run_all<S: Simulation>(options: &Options, totals: &Totals<S::Seen>) -> Vec<(u64, Failure)> {
    let until = options.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let (next, stop) = (AtomicU64::new(options.first), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let work = || {
        while !stop.load(SeqCst) {
            let seed = next.fetch_add(1, SeqCst);
            if until.map_or(seed > options.last, |until| Instant::now() >= until) {
                return;
            }
            match run::<S>(&plan::<S>(options, seed)) {
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
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    failures.into_inner().unwrap()
}

/// Runs some seeds twice, and panics unless both runs did the same, and another seed did not.
pub fn repeat<S: Simulation>() {
    let run_seed = |seed| run::<S>(&S::plan(seed, None)).expect("a seed without failure");
    for seed in [11, 12, 13] {
        assert!(run_seed(seed) == run_seed(seed), "seed {seed}");
    }
    assert!(run_seed(11) != run_seed(12));
}
