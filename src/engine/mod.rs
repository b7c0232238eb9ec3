//! Threads: start, run, drain, stop, hand over.
//!
//! An [`Engine`] owns everything it uses; several live in one process without knowing of one
//! another.

mod builder;
mod cpu_time;
#[doc(hidden)]
pub mod duty;
mod error;
mod event_loop;
mod hand_over;
#[doc(hidden)]
pub mod local;
mod memory;
mod registrar_thread;
#[doc(hidden)]
pub mod rendezvous;
mod shared;
mod snapshot_file;
mod snapshot_thread;
mod state_directory;
mod threads;
mod watch_thread;

use crate::config::Config;
use crate::net::Socket;
use crate::region::{Counter, Place, Region, Right};
use crate::registrar::{DenyList, Settings};
pub use builder::EngineBuilder;
use crossbeam::channel::{Receiver, Sender, unbounded};
pub use error::{ReloadError, StartError};
use hand_over::Listener;
use local::LocalThread;
use mio::Token;
use snapshot_thread::{Order, SnapshotThread};
use state_directory::StateDirectory;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use threads::{Begin, Parts, Prepared, Threads};

/// One engine takes the place of another that runs, and nothing that was sent to it is lost.
///
/// The program that runs waits until [`control`](upgrade::control) is readable and calls
/// [`meet`](upgrade::meet), waits until the [`Successor`](upgrade::Successor) is readable and calls
/// [`hand_over`](upgrade::hand_over). The new program calls [`replace`](upgrade::replace).
pub mod upgrade {
    pub use super::hand_over::{HandedOver, Successor, control, hand_over, meet, replace};
    pub use crate::net::{BindError, Inherited, close_strays, take_passed};
}

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
    local: Option<LocalThread>,
    state: Option<StateDirectory>,
}

/// The snapshot thread and what tells it what to do.
#[derive(Debug)]
struct Snapshots {
    orders: Sender<Order>,
    thread: JoinHandle<(File, bool)>,
}

/// What an engine stands on before it has memory.
#[derive(Debug)]
struct Ground {
    cores: Vec<usize>,
    addresses: Vec<SocketAddr>,
    sockets: SocketTable,
    cookie_key: (u64, u64),
    state: Option<StateDirectory>,
}

impl Engine {
    /// Starts an engine and returns when it serves; short for `Engine::builder(config).start()`.
    ///
    /// # Errors
    /// See [`EngineBuilder::start`].
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::builder(config).start()
    }

    /// An engine to be started.
    pub fn builder(config: &Config) -> EngineBuilder<'_> {
        EngineBuilder::new(config)
    }

    /// An engine without threads.
    fn at_rest(config: &Config, ground: Ground, region: Region, notices: Vec<String>) -> Self {
        let Ground { cores, addresses, sockets, cookie_key, state } = ground;
        Self {
            config: config.clone(),
            sockets: Arc::new(sockets),
            region: Arc::new(region),
            threads: None,
            snapshot: None,
            snapshot_file: None,
            addresses,
            cores,
            resumed: 0,
            notices,
            cookie_key,
            failures: None,
            control: None,
            local: None,
            state,
        }
    }

    /// Starts the threads that were prepared for it.
    fn launch(&mut self, prepared: Prepared, right: Right, begin: Begin) -> Result<(), StartError> {
        let (threads, leases) = prepared.start(right, begin)?;
        (self.threads, self.resumed) = (Some(threads), leases);
        Ok(())
    }

    fn parts(&self, settings: Settings) -> Parts<'_> {
        let cookie_key = self.cookie_key;
        Parts {
            config: &self.config,
            cores: &self.cores,
            sockets: &self.sockets,
            region: &self.region,
            settings,
            cookie_key,
        }
    }

    fn start_snapshots(
        &mut self,
        writer: Option<crate::snapshot::Writer<File>>,
    ) -> Result<(), StartError> {
        let Some(writer) = writer else { return Ok(()) };
        let ((orders, receiver), (failures, told)) = (unbounded(), unbounded());
        self.snapshot_file = writer.disk().try_clone().ok();
        let counters = self.threads.as_mut().and_then(|threads| threads.snapshot_counters.take());
        let counters = counters.expect("threads run, and no snapshot thread is among them");
        let thread = SnapshotThread::new(Arc::clone(&self.region), writer, counters, failures);
        let interval = self.config.snapshot_interval;
        let builder = std::thread::Builder::new().name("heartline-snap".into());
        let thread = builder
            .spawn(move || thread.run(interval, &receiver))
            .map_err(StartError::system("starting the snapshot thread"))?;
        self.snapshot = Some(Snapshots { orders, thread });
        self.failures = Some(told);
        Ok(())
    }

    /// Serves the local socket: from here on processes can show their leases.
    fn listen_locally(&mut self) -> Result<(), StartError> {
        let Place::Directory(path) = &self.config.state else { return Ok(()) };
        let epoch = self.region.counters().sum(Counter::Epoch);
        let (region, shared) = (Arc::clone(&self.region), Arc::clone(self.shared()));
        let thread = LocalThread::start(path, region, shared, epoch)
            .map_err(|source| StartError::State { path: path.clone(), source })?;
        self.local = Some(thread);
        Ok(())
    }

    /// Before anything else stops: a connection that ends with the engine is nobody's death.
    fn stop_listening_locally(&mut self) {
        if let Some(local) = self.local.take() {
            local.stop();
        }
    }

    /// The addresses it listens on, ports as the kernel chose them.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Leases that it went on with.
    pub fn resumed(&self) -> u32 {
        self.resumed
    }

    /// Sentences about its start: where leases came from, and what could not be gone on with.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Sentences about what happens later: snapshots fail, or they are written again. To be taken
    /// once.
    pub fn take_failures(&mut self) -> Option<impl Iterator<Item = String> + Send + use<>> {
        self.failures.take().map(Receiver::into_iter)
    }

    /// The CPUs its loops run on.
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// The sockets it listens on.
    #[doc(hidden)]
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.iter().flatten()
    }

    /// The memory that it works on.
    #[doc(hidden)]
    pub fn region(&self) -> &Region {
        &self.region
    }

    fn shared(&self) -> &Arc<shared::Shared> {
        &self.threads.as_ref().expect("an engine that can be seen runs").shared
    }

    /// Bytes allocated for tables and buffers.
    pub fn memory_bytes(&self) -> u64 {
        self.region.counters().sum(Counter::MemoryBytes)
    }

    /// Kernel thread ids of the loops.
    #[doc(hidden)]
    pub fn loop_threads(&self) -> Vec<u32> {
        self.shared().loop_tids.iter().map(|tid| tid.load(Relaxed)).collect()
    }

    /// How often events have woken the watch thread.
    #[doc(hidden)]
    pub fn watch_wake_ups(&self) -> u64 {
        self.shared().watcher_told()
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

    fn end(&mut self) -> Option<Right> {
        self.stop_listening_locally();
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

fn quota(config: &Config) -> u32 {
    config.quota.unwrap_or(config.capacity)
}
