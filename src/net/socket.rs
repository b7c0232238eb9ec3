//! One listening socket, and what the kernel tells of it.

use super::address::unmap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// `SO_MEMINFO` of `asm-generic/socket.h`.
const SO_MEMINFO: libc::c_int = 55;
/// Numbers in a `SO_MEMINFO` answer, and those of the bytes that wait and of the drops
/// (`linux/sock_diag.h`).
const MEMINFO_NUMBERS: usize = 9;
const SK_MEMINFO_RMEM_ALLOC: usize = 0;
const SK_MEMINFO_DROPS: usize = 8;
/// `UDP_GRO` of `linux/udp.h`.
pub(super) const UDP_GRO: libc::c_int = 104;
/// `UDP_SEGMENT` of `linux/udp.h`.
pub(super) const UDP_SEGMENT: libc::c_int = 103;
/// The kernel charges a queued datagram with at least this many bytes: an `sk_buff` and a
/// `skb_shared_info` are larger on every architecture.
const DATAGRAM_CHARGE_MIN: usize = 512;

/// A socket that a loop receives from.
#[derive(Debug)]
pub struct Socket {
    udp: UdpSocket,
    ipv6: bool,
    coalesces: bool,
    cuts: bool,
    queue_bytes: usize,
    drops_at_start: u32,
}

impl Socket {
    pub(super) fn new(udp: UdpSocket, queue_bytes: usize) -> io::Result<Self> {
        let local = udp.local_addr()?;
        let ipv6 = local.is_ipv6();
        // Forcing takes CAP_NET_ADMIN; without it the kernel caps at net.core.rmem_max, which the
        // engine reports.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&udp, queue_bytes).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&udp, queue_bytes)?;
        }
        set_option(&udp, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        if local.ip().is_unspecified() {
            let (level, name) = if ipv6 {
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
            } else {
                (libc::IPPROTO_IP, libc::IP_PKTINFO)
            };
            set_option(&udp, level, name, 1)?;
        }
        // Kernels before 5.0 have no UDP GRO; then every datagram comes alone.
        let coalesces = set_option(&udp, libc::IPPROTO_UDP, UDP_GRO, 1).is_ok();
        // Kernels before 4.18 would send a message that is to be cut as one datagram; they don't
        // know the option either. Zero: nothing is cut.
        let cuts = set_option(&udp, libc::IPPROTO_UDP, UDP_SEGMENT, 0).is_ok();
        let queue_bytes = rustix::net::sockopt::socket_recv_buffer_size(&udp)?;
        let mut socket = Self { udp, ipv6, coalesces, cuts, queue_bytes, drops_at_start: 0 };
        socket.drops_at_start = socket.drops()?;
        Ok(socket)
    }

    /// Goes on with a bound socket of another process.
    ///
    /// # Errors
    /// When the descriptor is not a UDP socket, or the kernel refuses it an option.
    pub fn adopt(fd: OwnedFd, queue_bytes: usize) -> io::Result<Self> {
        let udp = UdpSocket::from(fd);
        udp.set_nonblocking(true)?;
        Self::new(udp, queue_bytes)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// None for a bound socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Whether it is an IPv6 socket.
    pub(super) fn is_ipv6(&self) -> bool {
        self.ipv6
    }

    /// Whether the kernel coalesces datagrams for it (UDP GRO).
    pub fn coalesces(&self) -> bool {
        self.coalesces
    }

    /// Whether the kernel cuts one message into equal datagrams (UDP segmentation offload).
    pub(super) fn cuts(&self) -> bool {
        self.cuts
    }

    /// Receive buffer that the kernel granted, in bytes as it counts them.
    pub fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// More messages than this can't wait at the socket at once.
    pub fn queue_messages_max(&self) -> u64 {
        (self.queue_bytes / DATAGRAM_CHARGE_MIN) as u64 + 1
    }

    /// More messages than this do not wait at the socket now. The kernel also counts some that have
    /// been received lately.
    pub fn waiting_messages_max(&self) -> u64 {
        match self.memory() {
            Ok(numbers) => u64::from(numbers[SK_MEMINFO_RMEM_ALLOC]) / DATAGRAM_CHARGE_MIN as u64,
            // Then only a socket that is empty is known to be drained.
            Err(_) => u64::from(u32::MAX),
        }
    }

    /// Whether a reply can go to this address family.
    pub(super) fn reaches(&self, ip: &[u8; 16]) -> bool {
        self.ipv6 || unmap(ip).is_some()
    }

    /// The drops there had been when this engine got the socket.
    pub fn drops_at_start(&self) -> u32 {
        self.drops_at_start
    }

    /// Datagrams that the kernel has dropped at this socket so far (a 32-bit count that wraps).
    ///
    /// # Errors
    /// When the kernel does not tell (before Linux 4.12).
    pub fn drops(&self) -> io::Result<u32> {
        self.memory().map(|numbers| numbers[SK_MEMINFO_DROPS])
    }

    /// What the kernel tells of the socket's memory.
    fn memory(&self) -> io::Result<[u32; MEMINFO_NUMBERS]> {
        let mut numbers = [0_u32; MEMINFO_NUMBERS];
        let mut length = size_of_val(&numbers) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, the size of `numbers`, and the new
        // length.
        let result = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                numbers.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(numbers) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.udp.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }
}

pub(super) fn set_option(
    udp: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`.
    let result = unsafe {
        libc::setsockopt(udp.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RECEIVE_BATCH;
    use crate::net::ReceiveBatch;

    /// Drains rest on it: a kernel that counted less would have instances declared down whose beats
    /// wait.
    #[test]
    fn no_more_messages_wait_than_the_kernel_counts() {
        let mut batch = ReceiveBatch::default();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let Ok(udp) = UdpSocket::bind(address) else {
                println!("skipped: this machine does not have {address}");
                continue;
            };
            let (socket, sender) =
                (Socket::adopt(udp.into(), 1 << 20).unwrap(), UdpSocket::bind(address).unwrap());
            for length in [0, 40, 1232] {
                assert_eq!(socket.waiting_messages_max(), 0);
                for _ in 0..100 {
                    sender.send_to(&[1; 1232][..length], socket.local_addr().unwrap()).unwrap();
                }
                let mut left = 100;
                while left > 0 {
                    assert!(socket.waiting_messages_max() >= left, "{left} of {length} bytes wait");
                    left -= batch.receive(&socket).unwrap() as u64;
                }
                assert!(batch.receive(&socket).unwrap() < RECEIVE_BATCH);
            }
        }
    }
}
