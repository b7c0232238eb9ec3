//! Sending many replies in one system call, and many equal ones to one peer in one message.

use super::address::{RawAddress, unmap};
use super::socket::{Socket, UDP_SEGMENT};
use crate::exchange::{Peer, Replies};
use crate::limits::GROUP_FRAMES;
use crate::region::{Counter, Tally};
use smallvec::SmallVec;
use std::io;
use std::os::fd::AsRawFd;

/// A `cmsghdr` and a `struct in6_pktinfo` (20 bytes), padded; a `cmsghdr` and the length of a
/// segment (2 bytes), padded.
pub(super) const CONTROL_BYTES: usize = 40 + 24;
/// From this many equal replies on the kernel is given one message to cut: below, what it saves is
/// not measurable.
pub(super) const SEGMENTS_MIN: usize = 16;
/// Segments of one message: half of the smallest `UDP_MAX_SEGMENTS` (64, `linux/udp.h`), as some
/// kernels counted headers among what is cut.
pub(super) const SEGMENTS_MAX: usize = 32;
/// Bytes of one message: 65,535 less the headers of IPv4 and UDP (RFC 791, RFC 768).
pub(super) const MESSAGE_BYTES_MAX: usize = 65_507;

/// Headers for one `sendmmsg`, reused for ever.
pub struct SendBatch {
    names: Box<[RawAddress; GROUP_FRAMES]>,
    controls: Box<[[u64; CONTROL_BYTES / 8]; GROUP_FRAMES]>,
    vectors: Box<[libc::iovec; GROUP_FRAMES]>,
    headers: Box<[libc::mmsghdr; GROUP_FRAMES]>,
    /// The network device computes no checksums, so that nothing can be cut for it: replies go one
    /// by one from then on.
    one_by_one: bool,
}

/// Replies with whom they are for.
type Addressed<'a> = (&'a Peer, &'a [u8]);

// SAFETY: the pointers in `headers` lead to the other fields' heap memory, which moves with the
// batch; those in `vectors` are set before each use.
unsafe impl Send for SendBatch {}

