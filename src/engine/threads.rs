//! The threads of an engine: made first, with everything that can fail; then started; then stopped,
//! with the right to change the region given back.

use super::cpu_time::CpuTime;
use super::duty::RegistrarDuty;
use super::event_loop::EventLoop;
use super::registrar_thread::RegistrarThread;
use super::shared::Shared;
use super::watch_thread::WatchThread;
use super::{Settings, SocketTable, StartError, WAKER, tid};
use crate::clock::{self, Nanos};
use crate::config::Config;
use crate::dataplane::{Cookies, Dataplane};
use crate::exchange::{Command, Replies, WatchCommand};
use crate::limits::{COMMAND_QUEUE, WATCH_QUEUE};
use crate::net::{ReceiveBatch, SendBatch, Socket};
use crate::region::{Counter, OwnCounters, Region, Right, Tally};
use crate::registrar::Registrar;
use crate::watchers::Watchers;
use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::queue::ArrayQueue;
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use rand::rngs::{SmallRng, StdRng};
use rand::{Rng, SeedableRng};
use rustix::thread::set_current_timer_slack;
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

/// How the registrar begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// There is nobody.
    Empty,
    /// Derived tables are made before a loop runs: its last writer did perhaps not end in
    /// order.
    Resume,
    /// The one before has just ended in order: loops run at once, and the registrar finds its way
    /// meanwhile.
    TakeOver,
}

/// What the threads work with.
pub(super) struct Parts<'a> {
    pub(super) config: &'a Config,
    pub(super) cores: &'a [usize],
    pub(super) sockets: &'a Arc<SocketTable>,
    pub(super) region: &'a Arc<Region>,
    pub(super) settings: Settings,
    pub(super) cookie_key: (u64, u64),
}

/// Threads that could be started.
pub(super) struct Prepared {
    shared: Arc<Shared>,
    region: Arc<Region>,
    settings: Settings,
    cores: Vec<usize>,
    loops: Vec<EventLoop>,
    registrar: RegistrarThread,
    watcher: WatchThread,
}

/// Threads that run.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) shared: Arc<Shared>,
    loops: Vec<JoinHandle<()>>,
    registrar: JoinHandle<Registrar>,
    watcher: JoinHandle<()>,
    /// Of the snapshot thread, until there is one.
    pub(super) snapshot_counters: Option<OwnCounters>,
    /// Where they said that they serve. Kept, for the last to leave a channel frees it, and a loop
    /// must not.
    #[expect(dead_code, reason = "only its end matters")]
    started: Receiver<u32>,
}

