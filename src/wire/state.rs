//! The state of an instance: as the engine sees it, and as the instance declares it.

use zerocopy::TryFromBytes;

/// The state of an instance as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u8)]
pub enum State {
    /// Its beats come within two thirds of its TTL.
    Up = 1,
    /// Silent for two thirds of its TTL; still answered, marked.
    Suspect = 2,
    /// Proved silent for its TTL; not answered; a beat with the same lease revives it.
    Down = 3,
}

impl State {
    /// The state with this number.
    #[inline]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::try_read_from_bytes(&[number]).ok()
    }
}

/// What an instance says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Declared {
    /// Takes requests.
    #[default]
    Serving = 0,
    /// Finishes what it has, wants nothing new.
    Draining = 1,
    /// Out of service on purpose.
    Maintenance = 2,
    /// Says good-bye: the lease ends.
    Leaving = 3,
}

impl Declared {
    /// From the two lowest bits.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Serving,
            1 => Self::Draining,
            2 => Self::Maintenance,
            _ => Self::Leaving,
        }
    }
}
