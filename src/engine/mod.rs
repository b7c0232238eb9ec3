//! Threads: start, run, drain, stop.
//!
//! An [`Engine`] owns everything it uses; several live in one process without knowing of one another.

mod event_loop;
mod registrar_thread;
mod rendezvous;
mod shared;

use crate::clock::{self, Nanos};
use crate::config::Config;
use crate::dataplane::{Cookies, Dataplane};
use crate::error::StartError;
use crate::exchange::{Command, Replies};
use crate::limits::COMMAND_QUEUE;
use crate::net::{ReceiveBatch, SendBatch, Socket, bind_group};
use crate::region::{Geometry, Mismatch, Place, Region, RegionError, Writer, is_tmpfs};
use crate::registrar::{DenyList, Registrar, Settings};
use crossbeam::queue::ArrayQueue;
use event_loop::EventLoop;
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use rand::rngs::{SmallRng, StdRng};
use rand::{Rng, SeedableRng};
use registrar_thread::RegistrarThread;
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use shared::Shared;
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Token of a loop's waker; sockets have the numbers from 0 on.
const WAKER: Token = Token(usize::MAX);

/// For each loop, a socket for each listening address.
type SocketTable = Box<[Box<[Socket]>]>;

/// A running engine. Dropping it stops it.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    region: Arc<Region>,
    threads: Vec<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
    cores: Vec<usize>,
    resumed: u32,
    unfit: Option<String>,
    state: Option<StateDirectory>,
}

