//! What comes back after a restart and how fast, and what snapshots cost meanwhile.

use crate::bed::Bed;
use crate::drive::{Drive, Rates};
use crate::lab::Lab;
use crate::machine::{self, Task};
use crate::population::{Beats, Wanted, register};
use crate::report::{Goal, micros};
use crate::scenarios::restart;
use crate::socket::Cookie;
use heartline_wire::Stat;
use std::time::Duration;

/// How long each run of a pair takes: two intervals between snapshots.
const RUN: Duration = Duration::from_secs(2);

/// G15: a million leases, attached to and loaded.
pub(super) fn restart(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let times = restart::measure(lab.pairs.min(3))?;
    let ready = "start after a kill to ready, a million leases";
    let silence = "hand-over of a million leases: longest time without an answer";
    let load = "snapshot of a million leases loaded";
    let load_on_one = format!("{load}, on one CPU");
    let read = "read() of as many bytes";
    Ok(vec![
        Goal::bound("G15", ready, "ms", times.ready_ms, 250.0),
        Goal::bound("G15", silence, "ms", times.silence_ms, 50.0),
        Goal::ratio("G15", load, "ms", &times.loads_ms, 2.0).against(read),
        Goal::ratio("G15", load_on_one, "ms", &times.loads_on_one_ms, 2.0).against(read),
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
    let mut sides = (Side::new(lab, &["--snapshot", path])?, Side::new(lab, &[])?);
    let pairs = lab.pairs(&mut sides, |sides| sides.0.run(), |sides| sides.1.run())?;
    let of =
        |at: usize| pairs.iter().map(|(with, without)| (with[at], without[at])).collect::<Vec<_>>();
    let side = sides.0;
    if side.snapshots == 0 {
        return Err("no snapshot was written".into());
    }
    let share = 100.0 * side.writing_ns as f64 / (RUN.as_nanos() as f64 * side.runs as f64);
    let written = format!(
        "all threads of the engine, a million leases; {} snapshots were written meanwhile, for \
         {share:.2} % of a core",
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
        let wanted = Wanted::new(1_000_000, 1000, "g16");
        let leases = machine::pinned(lab.generator_cpu, || register(&mut bed, &wanted))?;
        let beats = Beats::new(bed.target, leases, 50)?;
        let drive = Drive::new(bed.target, Cookie::from(&mut bed)?, 10)?;
        Ok(Self { bed, beats, drive, faults: 0, snapshots: 0, writing_ns: 0, runs: 0 })
    }

    /// Nanoseconds of the CPU time of all the engine's threads for each beat, and discovery p99 in
    /// microseconds.
    fn run(&mut self) -> Result<[f64; 2], String> {
        let pid = self.bed.pid()?;
        let tasks = || machine::tasks(pid).into_iter();
        let faults = || tasks().filter(Task::is_loop).map(|task| task.faults).sum::<u64>();
        let writing = || {
            let writers = tasks().filter(|task| task.name == "heartline-snap");
            writers.map(|task| task.cpu_ns).sum::<u64>()
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
        let p99 = micros(&self.drive.take_discovers(), 0.99);
        Ok([cpu / after.since(&before, Stat::BeatsAccepted).max(1) as f64, p99])
    }
}
