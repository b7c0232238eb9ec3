//! A start: lock, sockets, memory, threads, in this order.

use super::memory::{Memory, Start};
use super::state_directory::StateDirectory;
use super::threads::{Begin, Prepared};
use super::{Engine, Ground, SocketTable, StartError, quota};
use crate::clock;
use crate::config::Config;
use crate::net::{Inherited, Socket, bind_group, loops_possible};
use crate::registrar::{DenyList, Settings};
use rand::TryRng;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

/// An engine to be started: `Engine::builder(&config).cancelled(&flag).start()`.
#[derive(Debug)]
#[must_use]
pub struct EngineBuilder<'a> {
    pub(super) config: &'a Config,
    pub(super) cancelled: &'a AtomicBool,
    inherited: Vec<Inherited>,
}

impl<'a> EngineBuilder<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self { config, cancelled: &NEVER, inherited: Vec::new() }
    }

    /// Gives up when the flag becomes true before the engine serves: to allocate a large region
    /// takes seconds.
    pub fn cancelled(mut self, flag: &'a AtomicBool) -> Self {
        self.cancelled = flag;
        self
    }

    /// Serves on sockets that were bound before, as [`crate::net::take_passed`] gives them. A
    /// socket that fits none of the configured addresses is closed.
    pub fn inherited(mut self, sockets: Vec<Inherited>) -> Self {
        self.inherited = sockets;
        self
    }

    /// Starts the engine and returns when it serves.
    ///
    /// # Errors
    /// When a setting is not accepted, another engine has the state directory or the snapshot, an
    /// address can't be listened on, memory or threads can't be had, what an engine before left
    /// can't be gone on with, or the flag became true. Nothing is left running, bound or written
    /// then.
    pub fn start(mut self) -> Result<Engine, StartError> {
        let (config, cancelled) = (self.config, self.cancelled);
        config.validate()?;
        let (ground, notices) = self.ground()?;
        let (settings, key) = (settings(config)?, (random()?, random()?));
        let start = Start { config, settings: &settings, key, now: clock::now(), cancelled };
        let mut memory = Memory::take(&start)?;
        memory.notices.extend(notices);
        // Files with members in them stay for the next start, whatever happens now.
        let made = memory.made && !memory.peopled;
        let begin = if memory.peopled { Begin::Resume } else { Begin::Empty };
        let mut engine = Engine::at_rest(config, ground, memory.region, memory.notices);
        let started = Prepared::new(engine.parts(settings))
            .and_then(|prepared| engine.launch(prepared, memory.writer, begin))
            .and_then(|()| engine.start_snapshots(memory.snapshot))
            .and_then(|()| engine.listen_locally())
            .and_then(|()| engine.listen_for_successors());
        if started.is_err() && made {
            engine.region.remove_files();
        }
        started.map(|()| engine)
    }

    /// CPUs, the lock and sockets, with what is to be said about them.
    fn ground(&mut self) -> Result<(Ground, Vec<String>), StartError> {
        let (config, mut notices) = (self.config, Vec::new());
        let mut cores = loop_cores(config)?;
        let wanted = cores.len();
        let possible =
            config.listen.iter().map(|&address| loops_possible(&self.inherited, address, wanted));
        cores.truncate(possible.min().unwrap_or(wanted));
        // The lock first: a second start of the same engine is told so.
        let state = StateDirectory::take(&config.state)?;
        let (addresses, sockets) = bind(config, cores.len(), &mut self.inherited)?;
        if !self.inherited.is_empty() {
            notices.push(format!(
                "{} inherited sockets fit no `listen` address and were closed",
                self.inherited.len()
            ));
        }
        if cores.len() < wanted {
            notices.push(format!(
                "{} loops instead of {wanted}: the service manager's sockets are another user's, \
                 and no others can share their port; put a ListenDatagram= line for each loop into \
                 the socket unit, or stop and start the service if there is none",
                cores.len()
            ));
        }
        let cookie_key = (random()?, random()?);
        Ok((Ground { cores, addresses, sockets, cookie_key, state }, notices))
    }
}

pub(super) fn random() -> Result<u64, StartError> {
    rand::rngs::SysRng.try_next_u64().map_err(|error| StartError::System {
        what: "getting random numbers from the kernel",
        source: std::io::Error::other(error),
    })
}

pub(super) fn settings(config: &Config) -> Result<Settings, StartError> {
    Ok(Settings {
        quota: quota(config),
        hold: config.hold,
        tombstone_min: config.tombstone_ns(),
        deny: DenyList::new(config.deny.clone()),
        epoch: random()? | 1,
    })
}

pub(super) fn loop_cores(config: &Config) -> Result<Vec<usize>, StartError> {
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
