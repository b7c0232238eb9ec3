//! The list that is followed: members of a service by their slots, or services.

use heartline_wire::time::Nanos;
use heartline_wire::{Endpoint, ServiceEntry, State};
use std::collections::{BTreeMap, VecDeque};

/// Members that left in order and are remembered.
const LEFT_MAX: usize = 64;

/// Members with the time at which the engine's word of each came; or services.
#[derive(Debug, Default)]
pub(super) struct List {
    members: BTreeMap<u32, (Endpoint, Nanos)>,
    services: Vec<ServiceEntry>,
    /// Address and port of members that left in order, the latest last.
    left: VecDeque<([u8; 16], u16)>,
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
            Some(State::Up | State::Suspect) => {
                let place = (entry.address, entry.port.get());
                self.left.retain(|left| *left != place);
                self.members.insert(slot, (*entry, now));
            }
            Some(State::Down) => drop(self.members.remove(&slot)),
            None => self.forget(&[slot]),
        }
    }

    /// The leases in these slots have ended.
    pub(super) fn forget(&mut self, slots: &[u32]) {
        for slot in slots {
            let Some((member, _)) = self.members.remove(slot) else { continue };
            if self.left.len() == LEFT_MAX {
                self.left.pop_front();
            }
            self.left.push_back((member.address, member.port.get()));
        }
    }

    /// This list in the place of a former one: what left that one has still left.
    pub(super) fn after(mut self, former: &mut Self) -> Self {
        let is_listed = |place: &([u8; 16], u16)| {
            let members = self.members.values();
            members.into_iter().any(|(entry, _)| (entry.address, entry.port.get()) == *place)
        };
        former.left.retain(|place| !is_listed(place));
        self.left = std::mem::take(&mut former.left);
        self
    }

    /// Whether a member at this address and port has left in order, and did not only fall silent.
    pub(super) fn has_left(&self, address: [u8; 16], port: u16) -> bool {
        self.left.contains(&(address, port))
    }

    pub(super) fn add_services(&mut self, entries: &[ServiceEntry]) {
        self.services.extend_from_slice(entries);
    }
}
