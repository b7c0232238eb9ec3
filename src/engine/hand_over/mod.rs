//! One engine replaces another that runs: sockets, memory files and locks pass over, so that
//! nothing that waits is lost and nobody is told anything.
//!
//! The new one does everything that can fail before the old one stops. If it dies all the same, the
//! old one goes on; it is killed first, so that there is never more than one that writes.

mod channel;
mod words;

use super::memory::{Memory, Start};
use super::snapshot_file::SnapshotFile;
use super::snapshot_thread::{Order, SnapshotStatus};
use super::state_directory::StateDirectory;
use super::threads::{Begin, Prepared};
use super::{Engine, Snapshots, StartError, loop_cores, random, settings};
use crate::clock::{self, Nanos};
use crate::config::Config;
use crate::net::{Inherited, Socket};
use crate::region::{Geometry, Place, Region, RegionError};
use crate::snapshot::{Reader, Sizes, Writer};
use channel::Channel;
pub(super) use channel::Listener;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use words::{CONVERSATION, Offer, Say, Wish, misunderstood};

/// How long the other side may take for a word that needs no work.
const PROMPT: Duration = Duration::from_secs(5);
/// How long whoever connects may take to say what it wants: nobody else is heard meanwhile.
const WISH: Duration = Duration::from_millis(500);
/// How long a new engine may take to make tables for another layout.
const MOVING: Duration = Duration::from_secs(120);

/// Somebody who wants to replace the engine and prepares for it.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
    /// Its process, held, so that its number can't become another's.
    process: OwnedFd,
    shares_snapshot: bool,
}

impl AsFd for Successor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// What became of a hand-over.
#[derive(Debug)]
pub enum HandedOver {
    /// The new engine serves; this one has ended.
    Yes,
    /// The new one did not live to serve: this one goes on.
    No(io::Error),
    /// The new one did not live to serve, but had put memory of another layout in the place of this
    /// one's: this one has ended, and the next start goes on with that memory.
    Lost(io::Error),
}

