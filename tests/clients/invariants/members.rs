//! Whose lease is whose.

use heartline::internals::clock::Nanos;
use std::collections::HashMap;

/// A lease: engine, its memory, slot and generation.
pub(crate) type LeaseKey = (usize, u64, u32, u32);

/// Who beats for a lease.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) agent: usize,
    pub(crate) link: usize,
    pub(crate) life: u64,
    /// Since when.
    pub(crate) since: Nanos,
}

/// The leases that anybody beat for.
#[derive(Debug, Default)]
pub(crate) struct Members {
    owners: HashMap<LeaseKey, Owner>,
}

impl Members {
    /// A beat came from an agent.
    pub(crate) fn beats(&mut self, lease: LeaseKey, owner: Owner) {
        self.owners.entry(lease).or_insert(owner);
    }

    pub(crate) fn owner(&self, lease: LeaseKey) -> Option<&Owner> {
        self.owners.get(&lease)
    }
}
