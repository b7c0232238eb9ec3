//! Who sleeps, who must be woken, and how far each loop has drained its sockets.
//!
//! Two threads that must not miss one another do the same on both sides: store what the other looks
//! for, fence, look for what the other stores (Dekker, with the fences of C++20 [atomics.fences]).
//! Whoever announces sleep looks for work afterwards; whoever makes work looks for sleepers
//! afterwards. So at least one of the two sees the other. Sleeping and waking themselves are the
//! caller's.

use crate::clock::Nanos;
use crate::sync::{AtomicBool, AtomicU64, fence};
use crossbeam::utils::CachePadded;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// What one loop tells the others, and is told. Only it writes its own, but for `waiting`.
#[derive(Debug, Default)]
struct Signal {
    /// Whatever had arrived at the loop's sockets before this time has been applied.
    drained: AtomicU64,
    sleeping: AtomicBool,
    /// No socket of the loop had more messages than this waiting at the time `counted`, or at a
    /// later one. The registrar writes it.
    waiting: AtomicU64,
}

/// Shared by the loops and the registrar thread.
#[derive(Debug, Default)]
pub struct Rendezvous {
    loops: Box<[CachePadded<Signal>]>,
    /// The registrar waits until every loop has drained after this time; 0 when it does not wait.
    drain_wanted: CachePadded<AtomicU64>,
    /// When it counted what waits at their sockets, after the time of the drain.
    counted: AtomicU64,
    registrar_sleeping: CachePadded<AtomicBool>,
    /// Whether the watch thread sleeps, and for what: [`AWAKE`], [`FOR_REQUESTS`] or
    /// [`FOR_EVENTS`].
    watcher: CachePadded<AtomicU64>,
    /// Whether the engine stops, and how: [`RUN`], [`EMPTY`] or [`LEAVE`].
    stop: AtomicU64,
    /// Loops that have ended.
    ended: AtomicU64,
}

impl Rendezvous {
    /// For this many loops.
    pub fn new(loops: usize) -> Self {
        Self { loops: (0..loops).map(|_| CachePadded::default()).collect(), ..Self::default() }
    }

    /// A loop has applied whatever had arrived before this time.
    pub fn publish_drained(&self, number: usize, at: Nanos) {
        // Release: pairs with the acquire load in `drained`; the beats applied before are visible
        // to who sees this time.
        self.loops[number].drained.store(at, Release);
    }

    /// The time before which every loop has drained its sockets.
    pub fn drained(&self) -> Nanos {
        // Acquire: pairs with the release store in `publish_drained`.
        self.loops.iter().map(|signal| signal.drained.load(Acquire)).min().unwrap_or(0)
    }

    /// The drain that the registrar waits for; 0 for none.
    #[inline]
    pub fn drain_wanted(&self) -> Nanos {
        // Acquire: pairs with the release store in `want_drain`.
        self.drain_wanted.load(Acquire)
    }

    /// A time, not before that of a drain that the loop has seen to be wanted, and how many
    /// messages waited then or later at any one of its sockets at most.
    pub fn waiting(&self, number: usize) -> (Nanos, u64) {
        // Acquire: pairs with the release store in `want_drain`. A later number with an earlier
        // time is as true.
        let counted = self.counted.load(Acquire);
        (counted, self.loops[number].waiting.load(Relaxed))
    }

    /// The registrar asks every loop to drain after `time`. `counted` tells a time that is not
    /// before that one, `waiting` how many messages wait after that at any one socket of a loop at
    /// most, and `wake` wakes those that sleep.
    pub fn want_drain(
        &self,
        time: Nanos,
        counted: impl FnOnce() -> Nanos,
        waiting: impl Fn(usize) -> u64,
        mut wake: impl FnMut(usize),
    ) {
        if self.drain_wanted.load(Relaxed) == time {
            return;
        }
        if time != 0 {
            let counted = counted();
            for (number, signal) in self.loops.iter().enumerate() {
                signal.waiting.store(waiting(number), Relaxed);
            }
            // Release: pairs with the acquire load in `waiting`; whoever sees this time sees these
            // numbers or later ones.
            self.counted.store(counted, Release);
        }
        // Release: pairs with the acquire load in `drain_wanted`; whoever sees this wish sees that
        // time or a later one.
        self.drain_wanted.store(time, Release);
        if time == 0 {
            return;
        }
        // The wish above, the sleepers below; pairs with the fence in `may_sleep`.
        fence(SeqCst);
        for (number, signal) in self.loops.iter().enumerate() {
            if signal.sleeping.load(Relaxed) {
                wake(number);
            }
        }
    }

