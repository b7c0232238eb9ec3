//! Watchers of one service, ten at a socket: few enough that the engine sends to each of them as it
//! would to a machine of its own, and enough that one CPU receives for a thousand.

use crate::bed::Bed;
use crate::socket::{Cookie, SOCKET_BYTES};
use heartline::internals::limits::{RECEIVE_BATCH, WATCH_MS_MAX};
use heartline::internals::net::{Message, ReceiveBatch, Socket};
use heartline_wire::{
    Endpoint, Header, Kind, PushHead, Received, Reply, ReplyBody, Status, Watch, Watching,
    header_flags, service_id,
};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Tag of datagrams that no engine sent: they are counted, and change nothing.
pub(crate) const FOREIGN: u64 = u64::MAX;
/// Watchers that share a socket.
pub(crate) const PER_SOCKET: usize = 10;
/// Sockets that are looked at in one turn: other things are to be done in time as well.
const SOCKETS_PER_TURN: usize = 10;
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

impl Seen {
    /// All that came.
    pub(crate) fn total(&self) -> u64 {
        self.changes + self.beacons + self.pulls + self.foreign
    }
}

/// One watcher.
#[derive(Clone, Copy, Debug, Default)]
struct Watcher {
    proof: U64,
    number: U32,
    /// The engine has granted the whole time since it was asked last.
    is_granted: bool,
    owes_receipt: bool,
    owes_request: bool,
}

/// All of them.
pub(crate) struct Crowd {
    sockets: Vec<Socket>,
    watchers: Vec<Watcher>,
    engine: SocketAddrAny,
    service: u64,
    cookie: Cookie,
    poll: Poll,
    events: Events,
    batch: ReceiveBatch,
    /// When sockets are looked at again.
    look_at: Instant,
    pub(crate) seen: Seen,
}

