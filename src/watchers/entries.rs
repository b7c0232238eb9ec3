//! The entries of a push: the instances that changed, as they are now.

use crate::clock::Moment;
use crate::limits::ENDPOINTS_PER_PUSH_MAX;
use crate::region::{HeartState, Region, ServiceMeta, ServiceNumber};
use crate::wire::{Endpoint, Generation, Slot, State};
use smallvec::SmallVec;
use zerocopy::FromZeros;

/// An event of an instance, as far as a push needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) service: u64,
    /// Version of the list after it.
    pub(super) revision: u64,
    pub(super) slot: Slot,
    pub(super) generation: Generation,
}

pub(super) type Entries = SmallVec<[Endpoint; ENDPOINTS_PER_PUSH_MAX]>;

/// Reads the instances of these changes, which are of one service, under its sequence lock.
/// `false`: the writer disturbed each try.
pub(super) fn read(
    region: &Region,
    now: Moment,
    changes: &[Change],
    entries: &mut Entries,
) -> bool {
    let service = changes[0].service;
    let Ok(found) = region.find_service(service) else { return false };
    let entry = found.and_then(|number| Some((number, region.directory().get(number.index())?)));
    let Some((number, entry)) = entry else {
        // Its last instance is gone, and the service with it.
        entries.clear();
        entries.extend(changes.iter().map(gone));
        return true;
    };
    let read = || {
        let meta = entry.holds(service).then(|| entry.meta());
        entries.clear();
        let shown = changes.iter().map(|change| {
            let entry = meta.as_ref().and_then(|meta| shown(region, now, number, meta, change));
            entry.unwrap_or_else(|| gone(change))
        });
        entries.extend(shown);
    };
    entry.sequence().read(read).is_some()
}

/// The instance in the slot of a change: listed, or down. `None`: neither. To be read inside the
/// sequence of the service.
fn shown(
    region: &Region,
    now: Moment,
    number: ServiceNumber,
    meta: &ServiceMeta,
    change: &Change,
) -> Option<Endpoint> {
    let slot = change.slot;
    let (line, endpoint) =
        (region.lines().get(slot.index())?, region.endpoints().get(slot.index())?);
    // The slot may have gone to another service since.
    if endpoint.service() != number {
        return None;
    }
    let (mut entry, position) = (endpoint.entry(), endpoint.position());
    let is_listed = position < meta.listed && region.listed(meta.list, position) == Some(slot);
    let is_down = line.head() == (change.generation, HeartState::Down)
        && entry.generation() == change.generation
        && entry.state == State::Down as u8;
    // As discovery does it. One function for both costs discovery instructions.
    let last = line.last();
    entry.load = last.load.into();
    entry.age_ms = (now.saturating_since(last.at).ms().min(u64::from(u32::MAX)) as u32).into();
    (is_listed || is_down).then_some(entry)
}

/// The entry of an instance that is gone: slot and generation, and state 0.
fn gone(change: &Change) -> Endpoint {
    let mut entry = Endpoint::new_zeroed();
    entry.slot = change.slot.get().into();
    entry.generation = change.generation.get().into();
    entry
}
