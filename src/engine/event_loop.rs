//! One loop: receive, apply, reply, publish, idle.

use super::doze::Doze;
use super::port::Port;
use super::shared::{LoopStatus, Shared};
use crate::clock::{self, Nanos};
use crate::dataplane::{Datagram, Dataplane};
use crate::exchange::Replies;
use crate::limits::{DOZE_NS, RECEIVE_BATCH, STALL_NS_MIN, STOP_DRAIN_NS_MAX};
use crate::net::{ReceiveBatch, SendBatch, Sent, Socket};
use rustix::event::{Timespec, poll};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// What a loop allocates on its thread before it runs.
pub(super) struct Prepared {
    ports: Vec<Port>,
    events: mio::Events,
    doze: Doze,
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
}

impl EventLoop {
    fn status(&self) -> &LoopStatus {
        &self.shared.loops[self.number]
    }

    /// Allocates what a run needs. A run itself allocates nothing, so the engine is ready only
    /// after this.
    pub(super) fn prepare(&self) -> Prepared {
        let sockets = &self.shared.sockets[self.number];
        let now = clock::now();
        Prepared {
            ports: sockets.iter().map(|socket| Port::new(socket.drops_at_start())).collect(),
            events: mio::Events::with_capacity(sockets.len() + 1),
            doze: Doze::new(now, sockets.iter().map(Socket::queue_messages_max).min().unwrap_or(0)),
        }
    }

    /// Runs until the engine stops.
    pub(super) fn run(mut self, prepared: Prepared) {
        let Prepared { mut ports, mut events, mut doze } = prepared;
        let shared = Arc::clone(&self.shared);
        let sockets = &shared.sockets[self.number];
        let mut sent = Sent::default();
        // The clock as last read; a receive that follows finds everything that had arrived by then.
        let mut last = clock::now();
        let mut idle_since = last;
        let mut reported = 0;
        let mut stop_at = Nanos::MAX;
        loop {
            let wanted = shared.rendezvous.drain_wanted();
            let mut busy = false;
            for (number, (port, socket)) in ports.iter_mut().zip(sockets).enumerate() {
                if port.drained < wanted {
                    port.aim(shared.rendezvous.waiting(self.number));
                }
                if port.ready || port.drained < wanted || stop_at != Nanos::MAX {
                    busy |= self.serve(number as u16, port, socket, &mut last, &mut sent);
                }
            }
            self.publish(&ports, &sent);
            if self.dataplane.take_commanded() {
                shared.wake_registrar();
                doze.note_asked(last);
            }
            self.report_drain(&mut reported);
            if shared.rendezvous.is_stopping() {
                // Who goes on with the sockets finds what waits there.
                stop_at = if shared.leaves_queues() {
                    last
                } else {
                    stop_at.min(last + STOP_DRAIN_NS_MAX)
                };
                if !busy || last >= stop_at {
                    break;
                }
            }
            if busy {
                idle_since = last;
                continue;
            }
            // Whoever lets it spin wants answers at once.
            last = if self.spin == 0
                && doze.decide(
                    last,
                    total(&ports, |port| port.messages),
                    sent.replies,
                    total(&ports, |port| port.drops),
                ) {
                self.sleep_regardless(&mut doze, &mut ports, last)
            } else {
                self.idle(&mut events, &mut ports, last, idle_since, &mut reported)
            };
        }
        shared.ended.fetch_add(1, SeqCst);
        shared.wake_registrar();
    }

