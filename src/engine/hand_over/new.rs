//! The engine that takes over: it prepares everything that can fail, then asks the one that runs to
//! stop.

use super::channel::Channel;
use super::words::{CONVERSATION, Offer, Say, Wish, misunderstood};
use super::{MOVING, PROMPT, shown};
use crate::clock::{self, Nanos};
use crate::config::Config;
use crate::engine::memory::{Memory, Start};
use crate::engine::snapshot_file::SnapshotFile;
use crate::engine::snapshot_thread::SnapshotStatus;
use crate::engine::state_directory::StateDirectory;
use crate::engine::threads::{Begin, Prepared};
use crate::engine::{Engine, SocketTable, StartError, loop_cores, random, settings};
use crate::net::{Inherited, Socket};
use crate::region::{Geometry, Place, Region, RegionError};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

impl Engine {
    /// Replaces the engine that runs on the configured state; starts like [`Self::start_on`] when
    /// there is none. One that does not listen yet is waited for.
    pub fn replace(
        config: &Config,
        inherited: Vec<Inherited>,
        cancelled: &AtomicBool,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let Place::Directory(path) = &config.state else {
            return Self::start_on(config, inherited, cancelled);
        };
        let failed = |source: io::Error| StartError::HandOver { path: path.clone(), source };
        let mut again = true;
        let patience = clock::now() + PROMPT.as_nanos() as Nanos;
        loop {
            if let Some(channel) = Channel::connect(path).map_err(failed)? {
                match Self::succeed(config, path, &channel, cancelled) {
                    // The running engine ended meanwhile, or another successor was first: then the
                    // lock tells.
                    Err(StartError::HandOver { source, .. })
                        if is_gone(&source) && std::mem::take(&mut again) => {}
                    other => return other,
                }
            }
            if cancelled.load(Relaxed) {
                return Err(RegionError::Cancelled.into());
            }
            // Looked at only: a start takes it itself.
            let free = StateDirectory::take(&config.state).map(drop);
            match free {
                // It starts, or goes on after another successor has failed: it listens in a moment.
                Err(StartError::StateInUse(_)) if clock::now() < patience => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Err(error) => return Err(error),
                Ok(()) => return Self::start_on(config, inherited, cancelled),
            }
        }
    }