impl Prepared {
    pub(super) fn new(parts: Parts<'_>) -> Result<Self, StartError> {
        let Parts { config, cores, sockets, region, settings, cookie_key } = parts;
        let mut random =
            StdRng::try_from_rng(&mut rand::rngs::SysRng).map_err(|error| StartError::System {
                what: "getting random numbers from the kernel",
                source: std::io::Error::other(error),
            })?;
        let (registrar_wake, wake) = bell()?;
        let (watcher_wake, watch_wake) = bell()?;
        let (polls, wakers) = make_polls(sockets)?;
        let commands = Arc::new(ArrayQueue::new(COMMAND_QUEUE));
        let watch_commands = Arc::new(ArrayQueue::new(WATCH_QUEUE));
        let shared = Arc::new(Shared::new(
            Arc::clone(sockets),
            (Arc::clone(&commands), Arc::clone(&watch_commands)),
            wakers,
            [registrar_wake, watcher_wake],
        ));
        let cookies = Cookies::new(cookie_key);
        let make = |(number, poll)| EventLoop {
            shared: Arc::clone(&shared),
            number,
            poll,
            dataplane: Dataplane::new(
                Arc::clone(region),
                Arc::clone(&commands),
                Arc::clone(&watch_commands),
                cookies.clone(),
                settings.epoch,
                SmallRng::seed_from_u64(random.next_u64()),
            ),
            spin: config.spin.as_nanos() as Nanos,
            receive: ReceiveBatch::default(),
            send: SendBatch::default(),
            replies: Replies::default(),
            cpu: CpuTime::default(),
        };
        let loops: Vec<EventLoop> = polls.into_iter().enumerate().map(make).collect();
        let tables = region.geometry().heart_bytes()
            + region.geometry().public_bytes()
            + region.changed_bytes();
        let buffers: usize =
            loops.iter().map(|one| one.receive.memory_bytes() + one.dataplane.memory_bytes()).sum();
        let key = (random.next_u64(), random.next_u64());
        let watchers = Watchers::new(Arc::clone(region), key, settings.epoch);
        let secrets = StdRng::from_rng(&mut random);
        let watcher = WatchThread::new(Arc::clone(&shared), watchers, watch_wake, secrets);
        let mut registrar = registrar_thread(&shared, region, wake, random)?;
        let queues = COMMAND_QUEUE * size_of::<Command>() + WATCH_QUEUE * size_of::<WatchCommand>();
        let memory = tables + queues + buffers + watcher.memory_bytes();
        registrar.tally.set(Counter::MemoryBytes, memory as u64);
        registrar.tally.set(Counter::Epoch, settings.epoch);
        registrar.tally.set(Counter::Loops, loops.len() as u64);
        registrar.tally.set(Counter::Started, clock::now());
        Ok(Self {
            shared,
            region: Arc::clone(region),
            settings,
            cores: cores.to_vec(),
            loops,
            registrar,
            watcher,
        })
    }

    /// Starts the threads and returns when they serve; with the number of leases there are.
    pub(super) fn start(self, writer: Right, begin: Begin) -> Result<(Threads, u32), StartError> {
        let Self { shared, region, settings, cores, loops, registrar, watcher } = self;
        // No loop takes a datagram before all threads are there: if one can't be, what waits at the
        // sockets is the old engine's.
        let (open, gate) = bounded::<()>(0);
        let count = loops.len() + 2;
        let (ready, started) = bounded(count);
        let now = clock::now();
        let all = region.begin_counters(&writer, loops.len());
        let early = match begin {
            Begin::Empty => Ok(Registrar::new(Arc::clone(&region), writer, settings, now)),
            Begin::Resume => Ok(Registrar::resume(Arc::clone(&region), writer, settings, now)),
            Begin::TakeOver => Err((Arc::clone(&region), writer, settings)),
        };
        let mut threads = Vec::new();
        for ((core, mut event_loop), counters) in cores.into_iter().zip(loops).zip(all.loops) {
            event_loop.dataplane.publish_in(counters);
            let (ready, gate) = (ready.clone(), gate.clone());
            let run = move || {
                // A core that was taken away since the start leaves the loop unpinned, not dead.
                core_affinity::set_for_current(core_affinity::CoreId { id: core });
                // The kernel may else prolong each short sleep by 50 µs (prctl(2),
                // `PR_SET_TIMERSLACK`).
                let _ = set_current_timer_slack(NonZeroU64::new(1));
                event_loop.shared.loop_tids[event_loop.number].store(tid(), Relaxed);
                if gate.recv().is_ok() {
                    let prepared = event_loop.prepare();
                    let _ = ready.send(0);
                    drop(ready);
                    event_loop.run(prepared);
                }
            };
            let name = format!("heartline-{core}");
            threads.push(
                std::thread::Builder::new()
                    .name(name)
                    .spawn(run)
                    .map_err(StartError::system("starting a loop"))?,
            );
        }
        let watcher = start_watcher(watcher, all.watches, ready.clone(), gate.clone())?;
        let run = move || {
            let mut registrar = registrar;
            let state = early.unwrap_or_else(|(region, writer, settings)| {
                Registrar::take_over(region, writer, settings, clock::now())
            });
            registrar.tally.add(Counter::MemoryBytes, state.memory_bytes() as u64);
            let counts = state.counts();
            registrar.publish(counts, &all.registrar);
            let _ = ready.send(counts.up + counts.suspect + counts.down);
            drop(ready);
            registrar.run(state, &all.registrar)
        };
        let builder = std::thread::Builder::new().name("heartline-reg".into());
        let registrar = builder.spawn(run).map_err(StartError::system("starting the registrar"))?;
        for _ in 1..count {
            let _ = open.send(());
        }
        let leases = started.iter().take(count).sum();
        let snapshot_counters = Some(all.snapshots);
        Ok((
            Threads { shared, loops: threads, registrar, watcher, snapshot_counters, started },
            leases,
        ))
    }
}

