//! One loop on its thread: does the steps that its [`LoopDuty`] decides.

use super::cpu_time::CpuTime;
use super::duty::{LoopDuty, LoopStep, Received};
use super::shared::Shared;
use crate::clock::{self, Nanos};
use crate::dataplane::{Datagram, Dataplane};
use crate::exchange::Replies;
use crate::limits::DOZE_NS;
use crate::net::{ReceiveBatch, SendBatch, Socket};
use crate::region::Counter;
use rustix::event::{Timespec, poll};
use rustix::io::Errno;
use std::sync::Arc;

/// What a loop allocates on its thread before it runs.
pub(super) struct LoopBuffers {
    duty: LoopDuty,
    events: mio::Events,
}

/// A loop, before and while it runs on its thread.
pub(super) struct EventLoop {
    pub(super) shared: Arc<Shared>,
    pub(super) number: usize,
    pub(super) poll: mio::Poll,
    pub(super) dataplane: Dataplane,
    pub(super) spin: Nanos,
    pub(super) receive: ReceiveBatch,
    pub(super) send: SendBatch,
    pub(super) replies: Replies,
    pub(super) cpu: CpuTime,
}

impl EventLoop {
    /// Allocates what a run needs. A run itself allocates nothing, so the engine is ready only
    /// after this.
    pub(super) fn prepare(&self) -> LoopBuffers {
        let sockets = &self.shared.sockets[self.number];
        let drops = sockets.iter().map(Socket::drops_at_start);
        let queue = sockets.iter().map(Socket::queue_messages_max).min().unwrap_or(0);
        LoopBuffers {
            duty: LoopDuty::new(self.number, drops, queue, self.spin, clock::now()),
            events: mio::Events::with_capacity(sockets.len() + 1),
        }
    }

    /// Runs until the engine stops.
    pub(super) fn run(mut self, buffers: LoopBuffers) {
        let LoopBuffers { mut duty, mut events } = buffers;
        let shared = Arc::clone(&self.shared);
        let signals = &shared.signals;
        loop {
            match duty.next(signals) {
                LoopStep::Receive(number) => self.serve(&mut duty, number),
                LoopStep::WakeRegistrar => shared.signal_registrar(),
                LoopStep::Look => {
                    std::hint::spin_loop();
                    duty.looked(clock::now());
                }
                LoopStep::Doze => {
                    // Interrupted: a shorter sleep.
                    let slept =
                        poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: DOZE_NS as i64 }));
                    let allowed = slept.is_ok() || slept == Err(Errno::INTR);
                    duty.dozed(signals, allowed, clock::now());
                }
                LoopStep::Sleep => {
                    // An interrupted poll is a wake-up without events.
                    let _ = self.poll.poll(&mut events, None);
                    let readable = events.iter().map(|event| event.token().0);
                    duty.woken(signals, readable, clock::now());
                }
                LoopStep::Stop => return,
            }
        }
    }

    /// Receives one batch from a socket, applies it and answers.
    fn serve(&mut self, duty: &mut LoopDuty, number: usize) {
        let sockets = &self.shared.sockets[self.number];
        let Ok(count) = self.receive.receive(&sockets[number]) else {
            return duty.interrupted(number, clock::now());
        };
        // Read after the receive: a beat never counts as earlier than it arrived.
        let mut outcome = Received { count, done: clock::now(), ..Received::default() };
        let spent = self.cpu.read(outcome.done);
        if let Some(spent) = spent {
            self.dataplane.tally_mut().set(Counter::CpuNs, spent);
        }
        if count > 0 {
            outcome.drops = self.apply(outcome.done, number as u16);
            outcome.commanded = self.dataplane.take_commanded();
            outcome.done = clock::now();
        }
        outcome.answers = self.dataplane.tally().get(Counter::Replies);
        duty.received(&self.shared.signals, number, &outcome);
        if count > 0 || spent.is_some() {
            self.dataplane.tally_mut().set(Counter::DropsTold, duty.drops());
            self.dataplane.publish();
        }
    }

    /// Applies what was received at `now` and answers. The kernel's drop count, as the last message
    /// that has one tells it.
    fn apply(&mut self, now: Nanos, number: u16) -> Option<u32> {
        let Self { receive, dataplane, replies, send, shared, number: own, .. } = self;
        let (mut drops, mut too_long) = (None, 0);
        let whole = receive.messages(number).filter(|message| {
            drops = message.drops.or(drops);
            too_long += u64::from(message.truncated);
            !message.truncated
        });
        let mut datagrams = whole
            .flat_map(|message| {
                message.datagrams().map(move |bytes| Datagram { peer: message.peer, bytes })
            })
            .peekable();
        while datagrams.peek().is_some() {
            dataplane.receive(now, &mut datagrams, replies);
            if !replies.is_empty() {
                send.send(replies, &shared.sockets[*own], dataplane.tally_mut());
            }
        }
        drop(datagrams);
        if dataplane.take_watch_commanded() {
            shared.wake_watcher();
        }
        dataplane.count_truncated(too_long);
        drops
    }
}
