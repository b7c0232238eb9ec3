//! What the machine is, and what its threads and processes use.

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::fs::read_to_string;

/// Where figures come from.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// CPUs that the process may use.
    pub(crate) cpus: usize,
    /// Their model.
    pub(crate) model: String,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The frequency governor, if there is one.
    pub(crate) governor: String,
    /// Mitigations of CPU bugs that are on.
    pub(crate) mitigations: String,
    /// Share of the time that a hypervisor took away while the scenario ran, in percent.
    pub(crate) steal_percent: f64,
    #[serde(skip)]
    since: Steal,
}

impl Machine {
    /// Reads what the kernel says.
    pub(crate) fn read() -> Self {
        let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
        let text = |path: &str| read_to_string(path).map(|text| text.trim().to_owned()).ok();
        Self {
            cpus: cpus().len(),
            model: model.trim_start_matches(['\t', ' ', ':']).to_owned(),
            kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .unwrap_or_else(|| "none shown".into()),
            mitigations: mitigations(),
            steal_percent: 0.0,
            since: Steal::read(),
        }
    }

    /// Takes the share of the time that was stolen since this was read.
    pub(crate) fn finish(&mut self) {
        self.steal_percent = self.since.percent();
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        let Self { cpus, model, kernel, governor, mitigations, steal_percent, .. } = self;
        let plural = if *cpus == 1 { "" } else { "s" };
        format!(
            "{cpus} CPU{plural}, {model}, Linux {kernel}, governor: {governor}, \
             mitigations: {mitigations}, stolen time: {steal_percent:.2} %"
        )
    }
}

/// Names of the vulnerabilities that the kernel works around
/// (Documentation/ABI/testing/sysfs-devices-system-cpu).
fn mitigations() -> String {
    let mut names: Vec<String> = std::fs::read_dir("/sys/devices/system/cpu/vulnerabilities")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            read_to_string(entry.path()).is_ok_and(|text| text.starts_with("Mitigation"))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

/// Time of all CPUs and the part of it that was stolen, in the kernel's ticks (proc_stat(5)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steal {
    all: u64,
    stolen: u64,
}

impl Steal {
    /// As it is now.
    pub(crate) fn read() -> Self {
        let text = read_to_string("/proc/stat").unwrap_or_default();
        let numbers: Vec<u64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|number| number.parse().ok())
            .collect();
        Self { all: numbers.iter().take(8).sum(), stolen: numbers.get(7).copied().unwrap_or(0) }
    }

    /// The share of the time since, in percent.
    pub(crate) fn percent(&self) -> f64 {
        let now = Self::read();
        100.0 * now.stolen.saturating_sub(self.stolen) as f64
            / now.all.saturating_sub(self.all).max(1) as f64
    }
}

/// CPUs that the process may use.
pub(crate) fn cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// The CPUs for engine and generator: the first and the last.
pub(crate) fn two_cpus() -> Result<(usize, usize), String> {
    let cpus = cpus();
    match (cpus.first(), cpus.last()) {
        (Some(&first), Some(&last)) if first != last => Ok((first, last)),
        _ => Err("two CPUs are needed: on one, the generator would take the engine's time".into()),
    }
}

/// Pins the calling thread.
pub(crate) fn pin(cpu: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
}

/// Runs `work` on a thread pinned to a CPU: processes that it starts inherit the CPUs of the thread
/// that starts them, and only those.
pub(crate) fn pinned<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> T {
    let here = || {
        pin(cpu);
        work()
    };
    std::thread::scope(|scope| scope.spawn(here).join()).expect("a pinned thread does not panic")
}

/// The calling thread's number.
pub(crate) fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// CPU time of a thread of this process in nanoseconds (Documentation/scheduler/sched-stats.rst).
pub(crate) fn thread_cpu_ns(tid: u32) -> u64 {
    schedstat(&format!("/proc/self/task/{tid}/schedstat"))
}

/// CPU time of the calling thread in nanoseconds.
pub(crate) fn own_cpu_ns() -> u64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    spent.tv_sec as u64 * 1_000_000_000 + spent.tv_nsec as u64
}

fn schedstat(path: &str) -> u64 {
    let text = read_to_string(path).unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What a thread of a process has used.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Its name.
    pub(crate) name: String,
    /// Its CPU time.
    pub(crate) cpu_ns: u64,
    /// Its page faults, minor and major.
    pub(crate) faults: u64,
}

impl Task {
    /// Whether it is a loop of an engine: those are named after their CPU.
    pub(crate) fn is_loop(&self) -> bool {
        self.name.strip_prefix("heartline-").is_some_and(|cpu| cpu.parse::<u32>().is_ok())
    }
}

/// The threads of a process.
pub(crate) fn tasks(pid: u32) -> Vec<Task> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let task = |path: std::path::PathBuf| {
        let stat = read_to_string(path.join("stat")).ok()?;
        // pid (name) state ppid pgrp session tty tpgid flags minflt cminflt majflt
        // (proc_pid_stat(5)).
        let rest: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
        let number =
            |at: usize| rest.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let name = read_to_string(path.join("comm")).ok()?.trim().to_owned();
        Some(Task {
            name,
            cpu_ns: schedstat(path.join("schedstat").to_str()?),
            faults: number(7) + number(9),
        })
    };
    entries.filter_map(|entry| task(entry.path())).collect()
}

/// CPU time of all threads that a process has now.
pub(crate) fn process_cpu_ns(pid: u32) -> u64 {
    tasks(pid).iter().map(|task| task.cpu_ns).sum()
}

/// Resident memory of a process in bytes (`VmRSS`, proc_pid_status(5)).
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let text = read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}
