//! The thread: one poll over everybody who is connected. It wakes when something happens and never
//! else, but for a full command queue.

use super::book::{Book, ConnectionId, Course};
use crate::engine::shared::Shared;
use crate::exchange::Command;
use crate::limits::{COMMAND_QUEUE, LOCAL_LEASES_MAX};
use crate::region::Region;
use crate::wire::{Generation, Lease, LocalGreeting, Slot, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{SendFlags, send};
use std::collections::VecDeque;
use std::fs::Permissions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use zerocopy::IntoBytes;

/// Bytes of requests that are taken from a connection at once.
const READ_BYTES: usize = 4096;
/// Connections that are accepted before the others are looked at again.
const ACCEPTS: usize = 16;
/// Reads of one connection before the others are looked at again.
const READS: usize = 16;
/// When a full queue, or a listener that has no descriptors to give, is looked at again.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// The thread, as its engine holds it. It ends when told so.
#[derive(Debug)]
pub(in crate::engine) struct LocalThread {
    /// Closed to end the thread.
    stop: UnixStream,
    thread: JoinHandle<()>,
}

impl LocalThread {
    /// Listens in a state directory, which the caller has locked: a socket that is there already is
    /// nobody's.
    pub(in crate::engine) fn start(
        state: &Path,
        region: Arc<Region>,
        shared: Arc<Shared>,
        epoch: u64,
    ) -> io::Result<Self> {
        let path = state.join("local");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // For every user: the secret of a lease is the right to show it.
        std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = UnixStream::pair()?;
        let server = Server {
            listener,
            stopped,
            region,
            shared,
            greeting: LocalGreeting::new(epoch, LOCAL_LEASES_MAX),
            book: Book::default(),
            connections: Vec::new(),
            died: VecDeque::new(),
            deaf: false,
        };
        let builder = std::thread::Builder::new().name("heartline-local".into());
        Ok(Self { stop, thread: builder.spawn(move || server.run())? })
    }

    /// Ends it. Nobody is blamed for a connection that ends with the engine.
    pub(in crate::engine) fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// Somebody who is connected.
struct Peer {
    id: ConnectionId,
    stream: UnixStream,
    /// Answers that the peer has not taken yet. Until then no more of its requests are read.
    answers: Vec<u8>,
    /// It let go, and is closed once its answers are written.
    leaves: bool,
}

struct Server {
    listener: UnixListener,
    stopped: UnixStream,
    region: Arc<Region>,
    shared: Arc<Shared>,
    greeting: LocalGreeting,
    book: Book,
    connections: Vec<Peer>,
    /// Leases of the dead that the command queue had no room for.
    died: VecDeque<(Slot, Generation)>,
    /// Nobody could be accepted, for want of descriptors: the listener rests for a moment.
    deaf: bool,
}

/// What became of a connection.
enum End {
    /// By itself, or ours.
    Closed,
    /// By the kernel: the process is gone.
    Broken,
}

impl Server {
    fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            if !self.wait(&mut ready) {
                return;
            }
            // From the end on: what is removed leaves the others before it in place.
            for number in (0..self.connections.len()).rev() {
                if ready[number] {
                    self.serve(number);
                }
            }
            self.accept();
            self.tell();
        }
    }

    /// Sleeps until something happens; notes which connections it is about. `false`: the engine
    /// stops.
    fn wait(&self, ready: &mut Vec<bool>) -> bool {
        let mut fds = vec![
            PollFd::new(&self.stopped, PollFlags::IN),
            PollFd::new(&self.listener, if self.deaf { PollFlags::empty() } else { PollFlags::IN }),
        ];
        fds.extend(self.connections.iter().map(|peer| {
            let wanted = if peer.answers.is_empty() { PollFlags::IN } else { PollFlags::OUT };
            PollFd::new(&peer.stream, wanted)
        }));
        let limit = if self.died.is_empty() && !self.deaf { None } else { Some(&AGAIN) };
        // An interrupted poll is a wake-up like any other.
        let _ = poll(&mut fds, limit);
        ready.clear();
        ready.extend(fds[2..].iter().map(|fd| !fd.revents().is_empty()));
        fds[0].revents().is_empty()
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let accepted = self.listener.accept();
            let is_empty = |error: &io::Error| {
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
            };
            self.deaf = accepted.as_ref().is_err_and(|error| !is_empty(error));
            let Ok((stream, _)) = accepted else { return };
            let user = socket_peercred(&stream).map(|peer| peer.uid.as_raw());
            // Who is turned away sees the connection closed.
            let Some(id) = user.ok().and_then(|user| self.book.admit(user)) else {
                self.note();
                continue;
            };
            let answers = self.greeting.as_bytes().to_vec();
            let peer = Peer { id, stream, answers, leaves: false };
            if peer.stream.set_nonblocking(true).is_err() {
                self.book.close(id);
                continue;
            }
            self.connections.push(peer);
            self.serve(self.connections.len() - 1);
        }
    }

    /// Writes what waits, and reads what has come.
    fn serve(&mut self, number: usize) {
        let Err(end) = self.converse(number) else { return };
        let peer = self.connections.swap_remove(number);
        match end {
            End::Closed => self.book.close(peer.id),
            End::Broken => {
                let died = &mut self.died;
                self.book.broke(peer.id, |slot, generation| died.push_back((slot, generation)));
            }
        }
        self.note();
    }

    fn converse(&mut self, number: usize) -> Result<(), End> {
        let Self { region, book, connections, .. } = self;
        let peer = &mut connections[number];
        let verify = |lease: &Lease| {
            region.lines().get(lease.slot().index()).ok_or(Status::Unknown)?.verify(lease)
        };
        let (mut bytes, refused) = ([0; READ_BYTES], book.refused());
        for _ in 0..READS {
            peer.write();
            if !peer.answers.is_empty() {
                return Ok(());
            }
            if peer.leaves {
                return Err(End::Closed);
            }
            let length = match peer.stream.read(&mut bytes) {
                Ok(0) => return Err(End::Broken),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(End::Broken),
            };
            match book.receive(peer.id, &bytes[..length], verify, &mut peer.answers) {
                Course::GoesOn => {}
                Course::LetGo => {
                    // From here on its end means nothing, however it comes.
                    book.close(peer.id);
                    peer.leaves = true;
                }
                Course::Misunderstood => return Err(End::Closed),
            }
        }
        if book.refused() != refused {
            self.note();
        }
        Ok(())
    }

    /// Tells the registrar of the dead, as far as its queue has room beside requests of clients.
    fn tell(&mut self) {
        let mut told = false;
        while self.shared.commands.len() < COMMAND_QUEUE / 2
            && let Some((slot, generation)) = self.died.pop_front()
        {
            if self.shared.commands.push(Command::Died { slot, generation }).is_err() {
                self.died.push_front((slot, generation));
                break;
            }
            told = true;
        }
        if told {
            self.shared.wake_registrar();
        }
    }

    /// Shows what was refused, and lets the registrar show it to others.
    fn note(&self) {
        self.shared.note_local(self.book.connections() as u64, self.book.refused());
    }
}

impl Peer {
    fn write(&mut self) {
        while !self.answers.is_empty() {
            match send(&self.stream, &self.answers, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(written) => drop(self.answers.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // It reads no more. What it said before may still wait to be read, a farewell
                // among it.
                Err(_) => self.answers.clear(),
            }
        }
    }
}