impl Threads {
    /// Waits until the threads have ended, which they do after [`Shared::stop`]. `None`: one of
    /// them panicked.
    pub(super) fn join(self) -> Option<Right> {
        let whole = self
            .loops
            .into_iter()
            .map(JoinHandle::join)
            .fold(true, |whole, ended| whole & ended.is_ok());
        let registrar = self.registrar.join();
        self.shared.end_watching();
        let whole = self.watcher.join().is_ok() && whole;
        let registrar = registrar.ok()?;
        whole.then(|| registrar.release().1)
    }
}

/// The ends of a local socket: one wakes the thread that has the other, which does not block.
fn bell() -> Result<(UnixDatagram, UnixDatagram), StartError> {
    let fail = "making a socket pair";
    let (ringing, heard) = UnixDatagram::pair().map_err(StartError::system(fail))?;
    heard.set_nonblocking(true).map_err(StartError::system(fail))?;
    Ok((ringing, heard))
}

/// Starts the watch thread, which waits at the gate as loops do.
fn start_watcher(
    thread: WatchThread,
    counters: OwnCounters,
    ready: Sender<u32>,
    gate: Receiver<()>,
) -> Result<JoinHandle<()>, StartError> {
    let run = move || {
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        if gate.recv().is_ok() {
            drop(gate);
            let _ = ready.send(0);
            drop(ready);
            thread.run(&counters);
        }
    };
    let builder = std::thread::Builder::new().name("heartline-watch".into());
    builder.spawn(run).map_err(StartError::system("starting the watch thread"))
}

fn make_polls(sockets: &SocketTable) -> Result<(Vec<Poll>, Box<[mio::Waker]>), StartError> {
    let fail = "making an epoll instance";
    let (mut polls, mut wakers) = (Vec::new(), Vec::new());
    for group in sockets {
        let poll = Poll::new().map_err(StartError::system(fail))?;
        for (number, socket) in group.iter().enumerate() {
            let fd = socket.as_raw_fd();
            poll.registry()
                .register(&mut SourceFd(&fd), Token(number), Interest::READABLE)
                .map_err(StartError::system(fail))?;
        }
        wakers.push(mio::Waker::new(poll.registry(), WAKER).map_err(StartError::system(fail))?);
        polls.push(poll);
    }
    Ok((polls, wakers.into_boxed_slice()))
}

fn registrar_thread(
    shared: &Arc<Shared>,
    region: &Arc<Region>,
    wake: UnixDatagram,
    random: StdRng,
) -> Result<RegistrarThread, StartError> {
    let fail = "making the registrar's timer";
    let timer: OwnedFd =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .map_err(|error| StartError::system(fail)(error.into()))?;
    let poll = Poll::new().map_err(StartError::system(fail))?;
    for (token, fd) in [timer.as_raw_fd(), wake.as_raw_fd()].into_iter().enumerate() {
        poll.registry()
            .register(&mut SourceFd(&fd), Token(token), Interest::READABLE)
            .map_err(StartError::system(fail))?;
    }
    Ok(RegistrarThread {
        shared: Arc::clone(shared),
        poll,
        timer,
        wake,
        random,
        replies: Replies::default(),
        send: SendBatch::default(),
        duty: RegistrarDuty::new(shared.sockets.iter().flatten().map(Socket::drops_at_start)),
        tally: Tally::default(),
        cpu: CpuTime::default(),
        region: Arc::clone(region),
        woken_for: 0,
        told: 0,
    })
}
