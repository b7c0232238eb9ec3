//! The other end of a datagram, and of a request.

use zerocopy::byteorder::little_endian::U64;

/// The other end of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// IPv6, or IPv4 mapped into it.
    pub ip: [u8; 16],
    /// Interface of a link-local address, else 0.
    pub scope: u32,
    /// UDP port.
    pub port: u16,
    /// Which of the engine's listening addresses the datagram came to.
    pub socket: u16,
    /// The address it was sent to, where the socket is bound to all addresses; else zeros. Replies
    /// leave from there.
    pub local: [u8; 16],
}

/// The sender of a request, and how long the reply may be.
#[derive(Clone, Copy, Debug)]
pub struct Requester {
    /// Where the reply goes.
    pub peer: Peer,
    /// The tag of the request.
    pub tag: U64,
    /// Longest reply: the length of the request until the address is proved.
    pub budget: u16,
}
