//! The registrar on its thread: does the steps that its [`RegistrarDuty`] decides.

use super::duty::{RegistrarDuty, RegistrarStep};
use super::shared::Shared;
use super::snapshot_thread::SnapshotStatus;
use crate::clock::{self, Nanos};
use crate::exchange::{Command, Replies, Requester};
use crate::limits::COMMANDS_PER_STEP;
use crate::net::{SendBatch, Sent};
use crate::region::Region;
use crate::registrar::{Counts, Registrar};
use crate::wire::{Header, Kind, STATS, Stat, Status};
use rand::{Rng, rngs::StdRng};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

/// The registrar, before and while it runs on its thread.
pub(super) struct RegistrarThread {
    pub(super) shared: Arc<Shared>,
    pub(super) region: Arc<Region>,
    pub(super) poll: mio::Poll,
    pub(super) timer: OwnedFd,
    pub(super) wake: UnixDatagram,
    pub(super) random: StdRng,
    pub(super) replies: Replies,
    pub(super) send: SendBatch,
    pub(super) sent: Sent,
    pub(super) duty: RegistrarDuty,
    pub(super) epoch: u64,
    pub(super) started: Nanos,
    /// When the CPU time was last read, and what it was.
    pub(super) cpu_read: (Nanos, u64),
    pub(super) snapshot: Arc<SnapshotStatus>,
}

impl RegistrarThread {
    /// Runs until every loop has ended and every command is done.
    pub(super) fn run(mut self, mut registrar: Registrar) -> Registrar {
        let shared = Arc::clone(&self.shared);
        let signals = &shared.signals;
        let mut events = mio::Events::with_capacity(4);
        let mut armed = None;
        loop {
            match self.duty.next(clock::now(), signals, &shared.commands, &registrar) {
                RegistrarStep::Commands => {
                    let commands = self.commands(&mut registrar);
                    self.duty.commanded(commands);
                    if let Some((quota, deny)) = shared.take_settings() {
                        registrar.reconfigure(quota, deny);
                    }
                }
                RegistrarStep::ReadDrops => self.read_drops(),
                RegistrarStep::Look => {
                    let observed = self.duty.observe(clock::now(), signals);
                    self.duty.looked(registrar.tick(&observed));
                    shared.registrar_lives();
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
    fn commands(&mut self, registrar: &mut Registrar) -> usize {
        let mut count = 0;
        while count < COMMANDS_PER_STEP
            && let Some(command) = self.shared.commands.pop()
        {
            count += 1;
            let now = clock::now();
            if let Command::Stats { from } = &command {
                self.read_drops();
                self.stats(now, from, registrar.counts());
            } else {
                let random = &mut self.random;
                registrar.handle(now, &command, &mut || random.next_u64(), &mut self.replies);
            }
        }
        if !self.replies.is_empty() {
            self.send.send(&mut self.replies, &self.shared.sockets[0], &mut self.sent);
        }
        count
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

    fn stats(&mut self, now: Nanos, from: &Requester, counts: &Counts) {
        let own = self.sent;
        let drops = self.duty.drops();
        let (tally, sent) = self.shared.totals();
        let (snapshot, snapshot_age_ms, snapshot_failures) = self.snapshot.read(now);
        let hold = self.region.hold().expect("nobody disturbs the writer");
        let cpu_ns = self.cpu_ns(now);
        let mut numbers = [U64::ZERO; STATS];
        let mut set = |stat: Stat, value: u64| numbers[stat as usize] = U64::new(value);
        set(Stat::Epoch, self.epoch);
        set(Stat::UptimeNs, now - self.started);
        set(Stat::CpuNs, cpu_ns);
        set(Stat::MemoryBytes, self.shared.memory_bytes.load(Relaxed));
        set(Stat::Capacity, u64::from(self.region.geometry().capacity));
        set(Stat::Up, u64::from(counts.up));
        set(Stat::Suspect, u64::from(counts.suspect));
        set(Stat::Held, u64::from(counts.held));
        set(Stat::Down, u64::from(counts.down));
        set(
            Stat::Services,
            u64::from(self.region.service_count().expect("nobody disturbs the writer").1),
        );
        set(Stat::Datagrams, tally.datagrams);
        set(Stat::BytesReceived, tally.bytes);
        set(Stat::FramesBad, tally.bad);
        set(Stat::BeatsAccepted, tally.accepted);
        set(Stat::BeatsOld, tally.old);
        set(Stat::BeatsRefused, tally.refused);
        set(Stat::Replies, sent.replies + own.replies);
        set(Stat::BytesSent, sent.bytes + own.bytes);
        set(Stat::RepliesDropped, sent.dropped + own.dropped);
        set(Stat::NaksSuppressed, tally.naks_suppressed);
        set(Stat::KernelDrops, drops.max(self.shared.signals.hearing.drops()));
        set(Stat::Registered, counts.registered);
        set(Stat::Downs, counts.downs);
        set(Stat::Revived, counts.revived);
        set(Stat::Ended, counts.ended);
        set(Stat::FeedSequence, self.region.feed().head());
        set(Stat::Holds, counts.holds);
        set(Stat::Deafness, counts.deafness);
        set(
            Stat::HoldMs,
            hold.map_or(0, |hold| {
                (now.saturating_sub(hold.since.nanos()) / clock::NANOS_PER_MS).max(1)
            }),
        );
        set(Stat::HoldSilent, hold.map_or(0, |hold| u64::from(hold.silent)));
        set(Stat::HoldLive, hold.map_or(0, |hold| u64::from(hold.live)));
        set(Stat::Snapshot, snapshot);
        set(Stat::SnapshotAgeMs, snapshot_age_ms);
        set(Stat::SnapshotFailures, snapshot_failures);
        self.replies.put(
            from,
            Header::reply(Kind::Stats, Status::Ok, STATS as u16, from.tag),
            &[numbers.as_bytes()],
        );
    }

    /// CPU time of the engine's threads: the first number of `/proc/self/task/TID/schedstat`
    /// (Documentation/scheduler/sched-stats.rst). Read once in ten milliseconds at most.
    fn cpu_ns(&mut self, now: Nanos) -> u64 {
        if now < self.cpu_read.0 + 10 * clock::NANOS_PER_MS {
            return self.cpu_read.1;
        }
        let tids =
            self.shared.loops.iter().map(|status| &status.tid).chain([&self.shared.registrar_tid]);
        let sum = tids.map(|tid| {
            let path = format!("/proc/self/task/{}/schedstat", tid.load(Relaxed));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
        });
        self.cpu_read = (now, sum.sum());
        self.cpu_read.1
    }
}
