//! The states of a heart line.

use crate::wire::State;
use zerocopy::TryFromBytes;

/// What the line's lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u32)]
pub enum HeartState {
    /// Never used, or a value that is none of the others.
    Free = 0,
    /// Beating within two thirds of its TTL.
    Up = 1,
    /// Silent for two thirds of its TTL; perhaps held.
    Suspect = 2,
    /// Declared down; its tombstone stands.
    Down = 3,
    /// Ended: given back, or past its tombstone.
    Removed = 4,
    /// Ended: registered anew under another lease.
    Replaced = 5,
}

impl HeartState {
    #[inline]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self::try_read_from_bytes(&(bits as u32).to_ne_bytes()).unwrap_or(Self::Free)
    }

    /// The state of the member as frames and snapshots say it; `None`: there is no member.
    #[inline]
    pub const fn of_member(self) -> Option<State> {
        match self {
            Self::Up => Some(State::Up),
            Self::Suspect => Some(State::Suspect),
            Self::Down => Some(State::Down),
            Self::Free | Self::Removed | Self::Replaced => None,
        }
    }

    /// Whether there is a member, so that a beat counts.
    #[inline]
    pub const fn is_leased(self) -> bool {
        self.of_member().is_some()
    }
}

impl From<State> for HeartState {
    fn from(state: State) -> Self {
        match state {
            State::Up => Self::Up,
            State::Suspect => Self::Suspect,
            State::Down => Self::Down,
        }
    }
}
