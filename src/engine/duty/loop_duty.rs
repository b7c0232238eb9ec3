//! The decisions of one loop: receive from each socket that may have something, tell how far that
//! drained it, then rest or stop.

use super::Signals;
use super::doze::Doze;
use super::inbox::Inbox;
use crate::clock::Nanos;
use crate::limits::{DOZE_NS, RECEIVE_BATCH, STALL_NS_MIN, STOP_DRAIN_NS_MAX};

/// What the driver of a loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopStep {
    /// Receive one batch from the socket with this number, apply it and answer; then call
    /// [`LoopDuty::received`], or [`LoopDuty::interrupted`] when the receive failed.
    Receive(usize),
    /// Wake the registrar.
    WakeRegistrar,
    /// Read the clock and call [`LoopDuty::looked`]; nothing sleeps.
    Look,
    /// Sleep for [`DOZE_NS`] whatever arrives, then call [`LoopDuty::dozed`].
    Doze,
    /// Sleep until a socket is readable or the registrar wakes the loop, then call
    /// [`LoopDuty::woken`].
    Sleep,
    /// End the thread.
    Stop,
}

/// The outcome of a receive.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// Messages in the batch; fewer than [`RECEIVE_BATCH`] left nothing at the socket.
    pub count: usize,
    /// The clock after the batch was applied and answered.
    pub done: Nanos,
    /// The kernel's drop count, as the last message that has one tells it.
    pub drops: Option<u32>,
    /// A command was passed to the registrar.
    pub commanded: bool,
    /// Replies that the loop has sent so far.
    pub answers: u64,
}

/// Where a loop is in its pass over the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A pass begins.
    Begin,
    /// This socket is next.
    Socket(usize),
    /// All sockets were looked at; what the pass did is to be published.
    Publish,
    /// The completed drain is to be reported.
    Report,
    /// The pass is over: go on, rest or stop.
    Rest,
    /// The loop has announced that it sleeps.
    Announced,
    /// The loop ends.
    End,
    /// It has ended.
    Ended,
}

/// One loop, without its sockets.
#[derive(Debug)]
pub struct LoopDuty {
    number: usize,
    inboxes: Box<[Inbox]>,
    doze: Doze,
    spin: Nanos,
    stage: Stage,
    /// The drain that was wanted when the pass began.
    wanted: Nanos,
    /// The pass received something.
    busy: bool,
    commanded: bool,
    answers: u64,
    /// The clock as last read. A receive that follows finds everything that had arrived by then.
    last: Nanos,
    idle_since: Nanos,
    /// The drain that was last reported to the registrar.
    reported: Nanos,
    stop_at: Nanos,
}

impl LoopDuty {
    /// The loop with this number. `drops` has the kernel's drop count of each of its sockets,
    /// `queue` is how many messages can wait at the socket with the shortest queue.
    pub fn new(
        number: usize,
        drops: impl Iterator<Item = u32>,
        queue: u64,
        spin: Nanos,
        now: Nanos,
    ) -> Self {
        Self {
            number,
            inboxes: drops.map(Inbox::new).collect(),
            doze: Doze::new(now, queue),
            spin,
            stage: Stage::Begin,
            wanted: 0,
            busy: false,
            commanded: false,
            answers: 0,
            last: now,
            idle_since: now,
            reported: 0,
            stop_at: Nanos::MAX,
        }
    }

    /// Decides the next step.
    pub fn next(&mut self, signals: &Signals) -> LoopStep {
        loop {
            match self.stage {
                Stage::Begin => {
                    self.wanted = signals.rendezvous.drain_wanted();
                    self.busy = false;
                    self.stage = Stage::Socket(0);
                }
                Stage::Socket(number) => match self.inboxes.get_mut(number) {
                    None => self.stage = Stage::Publish,
                    Some(inbox) => {
                        self.stage = Stage::Socket(number + 1);
                        let wanted = inbox.drained < self.wanted;
                        if wanted {
                            inbox.aim(signals.rendezvous.waiting(self.number));
                        }
                        if inbox.ready || wanted || self.stop_at != Nanos::MAX {
                            return LoopStep::Receive(number);
                        }
                    }
                },
                Stage::Publish => {
                    self.publish(signals);
                    self.stage = Stage::Report;
                    if std::mem::take(&mut self.commanded) {
                        self.doze.note_asked(self.last);
                        if signals.rendezvous.must_wake_registrar() {
                            return LoopStep::WakeRegistrar;
                        }
                    }
                }
                Stage::Report => {
                    self.stage = Stage::Rest;
                    if self.reports_drain(signals) {
                        return LoopStep::WakeRegistrar;
                    }
                }
                Stage::Rest => {
                    if let Some(step) = self.rest(signals) {
                        return step;
                    }
                }
                Stage::Announced => {
                    self.stage = Stage::Begin;
                    return LoopStep::Sleep;
                }
                Stage::End => {
                    signals.rendezvous.loop_ended();
                    self.stage = Stage::Ended;
                    if signals.rendezvous.must_wake_registrar() {
                        return LoopStep::WakeRegistrar;
                    }
                }
                Stage::Ended => return LoopStep::Stop,
            }
        }
    }

