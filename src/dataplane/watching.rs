//! Watch requests and receipts: checked here, and passed to the watch thread.

use super::{Dataplane, refuse_field};
use crate::exchange::{Replies, Requester, WatchCommand};
use crate::limits::{WATCH_MS_MAX, WATCH_MS_MIN};
use crate::region::Counter;
use crate::wire::{Kind, Received, Status, Watch};
use std::mem::offset_of;

impl Dataplane {
    /// Whether something was passed to the watch thread since this was last asked.
    pub fn take_watch_commanded(&mut self) -> bool {
        std::mem::take(&mut self.watch_commanded)
    }

    pub(super) fn watch(
        &mut self,
        from: &Requester,
        proved: bool,
        body: &Watch,
        replies: &mut Replies,
    ) {
        if !proved {
            return replies.put_status(from, Kind::Watch, Status::Cookie);
        }
        let ttl = body.ttl_ms.get();
        if ttl != 0 && !(WATCH_MS_MIN..=WATCH_MS_MAX).contains(&ttl) {
            return refuse_field(from, Kind::Watch, offset_of!(Watch, ttl_ms), replies);
        }
        self.watch_commanded = true;
        if self.watch_commands.push(WatchCommand::Watch { from: *from, request: *body }).is_err() {
            replies.put_status(from, Kind::Watch, Status::Busy);
        }
    }

    /// Nobody waits for an answer: a receipt that is dropped is asked for again.
    pub(super) fn received(&mut self, from: &Requester, proved: bool, body: &Received) {
        let command = WatchCommand::Received { from: from.peer, tag: from.tag, receipt: *body };
        self.watch_commanded |= proved;
        if !proved || self.watch_commands.push(command).is_err() {
            self.tally_mut().add(Counter::ReceiptsDropped, 1);
        }
    }
}
