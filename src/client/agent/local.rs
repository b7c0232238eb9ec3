//! The connection to an engine of this machine, at which leases are shown: when this process dies,
//! the kernel closes it, and its instances are down at once. `docs/LOCAL.md` has the frames.
//!
//! Nothing is ever taken back. A lease that has ended is not there any more, and one that has not,
//! at the end of the agent, belongs to nobody.

use super::random::Random;
use crate::lease::Lease;
use crate::local::{LocalEvent, LocalReader};
use heartline_wire::time::{NANOS_PER_SECOND, Nanos};
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Longest wait before the next attempt; the wait is drawn from 0 to it.
const RETRY: Nanos = NANOS_PER_SECOND;
/// Tells where the engine of this machine has its files, where that is none of the usual places.
const VARIABLE: &str = "HEARTLINE_STATE";

/// State directories that are looked at.
const DIRECTORIES_MAX: usize = 16;

/// State directories in which an engine of this machine may have its socket: the one that a
/// variable names, that of the systemd unit, and those of daemons without a setting. The number of
/// its run tells the right engine from others.
///
/// Everybody can make a directory in `/dev/shm`, and whoever is shown a lease can use it. So there
/// only those of root and of this user count.
pub(super) fn directories() -> Vec<PathBuf> {
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
    let listed = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let own = std::fs::metadata("/proc/self").map(|own| own.uid()).ok();
    let usual = listed.map(|entry| entry.path()).filter(|path| {
        let is_named =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("heartline"));
        let owner = std::fs::symlink_metadata(path).map(|directory| directory.uid()).ok();
        is_named && owner.is_some_and(|owner| owner == 0 || Some(owner) == own)
    });
    let unit = PathBuf::from("/run/heartline");
    named.into_iter().chain([unit]).chain(usual).take(DIRECTORIES_MAX).collect()
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    reader: LocalReader,
    is_greeted: bool,
    out: VecDeque<u8>,
}

/// What is to be done after something has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    /// It is the engine: every lease is to be shown.
    Greeted,
    /// It is another engine, or another run of this one, which has not answered yet.
    Unknown,
}

/// The connection to one engine, if there is one.
#[derive(Debug)]
pub(super) struct Local {
    token: Token,
    connection: Option<Connection>,
    /// The run that greeted last and was another engine's.
    other: u64,
    /// Which directory is tried next.
    turn: usize,
    /// When.
    pub(super) again_at: Nanos,
}

impl Local {
    pub(super) fn new(token: Token) -> Self {
        Self { token, connection: None, other: 0, turn: 0, again_at: 0 }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Tries the directories from the next one on; after the last comes a pause.
    pub(super) fn connect(
        &mut self,
        now: Nanos,
        registry: &Registry,
        directories: &[PathBuf],
        random: &mut Random,
    ) {
        while let Some(directory) = directories.get(self.turn) {
            self.turn += 1;
            if let Ok(stream) = open(registry, self.token, directory) {
                let (reader, out) = (LocalReader::default(), VecDeque::new());
                self.connection = Some(Connection { stream, reader, is_greeted: false, out });
                return;
            }
        }
        self.turn = 0;
        self.again_at = now + random.up_to(RETRY);
    }

    /// Shows a lease, if the engine has greeted; else it is shown with the others then.
    pub(super) fn show(&mut self, lease: &Lease) {
        if let Some(connection) = &mut self.connection
            && connection.is_greeted
        {
            connection.out.extend(LocalReader::show(lease));
            connection.flush();
        }
    }

    /// Something has come, or there is room to send. `epoch` is that of the engine whose leases
    /// these are.
    pub(super) fn is_ready(&mut self, now: Nanos, epoch: u64, random: &mut Random) -> Said {
        let Some(connection) = &mut self.connection else { return Said::Nothing };
        match connection.read() {
            Ok(None) => {
                connection.flush();
                Said::Nothing
            }
            Ok(Some(its)) if its == epoch => {
                connection.is_greeted = true;
                // After an end of this engine its place is the first to look at.
                self.turn = self.turn.saturating_sub(1);
                Said::Greeted
            }
            Ok(Some(its)) => {
                self.connection = None;
                self.again_at = now;
                if std::mem::replace(&mut self.other, its) == its {
                    Said::Nothing
                } else {
                    Said::Unknown
                }
            }
            Err(_) => {
                self.connection = None;
                self.again_at = now + random.up_to(RETRY);
                Said::Nothing
            }
        }
    }
}

fn open(registry: &Registry, token: Token, directory: &std::path::Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(directory.join("local"))?;
    registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
    Ok(stream)
}

impl Connection {
    /// Takes in all that has come; the run of the engine, if it has greeted. An error: the
    /// connection is over.
    fn read(&mut self) -> io::Result<Option<u64>> {
        let mut greeting = None;
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.reader.receive(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(greeting),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Answers say nothing that beats will not: a lease that is refused has ended.
            while let Some(event) = self.reader.event().map_err(io::Error::other)? {
                if let LocalEvent::Greeting { epoch, .. } = event {
                    greeting = Some(epoch);
                }
            }
        }
    }

    fn flush(&mut self) {
        while !self.out.is_empty() {
            let (first, _) = self.out.as_slices();
            match self.stream.write(first) {
                Ok(length) => drop(self.out.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // No room now, and there will be; or the end, which reading tells.
                Err(_) => return,
            }
        }
    }
}