    /// A loop is about to sleep. `false`: there is a drain to do first, or the engine stops.
    pub fn may_sleep(&self, number: usize) -> bool {
        let signal = &self.loops[number];
        signal.sleeping.store(true, Relaxed);
        // The announcement, and the drain time published before, above; the wishes below. Pairs
        // with the fences in `want_drain`, `registrar_sleeps` and `stop`.
        fence(SeqCst);
        let may =
            self.drain_wanted() <= signal.drained.load(Relaxed) && self.stop.load(Relaxed) == RUN;
        if !may {
            signal.sleeping.store(false, Relaxed);
        }
        may
    }

    /// The loop does not sleep any more.
    pub fn woke_up(&self, number: usize) {
        self.loops[number].sleeping.store(false, Relaxed);
    }

    /// The drain that is wanted, if it is complete and was not `reported` yet: then the registrar
    /// must be woken. To be asked after [`Self::may_sleep`] once more: before it, a drain and a
    /// wish can miss one another.
    pub fn drain_to_report(&self, reported: Nanos) -> Option<Nanos> {
        let wanted = self.drain_wanted();
        (wanted != reported && wanted != 0 && self.drained() >= wanted).then_some(wanted)
    }

    /// Whether the registrar sleeps, and the caller is the one to wake it. To be asked after the
    /// work for it was made.
    pub fn must_wake_registrar(&self) -> bool {
        // The work above, the sleeper below; pairs with the fence in `registrar_sleeps`.
        fence(SeqCst);
        self.registrar_sleeping.load(Relaxed) && self.registrar_sleeping.swap(false, Relaxed)
    }

    /// The registrar is about to sleep; it must look for work once more after this.
    pub fn registrar_sleeps(&self) {
        self.registrar_sleeping.store(true, Relaxed);
        // The announcement, and the drain wanted before, above; the work below. Pairs with the
        // fences in `must_wake_registrar` and `may_sleep`.
        fence(SeqCst);
    }

    /// The registrar does not sleep any more.
    pub fn registrar_wakes(&self) {
        self.registrar_sleeping.store(false, Relaxed);
    }

    /// Whether the watch thread sleeps, and the caller is the one to wake it for a request. To be
    /// asked after the request was passed on.
    pub fn must_wake_watcher(&self) -> bool {
        // The request above, the sleeper below; pairs with the fence in `watcher_sleeps`.
        fence(SeqCst);
        self.watcher.load(Relaxed) != AWAKE && self.watcher.swap(AWAKE, Relaxed) != AWAKE
    }

    /// The same for events. While nobody watches anything, the thread sleeps on.
    pub fn must_tell_watcher(&self) -> bool {
        // The events above, the sleeper below; pairs with the fence in `watcher_sleeps`.
        fence(SeqCst);
        self.watcher.load(Relaxed) == FOR_EVENTS && self.watcher.swap(AWAKE, Relaxed) != AWAKE
    }

    /// The watch thread is about to sleep until there is a request or, with `events`, an event; it
    /// must look for both once more after this.
    pub fn watcher_sleeps(&self, events: bool) {
        self.watcher.store(if events { FOR_EVENTS } else { FOR_REQUESTS }, Relaxed);
        // The announcement above, the work below. Pairs with the fences in `must_wake_watcher` and
        // `must_tell_watcher`.
        fence(SeqCst);
    }

    /// The watch thread does not sleep any more.
    pub fn watcher_wakes(&self) {
        self.watcher.store(AWAKE, Relaxed);
    }

    /// Tells every thread to end; `wake` wakes a loop, and is called for each. `leave`: loops leave
    /// what waits at their sockets to a successor.
    pub fn stop(&self, leave: bool, wake: impl FnMut(usize)) {
        self.stop.store(if leave { LEAVE } else { EMPTY }, Relaxed);
        // The wish above, the sleepers below; pairs with the fence in `may_sleep`.
        fence(SeqCst);
        (0..self.loops.len()).for_each(wake);
    }

    /// Whether the engine stops; and if so, whether loops leave what waits at their sockets.
    pub fn stopping(&self) -> Option<bool> {
        match self.stop.load(Relaxed) {
            RUN => None,
            stop => Some(stop == LEAVE),
        }
    }

    /// A loop has ended: it makes no more commands.
    pub fn loop_ended(&self) {
        // Release: pairs with the acquire load in `have_loops_ended`; the commands of the loop are
        // in the queue.
        self.ended.fetch_add(1, Release);
    }

    /// Whether all loops have ended.
    pub fn have_loops_ended(&self) -> bool {
        // Acquire: pairs with the release in `loop_ended`.
        self.ended.load(Acquire) == self.loops.len() as u64
    }
}

/// Values of the word `watcher`.
const AWAKE: u64 = 0;
const FOR_REQUESTS: u64 = 1;
const FOR_EVENTS: u64 = 2;

/// Values of the word `stop`.
const RUN: u64 = 0;
const EMPTY: u64 = 1;
const LEAVE: u64 = 2;
