//! Threads: start, run, drain, stop, hand over.
//!
//! An [`Engine`] owns everything it uses; several live in one process without knowing of one
//! another.

#[doc(hidden)]
pub mod duty;
mod error;
mod event_loop;
mod hand_over;
mod memory;
mod registrar_thread;
#[doc(hidden)]
pub mod rendezvous;
mod shared;
mod snapshot_file;
mod snapshot_thread;
mod state_directory;
mod threads;

use crate::clock;
use crate::config::Config;
use crate::net::{Inherited, Socket, bind_group, loops_possible};
use crate::region::{Region, Writer};
use crate::registrar::{DenyList, Settings};
use crossbeam::channel::{Receiver, Sender, unbounded};
pub use error::{ReloadError, StartError};
use hand_over::Listener;
pub use hand_over::{HandedOver, Successor};
use memory::{Memory, Start};
use mio::Token;
use rand::TryRng;
use snapshot_thread::{Order, SnapshotStatus, SnapshotThread};
use state_directory::StateDirectory;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use threads::{Begin, Parts, Prepared, Threads};

/// Token of a loop's waker; sockets have the numbers from 0 on.
const WAKER: Token = Token(usize::MAX);

/// For each loop, a socket for each listening address.
type SocketTable = Box<[Box<[Socket]>]>;

/// A running engine. Dropping it stops it.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    sockets: Arc<SocketTable>,
    region: Arc<Region>,
    threads: Option<Threads>,
    snapshot: Option<Snapshots>,
    /// The snapshot file once more, for a successor; its lock holds as long as one of them is open.
    snapshot_file: Option<File>,
    addresses: Vec<SocketAddr>,
    cores: Vec<usize>,
    resumed: u32,
    notices: Vec<String>,
    /// What cookies are made with; a successor goes on with it.
    cookie_key: (u64, u64),
    failures: Option<Receiver<String>>,
    control: Option<Listener>,
    state: Option<StateDirectory>,
}

/// The snapshot thread and what tells it what to do.
#[derive(Debug)]
struct Snapshots {
    orders: Sender<Order>,
    thread: JoinHandle<(File, bool)>,
}

