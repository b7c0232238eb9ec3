//! Sending pushes: a head of its own for each and a body that many share, in as few system calls as
//! possible.

use super::address::RawAddress;
use super::send::{
    CONTROL_BYTES, MESSAGE_BYTES_MAX, SEGMENTS_MAX, SEGMENTS_MIN, empty_header, write_control,
    write_source,
};
use super::socket::{Socket, UDP_SEGMENT};
use crate::exchange::{Peer, Pushes};
use crate::limits::{PUSH_BATCH, PUSH_PATIENCE_NS};
use crate::region::{Counter, Tally};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smallvec::SmallVec;
use std::io;
use std::os::fd::AsRawFd;

/// Vectors of a push: head and body.
const PARTS: usize = 2;
/// Times that one batch waits for room in the send buffer.
const WAITS_MAX: usize = 4;

/// Headers for one `sendmmsg`, reused for ever.
pub struct PushBatch {
    names: Box<[RawAddress]>,
    controls: Box<[[u64; CONTROL_BYTES / 8]]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// The network device computes no checksums, so that nothing can be cut for it: pushes go one
    /// by one from then on.
    one_by_one: bool,
}

/// A push: to whom, head and body.
type Addressed<'a> = (&'a Peer, &'a [u8], &'a [u8]);

// SAFETY: the pointers in `headers` lead to the other fields' heap memory, which moves with the
// batch; those in `vectors` are set before each use.
unsafe impl Send for PushBatch {}

impl Default for PushBatch {
    fn default() -> Self {
        let mut names = vec![RawAddress::default(); PUSH_BATCH].into_boxed_slice();
        let mut controls = vec![[0; CONTROL_BYTES / 8]; PUSH_BATCH].into_boxed_slice();
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let vectors = vec![empty; PARTS * PUSH_BATCH].into_boxed_slice();
        let headers = names.iter_mut().zip(&mut controls).map(|(name, control)| {
            let mut header = empty_header();
            header.msg_hdr.msg_name = name.0.as_mut_ptr().cast();
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header
        });
        Self { headers: headers.collect(), names, controls, vectors, one_by_one: false }
    }
}

