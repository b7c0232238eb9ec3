//! Random numbers for tags, jitter and picks, from one random seed.

use heartline_wire::balance::mix;
use heartline_wire::time::Nanos;

/// Increment of splitmix64: 2^64 divided by the golden ratio.
pub(crate) const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The generator splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// What a generator that goes on here is made with.
    pub(crate) const fn state(&self) -> u64 {
        self.0
    }

    /// 64 random bits.
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A number below `bound`, or 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From three quarters of a time to all of it.
    pub(crate) fn jitter(&mut self, whole: Nanos) -> Nanos {
        whole - self.below(whole / 4)
    }
}
