//! Receiving many datagrams in one system call.

use super::address::RawAddress;
use super::socket::{Socket, UDP_GRO};
use crate::exchange::Peer;
use crate::limits::{RECEIVE_BATCH, RECEIVE_BUFFER_BYTES};
use std::io;
use std::os::fd::AsRawFd;

/// Room for the control messages a datagram can come with: GRO segment size, drop count,
/// destination address.
const CONTROL_WORDS: usize = 16;

/// Buffers and headers for one `recvmmsg`, reused for ever.
pub struct ReceiveBatch {
    buffers: Box<[u8]>,
    names: Box<[RawAddress; RECEIVE_BATCH]>,
    controls: Box<[[u64; CONTROL_WORDS]; RECEIVE_BATCH]>,
    _vectors: Box<[libc::iovec; RECEIVE_BATCH]>,
    headers: Box<[libc::mmsghdr; RECEIVE_BATCH]>,
    /// Headers that the kernel overwrote.
    used: usize,
}

// SAFETY: the pointers in `headers` and `_vectors` lead to the other fields' heap memory, which
// moves with the batch.
unsafe impl Send for ReceiveBatch {}

/// One received message: a datagram, or several of one sender that the kernel put together.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// From whom.
    pub peer: Peer,
    /// All bytes.
    pub bytes: &'a [u8],
    /// Length of each datagram in them but the last.
    pub segment: usize,
    /// The socket's drop count when this was queued, once there were drops.
    pub drops: Option<u32>,
    /// Longer than the buffer; the end is lost.
    pub truncated: bool,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        // Ones, then used: a page of zeros would not be there until it is first written.
        let mut buffers = vec![1; RECEIVE_BATCH * RECEIVE_BUFFER_BYTES].into_boxed_slice();
        let mut names = Box::new([RawAddress::default(); RECEIVE_BATCH]);
        let mut controls = Box::new([[0; CONTROL_WORDS]; RECEIVE_BATCH]);
        let mut vectors = Box::new(
            [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: RECEIVE_BUFFER_BYTES };
                RECEIVE_BATCH],
        );
        for (vector, buffer) in
            vectors.iter_mut().zip(buffers.chunks_exact_mut(RECEIVE_BUFFER_BYTES))
        {
            vector.iov_base = buffer.as_mut_ptr().cast();
        }
        let headers = Box::new(std::array::from_fn(|at| {
            let mut header = super::messages::empty_header();
            header.msg_hdr.msg_name = names[at].0.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = &raw mut vectors[at];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = controls[at].as_mut_ptr().cast();
            header
        }));
        Self { buffers, names, controls, _vectors: vectors, headers, used: RECEIVE_BATCH }
    }
}

impl ReceiveBatch {
    /// Bytes that the batch takes.
    pub fn memory_bytes(&self) -> usize {
        self.buffers.len()
    }

    /// Receives what waits at the socket, without waiting. Fewer than [`RECEIVE_BATCH`] messages
    /// mean that nothing was left.
    ///
    /// # Errors
    /// Those of recvmmsg(2), but for an empty queue.
    pub fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        for header in &mut self.headers[..self.used] {
            header.msg_hdr.msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = (CONTROL_WORDS * 8) as _;
            header.msg_hdr.msg_flags = 0;
        }
        self.used = 0;
        // SAFETY: every header points to a name, a vector with its buffer, and a control buffer of
        // this batch, of the lengths it states.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                RECEIVE_BATCH as u32,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(received) => {
                self.used = received;
                Ok(received)
            }
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                error => Err(error),
            },
        }
    }

    /// The messages of the last receive that came from an address we know how to answer. `number`
    /// is the listening address they came to.
    #[allow(
        clippy::unnecessary_cast,
        reason = "musl has another type for the control length than glibc"
    )]
    pub fn messages(&self, number: u16) -> impl Iterator<Item = Message<'_>> {
        (0..self.used).filter_map(move |at| {
            let header = &self.headers[at];
            let start = at * RECEIVE_BUFFER_BYTES;
            let bytes =
                &self.buffers[start..start + (header.msg_len as usize).min(RECEIVE_BUFFER_BYTES)];
            let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let mut message = Message {
                peer: self.names[at].peer(number)?,
                bytes,
                segment: bytes.len(),
                drops: None,
                truncated,
            };
            if header.msg_hdr.msg_controllen as usize != 0 {
                let control = zerocopy::IntoBytes::as_bytes(&self.controls[at]);
                read_control(
                    &control[..(header.msg_hdr.msg_controllen as usize).min(control.len())],
                    &mut message,
                );
            }
            Some(message)
        })
    }
}

impl<'a> Message<'a> {
    /// The datagrams of the message.
    #[inline]
    pub fn datagrams(self) -> impl Iterator<Item = &'a [u8]> {
        // A datagram without bytes is one datagram, too.
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty.into_iter().chain(self.bytes.chunks(self.segment.max(1)))
    }
}

/// Reads the control messages: each is a `cmsghdr` (length, level, type) and its data, padded to
/// eight bytes.
fn read_control(mut control: &[u8], message: &mut Message<'_>) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    const _: () = assert!(HEADER == 16);
    while control.len() >= HEADER {
        let number = |at: usize| {
            i32::from_ne_bytes([control[at], control[at + 1], control[at + 2], control[at + 3]])
        };
        let length = usize::from_ne_bytes(std::array::from_fn(|at| control[at]));
        if length < HEADER || length > control.len() {
            return;
        }
        let data = &control[HEADER..length];
        match (number(8), number(12)) {
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => message.drops = first_u32(data),
            (libc::IPPROTO_UDP, UDP_GRO) => {
                message.segment =
                    first_u32(data).map_or(message.segment, |segment| segment as usize)
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() >= 16 => {
                message.peer.local.copy_from_slice(&data[..16])
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= 8 => {
                // struct in_pktinfo: interface, local address, destination address.
                message.peer.local[10..12].fill(0xFF);
                message.peer.local[12..].copy_from_slice(&data[4..8]);
            }
            _ => {}
        }
        control = &control[length.next_multiple_of(8).min(control.len())..];
    }
}

fn first_u32(data: &[u8]) -> Option<u32> {
    data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}
