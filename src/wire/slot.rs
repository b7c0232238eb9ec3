//! Slots and generations: together they name one lease.

use std::fmt;
use zerocopy::byteorder::little_endian::U32;

/// The number of a heart line, and of everything else that an engine keeps of one lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Slot(u32);

impl Slot {
    /// The slot with this number.
    #[inline]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Where it is in a table with an element for each slot.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which use of a slot a lease is. Generations count up from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Generation(u32);

impl Generation {
    /// Of a slot that was never used.
    pub const NONE: Self = Self(0);

    /// The generation with this number.
    #[inline]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The next use of the same slot.
    #[inline]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1).max(1))
    }
}

impl From<U32> for Slot {
    #[inline]
    fn from(field: U32) -> Self {
        Self(field.get())
    }
}

impl From<Slot> for U32 {
    #[inline]
    fn from(slot: Slot) -> Self {
        Self::new(slot.0)
    }
}

impl From<U32> for Generation {
    #[inline]
    fn from(field: U32) -> Self {
        Self(field.get())
    }
}

impl From<Generation> for U32 {
    #[inline]
    fn from(generation: Generation) -> Self {
        Self::new(generation.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_never_come_to_none() {
        assert_eq!(Generation::NONE.next(), Generation::new(1));
        assert_eq!(Generation::new(u32::MAX).next(), Generation::new(1));
    }
}
