//! The time of watches: beacons ask for receipts that did not come, and watches that are not
//! renewed end.

use super::Watchers;
use super::rounds::{Link, PULL_BEFORE};
use super::table::Watch;
use crate::clock::{Moment, Span};
use crate::exchange::{Body, Pushes};
use crate::limits::{BEACON_NS, RECEIPT_NS, WATCH_CREDIT_BYTES};
use crate::region::Counter;
use crate::wire::{Header, Kind, PushHead, Status, header_flags};
use zerocopy::byteorder::little_endian::{U32, U64};

/// Credit below which a push asks for a receipt.
const CREDIT_LOW: u32 = WATCH_CREDIT_BYTES / 2;

impl Watchers {
    /// Looks at the watches that are due. `false`: what waits must be sent first.
    pub(super) fn look_at_timers(&mut self, now: Moment, pushes: &mut Pushes) -> bool {
        while let Some((at, watch)) = self.timers.first()
            && at <= now
        {
            if pushes.is_full() {
                return false;
            }
            let looked_at = &mut self.table[watch];
            if looked_at.expires <= now {
                self.tally.add(Counter::WatchesExpired, 1);
                self.end(watch);
                continue;
            }
            if looked_at.due() <= now {
                if looked_at.credit < Body::default().push_bytes() {
                    looked_at.beacon_at = None;
                } else if looked_at.behind {
                    self.pull(now, watch, pushes);
                } else {
                    self.beacon(now, watch, pushes);
                }
            }
            self.timers.set(watch, self.table[watch].due());
        }
        true
    }

    /// Tells a watcher that there is more than was told.
    fn pull(&mut self, now: Moment, watch: u32, pushes: &mut Pushes) {
        let told = self.table.list(self.table[watch].list()).map_or(0, |list| list.told);
        let link = Link { before: PULL_BEFORE, after: told, body: Body::default() };
        self.push(now, watch, &link, pushes);
    }

    /// Asks for a receipt once more. The number stays, so that a receipt for it is enough.
    fn beacon(&mut self, now: Moment, watch: u32, pushes: &mut Pushes) {
        let told = self.table.list(self.table[watch].list()).map_or(0, |list| list.told);
        let link = Link { before: told, after: told, body: Body::default() };
        let asked = &mut self.table[watch];
        asked.beacons += 1;
        asked.beacon_at = Some(now + asked.beacon_pause());
        asked.asked = now;
        asked.credit -= link.body.push_bytes();
        self.tally.add(Counter::Beacons, 1);
        self.put(watch, &link, true, pushes);
    }

    /// Makes a push to a watcher, if the credit allows it. The batch has room.
    pub(super) fn push(&mut self, now: Moment, watch: u32, link: &Link, pushes: &mut Pushes) {
        let bytes = link.body.push_bytes();
        let told = &mut self.table[watch];
        // Rounds come before timers: after a stop of this process a watch may be over.
        if told.expires <= now {
            return;
        }
        if told.number == u32::MAX {
            // Numbers do not come round: the watcher begins anew when it renews.
            told.expires = now;
            return self.timers.no_later(watch, now);
        }
        if told.credit < bytes {
            told.behind = true;
            return;
        }
        let before = told.credit;
        told.credit -= bytes;
        told.number += 1;
        told.behind = false;
        let wants = asks_for_receipt(told, now, before);
        if wants {
            told.asked = now;
        }
        if told.proved {
            told.beacons = 0;
            let at = now + Span::from_nanos(BEACON_NS);
            told.beacon_at = Some(at);
            self.timers.no_later(watch, at);
        }
        if link.before != link.after && link.body.endpoints() == 0 {
            self.tally.add(Counter::Pulls, 1);
        }
        self.put(watch, link, wants, pushes);
    }

    fn put(&self, watch: u32, link: &Link, wants_receipt: bool, pushes: &mut Pushes) {
        let watch = &self.table[watch];
        let hold_percent = self.round.hold_percent();
        let count = link.body.endpoints();
        let mut header = Header::reply(Kind::Push, Status::Ok, count, U64::new(watch.tag));
        header.flags = if hold_percent == 0 { 0 } else { header_flags::HOLD };
        header.flags |= if wants_receipt { header_flags::RECEIPT_WANTED } else { 0 };
        let head = PushHead {
            proof: U64::new(self.proofs.make(watch.secret, watch.number)),
            before: U64::new(link.before),
            after: U64::new(link.after),
            number: U32::new(watch.number),
            hold_percent,
            reserved: [0; 3],
        };
        pushes.put(&watch.peer, &header, &head, link.body);
    }
}

/// Whether the next push asks for a receipt: the first after a time without one, and the one that
/// leaves little credit.
fn asks_for_receipt(watch: &Watch, now: Moment, credit_before: u32) -> bool {
    let is_time = now.saturating_since(watch.asked) >= Span::from_nanos(RECEIPT_NS);
    watch.proved && (is_time || credit_before >= CREDIT_LOW && watch.credit < CREDIT_LOW)
}
