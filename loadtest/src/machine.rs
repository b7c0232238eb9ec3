//! What the machine is and what its threads use.

use std::fs::read_to_string;

/// CPUs that the process may use.
pub(crate) fn cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Pins the calling thread.
pub(crate) fn pin(cpu: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
}

/// CPU time of a thread of this process in nanoseconds (Documentation/scheduler/sched-stats.rst).
pub(crate) fn thread_cpu_ns(tid: u32) -> u64 {
    let text = read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// One line that says where a figure comes from.
pub(crate) fn description() -> String {
    let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} CPUs, {model}, Linux {}", cpus().len(), kernel.trim())
}