impl Engine {
    /// Where to look for whoever wants to replace this engine: when it is readable, call
    /// [`Self::meet`]. `None`: it can't be replaced.
    pub fn control(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// Hears what somebody wants and sends the descriptors. When the result is readable, call
    /// [`Self::hand_over`].
    pub fn meet(&self) -> io::Result<Successor> {
        let listener = self.control.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let channel = listener.accept()?;
        let process = pidfd_open(channel.peer()?, PidfdFlags::empty())?;
        channel.set_patience(WISH)?;
        let wish: Wish = channel.receive()?;
        let refused = self.refusal(&wish);
        let state = self.state.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let shares_snapshot = self
            .snapshot_file
            .as_ref()
            .filter(|_| wish.snapshot == shown(self.config.snapshot.as_deref()));
        let addresses = self.addresses.iter().map(SocketAddr::to_string).collect();
        channel.send(&Offer {
            refused: refused.clone(),
            addresses,
            snapshot: shares_snapshot.is_some(),
            cookie_key: self.cookie_key,
        })?;
        if !refused.is_empty() {
            return Err(io::Error::other(format!("a hand-over was refused: {refused}")));
        }
        let [heart, public] = self.region.files();
        let mut fds = vec![state.lock.as_fd(), heart, public];
        fds.extend(shares_snapshot.map(AsFd::as_fd));
        fds.extend(self.sockets.iter().flatten().map(AsFd::as_fd));
        channel.send_fds(&fds)?;
        Ok(Successor { channel, process, shares_snapshot: shares_snapshot.is_some() })
    }

    fn refusal(&self, wish: &Wish) -> String {
        let own = (
            self.config.listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            self.cores.len(),
        );
        if wish.conversation != CONVERSATION {
            format!(
                "the new program speaks version {} of the hand-over, this one {CONVERSATION}; stop this one and start it",
                wish.conversation
            )
        } else if wish.listen != own.0 {
            format!(
                "this engine listens on {}, not on {}; addresses stay as they are",
                own.0.join(" "),
                wish.listen.join(" ")
            )
        } else if wish.loops != own.1 {
            format!(
                "this engine has {} loops, not {}; sockets belong to loops, so their number stays (`cores`)",
                own.1, wish.loops
            )
        } else {
            String::new()
        }
    }

    /// Stops, lets the successor go on, and waits until it serves.
    pub fn hand_over(&mut self, successor: &Successor) -> HandedOver {
        let channel = &successor.channel;
        let say = match channel.receive() {
            Ok(say @ (Say::Prepared | Say::Moves | Say::Reads)) => say,
            Ok(_) => return HandedOver::No(misunderstood()),
            // It ended before anything was stopped.
            Err(error) => return HandedOver::No(error),
        };
        if say == Say::Reads && !(successor.shares_snapshot && self.snapshot.is_some()) {
            return HandedOver::No(io::Error::other(
                "the new program can't read this memory, and they share no snapshot",
            ));
        }
        // A disk may take its time; until the snapshot thread has let go of it, everything goes on.
        let mut file = if say == Say::Prepared {
            self.end_snapshots(Order::Yield).map(|(file, _)| file)
        } else {
            None
        };
        if let Some(threads) = &self.threads {
            threads.shared.stop(true);
        }
        let writer = self
            .threads
            .take()
            .and_then(super::Threads::join)
            .expect("a thread of the engine panicked");
        let mut written = true;
        if say != Say::Prepared {
            (file, written) = self
                .end_snapshots(Order::Finish)
                .map_or((None, false), |(file, written)| (Some(file), written));
        }
        let result = if say == Say::Reads && !written {
            Err(io::Error::other(
                "the last snapshot could not be written, and the new program reads nothing else",
            ))
        } else {
            self.until_it_serves(channel, say)
        };
        match result {
            Ok(()) => HandedOver::Yes,
            Err(error) => {
                end(successor);
                if say != Say::Prepared && !self.region.is_in_place() {
                    return HandedOver::Lost(error);
                }
                self.go_on(writer, file);
                HandedOver::No(error)
            }
        }
    }

    fn end_snapshots(&mut self, order: Order) -> Option<(File, bool)> {
        let Snapshots { orders, thread } = self.snapshot.take()?;
        let _ = orders.send(order);
        thread.join().ok()
    }

    fn until_it_serves(&self, channel: &Channel, say: Say) -> io::Result<()> {
        channel.set_patience(if say == Say::Prepared { PROMPT } else { MOVING })?;
        channel.send(&Say::Yours)?;
        match channel.receive()? {
            Say::Serving => Ok(()),
            _ => Err(misunderstood()),
        }
    }

    /// Starts the threads once more.
    fn go_on(&mut self, writer: crate::region::Writer, file: Option<File>) {
        let status = Arc::new(SnapshotStatus::default());
        let settings = settings(&self.config).expect("the kernel has given random numbers before");
        let prepared = Prepared::new(self.parts(settings, &status))
            .expect("the descriptors there were are free again");
        let (threads, leases) = prepared
            .start(writer, Begin::Resume)
            .expect("the threads there were can be started again");
        (self.threads, self.resumed) = (Some(threads), leases);
        let sizes = Sizes::new(self.region.geometry());
        let writer = file.and_then(|file| {
            let newest = Reader::open(&file).ok()?.newest();
            Some(Writer::new(file, sizes, newest.as_ref(), &self.region, clock::now()))
        });
        let told = self.failures.take();
        self.start_snapshots(writer, status).expect("the threads there were can be started again");
        self.failures = self.failures.take().or(told);
        // The successor may have taken the place where others ask.
        self.control = None;
        self.listen_for_successors().expect("the socket there was can be made again");
    }

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

    /// From now on somebody can ask to replace this engine.
    pub(super) fn listen_for_successors(&mut self) -> Result<(), StartError> {
        if let Place::Directory(path) = &self.config.state {
            let listener = Listener::new(path)
                .map_err(|source| StartError::State { path: path.clone(), source })?;
            self.control = Some(listener);
        }
        Ok(())
    }
}

/// What the old engine gave.
struct Taken {
    lock: File,
    memory: [File; 2],
    snapshot: Option<File>,
    sockets: super::SocketTable,
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

fn shown(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string().replace('\n', " "))
}

/// Makes sure that the process at the other end does nothing any more, and waits until it is gone:
/// there is never more than one that writes.
fn end(successor: &Successor) {
    // A pidfd becomes readable when its process has ended (pidfd_open(2)).
    let ends = |limit: Option<&Timespec>| {
        poll(&mut [PollFd::new(&successor.process, PollFlags::IN)], limit)
    };
    if successor.channel.peer().is_ok_and(|peer| peer != rustix::process::getpid()) {
        // Most end by themselves, and have something to say.
        if ends(Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).is_ok_and(|ended| ended == 1) {
            return;
        }
        let _ = pidfd_send_signal(&successor.process, Signal::KILL);
        while ends(None).is_err() {}
    }
}
