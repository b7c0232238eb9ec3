//! Sudden death: a process shows its leases to an engine of its machine, and when the process dies,
//! the kernel closes the connection and they are down at once. `docs/LOCAL.md` has the frames.
//!
//! ```no_run
//! use heartline_client::{Local, Registration, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut session = Session::connect("127.0.0.1:19528".parse()?)?;
//! let grant = session.register(&Registration::new("payments", "pay-1", 8080))?;
//! let mut local = Local::connect("/dev/shm/heartline")?;
//! if local.epoch() == grant.epoch {
//!     local.show(&grant.lease)?;
//! }
//! // ... serve, and beat ...
//! local.let_go()?;
//! # Ok(())
//! # }
//! ```
//!
//! The connection ends as well when the engine does, and that says nothing: connect again after a
//! pause with jitter, and show the leases again. Beats go on all the time.

use crate::error::ClientError;
use crate::lease::Lease;
use heartline_wire::{LocalGreeting, LocalKind, LocalReply, LocalRequest, Status};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use zerocopy::IntoBytes;

/// How long the engine may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an engine says on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEvent {
    /// The first thing that it says.
    Greeting {
        /// Number of its run: that of the lease if it is the engine that granted it.
        epoch: u64,
        /// Leases that one connection may show.
        leases_max: u32,
    },
    /// The answer to the oldest request that has none.
    Answer {
        /// What was asked for.
        kind: LocalKind,
        /// [`Status::Ok`], or why not.
        status: Status,
        /// Slot of the lease.
        slot: u32,
        /// Generation of the lease.
        generation: u32,
    },
}

/// Reads what an engine says from bytes that come in any pieces; no I/O. A driver with an I/O model
/// of its own sends the frames of [`LocalReader::show`] and the like.
#[derive(Clone, Debug, Default)]
pub struct LocalReader {
    begun: Vec<u8>,
    greeted: bool,
}

impl LocalReader {
    /// The request that shows a lease: from its answer on the end of the connection is the death of
    /// the instance.
    pub fn show(lease: &Lease) -> [u8; 24] {
        zerocopy::transmute!(LocalRequest::new(LocalKind::Show, (*lease).into()))
    }

    /// The request that takes a lease back.
    pub fn take_back(lease: &Lease) -> [u8; 24] {
        zerocopy::transmute!(LocalRequest::new(LocalKind::TakeBack, (*lease).into()))
    }

    /// The farewell: the end of the connection means nothing from then on.
    pub fn let_go() -> [u8; 24] {
        zerocopy::transmute!(LocalRequest::let_go())
    }

    /// Takes bytes that have come; [`Self::event`] gives what they say.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
    }

    /// The next thing that the engine said, if it is whole.
    ///
    /// # Errors
    /// [`ClientError::Value`]: no engine of this version says so. The connection is to be closed.
    pub fn event(&mut self) -> Result<Option<LocalEvent>, ClientError> {
        const FOREIGN: ClientError =
            ClientError::Value("the socket is no engine's, or one of another version");
        if !self.greeted {
            let Some(bytes) = self.begun.first_chunk() else { return Ok(None) };
            let greeting = LocalGreeting::decode(bytes).ok_or(FOREIGN)?;
            self.begun.drain(..size_of::<LocalGreeting>());
            self.greeted = true;
            let (epoch, leases_max) = (greeting.epoch.get(), greeting.leases_max.get());
            return Ok(Some(LocalEvent::Greeting { epoch, leases_max }));
        }
        let Some(bytes) = self.begun.first_chunk() else { return Ok(None) };
        let (kind, status, slot, generation) = LocalReply::decode(bytes).ok_or(FOREIGN)?;
        self.begun.drain(..size_of::<LocalReply>());
        let (slot, generation) = (slot.get(), generation.get());
        Ok(Some(LocalEvent::Answer { kind, status, slot, generation }))
    }
}

