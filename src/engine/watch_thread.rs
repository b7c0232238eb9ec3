//! The thread that answers watchers and pushes changes to them. It sleeps while nothing happens
//! that is watched, and reads feed and tables as any reader does: loops and registrar do not wait
//! for it.

use super::cpu_time::CpuTime;
use super::shared::Shared;
use crate::clock::{self, NANOS_PER_SECOND, Nanos};
use crate::exchange::{Pushes, Replies};
use crate::limits::GROUP_FRAMES;
use crate::net::{PushBatch, SendBatch};
use crate::region::{Counter, OwnCounters};
use crate::watchers::Watchers;
use rand::{Rng, rngs::StdRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// The watch thread, before and while it runs.
pub(super) struct WatchThread {
    shared: Arc<Shared>,
    watchers: Watchers,
    wake: UnixDatagram,
    /// Where the secrets of watches come from.
    random: StdRng,
    replies: Replies,
    send: SendBatch,
    pushes: Pushes,
    batch: PushBatch,
    cpu: CpuTime,
}

impl WatchThread {
    /// A thread with all of its buffers. `wake` is where others wake it; it does not block.
    pub(super) fn new(
        shared: Arc<Shared>,
        watchers: Watchers,
        wake: UnixDatagram,
        random: StdRng,
    ) -> Self {
        Self {
            shared,
            watchers,
            wake,
            random,
            replies: Replies::default(),
            send: SendBatch::default(),
            pushes: Pushes::default(),
            batch: PushBatch::default(),
            cpu: CpuTime::default(),
        }
    }

    /// Bytes that its tables and buffers take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.watchers.memory_bytes() + self.pushes.memory_bytes() + self.batch.memory_bytes()
    }

    /// Runs until the other threads have ended and what they did is told.
    pub(super) fn run(mut self, counters: &OwnCounters) {
        loop {
            // Before the feed is read: the events of threads that have ended are there.
            let ends = self.shared.watching_ends();
            let more = self.commands(counters);
            let now = clock::now();
            let wake_at = self.watchers.advance(now, &mut self.pushes);
            if !self.pushes.is_empty() {
                let tally = self.watchers.tally_mut();
                self.batch.send(&mut self.pushes, &self.shared.sockets[0], tally);
            }
            if let Some(spent) = self.cpu.read(now) {
                self.watchers.tally_mut().set(Counter::CpuNs, spent);
            }
            counters.publish(self.watchers.tally());
            if more || wake_at.is_some_and(|at| at <= clock::now()) {
                continue;
            }
            // A successor does not know the watches: theirs begin anew, and see what they missed.
            let leaves = self.shared.signals.rendezvous.stopping() == Some(true);
            if ends && (leaves || !self.watchers.is_behind()) {
                return;
            }
            self.sleep(wake_at);
        }
    }

    /// Takes a group of requests and receipts, and answers. `true`: there are more.
    fn commands(&mut self, counters: &OwnCounters) -> bool {
        let mut count = 0;
        while count < GROUP_FRAMES
            && let Some(command) = self.shared.watch_commands.pop()
        {
            count += 1;
            let (now, random) = (clock::now(), &mut self.random);
            let random = &mut || random.next_u64();
            self.watchers.handle(now, &command, random, &mut self.replies);
        }
        if !self.replies.is_empty() {
            // First: a client that has its answer finds it counted.
            counters.publish(self.watchers.tally());
            let tally = self.watchers.tally_mut();
            self.send.send(&mut self.replies, &self.shared.sockets[0], tally);
        }
        count == GROUP_FRAMES
    }

    /// Sleeps until this time, or until a loop or the registrar wakes the thread.
    fn sleep(&mut self, wake_at: Option<Nanos>) {
        let rendezvous = &self.shared.signals.rendezvous;
        let events = self.watchers.wants_events();
        rendezvous.watcher_sleeps(events);
        // Looked at after the announcement: others make work first and look for sleepers then.
        let work = !self.shared.watch_commands.is_empty()
            || events && self.watchers.is_behind()
            || self.shared.watching_ends();
        if !work {
            let left = wake_at.map(|at| {
                let left = at.saturating_sub(clock::now());
                Timespec {
                    tv_sec: (left / NANOS_PER_SECOND) as i64,
                    tv_nsec: (left % NANOS_PER_SECOND) as i64,
                }
            });
            // An interrupted poll is a wake-up like any other.
            let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], left.as_ref());
        }
        rendezvous.watcher_wakes();
        let mut byte = [0; 8];
        while self.wake.recv(&mut byte).is_ok() {}
    }
}
