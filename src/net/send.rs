//! Sending many replies in one system call.

use super::address::{RawAddress, unmap};
use super::socket::Socket;
use crate::exchange::{Peer, Replies};
use crate::limits::GROUP_FRAMES;
use std::io;
use std::os::fd::AsRawFd;

/// A `cmsghdr` and a `struct in6_pktinfo` (20 bytes), padded.
const CONTROL_BYTES: usize = 40;

/// Headers for one `sendmmsg`, reused for ever.
pub struct SendBatch {
    names: Box<[RawAddress; GROUP_FRAMES]>,
    controls: Box<[[u64; CONTROL_BYTES / 8]; GROUP_FRAMES]>,
    vectors: Box<[libc::iovec; GROUP_FRAMES]>,
    headers: Box<[libc::mmsghdr; GROUP_FRAMES]>,
}

// SAFETY: the pointers in `headers` lead to the other fields' heap memory, which moves with the batch; those in `vectors` are set before
// each use.
unsafe impl Send for SendBatch {}

/// What became of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Replies that the kernel took.
    pub replies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Replies that it did not take.
    pub dropped: u64,
}

pub(super) fn empty_header() -> libc::mmsghdr {
    // SAFETY: a message header of zeros is valid: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

impl Default for SendBatch {
    fn default() -> Self {
        let mut names = Box::new([RawAddress::default(); GROUP_FRAMES]);
        let mut controls = Box::new([[0; CONTROL_BYTES / 8]; GROUP_FRAMES]);
        let mut vectors = Box::new([libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; GROUP_FRAMES]);
        let headers = Box::new(std::array::from_fn(|at| {
            let mut header = empty_header();
            header.msg_hdr.msg_name = names[at].0.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = &raw mut vectors[at];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = controls[at].as_mut_ptr().cast();
            header
        }));
        Self { names, controls, vectors, headers }
    }
}

impl SendBatch {
    /// Sends all replies from the sockets that their requests came to, and forgets them. Never waits.
    pub fn send(&mut self, replies: &mut Replies, sockets: &[Socket], sent: &mut Sent) {
        let mut run = 0;
        let mut socket_of_run = 0;
        for (peer, frame) in replies.iter() {
            let socket = usize::from(peer.socket);
            if run > 0 && socket != socket_of_run {
                self.send_run(&sockets[socket_of_run], run, sent);
                run = 0;
            }
            if !sockets[socket].reaches(&peer.ip) {
                sent.dropped += 1;
                continue;
            }
            socket_of_run = socket;
            self.prepare(run, peer, frame, &sockets[socket]);
            run += 1;
        }
        if run > 0 {
            self.send_run(&sockets[socket_of_run], run, sent);
        }
        replies.clear();
    }

    fn prepare(&mut self, at: usize, peer: &Peer, frame: &[u8], socket: &Socket) {
        let header = &mut self.headers[at].msg_hdr;
        header.msg_namelen = self.names[at].set(peer, socket.is_ipv6());
        self.vectors[at].iov_base = frame.as_ptr().cast_mut().cast();
        self.vectors[at].iov_len = frame.len();
        header.msg_controllen = 0;
        if peer.local != [0; 16] {
            header.msg_controllen = write_source(&mut self.controls[at], &peer.local, socket.is_ipv6()) as _;
        }
        header.msg_flags = 0;
    }

    fn send_run(&mut self, socket: &Socket, run: usize, sent: &mut Sent) {
        let mut done = 0;
        while done < run {
            let rest = &mut self.headers[done..run];
            // SAFETY: `prepare` set these headers: names, controls and vectors of this batch, frames that the caller still borrows.
            let count = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT as _) };
            match usize::try_from(count) {
                Ok(count) if count > 0 => {
                    sent.replies += count as u64;
                    sent.bytes += self.vectors[done..done + count].iter().map(|vector| vector.iov_len as u64).sum::<u64>();
                    done += count;
                }
                _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {
                    // The send buffer is full: who waits for these asks again.
                    sent.dropped += (run - done) as u64;
                    return;
                }
                _ => {
                    // The first one can't be sent (no route, forbidden); the others may.
                    sent.dropped += 1;
                    done += 1;
                }
            }
        }
    }
}

/// Writes the control message that sets the source address of a reply; returns its length.
fn write_source(control: &mut [u64; CONTROL_BYTES / 8], local: &[u8; 16], ipv6: bool) -> usize {
    let bytes = zerocopy::IntoBytes::as_mut_bytes(control);
    bytes.fill(0);
    let (level, kind, length): (_, _, usize) = if ipv6 {
        bytes[16..32].copy_from_slice(local);
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 16 + 20)
    } else {
        // struct in_pktinfo: interface, local address, destination address.
        bytes[20..24].copy_from_slice(&unmap(local).unwrap_or_default());
        (libc::IPPROTO_IP, libc::IP_PKTINFO, 16 + 12)
    };
    bytes[..8].copy_from_slice(&(length as u64).to_ne_bytes());
    bytes[8..12].copy_from_slice(&level.to_ne_bytes());
    bytes[12..16].copy_from_slice(&kind.to_ne_bytes());
    length.next_multiple_of(8)
}
