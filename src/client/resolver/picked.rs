//! The results of picks.

use heartline_wire::{State, Version, unmap_ip};
use std::net::SocketAddr;

/// One endpoint to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    pub(super) address: [u8; 16],
    pub(super) port: u16,
    pub(super) state: u8,
    pub(super) degraded: Option<Degraded>,
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) version: Version,
    pub(super) zone_hash: u32,
    pub(super) engine: u16,
}

impl Picked {
    /// Where it serves; port 0 when it has none.
    #[inline]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(unmap_ip(self.address), self.port)
    }

    /// With the generation: which instance, for describe at [`Self::engine`].
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Which use of the slot.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Version of the instance; 0 when it stated none.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Low 32 bits of the FNV-1a hash of its zone; 0 for none.
    pub fn zone_hash(&self) -> u32 {
        self.zone_hash
    }

    /// The engine that heard it last, as a position in the list of engines.
    pub fn engine(&self) -> usize {
        self.engine.into()
    }

    /// Whether it was silent for two thirds of its TTL when the engine last spoke of it.
    pub fn is_suspect(&self) -> bool {
        self.state == State::Suspect as u8
    }

    /// Why this pick is less sure than others; `None` in ordinary times.
    pub fn degraded(&self) -> Option<Degraded> {
        self.degraded
    }
}

/// Why picks are less sure than in ordinary times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Degraded {
    /// So many instances fell silent at once that the engine holds its verdicts: those that are
    /// suspect are picked like the others.
    Hold,
    /// No instance is up: those that are suspect are picked.
    Suspect,
    /// No engine can be reached: the last view counts until it is older than `max_stale`.
    Unreachable,
    /// No instance is healthy: those that were healthy last stand in, for `max_stale`.
    LastGood,
}

impl Degraded {
    const ALL: [Self; 4] = [Self::Hold, Self::Suspect, Self::Unreachable, Self::LastGood];

    pub(super) fn code(self) -> u8 {
        self as u8 + 1
    }

    #[inline]
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).wrapping_sub(1)).copied()
    }
}

/// Why nothing can be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickError {
    /// No engine has answered yet.
    #[error("no engine has answered yet")]
    NotReady,
    /// The service has no instance.
    #[error("the service has no instance")]
    NoInstance,
    /// The service has instances, none of which may be picked: down, draining, in maintenance, or
    /// without weight.
    #[error("no instance of the service may be picked")]
    NoneHealthy,
    /// No engine can be reached, and the last view is older than `max_stale`.
    #[error("no engine can be reached and the view is too old")]
    Stale,
    /// The agent that kept the view current is gone.
    #[error("the agent has ended")]
    Ended,
}

impl PickError {
    const ALL: [Self; 5] =
        [Self::NotReady, Self::NoInstance, Self::NoneHealthy, Self::Stale, Self::Ended];

    pub(super) fn code(self) -> u8 {
        self as u8 + 1
    }

    #[inline]
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).wrapping_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_positions_and_zero_is_none() {
        assert!(Degraded::ALL.iter().all(|one| Degraded::from_code(one.code()) == Some(*one)));
        assert!(PickError::ALL.iter().all(|one| PickError::from_code(one.code()) == Some(*one)));
        for code in [0, 6, 255] {
            assert_eq!((Degraded::from_code(code), PickError::from_code(code)), (None, None));
        }
    }
}