impl Crowd {
    /// So many watchers of a service; none of them watches yet.
    pub(crate) fn new(engine: SocketAddr, service: &str, count: usize) -> Result<Self, String> {
        let fail = |error: io::Error| error.to_string();
        let poll = Poll::new().map_err(fail)?;
        let open = |at: usize| {
            // Not connected: floors send to it, too.
            let udp = UdpSocket::bind("127.0.0.1:0")?;
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(&udp, SOCKET_BYTES);
            let socket = Socket::adopt(udp.into(), SOCKET_BYTES)?;
            let (fd, token) = (socket.as_raw_fd(), Token(at));
            poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)?;
            Ok(socket)
        };
        let sockets = (0..count.div_ceil(PER_SOCKET)).map(open).collect::<io::Result<_>>();
        Ok(Self {
            sockets: sockets.map_err(fail)?,
            watchers: vec![Watcher::default(); count],
            engine: engine.into(),
            service: service_id(service),
            cookie: Cookie::none(),
            poll,
            events: Events::with_capacity(SOCKETS_PER_TURN),
            batch: ReceiveBatch::default(),
            look_at: Instant::now(),
            seen: Seen::default(),
        })
    }

    /// Where each of them receives.
    pub(crate) fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let address = |at: usize| self.sockets[at / PER_SOCKET].local_addr();
        (0..self.watchers.len()).map(address).collect::<Result<_, _>>().map_err(|e| e.to_string())
    }

    /// Begins or renews all watches; they stand for a minute then.
    pub(crate) fn renew(&mut self, bed: &mut Bed) -> Result<(), String> {
        self.cookie = Cookie::from(bed)?;
        let begin = Instant::now();
        self.watchers.iter_mut().for_each(|watcher| watcher.is_granted = false);
        while !self.is_granted() {
            if begin.elapsed() > BEGINNING {
                return Err("the engine does not grant the watches".into());
            }
            self.watchers.iter_mut().for_each(|one| one.owes_request = !one.is_granted);
            for socket in 0..self.sockets.len() {
                self.send_owed(socket)?;
                self.listen(|_| ())?;
            }
            let asked = Instant::now();
            while asked.elapsed() < PATIENCE && !self.is_granted() {
                self.listen(|_| ())?;
            }
        }
        Ok(())
    }

    fn is_granted(&self) -> bool {
        self.watchers.iter().all(|watcher| watcher.is_granted)
    }

    /// Takes what has come to some sockets; when that was little, other turns come after a while.
    pub(crate) fn look(&mut self, pause: Duration) -> Result<(), String> {
        let now = Instant::now();
        if now < self.look_at {
            std::hint::spin_loop();
            return Ok(());
        }
        self.listen(|_| ())?;
        if self.events.iter().count() < SOCKETS_PER_TURN {
            self.look_at = now + pause;
        }
        Ok(())
    }

    /// Looks until nothing has come for a time.
    pub(crate) fn settle(&mut self, rest: Duration) -> Result<(), String> {
        let (mut total, mut quiet_since) = (self.seen.total(), Instant::now());
        while quiet_since.elapsed() < rest {
            self.listen(|_| ())?;
            if self.seen.total() != total {
                (total, quiet_since) = (self.seen.total(), Instant::now());
            }
        }
        Ok(())
    }

    /// Takes what has come to some sockets without waiting, and sends the receipts that are wanted.
    /// `changed` sees the endpoints of each push.
    pub(crate) fn listen(&mut self, mut changed: impl FnMut(&[Endpoint])) -> Result<(), String> {
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(error.to_string());
            }
            _ => {}
        }
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        let mut batch = std::mem::take(&mut self.batch);
        for at in ready {
            loop {
                let received =
                    batch.receive(&self.sockets[at]).map_err(|error| error.to_string())?;
                for frame in batch.messages(0).flat_map(Message::datagrams) {
                    self.take(at, frame, &mut changed)?;
                }
                if received < RECEIVE_BATCH {
                    break;
                }
            }
            self.send_owed(at)?;
        }
        self.batch = batch;
        Ok(())
    }

    /// Takes a datagram that came to a socket.
    fn take(
        &mut self,
        socket: usize,
        frame: &[u8],
        changed: &mut impl FnMut(&[Endpoint]),
    ) -> Result<(), String> {
        let Ok(reply) = Reply::decode(frame) else { return Ok(()) };
        let tag = reply.header.tag.get();
        if tag == FOREIGN {
            self.seen.foreign += 1;
            return Ok(());
        }
        if tag as usize / PER_SOCKET != socket {
            return Err("a datagram came to another watcher's socket".into());
        }
        let watcher = &mut self.watchers[tag as usize];
        match (reply.status, reply.body) {
            (Status::Ok, ReplyBody::Push(head, endpoints)) => {
                match (endpoints.len(), head.before == head.after) {
                    (1.., _) => self.seen.changes += 1,
                    (_, true) => self.seen.beacons += 1,
                    (_, false) => self.seen.pulls += 1,
                }
                changed(endpoints);
                watcher.pushed(head, reply.header.flags);
            }
            (Status::Ok, ReplyBody::Watching(watching)) => watcher.granted(watching),
            // Asked again soon.
            (Status::Busy, _) => {}
            (status, _) => return Err(format!("a watch was refused: {status:?}")),
        }
        Ok(())
    }

    /// Sends what the watchers of a socket owe the engine, in one system call.
    fn send_owed(&mut self, socket: usize) -> Result<(), String> {
        let first = socket * PER_SOCKET;
        let end = (first + PER_SOCKET).min(self.watchers.len());
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for (tag, watcher) in (first as u64..).zip(&mut self.watchers[first..end]) {
            if std::mem::take(&mut watcher.owes_request) {
                let body = watcher.request(self.cookie.value, self.service);
                frames.push([Header::request(Kind::Watch, tag).as_bytes(), &body].concat());
            }
            if std::mem::take(&mut watcher.owes_receipt) {
                let body = watcher.receipt(self.cookie.value);
                frames.push([Header::request(Kind::Push, tag).as_bytes(), &body].concat());
                self.seen.receipts += 1;
            }
        }
        if frames.is_empty() {
            return Ok(());
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            frames.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<MMsgHdr<'_>> = slices
            .iter()
            .zip(&mut controls)
            .map(|(slice, control)| MMsgHdr::new_with_addr(&self.engine, slice, control))
            .collect();
        match sendmmsg(&self.sockets[socket], &mut messages, SendFlags::DONTWAIT) {
            // The network may lose them as well.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Watcher {
    fn pushed(&mut self, head: &PushHead, flags: u8) {
        if head.number.get() >= self.number.get() {
            (self.proof, self.number) = (head.proof, head.number);
        }
        self.owes_receipt |= flags & header_flags::RECEIPT_WANTED != 0;
    }

    fn granted(&mut self, watching: &Watching) {
        (self.proof, self.number) = (watching.proof, watching.number);
        self.is_granted = watching.ttl_ms.get() == WATCH_MS_MAX;
        // The first reply grants a second: the proof in it is worth the rest.
        self.owes_request = !self.is_granted;
    }

    fn request(&self, cookie: U64, service: u64) -> Vec<u8> {
        let (service, version, ttl_ms) = (service.into(), U64::ZERO, WATCH_MS_MAX.into());
        let Self { proof, number, .. } = *self;
        Watch { cookie, service, proof, version, ttl_ms, number }.as_bytes().to_vec()
    }

    fn receipt(&self, cookie: U64) -> Vec<u8> {
        let Self { proof, number, .. } = *self;
        Received { cookie, proof, number, ..Received::new_zeroed() }.as_bytes().to_vec()
    }
}
