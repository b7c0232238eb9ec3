//! One instance, as a view shows it.

use super::super::heart::LastBeat;
use crate::wire::time::Moment;
use crate::wire::{Declared, Endpoint, Generation, Slot, State, Version};
use std::net::SocketAddr;

/// An instance at one moment. Load and last beat are known to those who may read the heart file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    endpoint: Endpoint,
    state: State,
    last: Option<LastBeat>,
}

impl Member {
    /// `None`: the entry has no state, so that it is no instance.
    #[inline]
    pub(super) fn new(endpoint: Endpoint, last: Option<LastBeat>) -> Option<Self> {
        Some(Self { state: endpoint.state()?, endpoint, last })
    }

    /// Address and port at which it serves.
    #[inline]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.socket_addr()
    }

    /// Its share of weighted picks.
    #[inline]
    pub fn weight(&self) -> u16 {
        self.endpoint.weight.get()
    }

    /// How the engine sees it.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether a hold keeps it from being declared down.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.endpoint.is_held()
    }

    /// What it says of itself.
    #[inline]
    pub fn declared(&self) -> Declared {
        self.endpoint.declared()
    }

    /// Its version; 0 when it stated none.
    #[inline]
    pub fn version(&self) -> Version {
        self.endpoint.version
    }

    /// [`hash32`](heartline_wire::Text::hash32) of its zone; 0 for none.
    #[inline]
    pub fn zone_hash(&self) -> u32 {
        self.endpoint.zone.get()
    }

    /// Its slot: with the generation it names the lease.
    #[inline]
    pub fn slot(&self) -> Slot {
        self.endpoint.slot()
    }

    /// Its generation.
    #[inline]
    pub fn generation(&self) -> Generation {
        self.endpoint.generation()
    }

    /// How busy it said it is with its last beat; `None`: the heart file can't be read.
    #[inline]
    pub fn load(&self) -> Option<u16> {
        self.last.map(|last| last.load)
    }

    /// When its last beat came, on the monotonic clock; `None`: the heart file can't be read.
    #[inline]
    pub fn last_beat(&self) -> Option<Moment> {
        self.last.map(|last| last.at)
    }

    /// The entry as discovery has it, but with zeros for load and age.
    #[inline]
    pub fn entry(&self) -> &Endpoint {
        &self.endpoint
    }
}