    fn succeed(
        config: &Config,
        path: &Path,
        channel: &Channel,
        cancelled: &AtomicBool,
    ) -> Result<Self, StartError> {
        let failed = |source: io::Error| StartError::HandOver { path: path.to_owned(), source };
        let cores = loop_cores(config)?;
        let taken = Taken::receive(config, &cores, channel).map_err(failed)?;
        let (settings, key) = (settings(config)?, (random()?, random()?));
        let own = config
            .snapshot
            .as_deref()
            .filter(|_| taken.snapshot.is_none())
            .map(SnapshotFile::open)
            .transpose()?;
        let snapshot = taken
            .snapshot
            .and_then(|file| Some(SnapshotFile::inherited(config.snapshot.as_deref()?, file)))
            .or(own);
        let attached = Region::attach_files(path, taken.memory);
        let readable = attached.is_ok();
        let fits = attached.as_ref().is_ok_and(|(region, _)| {
            *region.geometry() == Geometry::new(config.capacity, config.attributes_bytes)
        });
        let status = Arc::new(SnapshotStatus::default());
        let engine = |region, notices| Self {
            config: config.clone(),
            sockets: Arc::new(taken.sockets),
            region: Arc::new(region),
            threads: None,
            snapshot: None,
            snapshot_file: None,
            addresses: taken.addresses,
            cores,
            resumed: 0,
            notices,
            cookie_key: taken.cookie_key,
            failures: None,
            control: None,
            state: Some(StateDirectory { lock: taken.lock }),
        };
        // The other end waits for its disk, and writes a whole snapshot if it must.
        channel.set_patience(MOVING).map_err(failed)?;
        let yours = |say: Say| {
            channel.send(&say).map_err(failed)?;
            match channel.receive().map_err(failed)? {
                Say::Yours => Ok(()),
                _ => Err(failed(misunderstood())),
            }
        };
        let (mut engine, file, writer) = if let (true, Ok((region, writer))) = (fits, attached) {
            let mut engine = engine(region, Vec::new());
            let prepared = Prepared::new(engine.parts(settings, &status))?;
            yours(Say::Prepared)?;
            let (threads, leases) = prepared.start(writer, Begin::TakeOver)?;
            (engine.threads, engine.resumed) = (Some(threads), leases);
            (engine, snapshot, None)
        } else {
            yours(if readable { Say::Moves } else { Say::Reads })?;
            let start = Start { config, settings: &settings, key, now: clock::now(), cancelled };
            let memory = Memory::take_with(&start, snapshot)?;
            let mut engine = engine(memory.region, memory.notices);
            engine.notices.push("the layout has changed, so all leases were moved".to_owned());
            let prepared = Prepared::new(engine.parts(settings, &status))?;
            let (threads, leases) = prepared
                .start(memory.writer, if memory.peopled { Begin::Resume } else { Begin::Empty })?;
            (engine.threads, engine.resumed) = (Some(threads), leases);
            (engine, None, memory.snapshot)
        };
        engine.listen_for_successors()?;
        channel.send(&Say::Serving).map_err(failed)?;
        // What a disk can fail at comes last: without snapshots the engine serves all the same, and
        // says so.
        let region = Arc::clone(&engine.region);
        let writer = match file
            .map(|file| file.into_writer(None, &region, clock::now(), &mut engine.notices))
        {
            None => writer,
            Some(Ok(writer)) => Some(writer),
            Some(Err(error)) => {
                engine.notices.push(format!("no snapshots are written: {error}"));
                None
            }
        };
        engine.start_snapshots(writer, status)?;
        Ok(engine)
    }
}

/// What the old engine gave.
struct Taken {
    lock: File,
    memory: [File; 2],
    snapshot: Option<File>,
    sockets: SocketTable,
    addresses: Vec<SocketAddr>,
    cookie_key: (u64, u64),
}

impl Taken {
    fn receive(config: &Config, cores: &[usize], channel: &Channel) -> io::Result<Self> {
        channel.set_patience(PROMPT)?;
        let listen = config.listen.iter().map(SocketAddr::to_string).collect();
        channel.send(&Wish {
            conversation: CONVERSATION,
            listen,
            loops: cores.len(),
            snapshot: shown(config.snapshot.as_deref()),
        })?;
        let offer: Offer = channel.receive()?;
        if !offer.refused.is_empty() {
            return Err(io::Error::other(offer.refused));
        }
        let addresses: Vec<SocketAddr> =
            offer.addresses.iter().filter_map(|address| address.parse().ok()).collect();
        let files = 3 + usize::from(offer.snapshot);
        let mut fds = channel.receive_fds(files + cores.len() * config.listen.len())?.into_iter();
        let mut next = || {
            fds.next().map(File::from).ok_or_else(|| io::Error::other("descriptors are missing"))
        };
        let (lock, memory) = (next()?, [next()?, next()?]);
        let snapshot = if offer.snapshot { Some(next()?) } else { None };
        let sockets: Vec<OwnedFd> = fds.collect();
        let mut sockets = sockets.into_iter().map(|fd| Socket::adopt(fd, config.receive_buffer));
        let mut table = Vec::new();
        for _ in cores {
            table.push(
                sockets
                    .by_ref()
                    .take(config.listen.len())
                    .collect::<io::Result<Box<[Socket]>>>()?,
            );
        }
        Ok(Self {
            lock,
            memory,
            snapshot,
            sockets: table.into_boxed_slice(),
            addresses,
            cookie_key: offer.cookie_key,
        })
    }
}

/// Whether an error says that the other end has gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
