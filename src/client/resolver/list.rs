//! The list that is followed: members of a service by their slots, or services.

use heartline_wire::time::Nanos;
use heartline_wire::{Endpoint, ServiceEntry, State};
use std::collections::BTreeMap;

/// Members with the time at which the engine's word of each came; or services.
#[derive(Debug, Default)]
pub(super) struct List {
    members: BTreeMap<u32, (Endpoint, Nanos)>,
    services: Vec<ServiceEntry>,
}

impl List {
    /// In the order of the slots.
    pub(super) fn members(&self) -> impl Iterator<Item = (&Endpoint, Nanos)> {
        self.members.values().map(|(entry, at)| (entry, *at))
    }

    pub(super) fn services(&self) -> &[ServiceEntry] {
        &self.services
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.members.len() + self.services.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The engine's word of one slot: listed if it is up or suspect.
    pub(super) fn set(&mut self, entry: &Endpoint, now: Nanos) {
        let slot = entry.slot.get();
        match entry.state() {
            Some(State::Up | State::Suspect) => drop(self.members.insert(slot, (*entry, now))),
            _ => drop(self.members.remove(&slot)),
        }
    }

    pub(super) fn add_services(&mut self, entries: &[ServiceEntry]) {
        self.services.extend_from_slice(entries);
    }
}
