//! What loops and the thread of the local socket ask of the registrar.

use super::Requester;
use crate::limits::ATTRIBUTES_BYTES_MAX;
use crate::wire::{Generation, Lease, Register, Slot, Update};

/// Attributes on their way to the registrar.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    length: u16,
    bytes: [u8; ATTRIBUTES_BYTES_MAX],
}

impl Attributes {
    /// Copies a tail, which is at most [`ATTRIBUTES_BYTES_MAX`] long.
    pub fn new(tail: &[u8]) -> Self {
        let mut bytes = [0; ATTRIBUTES_BYTES_MAX];
        bytes[..tail.len()].copy_from_slice(tail);
        Self { length: tail.len() as u16, bytes }
    }

    /// The tail, as it stood in the frame.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// What is asked of the registrar. Large, and never boxed: commands live in a queue made at
/// start, and a box would allocate.
#[derive(Clone, Debug)]
pub enum Command {
    /// Grant a lease. The request has been checked, its source address is proved.
    Register {
        /// The requester that gets the reply.
        from: Requester,
        /// The body of the request.
        request: Register,
        /// The attributes of the instance.
        attributes: Attributes,
    },
    /// Change an instance.
    Update {
        /// The requester that gets the reply.
        from: Requester,
        /// The body of the request.
        request: Update,
        /// The attributes that replace those of the instance, if the request says so.
        attributes: Attributes,
    },
    /// End a lease.
    Deregister {
        /// The requester that gets the reply.
        from: Requester,
        /// The lease that ends.
        lease: Lease,
    },
    /// A beat counted that may change the state of its slot.
    Look {
        /// The slot of the beat.
        slot: Slot,
        /// The generation of the beat: the slot may have been given to another lease since.
        generation: Generation,
        /// The beat said good-bye; a later beat of the same lease does not take that back.
        leaving: bool,
    },
    /// The process that showed a lease is dead, as the kernel tells.
    Died {
        /// The slot of the lease.
        slot: Slot,
        /// Its generation.
        generation: Generation,
    },
}
