//! Watches: each follows one list. They begin and end here, and pushes are made here.
//!
//! A state machine without I/O: time, requests and randomness come in as arguments, replies and
//! pushes go out. It reads the feed and the tables as any reader does. `requests.rs` does what
//! watchers ask, `rounds.rs` tells them what has changed, `beacons.rs` asks for receipts.
//!
//! A watch gets no more bytes of pushes than its credit. Only the proof of a newer reply or push
//! fills the credit up again. So an address where nobody receives any more is soon left alone.

mod beacons;
mod entries;
mod proof;
mod requests;
mod rounds;
mod table;
mod timers;

use crate::clock::{Moment, NANOS_PER_MS, Nanos, Span};
use crate::exchange::Pushes;
use crate::limits::WATCHES_MAX;
use crate::region::{Counter, Disturbed, Region, Tally};
use proof::Proofs;
use rounds::Round;
use std::sync::Arc;
use table::Table;
use timers::Timers;

/// The service id that stands for the list of services.
const SERVICES: u64 = 0;

/// All watches of an engine.
#[derive(Debug)]
pub struct Watchers {
    region: Arc<Region>,
    table: Table,
    timers: Timers,
    proofs: Proofs,
    epoch: u64,
    round: Round,
    /// There was something to tell when a round was last planned.
    planned: bool,
    tally: Tally,
}

impl Watchers {
    /// No watches yet. The key is random and of this engine only.
    pub fn new(region: Arc<Region>, key: (u64, u64), epoch: u64) -> Self {
        Self {
            region,
            table: Table::new(),
            timers: Timers::new(WATCHES_MAX),
            proofs: Proofs::new(key),
            epoch,
            round: Round::default(),
            planned: false,
            tally: Tally::default(),
        }
    }

    /// Tells watchers what has changed, asks for receipts and lets watches end, as far as `pushes`
    /// has room. The result is when to call it again at the latest; `None`: when a request or an
    /// event has come. At once, that is not after `now`, when pushes must be sent before.
    pub fn advance(&mut self, now: Nanos, pushes: &mut Pushes) -> Option<Nanos> {
        let now = Moment::from_nanos(now);
        self.end_round(now);
        self.begin_round(now);
        let done = self.go_on(now, pushes) && self.look_at_timers(now, pushes);
        self.tally.set(Counter::Watches, self.table.len() as u64);
        if !done || self.round.is_on() {
            return Some(now.nanos());
        }
        self.planned = self.is_behind();
        let round = self.planned.then(|| self.round.next_at());
        let timer = self.timers.first().map(|(at, _)| at);
        round.into_iter().chain(timer).min().map(Moment::nanos)
    }

    /// Whether something has happened that watchers have not been told.
    pub fn is_behind(&self) -> bool {
        !self.table.is_empty()
            && (self.region.feed().head() >= self.round.next_event() || self.services_changed())
    }

    /// Whether an event that comes now needs another call of [`Self::advance`]. It needs none while
    /// a round is planned: the round tells that event, too.
    pub fn wants_events(&self) -> bool {
        !self.table.is_empty() && !self.planned
    }

    /// The counts so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The same, for what is counted elsewhere in the thread.
    pub fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Bytes that tables take.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.timers.memory_bytes() + self.round.memory_bytes()
    }

    /// The version of a list now; 0: there is no such service.
    fn version(&self, service: u64) -> Result<u64, Disturbed> {
        if service == SERVICES {
            return Ok(self.region.service_count()?.0);
        }
        let Some(number) = self.region.find_service(service)? else { return Ok(0) };
        let Some(entry) = self.region.directory().get(number.index()) else { return Ok(0) };
        let read = || entry.holds(service).then(|| entry.meta().revision);
        Ok(entry.sequence().read(read).ok_or(Disturbed)?.unwrap_or(0))
    }

    fn services_changed(&self) -> bool {
        let Some(list) = self.table.find_list(SERVICES).and_then(|list| self.table.list(list))
        else {
            return false;
        };
        self.version(SERVICES).is_ok_and(|version| version != list.told)
    }

    /// Ends a watch.
    fn end(&mut self, watch: u32) {
        self.round.forget(watch, &self.table);
        self.timers.remove(watch);
        self.table.end(watch);
    }
}

/// Whole milliseconds of a span, rounded up.
fn ms_up(span: Span) -> u32 {
    span.nanos().div_ceil(NANOS_PER_MS).min(u64::from(u32::MAX)) as u32
}
