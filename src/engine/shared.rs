//! What the threads of one engine share beside the region: wake-ups, drain times, counters.
//!
//! Each loop has a line of its own that only it writes. The orderings that matter: a loop stores `drained` with release after it applied the
//! beats it received, and the registrar loads it with acquire before it draws a conclusion from silence. Sleeping and waking use sequentially
//! consistent stores and loads on both sides (Dekker): whoever announces sleep looks for work after, whoever makes work looks for sleepers
//! after.

use crate::clock::Nanos;
use crate::dataplane::Tally;
use crate::exchange::Command;
use crate::net::{Sent, Socket};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use rustix::net::{SendFlags, send};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// What one loop tells the others.
#[derive(Debug, Default)]
pub(super) struct LoopStatus {
    /// Whatever had arrived at the loop's sockets before this time has been applied.
    drained: AtomicU64,
    /// Longest time it stood still since the registrar last took it.
    stall: AtomicU64,
    sleeping: AtomicBool,
    /// Datagrams dropped at its sockets, as far as received ones told.
    drops: AtomicU64,
    tally: [AtomicU64; 7],
    sent: [AtomicU64; 3],
    /// Kernel thread id, for CPU accounting.
    pub(super) tid: AtomicU32,
}

impl LoopStatus {
    pub(super) fn publish_drained(&self, at: Nanos) {
        // Release: pairs with the acquire load in `Shared::drained`; the beats applied before are visible to who sees this time.
        self.drained.store(at, Release);
    }

    pub(super) fn note_stall(&self, length: Nanos) {
        self.stall.fetch_max(length, Relaxed);
    }

    pub(super) fn publish_drops(&self, drops: u64) {
        self.drops.store(drops, Relaxed);
    }

    pub(super) fn publish_counters(&self, tally: &Tally, sent: &Sent) {
        let values = [tally.datagrams, tally.bytes, tally.bad, tally.accepted, tally.old, tally.refused, tally.naks_suppressed];
        for (counter, value) in self.tally.iter().zip(values) {
            counter.store(value, Relaxed);
        }
        for (counter, value) in self.sent.iter().zip([sent.replies, sent.bytes, sent.dropped]) {
            counter.store(value, Relaxed);
        }
    }
}

/// Shared by the loops, the registrar thread and the engine's owner.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) loops: Box<[CachePadded<LoopStatus>]>,
    /// For each loop, a socket for each listening address.
    pub(super) sockets: Box<[Box<[Socket]>]>,
    pub(super) commands: Arc<ArrayQueue<Command>>,
    pub(super) wakers: Box<[mio::Waker]>,
    pub(super) stop: AtomicBool,
    /// Loops that have ended.
    pub(super) ended: AtomicU32,
    /// The registrar waits until every loop has drained after this time; 0 when it does not wait.
    drain_wanted: CachePadded<AtomicU64>,
    registrar_sleeping: CachePadded<AtomicBool>,
    registrar_wake: UnixDatagram,
    pub(super) registrar_tid: AtomicU32,
    /// Bytes allocated for tables and buffers.
    pub(super) memory_bytes: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        sockets: Box<[Box<[Socket]>]>,
        commands: Arc<ArrayQueue<Command>>,
        wakers: Box<[mio::Waker]>,
        registrar_wake: UnixDatagram,
    ) -> Self {
        Self {
            loops: sockets.iter().map(|_| CachePadded::default()).collect(),
            sockets,
            commands,
            wakers,
            stop: AtomicBool::new(false),
            ended: AtomicU32::new(0),
            drain_wanted: CachePadded::new(AtomicU64::new(0)),
            registrar_sleeping: CachePadded::new(AtomicBool::new(false)),
            registrar_wake,
            registrar_tid: AtomicU32::new(0),
            memory_bytes: AtomicU64::new(0),
        }
    }

    /// The time before which every loop has drained its sockets.
    pub(super) fn drained(&self) -> Nanos {
        // Acquire: pairs with the release store in `publish_drained`.
        self.loops.iter().map(|status| status.drained.load(Acquire)).min().unwrap_or(0)
    }

    /// Takes the longest stall of any loop.
    pub(super) fn take_stall(&self) -> Nanos {
        self.loops.iter().map(|status| status.stall.swap(0, Relaxed)).max().unwrap_or(0)
    }

    /// Datagrams dropped, as far as the loops know.
    pub(super) fn drops_seen(&self) -> u64 {
        self.loops.iter().map(|status| status.drops.load(Relaxed)).sum()
    }

    /// Sums of the counters of all loops.
    pub(super) fn totals(&self) -> (Tally, Sent) {
        let sum = |pick: fn(&LoopStatus) -> &AtomicU64| self.loops.iter().map(|status| pick(status).load(Relaxed)).sum::<u64>();
        let tally = Tally {
            datagrams: sum(|status| &status.tally[0]),
            bytes: sum(|status| &status.tally[1]),
            bad: sum(|status| &status.tally[2]),
            accepted: sum(|status| &status.tally[3]),
            old: sum(|status| &status.tally[4]),
            refused: sum(|status| &status.tally[5]),
            naks_suppressed: sum(|status| &status.tally[6]),
        };
        let sent =
            Sent { replies: sum(|status| &status.sent[0]), bytes: sum(|status| &status.sent[1]), dropped: sum(|status| &status.sent[2]) };
        (tally, sent)
    }

    /// The drain that the registrar waits for; 0 for none.
    #[inline]
    pub(super) fn drain_wanted(&self) -> Nanos {
        self.drain_wanted.load(SeqCst)
    }

    /// Asks every loop to drain after `time`, and wakes those that sleep.
    pub(super) fn want_drain(&self, time: Nanos) {
        if self.drain_wanted.swap(time, SeqCst) == time || time == 0 {
            return;
        }
        for (status, waker) in self.loops.iter().zip(&self.wakers) {
            if status.sleeping.load(SeqCst) {
                // A waker that can't be signalled is one that already is.
                let _ = waker.wake();
            }
        }
    }

    /// A loop is about to sleep. `false`: there is a drain to do first.
    pub(super) fn may_sleep(&self, status: &LoopStatus) -> bool {
        status.sleeping.store(true, SeqCst);
        let may = self.drain_wanted() <= status.drained.load(Relaxed) && !self.stop.load(SeqCst);
        if !may {
            status.sleeping.store(false, SeqCst);
        }
        may
    }

    pub(super) fn woke_up(&self, status: &LoopStatus) {
        status.sleeping.store(false, SeqCst);
    }

    /// Wakes the registrar if it sleeps. One `send` on a local socket: on a loop, nothing but receive, send and poll calls happen.
    pub(super) fn wake_registrar(&self) {
        if self.registrar_sleeping.load(SeqCst) && self.registrar_sleeping.swap(false, SeqCst) {
            let _ = send(&self.registrar_wake, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    /// The registrar is about to sleep; it must look for work once more after this.
    pub(super) fn registrar_sleeps(&self) {
        self.registrar_sleeping.store(true, SeqCst);
    }

    pub(super) fn registrar_wakes(&self) {
        self.registrar_sleeping.store(false, SeqCst);
    }

    /// Tells every thread to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, SeqCst);
        self.wakers.iter().for_each(|waker| drop(waker.wake()));
        self.wake_registrar();
    }
}
