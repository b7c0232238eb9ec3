//! Time: nanoseconds of the kernel's monotonic clock, which no wall-clock step moves and which
//! stands still while the machine is suspended.

pub use heartline_region::boot_id;
pub use heartline_wire::time::{Moment, NANOS_PER_MS, NANOS_PER_SECOND, Nanos, Span, from_ms};
use rustix::time::{ClockId, clock_gettime};

/// Reads the monotonic clock. Linux answers it in user space (vDSO), without a system call.
#[inline]
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * NANOS_PER_SECOND + time.tv_nsec as u64
}

/// CPU time of the calling thread so far. It takes a system call.
pub fn thread_cpu() -> Nanos {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * NANOS_PER_SECOND + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_never_goes_back() {
        let mut last = now();
        for _ in 0..1000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }
}