    /// Receives one batch from a socket and handles it. Whether anything came.
    fn serve(
        &mut self,
        number: u16,
        port: &mut Port,
        socket: &Socket,
        last: &mut Nanos,
        sent: &mut Sent,
    ) -> bool {
        let before = *last;
        let Ok(count) = self.receive.receive(socket) else {
            // Interrupted, or an error that says nothing of what waits there: not drained, and
            // tried again.
            port.ready = true;
            *last = clock::now();
            return true;
        };
        // Read after the receive: a beat never counts as earlier than it arrived.
        let now = clock::now();
        *last = now;
        port.ready = count == RECEIVE_BATCH;
        if count == 0 {
            port.note_empty(before);
            return false;
        }
        self.handle(now, number, port, sent);
        port.messages += count as u64;
        if port.ready {
            port.note_progress();
        } else {
            port.note_empty(before);
        }
        let done = clock::now();
        if done - before >= STALL_NS_MIN {
            self.status().note_stall(done - before);
        }
        *last = done;
        true
    }

    fn handle(&mut self, now: Nanos, number: u16, port: &mut Port, sent: &mut Sent) {
        let Self { receive, dataplane, replies, send, shared, number: own, .. } = self;
        let mut too_long = 0;
        for message in receive.messages(number) {
            if let Some(drops) = message.drops {
                port.note_drops(drops);
            }
            too_long += u64::from(message.truncated);
        }
        let mut datagrams = receive
            .messages(number)
            .filter(|message| !message.truncated)
            .flat_map(|message| {
                message.datagrams().map(move |bytes| Datagram { peer: message.peer, bytes })
            })
            .peekable();
        while datagrams.peek().is_some() {
            dataplane.receive(now, &mut datagrams, replies);
            if !replies.is_empty() {
                send.send(replies, &shared.sockets[*own], sent);
            }
        }
        dataplane.count_truncated(too_long);
    }

    fn publish(&self, ports: &[Port], sent: &Sent) {
        let status = self.status();
        status.publish_drops(total(ports, |port| port.drops));
        status.publish_counters(self.dataplane.tally(), sent);
        self.shared
            .rendezvous
            .publish_drained(self.number, ports.iter().map(|port| port.drained).min().unwrap_or(0));
    }

    /// Wakes the registrar when the drain it waits for is complete; each is reported once.
    fn report_drain(&self, reported: &mut Nanos) {
        if let Some(wanted) = self.shared.rendezvous.drain_to_report(*reported) {
            self.shared.wake_registrar();
            *reported = wanted;
        }
    }

    /// Spins for a while, then sleeps until something arrives or the registrar asks. Returns a
    /// clock reading.
    fn idle(
        &mut self,
        events: &mut mio::Events,
        ports: &mut [Port],
        last: Nanos,
        idle_since: Nanos,
        reported: &mut Nanos,
    ) -> Nanos {
        if last - idle_since < self.spin {
            ports.iter_mut().for_each(|port| port.ready = true);
            std::hint::spin_loop();
            return clock::now();
        }
        if self.shared.rendezvous.may_sleep(self.number) {
            self.report_drain(reported);
            // An interrupted poll is a wake-up without events.
            let _ = self.poll.poll(events, None);
            self.shared.rendezvous.woke_up(self.number);
            for event in events.iter() {
                if let Some(port) = ports.get_mut(event.token().0) {
                    port.ready = true;
                }
            }
        }
        clock::now()
    }

    /// Sleeps for [`DOZE_NS`], whatever arrives, and then looks everywhere. Returns a clock
    /// reading.
    ///
    /// To the registrar the loop is a busy one meanwhile: the registrar does not wake it, and the
    /// loop sees afterwards what is asked of it.
    fn sleep_regardless(&self, doze: &mut Doze, ports: &mut [Port], last: Nanos) -> Nanos {
        // Interrupted: a shorter sleep.
        if poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: DOZE_NS as i64 }))
            .is_err_and(|error| error != Errno::INTR)
        {
            doze.give_up();
        }
        ports.iter_mut().for_each(|port| port.ready = true);
        let now = clock::now();
        let late = (now - last).saturating_sub(DOZE_NS);
        if late >= STALL_NS_MIN {
            self.status().note_stall(late);
        }
        now
    }
}

fn total(ports: &[Port], count: fn(&Port) -> u64) -> u64 {
    ports.iter().map(count).sum()
}
