//! Datagrams that a follow sends.

use heartline_wire::{Header, Kind};
use zerocopy::IntoBytes;

/// The longest is a discover request.
const BYTES_MAX: usize = 120;

/// One datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    bytes: [u8; BYTES_MAX],
    length: u8,
}

impl Frame {
    pub(super) fn new(kind: Kind, tag: u64, body: &[u8]) -> Self {
        let mut bytes = [0; BYTES_MAX];
        let header = Header::request(kind, tag);
        let head = header.as_bytes();
        bytes[..head.len()].copy_from_slice(head);
        bytes[head.len()..head.len() + body.len()].copy_from_slice(body);
        Self { bytes, length: (head.len() + body.len()) as u8 }
    }

    /// The whole datagram.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}
