//! The registrar on its thread: does the steps that its [`RegistrarDuty`] decides.

use super::cpu_time::CpuTime;
use super::duty::{RegistrarDuty, RegistrarStep};
use super::shared::Shared;
use crate::clock::{self, Nanos};
use crate::exchange::Replies;
use crate::limits::COMMANDS_PER_STEP;
use crate::net::SendBatch;
use crate::region::{Counter, OwnCounters, Region, Tally};
use crate::registrar::{Counts, Registrar};
use rand::{Rng, rngs::StdRng};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// The registrar, before and while it runs on its thread.
pub(super) struct RegistrarThread {
    pub(super) shared: Arc<Shared>,
    pub(super) poll: mio::Poll,
    pub(super) timer: OwnedFd,
    pub(super) wake: UnixDatagram,
    pub(super) random: StdRng,
    pub(super) replies: Replies,
    pub(super) send: SendBatch,
    pub(super) duty: RegistrarDuty,
    pub(super) tally: Tally,
    pub(super) cpu: CpuTime,
    pub(super) region: Arc<Region>,
    /// Number of the newest event when processes that wait for events were woken.
    pub(super) woken_for: u64,
    /// Number of the newest event that the watch thread was woken for.
    pub(super) told: u64,
}

impl RegistrarThread {
    /// Runs until every loop has ended and every command is done.
    pub(super) fn run(mut self, mut registrar: Registrar, counters: &OwnCounters) -> Registrar {
        let shared = Arc::clone(&self.shared);
        let signals = &shared.signals;
        let mut events = mio::Events::with_capacity(4);
        let mut armed = None;
        loop {
            match self.duty.next(clock::now(), signals, &shared.commands, &registrar) {
                RegistrarStep::Commands => {
                    let commands = self.commands(&mut registrar, counters);
                    self.duty.commanded(commands);
                    self.wake_waiting();
                    if let Some((quota, deny)) = shared.take_settings() {
                        registrar.reconfigure(quota, deny);
                    }
                    self.tell_watcher(&registrar);
                }
                RegistrarStep::ReadDrops => self.read_drops(),
                RegistrarStep::Look => {
                    let observed = self.duty.observe(clock::now(), signals);
                    self.duty.looked(registrar.tick(&observed));
                    self.wake_waiting();
                    if let Some(spent) = self.cpu.read(observed.now) {
                        self.tally.set(Counter::CpuNs, spent);
                    }
                    self.publish(registrar.counts(), counters);
                    shared.registrar_lives();
                    self.tell_watcher(&registrar);
                }
                RegistrarStep::WantDrain(time) => shared.want_drain(time),
                RegistrarStep::Sleep(wake_at) => {
                    self.sleep(&mut events, wake_at, &mut armed);
                    self.duty.woken(signals);
                }
                RegistrarStep::Stop => return registrar,
            }
        }
    }

    /// Takes a group of commands and sends what they answer. How many there were.
    fn commands(&mut self, registrar: &mut Registrar, counters: &OwnCounters) -> usize {
        let mut count = 0;
        while count < COMMANDS_PER_STEP
            && let Some(command) = self.shared.commands.pop()
        {
            count += 1;
            let random = &mut self.random;
            registrar.handle(clock::now(), &command, &mut || random.next_u64(), &mut self.replies);
        }
        if !self.replies.is_empty() {
            // First: a client that has its answer finds it counted.
            self.publish(registrar.counts(), counters);
            self.send.send(&mut self.replies, &self.shared.sockets[0], &mut self.tally);
        }
        count
    }

    /// Wakes the processes that wait for events, if there are new ones: one system call.
    fn wake_waiting(&mut self) {
        let head = self.region.feed().head();
        if std::mem::replace(&mut self.woken_for, head) != head {
            self.region.wake_waiting();
        }
    }

    /// Shows others what the registrar has counted.
    pub(super) fn publish(&mut self, counts: &Counts, counters: &OwnCounters) {
        counts.tell(&mut self.tally);
        self.tally.set(Counter::DropsRead, self.duty.drops());
        let [connections, refused] = self.shared.local();
        self.tally.set(Counter::LocalConnections, connections);
        self.tally.set(Counter::LocalRefused, refused);
        counters.publish(&self.tally);
    }

    /// Wakes the watch thread if there are new events. What belongs to them is in the tables.
    fn tell_watcher(&mut self, registrar: &Registrar) {
        let newest = registrar.newest_event();
        if std::mem::replace(&mut self.told, newest) != newest {
            self.shared.tell_watcher();
        }
    }

    fn read_drops(&mut self) {
        let sockets = self.shared.sockets.iter().flat_map(|group| group.iter());
        for (number, socket) in sockets.enumerate() {
            if let Ok(raw) = socket.drops() {
                self.duty.note_drops(number, raw);
            }
        }
    }

    fn sleep(
        &mut self,
        events: &mut mio::Events,
        wake_at: Option<Nanos>,
        armed: &mut Option<Nanos>,
    ) {
        if wake_at != *armed {
            // An absolute time of zero disarms.
            let at = wake_at.unwrap_or(0);
            let time = Timespec {
                tv_sec: (at / clock::NANOS_PER_SECOND) as i64,
                tv_nsec: (at % clock::NANOS_PER_SECOND) as i64,
            };
            let spec =
                Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)
                .expect("an armed timer takes any time");
            *armed = wake_at;
        }
        // An interrupted poll is a wake-up like any other.
        let _ = self.poll.poll(events, None);
        let mut byte = [0; 8];
        while self.wake.recv(&mut byte).is_ok() {}
        if wake_at.is_some_and(|at| clock::now() >= at) {
            *armed = None;
        }
    }
}
