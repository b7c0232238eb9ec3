//! What a snapshot gives back of a heart line.

use super::heart_state::HeartState;
use crate::wire::time::{Moment, Span};
use crate::wire::{Declared, Generation};

/// A line as it was in another region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredLine {
    /// Use of the slot.
    pub generation: Generation,
    /// State of its lease.
    pub state: HeartState,
    /// Secret of its lease.
    pub secret: u64,
    /// The nonce that the lease was asked for with.
    pub nonce: u64,
    /// TTL of its lease.
    pub ttl: Span,
    /// End of its hold or tombstone; 0: none.
    pub until: Moment,
    /// When it last beat.
    pub last: Moment,
    /// On-time history.
    pub history: u64,
    /// Sequence of its last beat.
    pub sequence: u32,
    /// Load of its last beat.
    pub load: u16,
    /// What its last beat declared.
    pub declared: Declared,
}

impl RestoredLine {
    /// A line that was never used.
    pub const FREE: Self = Self {
        generation: Generation::NONE,
        state: HeartState::Free,
        secret: 0,
        nonce: 0,
        ttl: Span::ZERO,
        until: Moment::ZERO,
        last: Moment::ZERO,
        history: 0,
        sequence: 0,
        load: 0,
        declared: Declared::Serving,
    };
}
