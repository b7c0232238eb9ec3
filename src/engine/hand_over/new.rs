//! The engine that takes over: it prepares everything that can fail, then asks the one that runs to
//! stop.

use super::channel::Channel;
use super::words::{CONVERSATION, Offer, Say, Wish, misunderstood};
use super::{MOVING, PROMPT, shown};
use crate::clock::{self, Nanos};
use crate::config::Config;
use crate::engine::builder::{EngineBuilder, loop_cores, random, settings};
use crate::engine::memory::{Memory, Start};
use crate::engine::snapshot_file::SnapshotFile;
use crate::engine::state_directory::StateDirectory;
use crate::engine::threads::{Begin, Prepared};
use crate::engine::{Engine, Ground, SocketTable, StartError};
use crate::net::Socket;
use crate::region::{self, Geometry, Place, Region, RegionError};
use crate::registrar::Settings;
use crate::snapshot::Writer;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Replaces the engine that runs on the configured state; starts like [`EngineBuilder::start`] when
/// there is none. One that does not listen yet is waited for.
///
/// # Errors
/// Those of [`EngineBuilder::start`], and [`StartError::HandOver`] when the engine that runs
/// refuses or fails. That engine goes on then.
pub fn replace(builder: EngineBuilder<'_>) -> Result<Engine, StartError> {
    let config = builder.config;
    config.validate()?;
    let Place::Directory(path) = &config.state else { return builder.start() };
    let failed = |source: io::Error| StartError::HandOver { path: path.clone(), source };
    let mut again = true;
    let patience = clock::now() + PROMPT.as_nanos() as Nanos;
    loop {
        if let Some(channel) = Channel::connect(path).map_err(failed)? {
            let succession =
                Succession { config, path, channel: &channel, cancelled: builder.cancelled };
            match succession.succeed() {
                // The running engine ended meanwhile, or another successor was first: then the
                // lock tells.
                Err(StartError::HandOver { source, .. })
                    if is_gone(&source) && std::mem::take(&mut again) => {}
                other => return other,
            }
        }
        if builder.cancelled.load(Relaxed) {
            return Err(RegionError::Cancelled.into());
        }
        // Looked at only: a start takes it itself.
        match StateDirectory::take(&config.state).map(drop) {
            // It starts, or goes on after another successor has failed: it listens in a moment.
            Err(StartError::StateInUse(_)) if clock::now() < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
            Ok(()) => return builder.start(),
        }
    }
}

/// The conversation with the engine that runs.
struct Succession<'a> {
    config: &'a Config,
    path: &'a Path,
    channel: &'a Channel,
    cancelled: &'a AtomicBool,
}

