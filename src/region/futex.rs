//! Waiting for a shared word to change (futex(2)), across processes.
//!
//! The waiting process may have the word mapped read-only: the kernel looks for a writable page
//! first and for a readable one then (`get_futex_key` in `kernel/futex/core.c`). It never writes
//! there, so the engine cannot know whether somebody waits.

use crate::sync::AtomicU64;
use std::time::Duration;

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slept {
    /// Woken, or the word was another already.
    Woken,
    /// The time is over, or a signal came.
    Over,
}

/// A futex has 32 bits: the low half of the word, which changes with every event.
fn low_half(word: &AtomicU64) -> *const u32 {
    std::ptr::from_ref(word).cast::<u32>().wrapping_add(usize::from(cfg!(target_endian = "big")))
}

/// Sleeps while the low half of `word` is that of `seen`.
pub(super) fn wait(word: &AtomicU64, seen: u64, timeout: Duration) -> Slept {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let (address, operation) = (low_half(word), libc::FUTEX_WAIT);
    // SAFETY: the word and the time live during the call, and the kernel only reads them.
    let slept = unsafe { libc::syscall(libc::SYS_futex, address, operation, seen as u32, &time) };
    let is_other = || std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN);
    if slept == 0 || is_other() { Slept::Woken } else { Slept::Over }
}

/// Wakes everybody who sleeps on `word`, in any process.
pub(super) fn wake(word: &AtomicU64) {
    // SAFETY: the kernel uses the address of the word, which lives during the call, to find who
    // sleeps.
    unsafe { libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAKE, libc::c_int::MAX) };
}