pub(super) fn empty_header() -> libc::mmsghdr {
    // SAFETY: a message header of zeros is valid: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

impl Default for SendBatch {
    fn default() -> Self {
        let mut names = Box::new([RawAddress::default(); GROUP_FRAMES]);
        let mut controls = Box::new([[0; CONTROL_BYTES / 8]; GROUP_FRAMES]);
        let mut vectors =
            Box::new([libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; GROUP_FRAMES]);
        let headers = Box::new(std::array::from_fn(|at| {
            let mut header = empty_header();
            header.msg_hdr.msg_name = names[at].0.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = &raw mut vectors[at];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = controls[at].as_mut_ptr().cast();
            header
        }));
        Self { names, controls, vectors, headers, one_by_one: false }
    }
}

impl SendBatch {
    /// Sends all replies from the sockets that their requests came to, and forgets them. Never
    /// waits.
    pub fn send(&mut self, replies: &mut Replies, sockets: &[Socket], tally: &mut Tally) {
        let all: SmallVec<[Addressed<'_>; GROUP_FRAMES]> = replies.iter().collect();
        for of_socket in all.chunk_by(|one, next| one.0.socket == next.0.socket) {
            let socket = &sockets[usize::from(of_socket[0].0.socket)];
            let mut messages = 0;
            let mut frames = 0;
            for equal in
                of_socket.chunk_by(|one, next| one.0 == next.0 && one.1.len() == next.1.len())
            {
                let (peer, frame) = equal[0];
                if !socket.reaches(&peer.ip) {
                    tally.add(Counter::RepliesDropped, equal.len() as u64);
                    continue;
                }
                let most = if socket.cuts() && !self.one_by_one {
                    SEGMENTS_MAX.min(MESSAGE_BYTES_MAX / frame.len())
                } else {
                    1
                };
                let most = if equal.len().min(most) < SEGMENTS_MIN { 1 } else { most };
                for message in equal.chunks(most) {
                    self.prepare(messages, frames, message, socket);
                    messages += 1;
                    frames += message.len();
                }
            }
            self.send_run(socket, messages, tally);
        }
        drop(all);
        replies.clear();
    }

    /// Prepares a message of equal replies; its vectors begin at `first`.
    fn prepare(&mut self, at: usize, first: usize, replies: &[Addressed<'_>], socket: &Socket) {
        for (vector, (_, frame)) in self.vectors[first..].iter_mut().zip(replies) {
            vector.iov_base = frame.as_ptr().cast_mut().cast();
            vector.iov_len = frame.len();
        }
        let (peer, frame) = replies[0];
        let header = &mut self.headers[at].msg_hdr;
        header.msg_namelen = self.names[at].set(peer, socket.is_ipv6());
        header.msg_iov = self.vectors.as_mut_ptr().wrapping_add(first);
        header.msg_iovlen = replies.len() as _;
        header.msg_flags = 0;
        let control = zerocopy::IntoBytes::as_mut_bytes(&mut self.controls[at]);
        let mut length = 0;
        if peer.local != [0; 16] {
            length += write_source(control, &peer.local, socket.is_ipv6());
        }
        if replies.len() > 1 {
            let segment = frame.len() as u16;
            length += write_control(
                &mut control[length..],
                (libc::IPPROTO_UDP, UDP_SEGMENT),
                &segment.to_ne_bytes(),
            );
        }
        header.msg_controllen = length as _;
    }

    #[allow(clippy::unnecessary_cast, reason = "musl has other types for these lengths than glibc")]
    fn send_run(&mut self, socket: &Socket, messages: usize, tally: &mut Tally) {
        let mut done = 0;
        while done < messages {
            let rest = &mut self.headers[done..messages];
            // SAFETY: `prepare` set these headers: names, controls and vectors of this batch,
            // frames that the caller still borrows.
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
                    tally.add(Counter::Replies, frames_of(&rest[..count]));
                    tally.add(Counter::BytesSent, lengths.sum());
                    done += count;
                }
                _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {
                    // The send buffer is full: who waits for these asks again.
                    tally.add(Counter::RepliesDropped, frames_of(rest));
                    return;
                }
                _ if self.headers[done].msg_hdr.msg_iovlen as usize > 1 => {
                    // Only this error speaks of the device; others speak of the peer, who must not
                    // choose how replies to others are sent.
                    self.one_by_one |= io::Error::last_os_error().raw_os_error() == Some(libc::EIO);
                    self.send_apart(socket, done, tally);
                    done += 1;
                }
                _ => {
                    // The first one can't be sent (no route, forbidden); the others may.
                    tally.add(Counter::RepliesDropped, 1);
                    done += 1;
                }
            }
        }
    }

    /// Sends the replies of a message that could not be cut, each as a message of its own.
    #[allow(clippy::unnecessary_cast, reason = "musl has other types for these lengths than glibc")]
    #[cold]
    fn send_apart(&self, socket: &Socket, at: usize, tally: &mut Tally) {
        let mut header = self.headers[at].msg_hdr;
        let replies = header.msg_iovlen as usize;
        header.msg_iovlen = 1;
        // The length of a segment is the last control message.
        header.msg_controllen = (header.msg_controllen as usize - 24) as _;
        for _ in 0..replies {
            // SAFETY: as in `send_run`; the vector is one of those that the message had.
            let bytes =
                unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
            match u64::try_from(bytes) {
                Ok(bytes) => {
                    tally.add(Counter::Replies, 1);
                    tally.add(Counter::BytesSent, bytes);
                }
                Err(_) => tally.add(Counter::RepliesDropped, 1),
            }
            header.msg_iov = header.msg_iov.wrapping_add(1);
        }
    }
}

#[allow(clippy::unnecessary_cast, reason = "musl has other types for these lengths than glibc")]
fn frames_of(headers: &[libc::mmsghdr]) -> u64 {
    headers.iter().map(|header| header.msg_hdr.msg_iovlen as u64).sum()
}

/// Writes the control message that sets the source address of a reply; returns its length.
pub(super) fn write_source(control: &mut [u8], local: &[u8; 16], ipv6: bool) -> usize {
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
pub(super) fn write_control(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Requester;
    use crate::net::{ReceiveBatch, bind_group};
    use crate::wire::{Header, Kind, Status};
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;
    use zerocopy::byteorder::little_endian::U64;

    /// Sends replies of these body lengths to a client of a listening address, which checks that
    /// each is a datagram of its own. Returns replies sent, bytes sent, and replies dropped.
    fn deliver(
        batch: &mut SendBatch,
        listen: &str,
        client: &str,
        bodies: &[usize],
        checksums: bool,
    ) -> [u64; 3] {
        let sockets = bind_group(listen.parse().unwrap(), 1, 1 << 20, &mut Vec::new()).unwrap();
        if !checksums {
            // The kernel cuts nothing for sockets without checksums.
            crate::net::socket::set_option(&sockets[0], libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
                .unwrap();
        }
        let port = sockets[0].local_addr().unwrap().port();
        let client = UdpSocket::bind(client).unwrap();
        let server: SocketAddr = (client.local_addr().unwrap().ip(), port).into();
        client.connect(server).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send(b"hello").unwrap();
        let mut received = ReceiveBatch::default();
        while received.receive(&sockets[0]).unwrap() == 0 {}
        let peer = received.messages(0).next().unwrap().peer;
        let mut replies = Replies::default();
        for (tag, length) in (0..).zip(bodies) {
            let to = Requester { peer, tag: U64::new(tag), budget: 1232 };
            replies.put(
                &to,
                Header::reply(Kind::Hello, Status::Ok, 0, to.tag),
                &[&vec![tag as u8; *length]],
            );
        }
        let mut tally = Tally::default();
        batch.send(&mut replies, &sockets, &mut tally);
        assert!(replies.is_empty());
        let mut buffer = [0; 2048];
        for (tag, length) in (0_u64..).zip(bodies) {
            let bytes = client.recv(&mut buffer).unwrap();
            assert_eq!(bytes, 16 + length, "reply {tag}");
            assert!(
                buffer[8..16] == tag.to_le_bytes()
                    && buffer[16..bytes].iter().all(|&byte| byte == tag as u8),
                "reply {tag}"
            );
        }
        [Counter::Replies, Counter::BytesSent, Counter::RepliesDropped].map(|what| tally.get(what))
    }

    #[test]
    fn each_of_many_equal_replies_is_a_datagram() {
        let mut batch = SendBatch::default();
        let runs = [[48; 64], std::array::from_fn(|at| 32 + 8 * (at / 20)), [1216; 64]];
        for bodies in &runs {
            for (listen, client) in [
                ("127.0.0.1:0", "127.0.0.1:0"),
                ("0.0.0.0:0", "127.0.0.1:0"),
                ("[::]:0", "127.0.0.1:0"),
                ("[::]:0", "[::1]:0"),
            ] {
                let sent = deliver(&mut batch, listen, client, bodies, true);
                let bytes = bodies.iter().map(|length| 16 + *length as u64).sum();
                assert_eq!(sent, [64, bytes, 0], "{listen}");
            }
        }
        assert!(!batch.one_by_one);
    }

    #[test]
    fn what_the_kernel_does_not_cut_goes_one_by_one() {
        let mut batch = SendBatch::default();
        let sent = deliver(&mut batch, "127.0.0.1:0", "127.0.0.1:0", &[48; 40], false);
        assert_eq!(sent, [40, 40 * 64, 0]);
        assert!(!batch.one_by_one, "the device is not to blame");
        assert_eq!(deliver(&mut batch, "127.0.0.1:0", "127.0.0.1:0", &[48; 40], false)[0], 40);
    }
}
