//! Time: nanoseconds of the kernel's monotonic clock, which no wall-clock step moves and which
//! stands still while the machine is suspended.

pub use heartline_wire::time::{Moment, NANOS_PER_MS, NANOS_PER_SECOND, Nanos, Span, from_ms};
use rustix::time::{ClockId, clock_gettime};

/// Reads the monotonic clock. Linux answers it in user space (vDSO), without a system call.
#[inline]
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * NANOS_PER_SECOND + time.tv_nsec as u64
}

/// The kernel's boot id (`/proc/sys/kernel/random/boot_id`), or zeros where it can't be read.
///
/// Readings of the monotonic clock mean something only together with the boot they were taken in.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> =
        text.bytes().filter_map(|byte| (byte as char).to_digit(16)).map(|d| d as u8).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    id
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

    #[test]
    fn boot_id_is_stable_and_not_zero() {
        assert_eq!(boot_id(), boot_id());
        assert_ne!(boot_id(), [0; 16]);
    }
}