impl PushBatch {
    /// Sends all pushes from the sockets that their watches were asked for at, and forgets them.
    /// Waits a little where a send buffer is full.
    pub fn send(&mut self, pushes: &mut Pushes, sockets: &[Socket], tally: &mut Tally) {
        let all: SmallVec<[Addressed<'_>; PUSH_BATCH]> = pushes.iter().collect();
        let length = |push: &Addressed<'_>| push.1.len() + push.2.len();
        for of_socket in all.chunk_by(|one, next| one.0.socket == next.0.socket) {
            let Some(socket) = sockets.get(usize::from(of_socket[0].0.socket)) else { continue };
            let (mut messages, mut before) = (0, 0);
            for equal in
                of_socket.chunk_by(|one, next| one.0 == next.0 && length(one) == length(next))
            {
                if !socket.reaches(&equal[0].0.ip) {
                    tally.add(Counter::PushesDropped, equal.len() as u64);
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
            self.send_run(socket, messages, tally);
        }
        drop(all);
        pushes.clear();
    }

    /// Prepares a message of equal pushes, after so many others.
    fn prepare(&mut self, at: usize, before: usize, pushes: &[Addressed<'_>], socket: &Socket) {
        let first = PARTS * before;
        let parts = pushes.iter().flat_map(|(_, head, body)| [*head, *body]);
        for (vector, part) in self.vectors[first..].iter_mut().zip(parts) {
            vector.iov_base = part.as_ptr().cast_mut().cast();
            vector.iov_len = part.len();
        }
        let (peer, head, body) = pushes[0];
        let header = &mut self.headers[at].msg_hdr;
        header.msg_namelen = self.names[at].set(peer, socket.is_ipv6());
        header.msg_iov = self.vectors.as_mut_ptr().wrapping_add(first);
        header.msg_iovlen = (PARTS * pushes.len()) as _;
        header.msg_flags = 0;
        let control = zerocopy::IntoBytes::as_mut_bytes(&mut self.controls[at]);
        let mut length = 0;
        if peer.local != [0; 16] {
            length += write_source(control, &peer.local, socket.is_ipv6());
        }
        if pushes.len() > 1 {
            let segment = (head.len() + body.len()) as u16;
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
        let (mut done, mut waits) = (0, 0);
        while done < messages {
            let rest = &mut self.headers[done..messages];
            // SAFETY: `prepare` set these headers: names, controls and vectors of this batch,
            // pushes that the caller still borrows.
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
                    tally.add(Counter::Pushes, pushes_of(&rest[..count]));
                    tally.add(Counter::BytesSent, lengths.sum());
                    done += count;
                }
                _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {
                    waits += 1;
                    if waits > WAITS_MAX || !becomes_writable(socket) {
                        // Beacons find out who misses these.
                        tally.add(Counter::PushesDropped, pushes_of(rest));
                        return;
                    }
                }
                _ if self.headers[done].msg_hdr.msg_iovlen as usize > PARTS => {
                    // Only this error speaks of the device; others speak of the peer.
                    self.one_by_one |= io::Error::last_os_error().raw_os_error() == Some(libc::EIO);
                    self.send_apart(socket, done, tally);
                    done += 1;
                }
                _ => {
                    // The first one can't be sent (no route, forbidden); the others may.
                    tally.add(Counter::PushesDropped, 1);
                    done += 1;
                }
            }
        }
    }

    /// Sends the pushes of a message that could not be cut, each as a message of its own.
    #[allow(clippy::unnecessary_cast, reason = "musl has other types for these lengths than glibc")]
    #[cold]
    fn send_apart(&self, socket: &Socket, at: usize, tally: &mut Tally) {
        let mut header = self.headers[at].msg_hdr;
        let pushes = header.msg_iovlen as usize / PARTS;
        header.msg_iovlen = PARTS as _;
        // The length of a segment is the last control message.
        header.msg_controllen = (header.msg_controllen as usize - 24) as _;
        for _ in 0..pushes {
            // SAFETY: as in `send_run`; the vectors are two of those that the message had.
            let bytes =
                unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
            match u64::try_from(bytes) {
                Ok(bytes) => {
                    tally.add(Counter::Pushes, 1);
                    tally.add(Counter::BytesSent, bytes);
                }
                Err(_) => tally.add(Counter::PushesDropped, 1),
            }
            header.msg_iov = header.msg_iov.wrapping_add(PARTS);
        }
    }

    /// Bytes that the headers take.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.names)
            + size_of_val(&*self.controls)
            + size_of_val(&*self.vectors)
            + size_of_val(&*self.headers)
    }
}

#[allow(clippy::unnecessary_cast, reason = "musl has other types for these lengths than glibc")]
fn pushes_of(headers: &[libc::mmsghdr]) -> u64 {
    headers.iter().map(|header| (header.msg_hdr.msg_iovlen as usize / PARTS) as u64).sum()
}

/// Waits until a socket takes more. `false`: not soon.
fn becomes_writable(socket: &Socket) -> bool {
    let patience = Timespec { tv_sec: 0, tv_nsec: PUSH_PATIENCE_NS };
    poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&patience)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{ReceiveBatch, bind_group};
    use crate::wire::{Endpoint, Header, Kind, PushHead, Reply, ReplyBody, Status};
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;
    use zerocopy::FromZeros;
    use zerocopy::byteorder::little_endian::{U32, U64};

    /// Pushes with these numbers of endpoints to a client, which checks that each is a datagram of
    /// its own. Returns what was counted as sent, bytes, and dropped.
    fn deliver(batch: &mut PushBatch, endpoints: &[usize], checksums: bool) -> [u64; 3] {
        let sockets =
            bind_group("127.0.0.1:0".parse().unwrap(), 1, 1 << 20, &mut Vec::new()).unwrap();
        if !checksums {
            // The kernel cuts nothing for sockets without checksums.
            crate::net::socket::set_option(&sockets[0], libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
                .unwrap();
        }
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = sockets[0].local_addr().unwrap().port();
        client.connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send(b"hello").unwrap();
        let mut received = ReceiveBatch::default();
        while received.receive(&sockets[0]).unwrap() == 0 {}
        let peer = received.messages(0).next().unwrap().peer;
        let mut pushes = Pushes::default();
        assert!(pushes.make_room(2));
        let mut endpoint = Endpoint::new_zeroed();
        endpoint.slot = U32::new(7);
        let of = [&[][..], &[endpoint; 3], &[endpoint; 24]];
        let bodies: Vec<_> = of.iter().map(|endpoints| pushes.add_body(endpoints)).collect();
        for (number, &count) in (0..).zip(endpoints) {
            let body = bodies.iter().find(|body| usize::from(body.endpoints()) == count).unwrap();
            let header = Header::reply(Kind::Push, Status::Ok, count as u16, U64::new(3));
            let head = PushHead { number: U32::new(number), ..PushHead::new_zeroed() };
            pushes.put(&peer, &header, &head, *body);
        }
        let mut tally = Tally::default();
        batch.send(&mut pushes, &sockets, &mut tally);
        assert!(pushes.is_empty());
        let mut buffer = [0; 2048];
        for (number, &count) in (0..).zip(endpoints) {
            let bytes = client.recv(&mut buffer).unwrap();
            assert_eq!(bytes, 48 + 48 * count);
            let reply = Reply::decode(&buffer[..bytes]).unwrap();
            let ReplyBody::Push(head, endpoints) = reply.body else { panic!("no push") };
            assert_eq!(head.number.get(), number);
            assert!(endpoints.len() == count && endpoints.iter().all(|one| one.slot.get() == 7));
        }
        [Counter::Pushes, Counter::BytesSent, Counter::PushesDropped].map(|what| tally.get(what))
    }

    #[test]
    fn each_of_many_equal_pushes_is_a_datagram() {
        let mut batch = PushBatch::default();
        // As many as the receive buffer of the client holds.
        let mixed: Vec<usize> = (0..100).map(|at| [0, 3, 24][at / 40 % 3]).collect();
        for endpoints in [&[0; 128][..], &[24; 64], &mixed, &[0, 3, 24]] {
            let bytes = endpoints.iter().map(|count| 48 + 48 * *count as u64).sum();
            assert_eq!(deliver(&mut batch, endpoints, true), [endpoints.len() as u64, bytes, 0]);
        }
    }

    #[test]
    fn what_the_kernel_does_not_cut_goes_one_by_one() {
        let mut batch = PushBatch::default();
        assert_eq!(deliver(&mut batch, &[3; 40], false), [40, 40 * 192, 0]);
        assert!(!batch.one_by_one, "the device is not to blame");
    }
}
