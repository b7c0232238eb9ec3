//! The decisions of the registrar thread: commands, observations, a look at the timers, and when
//! to sleep.

use super::Signals;
use crate::clock::Nanos;
use crate::exchange::Command;
use crate::limits::COMMANDS_PER_STEP;
use crate::registrar::{Next, Observed, Registrar};
use crossbeam::queue::ArrayQueue;

/// What the driver of the registrar does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrarStep {
    /// Take up to [`COMMANDS_PER_STEP`] commands, hand them to the registrar and send its replies;
    /// then call [`RegistrarDuty::commanded`].
    Commands,
    /// Read the kernel's drop count of every socket into [`RegistrarDuty::note_drops`].
    ReadDrops,
    /// Hand [`RegistrarDuty::observe`] to [`Registrar::tick`], then call [`RegistrarDuty::looked`].
    Look,
    /// Ask the loops to drain after this time with [`super::Rendezvous::want_drain`]; 0: nothing is
    /// wanted any more.
    WantDrain(Nanos),
    /// Sleep until this time or until a loop wakes the registrar, then call
    /// [`RegistrarDuty::woken`].
    Sleep(Option<Nanos>),
    /// End the thread.
    Stop,
}

/// Where the registrar thread is in its round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A round begins.
    Begin,
    /// Drain times are to be read, then perhaps drops.
    Observe,
    /// The registrar looks at its timers.
    Look,
    /// It wants another drain, or none.
    Want,
    /// The round is over: go on, sleep or stop.
    Rest,
}

/// The registrar thread, without its sockets, its timer and the registrar.
#[derive(Debug)]
pub struct RegistrarDuty {
    stage: Stage,
    /// Every loop had ended when the round began.
    ended: bool,
    /// Commands taken in this round.
    commands: usize,
    /// The time before which every loop has drained. Read before the drops are, so that each drop
    /// before the drain is in their count.
    drained: Nanos,
    /// For each socket the drop count as the kernel last told it, in 32 bits that wrap, and the
    /// drops that it stands for.
    drops: Box<[(u32, u64)]>,
    next: Next,
}

impl RegistrarDuty {
    /// `drops` has the kernel's drop count of each socket of all loops: what was dropped under a
    /// former engine is no news.
    pub fn new(drops: impl Iterator<Item = u32>) -> Self {
        Self {
            stage: Stage::Begin,
            ended: false,
            commands: 0,
            drained: 0,
            drops: drops.map(|raw| (raw, 0)).collect(),
            next: Next { wake_at: None, drain: None },
        }
    }

    /// Decides the next step at the time `now`.
    pub fn next(
        &mut self,
        now: Nanos,
        signals: &Signals,
        commands: &ArrayQueue<Command>,
        registrar: &Registrar,
    ) -> RegistrarStep {
        loop {
            match self.stage {
                Stage::Begin => {
                    // Before the commands are taken: a loop that has ended makes no more.
                    self.ended = signals.rendezvous.have_loops_ended();
                    self.stage = Stage::Observe;
                    return RegistrarStep::Commands;
                }
                Stage::Observe => {
                    self.drained = signals.rendezvous.drained();
                    self.stage = Stage::Look;
                    if registrar.is_judging() || signals.hearing.drops() > self.drops() {
                        return RegistrarStep::ReadDrops;
                    }
                }
                Stage::Look => {
                    self.stage = Stage::Want;
                    return RegistrarStep::Look;
                }
                Stage::Want => {
                    self.stage = Stage::Rest;
                    let drain = self.next.drain.unwrap_or(0);
                    if drain != signals.rendezvous.drain_wanted() {
                        return RegistrarStep::WantDrain(drain);
                    }
                }
                Stage::Rest => {
                    self.stage = Stage::Begin;
                    if self.ended && self.commands == 0 && commands.is_empty() {
                        return RegistrarStep::Stop;
                    }
                    let due = self.next.wake_at.is_some_and(|at| at <= now);
                    if self.commands < COMMANDS_PER_STEP
                        && !due
                        && self.may_sleep(signals, commands)
                    {
                        return RegistrarStep::Sleep(self.next.wake_at);
                    }
                }
            }
        }
    }

    /// This many commands were taken.
    pub fn commanded(&mut self, commands: usize) {
        self.commands = commands;
    }

    /// The kernel's drop count of a socket.
    pub fn note_drops(&mut self, socket: usize, raw: u32) {
        let (last, total) = &mut self.drops[socket];
        *total += u64::from(raw.wrapping_sub(*last));
        *last = raw;
    }

    /// Datagrams dropped at all sockets.
    pub fn drops(&self) -> u64 {
        self.drops.iter().map(|&(_, total)| total).sum()
    }

    /// What the registrar is told of the engine's hearing.
    pub fn observe(&self, now: Nanos, signals: &Signals) -> Observed {
        let stall = signals.hearing.take_stall();
        Observed { now, drained: self.drained, drops: self.drops(), stall }
    }

    /// The registrar has looked, and this is what it wants next.
    pub fn looked(&mut self, next: Next) {
        self.next = next;
    }

    /// A sleep is over.
    pub fn woken(&self, signals: &Signals) {
        signals.rendezvous.registrar_wakes();
    }

    /// Announces that the registrar sleeps, unless there is work.
    fn may_sleep(&self, signals: &Signals, commands: &ArrayQueue<Command>) -> bool {
        signals.rendezvous.registrar_sleeps();
        // Looked at after the announcement: a loop makes work first and looks for sleepers then.
        let work = !commands.is_empty()
            || self.next.drain.is_some_and(|drain| signals.rendezvous.drained() >= drain)
            || signals.rendezvous.have_loops_ended();
        if work {
            signals.rendezvous.registrar_wakes();
        }
        !work
    }
}
