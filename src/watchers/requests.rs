//! Requests of watchers: watches begin, are renewed and end, and receipts count.

use super::Watchers;
use super::ms_up;
use super::table::{Name, Watch};
use crate::clock::{Moment, Nanos, Span};
use crate::exchange::{Peer, Replies, Requester, WatchCommand};
use crate::limits::{FRAME_BYTES_MAX, WATCH_CREDIT_BYTES, WATCH_UNPROVED_MS};
use crate::region::Counter;
use crate::wire::{self, Header, Kind, Received, Status, Watching, header_flags};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

impl Watchers {
    /// Does what a watcher asks. `random` gives the secrets of watches.
    pub fn handle(
        &mut self,
        now: Nanos,
        command: &WatchCommand,
        random: &mut dyn FnMut() -> u64,
        replies: &mut Replies,
    ) {
        let now = Moment::from_nanos(now);
        match command {
            WatchCommand::Watch { from, request } => match self.watch(now, from, request, random) {
                Ok(watching) => {
                    let mut header = Header::reply(Kind::Watch, Status::Ok, 0, from.tag);
                    let is_held = watching.hold_percent != 0;
                    header.flags = if is_held { header_flags::HOLD } else { 0 };
                    replies.put(from, header, &[watching.as_bytes()]);
                }
                Err(status) => replies.put_status(from, Kind::Watch, status),
            },
            WatchCommand::Received { from, tag, receipt } => {
                self.received(now, from, tag.get(), receipt);
            }
        }
        self.tally.set(Counter::Watches, self.table.len() as u64);
    }

    fn watch(
        &mut self,
        now: Moment,
        from: &Requester,
        request: &wire::Watch,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Watching, Status> {
        // Read before the hold and the version, so that no change lies between.
        let head = self.region.feed().head();
        let hold_percent = self.hold_percent();
        if self.table.is_empty() {
            self.round.follow(head + 1, hold_percent);
        }
        let service = request.service.get();
        let version = self.version(service).map_err(|_| Status::Busy)?;
        let (number, proof) = (request.number.get(), request.proof.get());
        let ttl = Span::from_ms(u64::from(request.ttl_ms.get()));
        let found = self.table.find(&Name::new(&from.peer, from.tag.get()));
        let proves = found.is_some_and(|watch| self.proves(&self.table[watch], number, proof));
        let same = found.filter(|&watch| self.is_of(watch, service));
        let watch = if ttl == Span::ZERO {
            if let Some(watch) = found.filter(|_| proves) {
                self.end(watch);
            }
            found.filter(|_| !proves)
        } else if let Some(watch) = same.filter(|_| proves) {
            self.renew(now, watch, from, number, ttl);
            Some(watch)
        } else if let Some(watch) = same.filter(|&watch| self.table[watch].proved) {
            // A late copy of the request that began it: the reply tells how the watch stands.
            Some(watch)
        } else if let Some(watch) = same {
            self.grant_unproved(now, watch, ttl);
            Some(watch)
        } else {
            if let Some(watch) = found {
                self.end(watch);
            }
            let tag = from.tag.get();
            let watch = self.table.begin(&from.peer, tag, random(), service, version)?;
            self.grant_unproved(now, watch, ttl);
            Some(watch)
        };
        let mut watching = Watching {
            proof: U64::ZERO,
            version: U64::new(version),
            epoch: U64::new(self.epoch),
            number: U32::ZERO,
            ttl_ms: U32::ZERO,
            credit: U32::ZERO,
            hold_percent,
            reserved: [0; 3],
        };
        if let Some(watch) = watch {
            let watch = &self.table[watch];
            watching.proof = U64::new(self.proofs.make(watch.secret, watch.number));
            watching.number = U32::new(watch.number);
            watching.ttl_ms = U32::new(ms_up(watch.expires.saturating_since(now)));
            watching.credit = U32::new(watch.credit);
        }
        Ok(watching)
    }

    /// Whether a proof is that of a reply or push of this watch.
    fn proves(&self, watch: &Watch, number: u32, proof: u64) -> bool {
        number <= watch.number && self.proofs.check(watch.secret, number, proof)
    }

    fn is_of(&self, watch: u32, service: u64) -> bool {
        let list = self.table.list(self.table[watch].list());
        list.is_some_and(|list| list.service == service)
    }

    /// The cookie proves the IP address only: a short time, and one frame, until the port is proved
    /// as well.
    fn grant_unproved(&mut self, now: Moment, watch: u32, ttl: Span) {
        let granted = &mut self.table[watch];
        granted.expires = now + ttl.min(Span::from_ms(u64::from(WATCH_UNPROVED_MS)));
        granted.credit = FRAME_BYTES_MAX as u32;
        self.timers.set(watch, self.table[watch].due());
    }

    fn renew(&mut self, now: Moment, watch: u32, from: &Requester, number: u32, ttl: Span) {
        let renewed = &mut self.table[watch];
        renewed.peer = from.peer;
        renewed.expires = now + ttl;
        if !renewed.proved {
            renewed.proved = true;
            renewed.credit = WATCH_CREDIT_BYTES;
        }
        // The reply tells the version.
        renewed.behind = false;
        self.confirm(now, watch, number);
    }

    fn received(&mut self, now: Moment, from: &Peer, tag: u64, receipt: &Received) {
        let Some(watch) = self.table.find(&Name::new(from, tag)) else { return };
        let number = receipt.number.get();
        if self.proves(&self.table[watch], number, receipt.proof.get()) {
            self.tally.add(Counter::Receipts, 1);
            self.confirm(now, watch, number);
        }
    }

    /// The push with this number was received, or the reply after it.
    fn confirm(&mut self, now: Moment, watch: u32, number: u32) {
        let confirmed = &mut self.table[watch];
        // An old number proves nothing new: a former owner of the port may know it.
        if number > confirmed.confirmed || number == confirmed.number {
            confirmed.confirmed = number.max(confirmed.confirmed);
            if confirmed.proved {
                confirmed.credit = WATCH_CREDIT_BYTES;
            }
        }
        if number == confirmed.number {
            confirmed.beacon_at = None;
        }
        if confirmed.behind && confirmed.proved {
            confirmed.beacon_at = Some(now);
        }
        self.timers.no_later(watch, self.table[watch].due());
    }

    /// Percent of the hold that is on; 0 with no hold.
    pub(super) fn hold_percent(&self) -> u8 {
        match self.region.hold() {
            Ok(hold) => hold.map_or(0, |hold| hold.percent()),
            // The writer is at it: what was told before stands for a moment more.
            Err(_) => self.round.hold_percent(),
        }
    }
}