impl Engine {
    /// Starts an engine and returns when it serves.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_unless(config, &AtomicBool::new(false))
    }

    /// Starts an engine, unless `cancelled` becomes true before it serves: allocating a large region takes seconds.
    pub fn start_unless(config: &Config, cancelled: &AtomicBool) -> Result<Self, StartError> {
        config.validate()?;
        let cores = config.loop_cores();
        if cores.is_empty() {
            return Err(StartError::System { what: "reading the CPUs that the process may use", source: std::io::Error::last_os_error() });
        }
        let (addresses, sockets) = bind(config, cores.len())?;
        let state = StateDirectory::take(&config.state)?;
        let mut random = StdRng::try_from_rng(&mut rand::rngs::SysRng)
            .map_err(|error| StartError::System { what: "getting random numbers from the kernel", source: std::io::Error::other(error) })?;
        let epoch = random.next_u64() | 1;
        let key = (random.next_u64(), random.next_u64());
        let (registrar_wake, wake) = UnixDatagram::pair().map_err(StartError::system("making a socket pair"))?;
        let (polls, wakers) = make_polls(&sockets)?;
        let geometry = Geometry::new(config.capacity, config.attributes_bytes);
        let create = |geometry| Region::create(&config.state, geometry, key, epoch, cancelled);
        let (resumes, unfit, (region, writer)) = match left_behind(&config.state, &geometry) {
            Left::Nothing => (false, None, create(geometry)?),
            Left::Whole(left) => (true, None, *left),
            Left::Unfit(why) => (false, Some(why), create(geometry)?),
        };
        let region = Arc::new(region);
        let commands = Arc::new(ArrayQueue::new(COMMAND_QUEUE));
        let shared = Arc::new(Shared::new(sockets, Arc::clone(&commands), wakers, registrar_wake));
        let settings = Settings {
            quota: config.quota.unwrap_or(config.capacity),
            hold: config.hold,
            tombstone_min: config.tombstone_ns(),
            deny: DenyList::new(config.deny.clone()),
            epoch,
        };
        let now = clock::now();
        let begin = if resumes { Registrar::resume } else { Registrar::new };
        let registrar = begin(Arc::clone(&region), writer, settings, now);
        let counts = registrar.counts();
        let resumed = counts.up + counts.suspect + counts.down;
        let cookies = Cookies::new((random.next_u64(), random.next_u64()));
        let loops: Vec<EventLoop> = polls
            .into_iter()
            .enumerate()
            .map(|(number, poll)| EventLoop {
                shared: Arc::clone(&shared),
                number,
                poll,
                dataplane: Dataplane::new(
                    Arc::clone(&region),
                    Arc::clone(&commands),
                    cookies.clone(),
                    epoch,
                    SmallRng::seed_from_u64(random.next_u64()),
                ),
                spin: config.spin.as_nanos() as Nanos,
                receive: ReceiveBatch::default(),
                send: SendBatch::default(),
                replies: Replies::default(),
            })
            .collect();
        account_memory(&shared, &region, &registrar, &loops);
        let thread = registrar_thread(&shared, &region, registrar, wake, random, epoch, now).inspect_err(|_| region.remove_files())?;
        let mut engine = Self { shared, region, threads: Vec::new(), addresses, cores, resumed, unfit, state };
        engine.spawn(thread, loops)?;
        Ok(engine)
    }

    fn spawn(&mut self, registrar: RegistrarThread, loops: Vec<EventLoop>) -> Result<(), StartError> {
        let (ready, wait) = mpsc::channel();
        let count = loops.len() + 1;
        for (core, event_loop) in self.cores.clone().into_iter().zip(loops) {
            let ready = ready.clone();
            let name = format!("heartline-{core}");
            let run = move || {
                // A core that was taken away since the start leaves the loop unpinned, not dead.
                core_affinity::set_for_current(core_affinity::CoreId { id: core });
                event_loop.shared.loops[event_loop.number].tid.store(tid(), Relaxed);
                let prepared = event_loop.prepare();
                let _ = ready.send(());
                drop(ready);
                event_loop.run(prepared);
            };
            self.threads.push(std::thread::Builder::new().name(name).spawn(run).map_err(StartError::system("starting a loop"))?);
        }
        let run = move || {
            registrar.shared.registrar_tid.store(tid(), Relaxed);
            let _ = ready.send(());
            drop(ready);
            registrar.run();
        };
        let builder = std::thread::Builder::new().name("heartline-reg".into());
        self.threads.push(builder.spawn(run).map_err(StartError::system("starting the registrar"))?);
        wait.iter().take(count).for_each(drop);
        Ok(())
    }

    /// The addresses it listens on, ports as the kernel chose them.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Leases that it took over from an engine that was killed.
    pub fn resumed(&self) -> u32 {
        self.resumed
    }

    /// Why it could not go on with the memory of an engine that was killed, if there was any: its leases are lost.
    pub fn unfit(&self) -> Option<&str> {
        self.unfit.as_deref()
    }

    /// The CPUs its loops run on.
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// The memory that it works on.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Bytes allocated for tables and buffers.
    pub fn memory_bytes(&self) -> u64 {
        self.shared.memory_bytes.load(Relaxed)
    }

    /// Kernel thread ids of the loops.
    pub fn loop_threads(&self) -> Vec<u32> {
        self.shared.loops.iter().map(|status| status.tid.load(Relaxed)).collect()
    }

    /// The receive buffer that the kernel granted each socket, as the kernel counts it (twice what was asked for).
    pub fn receive_queue_bytes(&self) -> usize {
        self.shared.sockets[0][0].queue_bytes()
    }

    /// Whether the kernel coalesces received datagrams (UDP GRO).
    pub fn coalesces(&self) -> bool {
        self.shared.sockets[0][0].coalesces()
    }

    /// Asks the engine to stop: what has arrived is handled, then its threads end.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Waits until the threads have ended.
    ///
    /// # Panics
    /// When one of them panicked.
    pub fn join(mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread of the engine panicked");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // Membership is not carried over a restart, so the files would only take memory. The lock goes last.
        self.region.remove_files();
        self.state.take();
    }
}

/// What an engine that was killed left in the state directory, and the right to go on with it.
enum Left {
    /// Nothing, or what [`Region::create`] refuses.
    Nothing,
    /// Memory that this engine goes on with.
    Whole(Box<(Region, Writer)>),
    /// Memory that it can't go on with and replaces, and why.
    Unfit(String),
}

fn left_behind(place: &Place, geometry: &Geometry) -> Left {
    let Place::Directory(path) = place else { return Left::Nothing };
    match Region::attach(path) {
        Ok((region, writer)) if region.geometry() == geometry => Left::Whole(Box::new((region, writer))),
        Ok((region, _)) => {
            let found = region.geometry();
            Left::Unfit(format!(
                "{} has memory for {} leases with {} attribute bytes, and {} with {} are asked for",
                path.display(),
                found.capacity,
                found.attributes_bytes,
                geometry.capacity,
                geometry.attributes_bytes
            ))
        }
        Err(RegionError::Refused { mismatch: Mismatch::Foreign, .. } | RegionError::Io { .. }) => Left::Nothing,
        Err(error) => Left::Unfit(error.to_string()),
    }
}

fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// Binds every address for every loop; the result is ordered by loop.
fn bind(config: &Config, loops: usize) -> Result<(Vec<SocketAddr>, SocketTable), StartError> {
    let mut addresses = Vec::new();
    let mut by_loop: Vec<Vec<Socket>> = (0..loops).map(|_| Vec::new()).collect();
    for &address in &config.listen {
        let group = bind_group(address, loops, config.receive_buffer)?;
        addresses.push(group[0].local_addr().map_err(StartError::system("reading a bound address"))?);
        by_loop.iter_mut().zip(group).for_each(|(sockets, socket)| sockets.push(socket));
    }
    Ok((addresses, by_loop.into_iter().map(Vec::into_boxed_slice).collect()))
}

fn make_polls(sockets: &[Box<[Socket]>]) -> Result<(Vec<Poll>, Box<[mio::Waker]>), StartError> {
    let fail = "making an epoll instance";
    let (mut polls, mut wakers) = (Vec::new(), Vec::new());
    for group in sockets {
        let poll = Poll::new().map_err(StartError::system(fail))?;
        for (number, socket) in group.iter().enumerate() {
            let fd = socket.as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE).map_err(StartError::system(fail))?;
        }
        wakers.push(mio::Waker::new(poll.registry(), WAKER).map_err(StartError::system(fail))?);
        polls.push(poll);
    }
    Ok((polls, wakers.into_boxed_slice()))
}

fn registrar_thread(
    shared: &Arc<Shared>,
    region: &Arc<Region>,
    registrar: Registrar,
    wake: UnixDatagram,
    random: StdRng,
    epoch: u64,
    started: Nanos,
) -> Result<RegistrarThread, StartError> {
    let fail = "making the registrar's timer";
    let timer: OwnedFd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
        .map_err(|error| StartError::system(fail)(error.into()))?;
    let poll = Poll::new().map_err(StartError::system(fail))?;
    wake.set_nonblocking(true).map_err(StartError::system(fail))?;
    for (token, fd) in [timer.as_raw_fd(), wake.as_raw_fd()].into_iter().enumerate() {
        poll.registry().register(&mut SourceFd(&fd), Token(token), Interest::READABLE).map_err(StartError::system(fail))?;
    }
    Ok(RegistrarThread {
        shared: Arc::clone(shared),
        region: Arc::clone(region),
        registrar,
        poll,
        timer,
        wake,
        random,
        replies: Replies::default(),
        send: SendBatch::default(),
        epoch,
        started,
        cpu_read: (0, 0),
    })
}

fn account_memory(shared: &Shared, region: &Region, registrar: &Registrar, loops: &[EventLoop]) {
    let tables = region.geometry().heart_bytes() + region.geometry().public_bytes() + registrar.memory_bytes();
    let queue = COMMAND_QUEUE * size_of::<Command>();
    let buffers: usize = loops.iter().map(|one| one.receive.memory_bytes() + one.dataplane.memory_bytes()).sum();
    shared.memory_bytes.store((tables + queue + buffers) as u64, Relaxed);
}

/// The state directory, locked as long as the engine runs. The kernel releases the lock when the process ends, however it ends.
/// The lock file stays: removing it would let two engines lock two files.
#[derive(Debug)]
struct StateDirectory {
    _lock: File,
}

impl StateDirectory {
    fn take(place: &Place) -> Result<Option<Self>, StartError> {
        let Place::Directory(path) = place else { return Ok(None) };
        let fail = |source| StartError::State { path: path.clone(), source };
        let made = !path.exists();
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => fail(std::io::ErrorKind::NotADirectory.into()),
            _ => fail(error),
        })?;
        if !is_tmpfs(path).map_err(fail)? {
            if made {
                let _ = std::fs::remove_dir(path);
            }
            return Err(StartError::NotTmpfs(path.clone()));
        }
        Self::check_owner(path)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path.join("lock"))
            .map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { _lock: lock })),
            Err(TryLockError::WouldBlock) => Err(StartError::StateInUse(path.clone())),
            Err(TryLockError::Error(source)) => Err(fail(source)),
        }
    }

    /// Whoever can write to the directory can put other files into the engine's place; and /dev/shm is everybody's.
    fn check_owner(path: &Path) -> Result<(), StartError> {
        let facts = std::fs::metadata(path).map_err(|source| StartError::State { path: path.to_owned(), source })?;
        let own = rustix::process::geteuid().as_raw();
        if facts.uid() != own || facts.mode() & 0o022 != 0 {
            return Err(StartError::StateNotOurs { path: path.to_owned(), owner: facts.uid(), mode: facts.mode() & 0o777, own });
        }
        Ok(())
    }
}
