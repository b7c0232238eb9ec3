//! What comes back after a restart and how fast, and what snapshots cost meanwhile.

use super::Lab;
use crate::bed::Bed;
use crate::drive::{Drive, Rates};
use crate::machine;
use crate::population::{Beats, Wanted, cookie, register};
use crate::report::Goal;
use crate::scenarios::restart;
use heartline::wire::Stat;
use std::cell::RefCell;
use std::time::Duration;

/// How long each run of a pair takes: two intervals between snapshots.
const RUN: Duration = Duration::from_secs(2);

/// G15: a million leases, attached to and loaded.
pub(super) fn restart(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let times = restart::measure(lab.pairs.min(3))?;
    let attach = Goal::bound(
        "G15",
        "start after a kill to ready, a million leases",
        "ms",
        times.ready_ms,
        250.0,
    );
    let silence = "hand-over of a million leases: longest time without an answer";
    Ok(vec![
        attach,
        Goal::bound("G15", silence, "ms", times.silence_ms, 50.0),
        Goal::ratio("G15", "snapshot of a million leases loaded", "ms", &times.loads_ms, 2.0)
            .against("read() of as many bytes"),
        Goal::ratio(
            "G15",
            "snapshot of a million leases loaded, on one CPU",
            "ms",
            &times.loads_on_one_ms,
            2.0,
        )
        .against("read() of as many bytes"),
    ])
}

/// G16: beats, questions and registrations with a snapshot every second, and without.
pub(super) fn snapshots(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let file =
        std::env::temp_dir().join(format!("heartline-goals-{}.snapshot", std::process::id()));
    let path = file.to_str().ok_or("the temporary directory has a strange name")?.to_owned();
    let result = compare_snapshots(lab, &path);
    let _ = std::fs::remove_file(file);
    result
}

fn compare_snapshots(lab: &mut Lab, path: &str) -> Result<Vec<Goal>, String> {
    let (with, without) = (Side::new(lab, &["--snapshot", path])?, Side::new(lab, &[])?);
    let (with, without) = (RefCell::new(with), RefCell::new(without));
    let cpu = lab.generator_cpu;
    let pairs = lab.pairs(
        || {
            let side = &mut *with.borrow_mut();
            machine::pinned(cpu, || side.run())
        },
        || {
            let side = &mut *without.borrow_mut();
            machine::pinned(cpu, || side.run())
        },
    )?;
    let of =
        |at: usize| pairs.iter().map(|(with, without)| (with[at], without[at])).collect::<Vec<_>>();
    let side = with.into_inner();
    if side.snapshots == 0 {
        return Err("no snapshot was written".into());
    }
    let share = 100.0 * side.writing_ns as f64 / (RUN.as_nanos() as f64 * side.runs as f64);
    let written = format!(
        "all threads of the engine, a million leases; {} snapshots were written meanwhile, for {share:.2} % of a core",
        side.snapshots
    );
    Ok(vec![
        Goal::ratio("G16", "CPU a beat with snapshots", "ns", &of(0), 1.05)
            .against("without")
            .note(written),
        Goal::ratio("G16", "discovery p99 with snapshots", "µs", &of(1), 1.1).against("without"),
        Goal::bound("G16", "page faults of the loops under snapshots", "", side.faults as f64, 0.0),
    ])
}

/// An engine and its load.
struct Side {
    bed: Bed,
    beats: Beats,
    drive: Drive,
    faults: u64,
    snapshots: u64,
    /// CPU time of the thread that writes them, in so many runs.
    writing_ns: u64,
    runs: u32,
}

impl Side {
    fn new(lab: &Lab, flags: &[&str]) -> Result<Self, String> {
        let mut bed = Bed::start(1_048_576, lab.engine_cpu, flags)?;
        let wanted = Wanted {
            instances: 1_000_000,
            services: 1000,
            ttl: Duration::from_secs(3600),
            prefix: "g16",
        };
        let leases = machine::pinned(lab.generator_cpu, || register(&mut bed, &wanted))?;
        let beats = Beats::new(bed.target, leases, 50)?;
        let drive =
            Drive::new(bed.target, cookie(&mut bed)?, "svc-0", 10, Duration::from_secs(3600))?;
        Ok(Self { bed, beats, drive, faults: 0, snapshots: 0, writing_ns: 0, runs: 0 })
    }

    /// Nanoseconds of the CPU time of all the engine's threads for each beat, and discovery p99 in
    /// microseconds.
    fn run(&mut self) -> Result<[f64; 2], String> {
        let pid = self.bed.pid()?;
        let faults = || {
            machine::tasks(pid)
                .iter()
                .filter(|task| task.is_loop())
                .map(|task| task.faults)
                .sum::<u64>()
        };
        let writing = || {
            machine::tasks(pid)
                .iter()
                .filter(|task| task.name == "heartline-snap")
                .map(|task| task.cpu_ns)
                .sum::<u64>()
        };
        let (before, faults_before, cpu_before, writing_before) =
            (self.bed.counters()?, faults(), machine::process_cpu_ns(pid), writing());
        let unanswered = self.drive.asked - self.drive.answered;
        let rates = Rates { beats: 50_000.0, discovers: 1000.0, churn: 1000.0 };
        self.drive.run(RUN, rates, Some(&mut self.beats))?;
        let after = self.bed.counters()?;
        self.faults += faults() - faults_before;
        self.writing_ns += writing() - writing_before;
        self.runs += 1;
        self.snapshots += after.since(&before, Stat::Snapshot);
        if self.drive.asked - self.drive.answered != unanswered || self.drive.refused > 0 {
            return Err("requests were lost or refused".into());
        }
        let cpu = (machine::process_cpu_ns(pid) - cpu_before) as f64;
        let p99 = self.drive.take_discovers().value_at_quantile(0.99) as f64 / 1e3;
        Ok([cpu / after.since(&before, Stat::BeatsAccepted).max(1) as f64, p99])
    }
}
