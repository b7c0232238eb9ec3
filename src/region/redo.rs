//! The one step of the registrar that is on its way, written down before it begins: whoever goes on
//! with the files of an engine that was killed ends it. So a change of a member, its revision and
//! its event are all there, or none of them.
//!
//! It lies in the heart file, since only engines read it. Everything in it is absolute: doing it
//! twice changes nothing.

use super::feed::{Event, Feed};
use super::heart_state::HeartState;
use super::record::{load_bytes, store_bytes};
use super::right::Right;
use super::service_number::ServiceNumber;
use crate::limits::ATTRIBUTES_BYTES_MAX;
use crate::sync::{AtomicU64, fence};
use crate::wire::Endpoint;
use crate::wire::time::Moment;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// What a step makes of the member that its event is about.
#[derive(Clone, Copy, Debug)]
pub struct MemberAfter<'a> {
    /// State of its heart line.
    pub state: HeartState,
    /// End of its hold or tombstone.
    pub until: Moment,
    /// Directory number of its service.
    pub service: ServiceNumber,
    /// Its endpoint after the step.
    pub endpoint: Endpoint,
    /// Its attributes; `None`: as they were.
    pub attributes: Option<&'a [u8]>,
}

/// A step that was begun and perhaps not ended.
#[derive(Clone, Copy, Debug)]
pub struct PendingStep {
    /// Number of its event.
    pub number: u64,
    /// Its event, as the feed keeps it.
    pub event: [u64; Event::WORDS],
    /// State of the member's heart line.
    pub state: HeartState,
    /// End of its hold or tombstone.
    pub until: Moment,
    /// Directory number of its service.
    pub service: ServiceNumber,
    /// Its endpoint after the step.
    pub endpoint: Endpoint,
    attributes: [u8; ATTRIBUTES_BYTES_MAX],
    /// Bytes and one; 0: they stay.
    attributes_len: u64,
}

impl PendingStep {
    /// The attributes, if they change.
    pub fn attributes(&self) -> Option<&[u8]> {
        self.attributes.get(..usize::try_from(self.attributes_len.checked_sub(1)?).ok()?)
    }
}

/// The step as it lies in memory.
#[derive(Debug)]
#[repr(C)]
pub(super) struct RedoLine {
    /// Number of the event; 0 while no step is on its way.
    armed: AtomicU64,
    event: [AtomicU64; Event::WORDS],
    endpoint: [AtomicU64; 6],
    /// Service in the low half, state in the high half.
    place: AtomicU64,
    until: AtomicU64,
    attributes_len: AtomicU64,
    attributes: [AtomicU64; ATTRIBUTES_BYTES_MAX / 8],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<RedoLine>() == 640);
    assert!(offset_of!(RedoLine, event) == 8);
    assert!(offset_of!(RedoLine, endpoint) == 56);
    assert!(offset_of!(RedoLine, place) == 104);
    assert!(offset_of!(RedoLine, until) == 112);
    assert!(offset_of!(RedoLine, attributes_len) == 120);
    assert!(offset_of!(RedoLine, attributes) == 128);
};

impl RedoLine {
    /// Writes a step down. It counts from the last store on.
    pub(super) fn begin(
        &self,
        _: &Right,
        feed: &Feed,
        event: &Event,
        member: Option<&MemberAfter<'_>>,
    ) {
        // The end of the step before stays above; a kernel that ends the process between two stores
        // finds them in this order.
        fence(Release);
        for (word, value) in self.event.iter().zip(event.words()) {
            word.store(value, Relaxed);
        }
        if let Some(member) = member {
            let endpoint: [u64; 6] = zerocopy::transmute!(member.endpoint);
            for (word, value) in self.endpoint.iter().zip(endpoint) {
                word.store(value, Relaxed);
            }
            self.place.store(
                u64::from(member.state as u32) << 32 | u64::from(member.service.get()),
                Relaxed,
            );
            self.until.store(member.until.nanos(), Relaxed);
            self.attributes_len
                .store(member.attributes.map_or(0, |bytes| bytes.len() as u64 + 1), Relaxed);
            store_bytes(&self.attributes, member.attributes.unwrap_or_default());
        }
        self.armed.store(feed.head() + 1, Release);
        // The step itself stays below.
        fence(Release);
    }

    /// The step is done.
    pub(super) fn end(&self, _: &Right) {
        self.armed.store(0, Release);
    }

    /// The step that was on its way.
    pub(super) fn pending(&self) -> Option<PendingStep> {
        let number = self.armed.load(Relaxed);
        let place = self.place.load(Relaxed);
        let endpoint: [u64; 6] = std::array::from_fn(|at| self.endpoint[at].load(Relaxed));
        (number != 0).then(|| PendingStep {
            number,
            event: std::array::from_fn(|at| self.event[at].load(Relaxed)),
            state: HeartState::from_bits(place >> 32),
            until: Moment::from_nanos(self.until.load(Relaxed)),
            service: ServiceNumber::new(place as u32),
            endpoint: zerocopy::transmute!(endpoint),
            attributes: load_bytes(&self.attributes),
            attributes_len: self.attributes_len.load(Relaxed),
        })
    }
}
