//! Socket addresses as the kernel writes them, read and written without unsafe code.

use crate::exchange::Peer;
use std::net::Ipv6Addr;

/// Room for a `sockaddr_in` (16 bytes) or a `sockaddr_in6` (28 bytes).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub(super) struct RawAddress(pub(super) [u8; 32]);

const _: () = {
    assert!(size_of::<libc::sockaddr_in>() == 16 && size_of::<libc::sockaddr_in6>() == 28);
    assert!(std::mem::offset_of!(libc::sockaddr_in, sin_port) == 2);
    assert!(std::mem::offset_of!(libc::sockaddr_in, sin_addr) == 4);
    assert!(std::mem::offset_of!(libc::sockaddr_in6, sin6_port) == 2);
    assert!(std::mem::offset_of!(libc::sockaddr_in6, sin6_addr) == 8);
    assert!(std::mem::offset_of!(libc::sockaddr_in6, sin6_scope_id) == 24);
};

/// The IPv4 address in a mapped one.
pub(super) fn unmap(ip: &[u8; 16]) -> Option<[u8; 4]> {
    Ipv6Addr::from(*ip).to_ipv4_mapped().map(|ip| ip.octets())
}

impl RawAddress {
    /// The sender of a message; `None` for a family that is neither IPv4 nor IPv6.
    #[inline]
    pub(super) fn peer(&self, socket: u16) -> Option<Peer> {
        let raw = &self.0;
        let port = u16::from_be_bytes([raw[2], raw[3]]);
        match i32::from(u16::from_ne_bytes([raw[0], raw[1]])) {
            libc::AF_INET => {
                let ip = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, raw[4], raw[5], raw[6], raw[7]];
                Some(Peer { ip, port, scope: 0, socket, local: [0; 16] })
            }
            libc::AF_INET6 => {
                let mut ip = [0; 16];
                ip.copy_from_slice(&raw[8..24]);
                let scope = u32::from_ne_bytes([raw[24], raw[25], raw[26], raw[27]]);
                Some(Peer { ip, port, scope, socket, local: [0; 16] })
            }
            _ => None,
        }
    }

    /// Where a reply goes, in the family of the socket; and how many bytes that takes.
    pub(super) fn set(&mut self, peer: &Peer, ipv6: bool) -> u32 {
        let raw = &mut self.0;
        raw[2..4].copy_from_slice(&peer.port.to_be_bytes());
        if ipv6 {
            raw[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            raw[4..8].fill(0);
            raw[8..24].copy_from_slice(&peer.ip);
            raw[24..28].copy_from_slice(&peer.scope.to_ne_bytes());
            28
        } else {
            raw[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            raw[4..8].copy_from_slice(&peer.ip[12..]);
            raw[8..16].fill(0);
            16
        }
    }
}