    /// The clock as last read: nothing that arrived before it is missed by the next receive.
    pub fn last(&self) -> Nanos {
        self.last
    }

    /// Datagrams dropped at all its sockets, as far as received ones told.
    pub fn drops(&self) -> u64 {
        self.total(|inbox| inbox.drops)
    }

    /// A batch was received from a socket and applied.
    pub fn received(&mut self, signals: &Signals, number: usize, outcome: &Received) {
        let before = std::mem::replace(&mut self.last, outcome.done);
        let inbox = &mut self.inboxes[number];
        inbox.ready = outcome.count == RECEIVE_BATCH;
        self.commanded |= outcome.commanded;
        self.answers = outcome.answers;
        if let Some(drops) = outcome.drops {
            inbox.note_drops(drops);
        }
        inbox.messages += outcome.count as u64;
        if inbox.ready {
            inbox.note_progress();
        } else {
            inbox.note_empty(before);
        }
        if outcome.count > 0 {
            self.busy = true;
            self.note_stall(signals, outcome.done - before);
        }
    }

    /// A receive was interrupted, or failed in a way that tells nothing of what waits there. It is
    /// tried again.
    pub fn interrupted(&mut self, number: usize, now: Nanos) {
        self.inboxes[number].ready = true;
        self.busy = true;
        self.last = now;
    }

    /// The clock was read.
    pub fn looked(&mut self, now: Nanos) {
        self.last = now;
    }

    /// A doze is over. `allowed`: the kernel let the thread sleep.
    pub fn dozed(&mut self, signals: &Signals, allowed: bool, now: Nanos) {
        if !allowed {
            self.doze.give_up();
        }
        self.inboxes.iter_mut().for_each(|inbox| inbox.ready = true);
        let asleep = now - std::mem::replace(&mut self.last, now);
        self.note_stall(signals, asleep.saturating_sub(DOZE_NS));
    }

    /// A sleep is over; `readable` are the sockets at which something arrived.
    pub fn woken(&mut self, signals: &Signals, readable: impl Iterator<Item = usize>, now: Nanos) {
        signals.rendezvous.woke_up(self.number);
        for number in readable {
            if let Some(inbox) = self.inboxes.get_mut(number) {
                inbox.ready = true;
            }
        }
        self.last = now;
    }

    /// Decides what follows a pass.
    fn rest(&mut self, signals: &Signals) -> Option<LoopStep> {
        self.stage = Stage::Begin;
        if let Some(leave) = signals.rendezvous.stopping() {
            // A successor that goes on with the sockets finds what waits there.
            self.stop_at =
                if leave { self.last } else { self.stop_at.min(self.last + STOP_DRAIN_NS_MAX) };
            if !self.busy || self.last >= self.stop_at {
                self.stage = Stage::End;
                return None;
            }
        }
        if self.busy {
            self.idle_since = self.last;
            return None;
        }
        let messages = self.total(|inbox| inbox.messages);
        let drops = self.drops();
        // Spinning is configured for answers at once, so a loop that spins does not doze.
        if self.spin == 0 && self.doze.decide(self.last, messages, self.answers, drops) {
            return Some(LoopStep::Doze);
        }
        if self.last - self.idle_since < self.spin {
            self.inboxes.iter_mut().for_each(|inbox| inbox.ready = true);
            return Some(LoopStep::Look);
        }
        if !signals.rendezvous.may_sleep(self.number) {
            return Some(LoopStep::Look);
        }
        self.stage = Stage::Announced;
        self.reports_drain(signals).then_some(LoopStep::WakeRegistrar)
    }

    fn publish(&self, signals: &Signals) {
        signals.hearing.publish_drops(self.number, self.drops());
        let drained = self.inboxes.iter().map(|inbox| inbox.drained).min().unwrap_or(0);
        signals.rendezvous.publish_drained(self.number, drained);
    }

    /// Whether the drain that the registrar waits for is complete and the registrar must be woken;
    /// each drain is reported once.
    fn reports_drain(&mut self, signals: &Signals) -> bool {
        match signals.rendezvous.drain_to_report(self.reported) {
            None => false,
            Some(wanted) => {
                self.reported = wanted;
                signals.rendezvous.must_wake_registrar()
            }
        }
    }

    fn note_stall(&self, signals: &Signals, length: Nanos) {
        if length >= STALL_NS_MIN {
            signals.hearing.note_stall(self.number, length);
        }
    }

    fn total(&self, count: fn(&Inbox) -> u64) -> u64 {
        self.inboxes.iter().map(count).sum()
    }
}
