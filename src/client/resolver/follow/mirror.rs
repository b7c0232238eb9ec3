//! A list that is read from the memory of an engine on this machine.

use super::{Follow, List};
use crate::agent::Mirrored;
use heartline_wire::time::Nanos;

impl Follow {
    /// The list as it stands in the engine's memory.
    pub(crate) fn mirror(&mut self, now: Nanos, list: &Mirrored<'_>) {
        let is_its = self.epoch == 0 || list.epoch == self.epoch;
        if self.has_ended || !is_its || self.is_known && list.version < self.version {
            return;
        }
        self.set_hold(list.hold_percent, 0);
        if !self.is_known || list.version > self.version {
            let mut whole = List::default();
            for entry in list.members {
                whole.set(entry, now);
            }
            self.list.forget(list.left);
            self.list = whole.after(&mut self.list);
            (self.is_known, self.version) = (true, list.version);
            self.changes += 1;
        }
        (self.heard, self.is_doubted) = (self.heard.max(list.version), false);
        self.catch_up(now);
        self.note_fresh(now, self.version);
    }
}
