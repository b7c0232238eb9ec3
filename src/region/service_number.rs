//! Where a service is in the directory.

/// The number of a directory entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ServiceNumber(u32);

impl ServiceNumber {
    /// The service with this number.
    #[inline]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Where it is in a table with an element for each service.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