/// A connection to the engine of this machine, with one request at a time. Dropping it without
/// [`Local::let_go`] is the death of every instance whose lease it has shown.
#[derive(Debug)]
pub struct Local {
    stream: UnixStream,
    reader: LocalReader,
    epoch: u64,
    leases_max: u32,
}

impl Local {
    /// Connects to the engine with this state directory.
    ///
    /// # Errors
    /// [`ClientError::Io`]: nobody listens there, or it has too many connections, of this user or
    /// in all. [`ClientError::Value`]: it is no engine of this version.
    pub fn connect(directory: impl AsRef<Path>) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(directory.as_ref().join("local"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let reader = LocalReader::default();
        let mut local = Self { stream, reader, epoch: 0, leases_max: 0 };
        if let LocalEvent::Greeting { epoch, leases_max } = local.next()? {
            (local.epoch, local.leases_max) = (epoch, leases_max);
        }
        Ok(local)
    }

    /// Number of the engine's run. Leases with another epoch may be of another engine, or of a run
    /// before: those stand, and can be shown as well.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Leases that one connection may show.
    pub fn leases_max(&self) -> u32 {
        self.leases_max
    }

    /// The connection, for a poll: it is readable when it has ended.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Lets the instance of this lease die with the process.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: the engine knows no such lease, or the connection shows as many as
    /// it may. [`ClientError::Io`]: the engine has gone.
    pub fn show(&mut self, lease: &Lease) -> Result<(), ClientError> {
        self.ask(LocalReader::show(lease))
    }

    /// Lets it live on without the process.
    ///
    /// # Errors
    /// As for [`Self::show`].
    pub fn take_back(&mut self, lease: &Lease) -> Result<(), ClientError> {
        self.ask(LocalReader::take_back(lease))
    }

    /// Ends the connection without any instance dying of it.
    ///
    /// # Errors
    /// [`ClientError::Io`]: the engine has gone.
    pub fn let_go(mut self) -> Result<(), ClientError> {
        self.ask(LocalReader::let_go())
    }

    fn ask(&mut self, request: [u8; 24]) -> Result<(), ClientError> {
        self.stream.write_all(request.as_bytes())?;
        match self.next()? {
            LocalEvent::Answer { status: Status::Ok, .. } => Ok(()),
            LocalEvent::Answer { status, .. } => Err(ClientError::Refused { status, field: 0 }),
            LocalEvent::Greeting { .. } => Err(ClientError::Value("the engine greets twice")),
        }
    }

    fn next(&mut self) -> Result<LocalEvent, ClientError> {
        let mut bytes = [0; 64];
        loop {
            if let Some(event) = self.reader.event()? {
                return Ok(event);
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                Ok(length) => self.reader.receive(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream has no frames of its own: whatever the pieces, the same is said.
    #[test]
    fn answers_come_in_any_pieces() {
        let lease = Lease::from_parts(3, 4, 5);
        let mut said = LocalGreeting::new(7, 9).as_bytes().to_vec();
        said.extend(LocalReply::new(LocalKind::Show, Status::Unknown, &lease.into()).as_bytes());
        said.extend(LocalReply::new(LocalKind::LetGo, Status::Ok, &lease.into()).as_bytes());
        for size in 1..said.len() {
            let (mut reader, mut events) = (LocalReader::default(), Vec::new());
            for piece in said.chunks(size) {
                reader.receive(piece);
                while let Some(event) = reader.event().unwrap() {
                    events.push(event);
                }
            }
            let answer = |kind, status| LocalEvent::Answer { kind, status, slot: 3, generation: 4 };
            assert_eq!(
                events,
                [
                    LocalEvent::Greeting { epoch: 7, leases_max: 9 },
                    answer(LocalKind::Show, Status::Unknown),
                    answer(LocalKind::LetGo, Status::Ok),
                ]
            );
        }
        let mut foreign = LocalReader::default();
        foreign.receive(b"HTTP/1.1 400 Bad Request");
        assert!(foreign.event().is_err());
    }
}