impl Succession<'_> {
    fn succeed(self) -> Result<Engine, StartError> {
        let config = self.config;
        let cores = loop_cores(config)?;
        let mut taken =
            Taken::receive(config, cores, self.channel).map_err(|error| self.failed(error))?;
        let settings = settings(config)?;
        let snapshot = taken.snapshot_file(config)?;
        let sizes = Geometry::new(config.capacity, config.attributes_bytes);
        // The other end waits for its disk, and writes a whole snapshot if it must.
        self.channel.set_patience(MOVING).map_err(|error| self.failed(error))?;
        let (mut engine, file, writer) =
            match Region::attach_files(self.path, clock::boot_id(), taken.memory) {
                Ok((region, right)) if *region.geometry() == sizes => {
                    let engine = Engine::at_rest(config, taken.ground, region, Vec::new());
                    (self.take_over(engine, right, settings)?, snapshot, None)
                }
                other => {
                    let say = if other.is_ok() { Say::Moves } else { Say::Reads };
                    drop(other);
                    let (engine, writer) = self.move_in(say, taken.ground, snapshot, settings)?;
                    (engine, None, writer)
                }
            };
        engine.listen_locally()?;
        engine.listen_for_successors()?;
        self.channel.send(&Say::Serving).map_err(|error| self.failed(error))?;
        // What a disk can fail at comes last: without snapshots the engine serves all the same, and
        // says so.
        let region = Arc::clone(&engine.region);
        let opened =
            file.map(|file| file.into_writer(None, &region, clock::now(), &mut engine.notices));
        let writer = opened
            .transpose()
            .unwrap_or_else(|error| {
                engine.notices.push(format!("no snapshots are written: {error}"));
                None
            })
            .or(writer);
        engine.start_snapshots(writer)?;
        Ok(engine)
    }

    /// Goes on in the memory as it is: everything that can fail is done before the other engine
    /// stops.
    fn take_over(
        &self,
        mut engine: Engine,
        right: region::Right,
        settings: Settings,
    ) -> Result<Engine, StartError> {
        let prepared = Prepared::new(engine.parts(settings))?;
        self.ask(Say::Prepared)?;
        engine.launch(prepared, right, Begin::TakeOver)?;
        Ok(engine)
    }

    /// Makes memory of another layout, once the other engine has stopped.
    fn move_in(
        &self,
        say: Say,
        ground: Ground,
        snapshot: Option<SnapshotFile>,
        settings: Settings,
    ) -> Result<(Engine, Option<Writer<File>>), StartError> {
        let key = (random()?, random()?);
        self.ask(say)?;
        let (config, cancelled) = (self.config, self.cancelled);
        let start = Start { config, settings: &settings, key, now: clock::now(), cancelled };
        let mut memory = Memory::take_with(&start, snapshot)?;
        memory.notices.push("the layout has changed, so all leases were moved".to_owned());
        let mut engine = Engine::at_rest(config, ground, memory.region, memory.notices);
        let prepared = Prepared::new(engine.parts(settings))?;
        let begin = if memory.peopled { Begin::Resume } else { Begin::Empty };
        engine.launch(prepared, memory.writer, begin)?;
        Ok((engine, memory.snapshot))
    }

    /// Asks the other engine to stop and waits until it has.
    fn ask(&self, say: Say) -> Result<(), StartError> {
        let answer = self.channel.send(&say).and_then(|()| self.channel.receive());
        match answer.map_err(|error| self.failed(error))? {
            Say::Yours => Ok(()),
            _ => Err(self.failed(misunderstood())),
        }
    }

    fn failed(&self, source: io::Error) -> StartError {
        StartError::HandOver { path: self.path.to_owned(), source }
    }
}

/// What the old engine gave.
struct Taken {
    ground: Ground,
    memory: [File; 2],
    snapshot: Option<File>,
}

impl Taken {
    fn receive(config: &Config, cores: Vec<usize>, channel: &Channel) -> io::Result<Self> {
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
        let addresses = offer.addresses.iter().filter_map(|address| address.parse().ok()).collect();
        let files = 3 + usize::from(offer.snapshot);
        let mut fds = channel.receive_fds(files + cores.len() * config.listen.len())?.into_iter();
        let mut next = || {
            fds.next().map(File::from).ok_or_else(|| io::Error::other("descriptors are missing"))
        };
        let (lock, memory) = (next()?, [next()?, next()?]);
        let snapshot = if offer.snapshot { Some(next()?) } else { None };
        let mut sockets = fds.map(|fd| Socket::adopt(fd, config.receive_buffer));
        let mut group = |_: &usize| sockets.by_ref().take(config.listen.len()).collect();
        let sockets = cores.iter().map(&mut group).collect::<io::Result<SocketTable>>()?;
        let (cookie_key, state) = (offer.cookie_key, Some(StateDirectory { lock }));
        let ground = Ground { cores, addresses, sockets, cookie_key, state };
        Ok(Self { ground, memory, snapshot })
    }

    /// The snapshot file of the old engine, if both have the same, else an own one.
    fn snapshot_file(&mut self, config: &Config) -> Result<Option<SnapshotFile>, StartError> {
        let Some(path) = &config.snapshot else { return Ok(None) };
        match self.snapshot.take() {
            Some(file) => Ok(Some(SnapshotFile::inherited(path, file))),
            None => SnapshotFile::open(path).map(Some),
        }
    }
}

/// Whether an error says that the other end has gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
