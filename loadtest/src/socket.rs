//! Sockets of the generator, and the cookie that requests carry.

use crate::bed::Bed;
use heartline_wire::{Header, Hello, Kind, Reply, ReplyBody};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

/// Datagrams handed to the kernel in one call.
pub(crate) const DEPTH: usize = 32;
/// What the kernel is asked for: it caps these at net.core.wmem_max and rmem_max; forcing takes
/// CAP_NET_ADMIN.
pub(crate) const SOCKET_BYTES: usize = 4 << 20;
/// Time after which a cookie is replaced: it is good for a minute.
const COOKIE_AGE: Duration = Duration::from_secs(20);

/// A socket connected to the engine, with large buffers, that does not wait.
pub(crate) fn open_socket(target: SocketAddr) -> Result<UdpSocket, String> {
    let any: SocketAddr =
        if target.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0_u8; 4], 0).into() };
    let open = || {
        let socket = UdpSocket::bind(any)?;
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES);
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open().map_err(|error: io::Error| format!("{target}: {error}"))
}

/// An error of a connected socket.
fn explain(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "the engine has gone away: its port refuses datagrams".into()
        }
        _ => error.to_string(),
    }
}

/// The length of a datagram that has come; `None`: none waits.
pub(crate) fn receive(socket: &UdpSocket, frame: &mut [u8]) -> Result<Option<usize>, String> {
    match socket.recv(frame) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(explain(error)),
    }
}

/// Sends frames in one system call. Returns how many the kernel took.
pub(crate) fn send_all<F: AsRef<[u8]>>(socket: impl AsFd, frames: &[F]) -> Result<usize, String> {
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
        Err(error) => Err(explain(error.into())),
    }
}

/// Sends one request. A full socket drops it, as the network may.
pub(crate) fn post(socket: impl AsFd, kind: Kind, tag: u64, body: &[&[u8]]) -> Result<(), String> {
    let frame = [Header::request(kind, tag).as_bytes(), &body.concat()].concat();
    send_all(socket, &[frame]).map(drop)
}

/// A cookie of the engine, replaced before it is void.
pub(crate) struct Cookie {
    pub(crate) value: U64,
    asked: Instant,
}

impl Cookie {
    /// One for a floor, which looks at none.
    pub(crate) fn none() -> Self {
        Self { value: U64::ZERO, asked: Instant::now() }
    }

    /// One from an engine.
    pub(crate) fn from(bed: &mut Bed) -> Result<Self, String> {
        let welcome = bed.session().hello().map_err(|error| error.to_string())?;
        Ok(Self { value: welcome.cookie.into(), asked: Instant::now() })
    }

    /// Asks for another when this one is old.
    pub(crate) fn refresh(&mut self, socket: impl AsFd) -> Result<(), String> {
        if self.asked.elapsed() > COOKIE_AGE {
            self.asked = Instant::now();
            post(socket, Kind::Hello, 0, &[Hello::new_zeroed().as_bytes()])?;
        }
        Ok(())
    }

    /// Whether a reply is the answer to that; if so, its cookie is taken.
    pub(crate) fn take(&mut self, reply: &Reply<'_>) -> bool {
        if let ReplyBody::Welcome(welcome) = &reply.body {
            self.value = welcome.cookie;
        }
        matches!(reply.body, ReplyBody::Welcome(_))
    }
}
