//! Replies on their way out, none longer than its requester may get.

use super::{Peer, Requester};
use crate::limits::{FRAME_BYTES_MAX, GROUP_FRAMES, HEADER_BYTES};
use crate::wire::{Header, Kind, Status};
use zerocopy::IntoBytes;

/// Replies waiting to be sent, in buffers made at start.
#[derive(Debug)]
pub struct Replies {
    frames: Box<[[u8; FRAME_BYTES_MAX]]>,
    lengths: [u16; GROUP_FRAMES],
    peers: [Peer; GROUP_FRAMES],
    count: usize,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            frames: vec![[0; FRAME_BYTES_MAX]; GROUP_FRAMES].into_boxed_slice(),
            lengths: [0; GROUP_FRAMES],
            peers: [Peer::default(); GROUP_FRAMES],
            count: 0,
        }
    }
}

impl Replies {
    /// Adds a reply: header, then the parts. One that exceeds its budget becomes a bare header with
    /// [`Status::Cookie`]: this is the place that keeps the engine from amplifying.
    pub fn put(&mut self, to: &Requester, header: Header, parts: &[&[u8]]) {
        debug_assert!(!self.is_full(), "a group makes no more replies than it has frames");
        if self.is_full() {
            return;
        }
        let length = HEADER_BYTES + parts.iter().map(|part| part.len()).sum::<usize>();
        let frame = &mut self.frames[self.count];
        let length = if length <= usize::from(to.budget) {
            frame[..HEADER_BYTES].copy_from_slice(header.as_bytes());
            let mut at = HEADER_BYTES;
            for part in parts {
                frame[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            length
        } else {
            let refusal = Header { status: Status::Cookie as u8, count: 0.into(), ..header };
            frame[..HEADER_BYTES].copy_from_slice(refusal.as_bytes());
            HEADER_BYTES
        };
        self.lengths[self.count] = length as u16;
        self.peers[self.count] = to.peer;
        self.count += 1;
    }

    /// Adds a reply that is a status and nothing else.
    pub fn put_status(&mut self, to: &Requester, kind: Kind, status: Status) {
        self.put(to, Header::reply(kind, status, 0, to.tag), &[]);
    }

    /// Whether the next reply would not fit.
    pub fn is_full(&self) -> bool {
        self.count == GROUP_FRAMES
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The replies, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Peer, &[u8])> {
        (0..self.count)
            .map(|at| (&self.peers[at], &self.frames[at][..usize::from(self.lengths[at])]))
    }

    /// Forgets the replies, which are sent or given up.
    pub fn clear(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::byteorder::little_endian::U64;

    #[test]
    fn a_reply_never_exceeds_its_budget() {
        let mut replies = Replies::default();
        let mut to = Requester { peer: Peer::default(), tag: U64::new(9), budget: 120 };
        replies.put(&to, Header::reply(Kind::Discover, Status::Ok, 2, to.tag), &[&[1; 104]]);
        replies.put(&to, Header::reply(Kind::Discover, Status::Ok, 2, to.tag), &[&[1; 105]]);
        to.budget = 121;
        replies.put(&to, Header::reply(Kind::Discover, Status::Ok, 2, to.tag), &[&[1; 105]]);
        let seen: Vec<(usize, u8)> =
            replies.iter().map(|(_, frame)| (frame.len(), frame[7])).collect();
        assert_eq!(seen, [(120, 0), (16, Status::Cookie as u8), (121, 0)]);
    }
}
