//! Many datagrams in one system call, and many equal ones to one peer in one message.

use super::address::{RawAddress, unmap};
use super::socket::{Socket, UDP_SEGMENT};
use crate::exchange::Peer;
use crate::region::{Counter, Tally};
use std::io;
use std::os::fd::AsRawFd;

/// A `cmsghdr` and a `struct in6_pktinfo` (20 bytes), padded.
const SOURCE_BYTES: usize = 40;
/// A `cmsghdr` and the length of a segment (2 bytes), padded.
const SEGMENT_BYTES: usize = 24;
const CONTROL_BYTES: usize = SOURCE_BYTES + SEGMENT_BYTES;
/// From this many equal datagrams on the kernel is given one message to cut: below, what it saves
/// is not measurable.
const SEGMENTS_MIN: usize = 16;
/// Segments of one message: half of the smallest `UDP_MAX_SEGMENTS` (64, `linux/udp.h`), as some
/// kernels counted headers among what is cut.
const SEGMENTS_MAX: usize = 32;
/// Bytes of one message: 65,535 less the headers of IPv4 and UDP (RFC 791, RFC 768).
const MESSAGE_BYTES_MAX: usize = 65_507;

/// A datagram: to whom, and its parts, which follow one another.
pub(super) type Datagram<'a, const PARTS: usize> = (&'a Peer, [&'a [u8]; PARTS]);

/// What is counted, and what is done when a send buffer is full.
pub(super) struct Rules {
    pub(super) sent: Counter,
    pub(super) dropped: Counter,
    /// Whether it is worth while to go on; asked once for each time that the buffer is full.
    pub(super) waits: fn(&Socket, times: usize) -> bool,
}

/// Headers for one `sendmmsg`, reused for ever.
pub(super) struct Messages<const PARTS: usize> {
    names: Box<[RawAddress]>,
    controls: Box<[[u64; CONTROL_BYTES / 8]]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// The network device computes no checksums, so that nothing can be cut for it: datagrams go
    /// one by one from then on.
    pub(super) one_by_one: bool,
}

// SAFETY: the pointers in `headers` lead to the other fields' heap memory, which moves with the
// batch; those in `vectors` are set before each use.
unsafe impl<const PARTS: usize> Send for Messages<PARTS> {}

pub(super) fn empty_header() -> libc::mmsghdr {
    // SAFETY: a message header of zeros is valid: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

fn length<const PARTS: usize>(datagram: &Datagram<'_, PARTS>) -> usize {
    datagram.1.iter().map(|part| part.len()).sum()
}

impl<const PARTS: usize> Messages<PARTS> {
    /// Room for so many datagrams at once.
    pub(super) fn new(datagrams: usize) -> Self {
        let mut names = vec![RawAddress::default(); datagrams].into_boxed_slice();
        let mut controls = vec![[0; CONTROL_BYTES / 8]; datagrams].into_boxed_slice();
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let vectors = vec![empty; PARTS * datagrams].into_boxed_slice();
        let headers = names.iter_mut().zip(&mut controls).map(|(name, control)| {
            let mut header = empty_header();
            header.msg_hdr.msg_name = name.0.as_mut_ptr().cast();
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header
        });
        Self { headers: headers.collect(), names, controls, vectors, one_by_one: false }
    }

    /// Bytes that the headers take.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.names)
            + size_of_val(&*self.controls)
            + size_of_val(&*self.vectors)
            + size_of_val(&*self.headers)
    }

    /// Sends datagrams, each from the socket that its peer came to.
    pub(super) fn send(
        &mut self,
        all: &[Datagram<'_, PARTS>],
        sockets: &[Socket],
        rules: &Rules,
        tally: &mut Tally,
    ) {
        for of_socket in all.chunk_by(|one, next| one.0.socket == next.0.socket) {
            let socket = &sockets[usize::from(of_socket[0].0.socket)];
            let (mut messages, mut before) = (0, 0);
            for equal in
                of_socket.chunk_by(|one, next| one.0 == next.0 && length(one) == length(next))
            {
                if !socket.reaches(&equal[0].0.ip) {
                    tally.add(rules.dropped, equal.len() as u64);
                    continue;
                }
                let most = if socket.cuts() && !self.one_by_one {
                    SEGMENTS_MAX.min(MESSAGE_BYTES_MAX / length(&equal[0]))
                } else {
                    1
                };
                let most = if equal.len().min(most) < SEGMENTS_MIN { 1 } else { most };
                for message in equal.chunks(most) {
                    self.prepare(messages, before, message, socket);
                    messages += 1;
                    before += message.len();
                }
            }
            self.send_run(socket, messages, rules, tally);
        }
    }

    /// Prepares a message of equal datagrams, after so many others.
    fn prepare(
        &mut self,
        at: usize,
        before: usize,
        datagrams: &[Datagram<'_, PARTS>],
        socket: &Socket,
    ) {
        let first = PARTS * before;
        let parts = datagrams.iter().flat_map(|(_, parts)| parts);
        for (vector, part) in self.vectors[first..].iter_mut().zip(parts) {
            vector.iov_base = part.as_ptr().cast_mut().cast();
            vector.iov_len = part.len();
        }
        let (peer, _) = datagrams[0];
        let header = &mut self.headers[at].msg_hdr;
        header.msg_namelen = self.names[at].set(peer, socket.is_ipv6());
        header.msg_iov = self.vectors.as_mut_ptr().wrapping_add(first);
        header.msg_iovlen = (PARTS * datagrams.len()) as _;
        header.msg_flags = 0;
        let control = zerocopy::IntoBytes::as_mut_bytes(&mut self.controls[at]);
        let mut control_length = 0;
        if peer.local != [0; 16] {
            control_length += write_source(control, &peer.local, socket.is_ipv6());
        }
        if datagrams.len() > 1 {
            let segment = length(&datagrams[0]) as u16;
            control_length += write_control(
                &mut control[control_length..],
                (libc::IPPROTO_UDP, UDP_SEGMENT),
                &segment.to_ne_bytes(),
            );
        }
        header.msg_controllen = control_length as _;
    }

    #[allow(clippy::unnecessary_cast, reason = "musl has other types for these lengths than glibc")]
    fn send_run(&mut self, socket: &Socket, messages: usize, rules: &Rules, tally: &mut Tally) {
        let (mut done, mut full) = (0, 0);
        while done < messages {
            let rest = &mut self.headers[done..messages];
            // SAFETY: `prepare` set these headers: names, controls and vectors of this batch,
            // datagrams that the caller still borrows.
            let count = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as u32,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(count) {
                Ok(count) if count > 0 => {
                    let lengths = rest[..count].iter().map(|header| u64::from(header.msg_len));
                    tally.add(rules.sent, datagrams_of::<PARTS>(&rest[..count]));
                    tally.add(Counter::BytesSent, lengths.sum());
                    done += count;
                }
                _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {
                    full += 1;
                    if !(rules.waits)(socket, full) {
                        tally.add(rules.dropped, datagrams_of::<PARTS>(rest));
                        return;
                    }
                }
                _ if self.headers[done].msg_hdr.msg_iovlen as usize > PARTS => {
                    // Only this error speaks of the device; others speak of the peer, who must not
                    // choose how datagrams to others are sent.
                    self.one_by_one |= io::Error::last_os_error().raw_os_error() == Some(libc::EIO);
                    self.send_apart(socket, done, rules, tally);
                    done += 1;
                }
                _ => {
                    // The first one can't be sent (no route, forbidden); the others may.
                    tally.add(rules.dropped, 1);
                    done += 1;
                }
            }
        }
    }

    /// Sends the datagrams of a message that could not be cut, each as a message of its own.
    #[allow(clippy::unnecessary_cast, reason = "musl has other types for these lengths than glibc")]
    #[cold]
    fn send_apart(&self, socket: &Socket, at: usize, rules: &Rules, tally: &mut Tally) {
        let mut header = self.headers[at].msg_hdr;
        let datagrams = header.msg_iovlen as usize / PARTS;
        header.msg_iovlen = PARTS as _;
        // The length of a segment is the last control message.
        header.msg_controllen = (header.msg_controllen as usize - SEGMENT_BYTES) as _;
        for _ in 0..datagrams {
            // SAFETY: as in `send_run`; the vectors are some of those that the message had.
            let bytes =
                unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
            match u64::try_from(bytes) {
                Ok(bytes) => {
                    tally.add(rules.sent, 1);
                    tally.add(Counter::BytesSent, bytes);
                }
                Err(_) => tally.add(rules.dropped, 1),
            }
            header.msg_iov = header.msg_iov.wrapping_add(PARTS);
        }
    }
}

#[allow(clippy::unnecessary_cast, reason = "musl has other types for these lengths than glibc")]
fn datagrams_of<const PARTS: usize>(headers: &[libc::mmsghdr]) -> u64 {
    headers.iter().map(|header| (header.msg_hdr.msg_iovlen as usize / PARTS) as u64).sum()
}

/// Writes the control message that sets the source address of a reply; returns its length.
fn write_source(control: &mut [u8], local: &[u8; 16], ipv6: bool) -> usize {
    if ipv6 {
        // struct in6_pktinfo: source address, interface.
        let mut info = [0; 20];
        info[..16].copy_from_slice(local);
        write_control(control, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), &info)
    } else {
        // struct in_pktinfo: interface, local address, destination address.
        let mut info = [0; 12];
        info[4..8].copy_from_slice(&unmap(local).unwrap_or_default());
        write_control(control, (libc::IPPROTO_IP, libc::IP_PKTINFO), &info)
    }
}

/// Writes a control message: length, level, type, data, padded to eight bytes. Returns how many
/// bytes that takes.
fn write_control(
    control: &mut [u8],
    (level, kind): (libc::c_int, libc::c_int),
    data: &[u8],
) -> usize {
    let length = 16 + data.len();
    let padded = length.next_multiple_of(8);
    control[..8].copy_from_slice(&(length as u64).to_ne_bytes());
    control[8..12].copy_from_slice(&level.to_ne_bytes());
    control[12..16].copy_from_slice(&kind.to_ne_bytes());
    control[16..length].copy_from_slice(data);
    control[length..padded].fill(0);
    padded
}
