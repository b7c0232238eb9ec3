//! Leases to beat for: registered many at once, beaten in frames at their intended times.

use crate::bed::Bed;
use heartline::limits::RECEIVE_BATCH;
use heartline::net::{Message, ReceiveBatch, Socket};
use heartline::wire::{Beat, Header, Hello, Kind, Lease, Reply, ReplyBody, Status};
use heartline_client::Registration;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Registrations under way at once: half of what the engine's command queue holds.
const WINDOW: usize = 1024;
/// Datagrams handed to the kernel in one call.
pub(crate) const DEPTH: usize = 32;
/// Time after which what is unanswered is sent again.
const PATIENCE: Duration = Duration::from_millis(200);
/// Time after which a cookie is replaced: it is good for a minute.
const COOKIE_AGE: Duration = Duration::from_secs(20);

/// What the kernel is asked for: it caps these at net.core.wmem_max and rmem_max; forcing takes
/// CAP_NET_ADMIN.
const SOCKET_BYTES: usize = 4 << 20;

/// A socket connected to the engine, with large buffers, that does not wait.
pub(crate) fn open_socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = if target.is_ipv6() {
        SocketAddr::from(([0_u16; 8], 0))
    } else {
        SocketAddr::from(([0_u8; 4], 0))
    };
    let socket = UdpSocket::bind(any)?;
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES);
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES);
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The length of a datagram that has come; `None`: none waits.
pub(crate) fn receive(socket: &UdpSocket, frame: &mut [u8]) -> io::Result<Option<usize>> {
    match socket.recv(frame) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends frames in one system call. Returns how many the kernel took.
pub(crate) fn send_all<F: AsRef<[u8]>>(socket: impl AsFd, frames: &[F]) -> io::Result<usize> {
    let slices: Vec<[IoSlice<'_>; 1]> =
        frames.iter().map(|frame| [IoSlice::new(frame.as_ref())]).collect();
    let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
        frames.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<MMsgHdr<'_>> = slices
        .iter()
        .zip(&mut controls)
        .map(|(slice, control)| MMsgHdr::new(slice, control))
        .collect();
    match sendmmsg(socket, &mut messages, SendFlags::DONTWAIT) {
        Ok(sent) => Ok(sent),
        Err(rustix::io::Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// How many, of how many services, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) instances: u32,
    pub(crate) services: u32,
    pub(crate) ttl: Duration,
    /// Names start with this.
    pub(crate) prefix: &'static str,
}

impl Wanted {
    /// How one of them registers. Neighbours are of different services.
    fn registration(&self, number: usize) -> Registration {
        Registration {
            ttl: self.ttl,
            nonce: number as u64 + 1,
            ..Registration::new(
                &format!("svc-{}", number as u32 % self.services),
                &format!("{}-{number}", self.prefix),
                80,
            )
        }
    }

    /// The frame that registers it.
    pub(crate) fn frame(&self, number: usize, cookie: U64) -> Result<Vec<u8>, String> {
        let (mut body, tail) =
            self.registration(number).encode().map_err(|error| error.to_string())?;
        body.cookie = cookie;
        Ok([Header::request(Kind::Register, number as u64).as_bytes(), body.as_bytes(), &tail]
            .concat())
    }
}

/// Registers all of them; returns their leases in order.
pub(crate) fn register(bed: &mut Bed, wanted: &Wanted) -> Result<Vec<Lease>, String> {
    // The engine's own receive: many in one call, and bundles as they are. Time that this end takes
    // would hide a faster engine.
    let socket = open_socket(bed.target)
        .and_then(|socket| Socket::adopt(socket.into(), SOCKET_BYTES))
        .map_err(|error| error.to_string())?;
    let mut batch = ReceiveBatch::default();
    let mut leases: Vec<Option<Lease>> = vec![None; wanted.instances as usize];
    let (mut cookie, mut cookie_at) = (cookie(bed)?, Instant::now());
    // Registrations wait in a ring of WINDOW places: number n in place n % WINDOW.
    let (mut next, mut done, mut open) = (0, 0, 0);
    let mut heard = Instant::now();
    while done < leases.len() {
        if cookie_at.elapsed() > COOKIE_AGE {
            (cookie, cookie_at) = (self::cookie(bed)?, Instant::now());
        }
        while next < leases.len() && next - open < WINDOW {
            let end = (next + DEPTH).min(leases.len());
            let frames = (next..end)
                .map(|number| wanted.frame(number, cookie))
                .collect::<Result<Vec<_>, _>>()?;
            send_all(&socket, &frames).map_err(|error| error.to_string())?;
            next = end;
        }
        if heard.elapsed() > PATIENCE {
            let missing = (open..next).filter(|&number| leases[number].is_none());
            let frames = missing
                .map(|number| wanted.frame(number, cookie))
                .collect::<Result<Vec<_>, _>>()?;
            frames
                .chunks(DEPTH)
                .try_for_each(|frames| send_all(&socket, frames).map(drop))
                .map_err(|error| error.to_string())?;
            heard = Instant::now();
        }
        loop {
            let received = batch.receive(&socket).map_err(|error| error.to_string())?;
            if received > 0 {
                heard = Instant::now();
            }
            for frame in batch.messages(0).flat_map(Message::datagrams) {
                let Ok(reply) = Reply::decode(frame) else { continue };
                match (reply.status, reply.body) {
                    (Status::Ok, ReplyBody::Granted(granted)) => {
                        done += usize::from(
                            leases[reply.header.tag.get() as usize]
                                .replace(granted.lease)
                                .is_none(),
                        );
                    }
                    (Status::Busy, _) => {}
                    (status, _) => return Err(format!("a registration was refused: {status:?}")),
                }
            }
            if received < RECEIVE_BATCH {
                break;
            }
        }
        while open < next && leases[open].is_some() {
            open += 1;
        }
    }
    Ok(leases.into_iter().flatten().collect())
}

/// A cookie from the engine.
pub(crate) fn cookie(bed: &mut Bed) -> Result<U64, String> {
    bed.session().hello().map(|welcome| welcome.cookie).map_err(|error| error.to_string())
}

/// The frame that asks for a cookie.
pub(crate) fn hello_frame() -> Vec<u8> {
    [Header::request(Kind::Hello, 0).as_bytes(), Hello::new_zeroed().as_bytes()].concat()
}

/// Sends beats for leases, in random order, frame by frame.
pub(crate) struct Beats {
    socket: UdpSocket,
    leases: Vec<Lease>,
    batch: usize,
    at: usize,
    sequence: u32,
    frames: Vec<Vec<u8>>,
    /// Beats are left out with this probability.
    loss: f64,
    random: SmallRng,
    /// Datagrams and beats that the kernel took.
    pub(crate) sent: u64,
    pub(crate) beats: u64,
}

impl Beats {
    pub(crate) fn new(
        target: SocketAddr,
        mut leases: Vec<Lease>,
        batch: usize,
    ) -> Result<Self, String> {
        let mut random = SmallRng::seed_from_u64(1);
        leases.shuffle(&mut random);
        let socket = open_socket(target).map_err(|error| error.to_string())?;
        let frames = vec![Vec::new(); DEPTH];
        Ok(Self {
            socket,
            leases,
            batch,
            at: 0,
            sequence: 1,
            frames,
            loss: 0.0,
            random,
            sent: 0,
            beats: 0,
        })
    }

    /// Sends to somebody else from now on.
    pub(crate) fn aim(&mut self, target: SocketAddr) -> Result<(), String> {
        self.socket = open_socket(target).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Leaves beats out from now on.
    pub(crate) fn lose(&mut self, share: f64) {
        self.loss = share;
    }

    /// Beats in a datagram from now on.
    pub(crate) fn set_batch(&mut self, batch: usize) {
        self.batch = batch;
    }

    /// Beats for the first of them only, from now on.
    pub(crate) fn keep(&mut self, leases: usize) {
        self.leases.truncate(leases);
        self.at = 0;
    }

    /// Leases that it beats for.
    pub(crate) fn leases(&self) -> usize {
        self.leases.len()
    }

    /// Datagrams a second that beat every lease once in an interval.
    pub(crate) fn rate(&self, interval: Duration) -> f64 {
        self.leases.len().div_ceil(self.batch) as f64 / interval.as_secs_f64()
    }

    /// Sends at most [`DEPTH`] frames in one system call.
    pub(crate) fn send(&mut self, count: usize) -> Result<(), String> {
        let count = count.min(DEPTH);
        let mut beats = [0; DEPTH];
        for (frame, beats) in self.frames[..count].iter_mut().zip(&mut beats) {
            frame.clear();
            frame.extend_from_slice(Header::request(Kind::Beat, 0).as_bytes());
            for _ in 0..self.batch.min(self.leases.len()) {
                if self.loss == 0.0 || !self.random.random_bool(self.loss) {
                    let beat = Beat {
                        lease: self.leases[self.at],
                        sequence: U32::new(self.sequence),
                        load: U16::ZERO,
                        flags: U16::ZERO,
                    };
                    frame.extend_from_slice(beat.as_bytes());
                    *beats += 1;
                }
                self.at += 1;
                if self.at == self.leases.len() {
                    // A frame ends with its round: no two beats for one lease in it.
                    (self.at, self.sequence) = (0, self.sequence + 1);
                    break;
                }
            }
            let header =
                Header { count: U16::new(*beats as u16), ..Header::request(Kind::Beat, 0) };
            frame[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        }
        let sent = send_all(&self.socket, &self.frames[..count])
            .map_err(|error| format!("beats can't be sent: {error}"))?;
        self.sent += sent as u64;
        self.beats += beats[..sent].iter().sum::<u64>();
        Ok(())
    }

    /// Sends for a time at a rate of datagrams a second, or as fast as it goes, and waits until all
    /// have arrived. Returns how many were sent.
    pub(crate) fn run(&mut self, time: Duration, rate: Option<f64>) -> Result<u64, String> {
        let sent = self.send_for(time, rate);
        // What is under way arrives before anybody counts.
        std::thread::sleep(Duration::from_millis(20));
        sent
    }

    /// The same without waiting.
    pub(crate) fn send_for(&mut self, time: Duration, rate: Option<f64>) -> Result<u64, String> {
        let (start, first) = (Instant::now(), self.sent);
        while start.elapsed() < time {
            let due =
                rate.map_or(u64::MAX, |rate| (start.elapsed().as_secs_f64() * rate) as u64 + 1);
            match due.saturating_sub(self.sent - first) {
                0 => std::hint::spin_loop(),
                due => self.send(due.min(DEPTH as u64) as usize)?,
            }
        }
        Ok(self.sent - first)
    }
}
