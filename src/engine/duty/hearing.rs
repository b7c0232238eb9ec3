//! How well each loop could hear: its stalls, and the drops at its sockets. The registrar reads
//! both before it judges.

use crate::clock::Nanos;
use crossbeam::utils::CachePadded;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// The state of one loop. Only the loop writes it, except that the registrar takes the stall.
#[derive(Debug, Default)]
struct Heard {
    /// Longest time that the loop stood still since the registrar last took it.
    stall: AtomicU64,
    /// Datagrams dropped at its sockets, as far as received datagrams told.
    drops: AtomicU64,
}

/// The state of all loops.
#[derive(Debug)]
pub struct Hearing {
    loops: Box<[CachePadded<Heard>]>,
}

impl Hearing {
    /// For this many loops.
    pub fn new(loops: usize) -> Self {
        Self { loops: (0..loops).map(|_| CachePadded::default()).collect() }
    }

    /// A loop stood still for this long.
    pub fn note_stall(&self, number: usize, length: Nanos) {
        self.loops[number].stall.fetch_max(length, Relaxed);
    }

    /// Datagrams dropped at the sockets of a loop so far.
    pub fn publish_drops(&self, number: usize, drops: u64) {
        self.loops[number].drops.store(drops, Relaxed);
    }

    /// Takes the longest stall of any loop.
    pub fn take_stall(&self) -> Nanos {
        self.loops.iter().map(|heard| heard.stall.swap(0, Relaxed)).max().unwrap_or(0)
    }

    /// Datagrams dropped at all sockets, as far as the loops know.
    pub fn drops(&self) -> u64 {
        self.loops.iter().map(|heard| heard.drops.load(Relaxed)).sum()
    }
}
