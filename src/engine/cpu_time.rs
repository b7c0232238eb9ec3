//! The CPU time of a thread, read by the thread itself.

use crate::clock::{Nanos, thread_cpu};
use crate::limits::CPU_READ_NS;

/// When the calling thread last read its CPU time.
#[derive(Debug, Default)]
pub(super) struct CpuTime {
    read_at: Nanos,
}

impl CpuTime {
    /// CPU time of the thread so far, unless it was read within the last [`CPU_READ_NS`].
    #[inline]
    pub(super) fn read(&mut self, now: Nanos) -> Option<Nanos> {
        if now < self.read_at + CPU_READ_NS {
            return None;
        }
        self.read_at = now;
        Some(thread_cpu())
    }
}
