//! The wire entry of an instance, encoded when something about it changes and copied when discovery
//! answers.

use super::part::Shared;
use super::right::Right;
use super::service_number::ServiceNumber;
use crate::sync::{AtomicU64, IS_MEMORY};
use crate::wire::Endpoint;
use std::sync::atomic::Ordering::Relaxed;

/// One cache line for each slot: the 48 bytes of [`Endpoint`] in memory order, then whose member it
/// is. Read and written inside the [`super::Sequence`] of its service.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct EndpointLine {
    wire: [AtomicU64; 6],
    /// Directory number of the service in the low half, position in its slot list in the high half.
    place: AtomicU64,
    reserved: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl Shared for EndpointLine {}

const _: () = if IS_MEMORY {
    assert!(size_of::<EndpointLine>() == 64 && size_of::<Endpoint>() == 48);
    assert!(std::mem::offset_of!(EndpointLine, place) == 48);
};

impl EndpointLine {
    /// The entry; load and age are the heart line's to fill in.
    #[inline]
    pub fn entry(&self) -> Endpoint {
        let words: [u64; 6] = std::array::from_fn(|at| self.wire[at].load(Relaxed));
        zerocopy::transmute!(words)
    }

    /// Replaces the entry.
    pub fn set_entry(&self, _: &Right, entry: Endpoint) {
        let words: [u64; 6] = zerocopy::transmute!(entry);
        for (word, value) in self.wire.iter().zip(words) {
            word.store(value, Relaxed);
        }
    }

    /// Directory number of the service.
    #[inline]
    pub fn service(&self) -> ServiceNumber {
        ServiceNumber::new(self.place.load(Relaxed) as u32)
    }

    /// Position in the slot list of the service, when it is listed.
    #[inline]
    pub fn position(&self) -> u32 {
        (self.place.load(Relaxed) >> 32) as u32
    }

    /// Sets service and position.
    pub fn set_place(&self, _: &Right, service: ServiceNumber, position: u32) {
        self.place.store(u64::from(position) << 32 | u64::from(service.get()), Relaxed);
    }
}
