//! The hold: instances that fell silent together, and that are kept from being declared down.

use super::index::Disturbed;
use super::right::Right;
use super::{PublicTables, Region};
use crate::wire::time::Moment;
use std::sync::atomic::Ordering::Relaxed;

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

impl PublicTables {
    /// The hold that is on: since when, silent and live instances when it began.
    ///
    /// # Errors
    /// [`Disturbed`]: the writer changed it during each try.
    pub fn hold(&self) -> Result<Option<Hold>, Disturbed> {
        let header = &self.header[0];
        let words = || (header.hold_since.load(Relaxed), header.hold_shares.load(Relaxed));
        let (since, shares) = header.sequence.read(words).ok_or(Disturbed)?;
        Ok((since != 0).then_some(Hold {
            since: Moment::from_nanos(since),
            silent: shares as u32,
            live: (shares >> 32) as u32,
        }))
    }
}

impl Region {
    /// Begins or ends the hold.
    pub fn set_hold(&self, right: &Right, hold: Option<Hold>) {
        let header = &self.header[0];
        header.sequence.write(right, || {
            header.hold_shares.store(
                hold.map_or(0, |hold| u64::from(hold.live) << 32 | u64::from(hold.silent)),
                Relaxed,
            );
            header.hold_since.store(hold.map_or(0, |hold| hold.since.nanos()), Relaxed);
        });
    }
}
