//! The hold: instances that fell silent together, and that are kept from being declared down.

use crate::wire::time::Moment;

/// A hold that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it began; never zero.
    pub since: Moment,
    /// Instances that were silent then.
    pub silent: u32,
    /// Instances that were live then.
    pub live: u32,
}

impl Hold {
    /// The silent share in percent, at least 1.
    pub fn percent(&self) -> u8 {
        (u64::from(self.silent) * 100 / u64::from(self.live.max(1))).clamp(1, 100) as u8
    }
}