impl Engine {
    /// Starts an engine and returns when it serves.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_unless(config, &AtomicBool::new(false))
    }

    /// Starts an engine, unless `cancelled` becomes true before it serves: allocating a large
    /// region takes seconds.
    pub fn start_unless(config: &Config, cancelled: &AtomicBool) -> Result<Self, StartError> {
        Self::start_on(config, Vec::new(), cancelled)
    }

    /// The same on sockets that were bound before, as [`crate::net::take_passed`] gives them; what
    /// fits none of the configured addresses is closed.
    pub fn start_on(
        config: &Config,
        mut inherited: Vec<Inherited>,
        cancelled: &AtomicBool,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let mut cores = loop_cores(config)?;
        let wanted = cores.len();
        cores.truncate(
            config
                .listen
                .iter()
                .map(|&address| loops_possible(&inherited, address, wanted))
                .min()
                .unwrap_or(wanted),
        );
        // The lock first: who starts the same engine twice is told so.
        let state = StateDirectory::take(&config.state)?;
        let (addresses, sockets) = bind(config, cores.len(), &mut inherited)?;
        let (settings, key) = (settings(config)?, (random()?, random()?));
        let mut memory = Memory::take(&Start {
            config,
            settings: &settings,
            key,
            now: clock::now(),
            cancelled,
        })?;
        if !inherited.is_empty() {
            memory.notices.push(format!(
                "{} inherited sockets fit no `listen` address and were closed",
                inherited.len()
            ));
        }
        if cores.len() < wanted {
            memory.notices.push(format!(
                "{} loops instead of {wanted}: the service manager's sockets are another user's, and no others can share their port; put a \
                 ListenDatagram= line for each loop into the socket unit, or stop and start the service if there is none",
                cores.len()
            ));
        }
        // Files with members in them stay for the next start, whatever happens now.
        let (made, begin) = (
            memory.made && !memory.peopled,
            if memory.peopled { Begin::Resume } else { Begin::Empty },
        );
        let mut engine = Self {
            config: config.clone(),
            sockets: Arc::new(sockets),
            region: Arc::new(memory.region),
            threads: None,
            snapshot: None,
            snapshot_file: None,
            addresses,
            cores,
            resumed: 0,
            notices: memory.notices,
            cookie_key: (random()?, random()?),
            failures: None,
            control: None,
            state,
        };
        let status = Arc::new(SnapshotStatus::default());
        let started = Prepared::new(engine.parts(settings, &status))
            .and_then(|prepared| prepared.start(memory.writer, begin));
        let started = started.and_then(|(threads, leases)| {
            (engine.threads, engine.resumed) = (Some(threads), leases);
            engine.start_snapshots(memory.snapshot, status)?;
            engine.listen_for_successors()
        });
        if started.is_err() && made {
            engine.region.remove_files();
        }
        started.map(|()| engine)
    }

    fn parts<'a>(&'a self, settings: Settings, snapshot: &'a Arc<SnapshotStatus>) -> Parts<'a> {
        let cookie_key = self.cookie_key;
        Parts {
            config: &self.config,
            cores: &self.cores,
            sockets: &self.sockets,
            region: &self.region,
            settings,
            snapshot,
            cookie_key,
        }
    }

    fn start_snapshots(
        &mut self,
        writer: Option<crate::snapshot::Writer<File>>,
        status: Arc<SnapshotStatus>,
    ) -> Result<(), StartError> {
        let Some(writer) = writer else { return Ok(()) };
        let ((orders, receiver), (failures, told)) = (unbounded(), unbounded());
        self.snapshot_file = writer.disk().try_clone().ok();
        self.shared().memory_bytes.fetch_add(writer.memory_bytes() as u64, Relaxed);
        let thread = SnapshotThread::new(Arc::clone(&self.region), writer, status, failures);
        let interval = self.config.snapshot_interval;
        let builder = std::thread::Builder::new().name("heartline-snap".into());
        let thread = builder
            .spawn(move || thread.run(interval, &receiver))
            .map_err(StartError::system("starting the snapshot thread"))?;
        self.snapshot = Some(Snapshots { orders, thread });
        self.failures = Some(told);
        Ok(())
    }

    /// The addresses it listens on, ports as the kernel chose them.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Leases that it went on with.
    pub fn resumed(&self) -> u32 {
        self.resumed
    }

    /// What whoever runs it should know of its start: where leases came from, and what could not be
    /// gone on with.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// What whoever runs it should know later: that snapshots fail, and that they are written
    /// again. To be taken once.
    pub fn take_failures(&mut self) -> Option<Receiver<String>> {
        self.failures.take()
    }

    /// The CPUs its loops run on.
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// The sockets it listens on.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.iter().flatten()
    }

    /// The memory that it works on.
    pub fn region(&self) -> &Region {
        &self.region
    }

    fn shared(&self) -> &shared::Shared {
        &self.threads.as_ref().expect("an engine that can be seen runs").shared
    }

    /// Bytes allocated for tables and buffers.
    pub fn memory_bytes(&self) -> u64 {
        self.shared().memory_bytes.load(Relaxed)
    }

    /// Kernel thread ids of the loops.
    pub fn loop_threads(&self) -> Vec<u32> {
        self.shared().loops.iter().map(|status| status.tid.load(Relaxed)).collect()
    }

    /// The receive buffer that the kernel granted each socket, as the kernel counts it (twice what
    /// was asked for).
    pub fn receive_queue_bytes(&self) -> usize {
        self.sockets[0][0].queue_bytes()
    }

    /// Whether the kernel coalesces received datagrams (UDP GRO).
    pub fn coalesces(&self) -> bool {
        self.sockets[0][0].coalesces()
    }

    /// Takes over the settings that can change while an engine runs.
    ///
    /// # Errors
    /// When a setting is not accepted, or another one differs. Nothing is changed then.
    pub fn reload(&mut self, config: &Config) -> Result<(), ReloadError> {
        config.validate()?;
        let fixed: Vec<&'static str> = self
            .config
            .differences(config)
            .filter(|setting| !setting.reloadable)
            .map(|setting| setting.name)
            .collect();
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed(fixed));
        }
        self.config = config.clone();
        self.shared().reconfigure(quota(config), DenyList::new(config.deny.clone()));
        if let Some(snapshot) = &self.snapshot {
            let _ = snapshot.orders.send(Order::Interval(config.snapshot_interval));
        }
        Ok(())
    }

    /// Whether the registrar has looked at its timers and commands since the last call. It is woken
    /// for the next.
    pub fn is_alive(&self) -> bool {
        self.shared().check_registrar()
    }

    /// Asks the engine to stop: what has arrived is handled, then its threads end.
    pub fn stop(&self) {
        if let Some(threads) = &self.threads {
            threads.shared.stop(false);
        }
    }

    /// Waits until the threads have ended and a last snapshot is on the disk. The memory files stay
    /// for the next engine.
    ///
    /// # Panics
    /// When one of them panicked.
    pub fn join(mut self) {
        self.end().expect("a thread of the engine panicked");
    }

    fn end(&mut self) -> Option<Writer> {
        self.stop();
        let ended = self.threads.take().map(Threads::join);
        if let Some(Snapshots { orders, thread }) = self.snapshot.take() {
            let _ = orders.send(Order::Finish);
            let _ = thread.join();
        }
        ended.flatten()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

fn random() -> Result<u64, StartError> {
    rand::rngs::SysRng.try_next_u64().map_err(|error| StartError::System {
        what: "getting random numbers from the kernel",
        source: std::io::Error::other(error),
    })
}

fn quota(config: &Config) -> u32 {
    config.quota.unwrap_or(config.capacity)
}

fn settings(config: &Config) -> Result<Settings, StartError> {
    Ok(Settings {
        quota: quota(config),
        hold: config.hold,
        tombstone_min: config.tombstone_ns(),
        deny: DenyList::new(config.deny.clone()),
        epoch: random()? | 1,
    })
}

fn loop_cores(config: &Config) -> Result<Vec<usize>, StartError> {
    let cores = config.loop_cores();
    if cores.is_empty() {
        return Err(StartError::System {
            what: "reading the CPUs that the process may use",
            source: std::io::Error::last_os_error(),
        });
    }
    Ok(cores)
}

/// Binds every address for every loop; the result is ordered by loop.
fn bind(
    config: &Config,
    loops: usize,
    inherited: &mut Vec<Inherited>,
) -> Result<(Vec<SocketAddr>, SocketTable), StartError> {
    let mut addresses = Vec::new();
    let mut by_loop: Vec<Vec<Socket>> = (0..loops).map(|_| Vec::new()).collect();
    for &address in &config.listen {
        let group = bind_group(address, loops, config.receive_buffer, inherited)?;
        addresses
            .push(group[0].local_addr().map_err(StartError::system("reading a bound address"))?);
        by_loop.iter_mut().zip(group).for_each(|(sockets, socket)| sockets.push(socket));
    }
    Ok((addresses, by_loop.into_iter().map(Vec::into_boxed_slice).collect()))
}
