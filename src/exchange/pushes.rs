//! Pushes on their way out: a head for each, and bodies that many of them share.

use super::Peer;
use crate::limits::{
    ENDPOINT_BYTES, ENDPOINTS_PER_PUSH_MAX, HEADER_BYTES, PUSH_BATCH, PUSH_BODIES, PUSH_BYTES,
};
use crate::wire::{Endpoint, Header, PushHead};
use zerocopy::IntoBytes;

/// Header and fixed part of a push.
const HEAD_BYTES: usize = HEADER_BYTES + PUSH_BYTES;
const BODY_BYTES: usize = ENDPOINTS_PER_PUSH_MAX * ENDPOINT_BYTES;

/// A list of endpoints that pushes share; none, unless it comes from [`Pushes::add_body`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Its position and 1; 0: no endpoints.
    number: u16,
    endpoints: u16,
}

impl Body {
    /// How many endpoints it has.
    pub fn endpoints(self) -> u16 {
        self.endpoints
    }

    /// Bytes of a push that carries it.
    pub fn push_bytes(self) -> u32 {
        (HEAD_BYTES + usize::from(self.endpoints) * ENDPOINT_BYTES) as u32
    }
}

/// Pushes waiting to be sent, in buffers made at start.
#[derive(Debug)]
pub struct Pushes {
    heads: Box<[[u8; HEAD_BYTES]]>,
    peers: Box<[Peer]>,
    bodies_of: Box<[Body]>,
    count: usize,
    bodies: Box<[[u8; BODY_BYTES]]>,
    bodies_count: usize,
}

impl Default for Pushes {
    fn default() -> Self {
        Self {
            heads: vec![[0; HEAD_BYTES]; PUSH_BATCH].into_boxed_slice(),
            peers: vec![Peer::default(); PUSH_BATCH].into_boxed_slice(),
            bodies_of: vec![Body::default(); PUSH_BATCH].into_boxed_slice(),
            count: 0,
            bodies: vec![[0; BODY_BYTES]; PUSH_BODIES].into_boxed_slice(),
            bodies_count: 0,
        }
    }
}

impl Pushes {
    /// Makes sure that so many bodies can be added. `false`: what waits must be sent first. Bodies
    /// added before are forgotten if need be.
    pub fn make_room(&mut self, bodies: usize) -> bool {
        if self.bodies_count + bodies > PUSH_BODIES && self.is_empty() {
            self.bodies_count = 0;
        }
        self.bodies_count + bodies <= PUSH_BODIES
    }

    /// Keeps endpoints, at most [`ENDPOINTS_PER_PUSH_MAX`], for pushes to come. [`Self::make_room`]
    /// was asked before.
    pub fn add_body(&mut self, endpoints: &[Endpoint]) -> Body {
        let bytes = endpoints.as_bytes();
        self.bodies[self.bodies_count][..bytes.len()].copy_from_slice(bytes);
        self.bodies_count += 1;
        Body { number: self.bodies_count as u16, endpoints: endpoints.len() as u16 }
    }

    /// Adds a push. The buffer has room.
    pub fn put(&mut self, to: &Peer, header: &Header, head: &PushHead, body: Body) {
        debug_assert!(!self.is_full());
        let (first, rest) = self.heads[self.count].split_at_mut(HEADER_BYTES);
        first.copy_from_slice(header.as_bytes());
        rest.copy_from_slice(head.as_bytes());
        self.peers[self.count] = *to;
        self.bodies_of[self.count] = body;
        self.count += 1;
    }

    /// Whether no further push fits.
    pub fn is_full(&self) -> bool {
        self.count == PUSH_BATCH
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pushes in order: to whom, the head, and the endpoints.
    pub fn iter(&self) -> impl Iterator<Item = (&Peer, &[u8], &[u8])> {
        (0..self.count).map(|at| {
            let body = self.bodies_of[at];
            let bytes = match usize::from(body.number).checked_sub(1) {
                Some(number) => {
                    &self.bodies[number][..usize::from(body.endpoints) * ENDPOINT_BYTES]
                }
                None => &[],
            };
            (&self.peers[at], &self.heads[at][..], bytes)
        })
    }

    /// Forgets the pushes, which are sent or given up. Bodies stay for others.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Bytes that the buffers take.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.heads)
            + size_of_val(&*self.peers)
            + size_of_val(&*self.bodies_of)
            + size_of_val(&*self.bodies)
    }
}
