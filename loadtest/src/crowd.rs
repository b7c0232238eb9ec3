//! Watchers of one service, each with a socket of its own, as processes on other machines have it.

use crate::bed::Bed;
use crate::socket::{Cookie, DEPTH, SOCKET_BYTES, receive};
use heartline::internals::limits::{FRAME_BYTES_MAX, WATCH_MS_MAX};
use heartline_wire::{
    Endpoint, Header, Kind, PushHead, Received, Reply, ReplyBody, Status, Watch, Watching,
    header_flags, service_id,
};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Tag of datagrams that no engine sent: they are counted, and change nothing.
pub(crate) const FOREIGN: u64 = u64::MAX;
/// Time after which watch requests without an answer are sent again.
const PATIENCE: Duration = Duration::from_millis(200);
/// All watches stand within this time, or something is wrong.
const BEGINNING: Duration = Duration::from_secs(10);

/// Datagrams that came to watchers, and those that they sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Pushes of changed endpoints.
    pub(crate) changes: u64,
    /// Pushes that only ask for a receipt.
    pub(crate) beacons: u64,
    /// Pushes that ask to pull.
    pub(crate) pulls: u64,
    /// Datagrams of a floor.
    pub(crate) foreign: u64,
    /// Receipts that the watchers sent.
    pub(crate) receipts: u64,
}

/// One watcher.
struct Watcher {
    socket: UdpSocket,
    proof: U64,
    number: U32,
    /// The engine has granted the whole time since it was asked last.
    is_granted: bool,
}

/// All of them.
pub(crate) struct Crowd {
    watchers: Vec<Watcher>,
    engine: SocketAddr,
    service: u64,
    cookie: Cookie,
    poll: Poll,
    events: Events,
    pub(crate) seen: Seen,
}

impl Crowd {
    /// So many watchers of a service; none of them watches yet.
    pub(crate) fn new(engine: SocketAddr, service: &str, count: usize) -> Result<Self, String> {
        let fail = |error: io::Error| error.to_string();
        let poll = Poll::new().map_err(fail)?;
        let open = |at: usize| {
            // Not connected: floors send to it, too.
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES);
            socket.set_nonblocking(true)?;
            let (fd, token) = (socket.as_raw_fd(), Token(at));
            poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)?;
            Ok(Watcher { socket, proof: U64::ZERO, number: U32::ZERO, is_granted: false })
        };
        let watchers = (0..count).map(open).collect::<io::Result<_>>().map_err(fail)?;
        Ok(Self {
            watchers,
            engine,
            service: service_id(service),
            cookie: Cookie::none(),
            poll,
            events: Events::with_capacity(count.max(1)),
            seen: Seen::default(),
        })
    }

    /// Where they receive.
    pub(crate) fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let address = |watcher: &Watcher| watcher.socket.local_addr();
        self.watchers.iter().map(address).collect::<Result<_, _>>().map_err(|e| e.to_string())
    }

    /// Begins or renews all watches; they stand for a minute then.
    pub(crate) fn renew(&mut self, bed: &mut Bed) -> Result<(), String> {
        self.cookie = Cookie::from(bed)?;
        let begin = Instant::now();
        self.watchers.iter_mut().for_each(|watcher| watcher.is_granted = false);
        while self.watchers.iter().any(|watcher| !watcher.is_granted) {
            if begin.elapsed() > BEGINNING {
                return Err("the engine does not grant the watches".into());
            }
            for first in (0..self.watchers.len()).step_by(DEPTH) {
                for at in first..(first + DEPTH).min(self.watchers.len()) {
                    if !self.watchers[at].is_granted {
                        self.ask(at)?;
                    }
                }
                self.listen(|_, _| ())?;
            }
            let asked = Instant::now();
            while asked.elapsed() < PATIENCE && self.watchers.iter().any(|one| !one.is_granted) {
                self.listen(|_, _| ())?;
            }
        }
        Ok(())
    }

    /// Takes what has come without waiting, and sends the receipts that are wanted. `changed` sees
    /// each push of endpoints.
    pub(crate) fn listen(
        &mut self,
        mut changed: impl FnMut(&PushHead, &[Endpoint]),
    ) -> Result<(), String> {
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(error.to_string());
            }
            _ => {}
        }
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        let mut frame = [0; FRAME_BYTES_MAX];
        for at in ready {
            while let Some(length) = receive(&self.watchers[at].socket, &mut frame)? {
                let Ok(reply) = Reply::decode(&frame[..length]) else { continue };
                match (reply.status, reply.body) {
                    (_, ReplyBody::Push(..)) if reply.header.tag.get() == FOREIGN => {
                        self.seen.foreign += 1;
                    }
                    (Status::Ok, ReplyBody::Push(head, endpoints)) => {
                        if !endpoints.is_empty() {
                            changed(head, endpoints);
                        }
                        self.pushed(at, head, endpoints.len(), reply.header.flags)?;
                    }
                    (Status::Ok, ReplyBody::Watching(watching)) => self.granted(at, watching)?,
                    // Asked again soon.
                    (Status::Busy, _) => {}
                    (status, _) => return Err(format!("a watch was refused: {status:?}")),
                }
            }
        }
        Ok(())
    }

    fn ask(&self, at: usize) -> Result<(), String> {
        let watcher = &self.watchers[at];
        let body = Watch {
            cookie: self.cookie.value,
            service: self.service.into(),
            proof: watcher.proof,
            version: U64::ZERO,
            ttl_ms: WATCH_MS_MAX.into(),
            number: watcher.number,
        };
        self.send(at, Kind::Watch, body.as_bytes())
    }

    fn granted(&mut self, at: usize, watching: &Watching) -> Result<(), String> {
        let watcher = &mut self.watchers[at];
        (watcher.proof, watcher.number) = (watching.proof, watching.number);
        // The first reply grants a second: the proof in it is worth the rest.
        watcher.is_granted = watching.ttl_ms.get() == WATCH_MS_MAX;
        if watcher.is_granted { Ok(()) } else { self.ask(at) }
    }

    fn pushed(
        &mut self,
        at: usize,
        head: &PushHead,
        endpoints: usize,
        flags: u8,
    ) -> Result<(), String> {
        match (endpoints, head.before == head.after) {
            (1.., _) => self.seen.changes += 1,
            (_, true) => self.seen.beacons += 1,
            (_, false) => self.seen.pulls += 1,
        }
        let watcher = &mut self.watchers[at];
        if head.number.get() >= watcher.number.get() {
            (watcher.proof, watcher.number) = (head.proof, head.number);
        }
        if flags & header_flags::RECEIPT_WANTED == 0 {
            return Ok(());
        }
        let mut body = Received::new_zeroed();
        (body.cookie, body.proof, body.number) = (self.cookie.value, watcher.proof, watcher.number);
        self.seen.receipts += 1;
        self.send(at, Kind::Push, body.as_bytes())
    }

    fn send(&self, at: usize, kind: Kind, body: &[u8]) -> Result<(), String> {
        let frame = [Header::request(kind, at as u64).as_bytes(), body].concat();
        match self.watchers[at].socket.send_to(&frame, self.engine) {
            // The network may lose it as well.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other.map(drop).map_err(|error| error.to_string()),
        }
    }
}
