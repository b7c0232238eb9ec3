//! Membership: the one writer of who is there.
//!
//! A state machine without I/O: time, observations, randomness and commands come in as arguments;
//! replies and events go out. The same arguments give the same history. `requests.rs` does what
//! clients ask, `liveness.rs` decides who is silent, `members.rs` lets members come and go. Only
//! `tables` holds the right to change the region.

mod census;
mod deafness;
mod deny;
mod hold;
mod links;
mod liveness;
mod members;
mod requests;
mod resume;
mod tables;
mod wheel;

pub use census::Counts;
pub use deny::DenyList;

use crate::clock::{Moment, NANOS_PER_MS, NANOS_PER_SECOND, Nanos, Span};
use crate::exchange::{Command, Replies};
use crate::limits::{CAPACITY_MAX, STALL_NS_MIN, TIMERS_PER_STEP};
use crate::region::{Cause, EventKind, Region, Right};
use crate::wire::{Generation, Slot};
use ahash::AHashMap;
use census::Census;
use deafness::{Deafness, Watch};
use hold::HoldGuard;
use requests::Registration;
use std::sync::Arc;
use tables::{Happening, Tables};
use wheel::{Advance, Wheel};

/// One tick of the timing wheel.
const TICK: Span = Span::from_nanos(NANOS_PER_MS);
/// Shortest time between two events of deafness.
const DEAF_PAUSE: Span = Span::from_nanos(NANOS_PER_SECOND);

/// What the registrar is told at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Leases that one source address may hold.
    pub quota: u32,
    /// Whether mass silence is held.
    pub hold: bool,
    /// Shortest tombstone period.
    pub tombstone_min: Nanos,
    /// Services that may not be registered.
    pub deny: DenyList,
    /// Number of this run of the engine.
    pub epoch: u64,
}

/// What the engine knows of its own hearing at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// When the observation was made.
    pub now: Nanos,
    /// Every loop has applied whatever had arrived at its sockets before this time.
    pub drained: Nanos,
    /// Datagrams that the kernel has dropped at the engine's sockets so far, read after `drained`.
    pub drops: u64,
    /// Longest time that a loop stood still since the last observation.
    pub stall: Nanos,
}

/// What the registrar wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Call [`Registrar::tick`] at this time at the latest; `None`: when there is a command.
    pub wake_at: Option<Nanos>,
    /// Verdicts wait until every loop has drained after this time.
    pub drain: Option<Nanos>,
}

/// The state machine that decides about membership.
#[derive(Debug)]
pub struct Registrar {
    tables: Tables,
    wheel: Wheel,
    settings: Settings,
    quotas: AHashMap<[u8; 16], u32>,
    /// Slots from here on were never used.
    fresh: u32,
    /// Identities in the index: members in any state.
    identities: u32,
    census: Census,
    hold: HoldGuard,
    deafness: Deafness,
    observed: Observed,
    watch: Watch,
    /// A request waits for a slot to leave its quarantine.
    slot_wanted: bool,
    deaf_told: Moment,
    /// Slots of leases whose process is dead, in limbo until every loop has drained since.
    deaths: AHashMap<Slot, Generation>,
}

impl Registrar {
    /// A registrar over an empty region.
    pub fn new(region: Arc<Region>, right: Right, settings: Settings, now: Nanos) -> Self {
        Self::over(Tables::new(region, right), settings, Moment::from_nanos(now))
    }

    fn over(tables: Tables, settings: Settings, now: Moment) -> Self {
        const { assert!(CAPACITY_MAX < u32::MAX / 2) };
        Self {
            wheel: Wheel::new(tables.region.geometry().slots as usize, now),
            tables,
            hold: HoldGuard::new(settings.hold),
            settings,
            quotas: AHashMap::new(),
            fresh: 0,
            identities: 0,
            census: Census::default(),
            deafness: Deafness::new(),
            observed: Observed { now: now.nanos(), drained: 0, drops: 0, stall: 0 },
            watch: Watch::new(),
            slot_wanted: false,
            deaf_told: Moment::ZERO,
            deaths: AHashMap::new(),
        }
    }

    /// Gives the region and the right to change it to a successor.
    pub fn release(self) -> (Arc<Region>, Right) {
        self.tables.release()
    }

    /// Other settings for requests to come. Leases that stand are not touched.
    pub fn reconfigure(&mut self, quota: u32, deny: DenyList) {
        self.settings.quota = quota;
        self.settings.deny = deny;
    }

    /// How many members are in which state.
    pub fn counts(&self) -> &Counts {
        self.census.counts()
    }

    /// Whether a verdict waits for the loops to drain, so that the next observation must have fresh
    /// drop counts.
    pub fn is_judging(&self) -> bool {
        self.wheel.limbo().is_some()
    }

    /// Number of the newest event; 0 before the first.
    pub fn newest_event(&self) -> u64 {
        self.tables.region.feed().head()
    }

    /// Bytes that the registrar's private tables take.
    pub fn memory_bytes(&self) -> usize {
        self.wheel.memory_bytes() + self.tables.memory_bytes()
    }

    /// Does what a client or a loop asks.
    pub fn handle(
        &mut self,
        now: Nanos,
        command: &Command,
        random: &mut dyn FnMut() -> u64,
        replies: &mut Replies,
    ) {
        let now = Moment::from_nanos(now);
        match command {
            Command::Register { from, request, attributes } => {
                let wanted = Registration::new(now, from, request, attributes.as_slice());
                self.register(&wanted, random, replies)
            }
            Command::Update { from, request, attributes } => {
                self.update(now, from, request, attributes.as_slice(), replies)
            }
            Command::Deregister { from, lease } => self.deregister(now, from, lease, replies),
            Command::Look { slot, generation, leaving } => {
                self.look(now, *slot, *generation, *leaving)
            }
            Command::Died { slot, generation } => self.died(now, *slot, *generation),
        }
    }

    /// Takes an observation, decides what is due, and says what it wants next. Bounded: a large
    /// backlog is left for the next call.
    pub fn tick(&mut self, observed: &Observed) -> Next {
        let now = Moment::from_nanos(observed.now);
        self.listen(observed);
        // `now` was read after their leases ended; a loop that has drained later than that is past
        // them.
        self.wheel.stamp_freed(limbo_key(now) + 1, TIMERS_PER_STEP);
        let until = wheel::tick_at(now);
        let mut budget = TIMERS_PER_STEP;
        // Limbo first: those were due earlier.
        while budget > 0
            && let Some((slot, key)) = self.wheel.limbo()
            && key <= limbo_floor(self.drained())
        {
            budget -= 1;
            self.wheel.disarm(slot);
            self.judge(now, slot, true);
        }
        let mut timer = None;
        while budget > 0 {
            match self.wheel.advance(until) {
                Advance::Fire(slot) => self.judge(now, slot, false),
                Advance::Moved => {}
                Advance::Rest(next) => {
                    timer = next;
                    break;
                }
            }
            budget -= 1;
        }
        self.plan(now, timer, budget == 0)
    }

    /// Every loop has applied what had arrived before this moment.
    fn drained(&self) -> Moment {
        Moment::from_nanos(self.observed.drained)
    }

    /// Notes our own deafness.
    fn listen(&mut self, observed: &Observed) {
        let now = Moment::from_nanos(observed.now);
        let stall = self.watch.stall(now).max(Span::from_nanos(observed.stall));
        if stall >= Span::from_nanos(STALL_NS_MIN) {
            self.deafness.stalled(now, stall);
            self.tell_deafness(now, Cause::Stall, 0, stall);
        }
        if observed.drops > self.observed.drops {
            self.deafness.dropped(now);
            self.tell_deafness(now, Cause::Drops, observed.drops - self.observed.drops, Span::ZERO);
        }
        self.observed = *observed;
    }

    fn tell_deafness(&mut self, now: Moment, cause: Cause, drops: u64, stall: Span) {
        self.census.note_deafness();
        if self.deaf_told == Moment::ZERO || now >= self.deaf_told + DEAF_PAUSE {
            self.deaf_told = now;
            let happening = Happening {
                silent: drops.min(u64::from(u32::MAX)) as u32,
                live: stall.ms() as u32,
                ..Happening::new(EventKind::Deaf, cause)
            };
            self.tables.announce(now, happening);
        }
    }

    /// Says what is wanted next. `timer` is the tick of the next timer; with a backlog it does not
    /// matter.
    fn plan(&mut self, now: Moment, timer: Option<u64>, backlog: bool) -> Next {
        let limbo = self.wheel.limbo().map(|(_, key)| limbo_time(key));
        // A drain that has come already is nothing to wait for.
        let free = self
            .wheel
            .free()
            .map(|(_, key)| limbo_time(key))
            .filter(|&time| self.slot_wanted && time > self.drained());
        let drain = limbo.into_iter().chain(free).max();
        let is_any_suspect = self.census.counts().suspect > 0;
        let timer = timer.map(wheel::start_of);
        let timer =
            timer.map(|timer| if is_any_suspect { Watch::before(now, timer) } else { timer });
        let wake_at = if backlog {
            Some(now)
        } else if drain.is_some() {
            // The loops wake the registrar when they have drained; a tick later it looks by itself.
            let soon = now + TICK;
            Some(timer.map_or(soon, |timer| timer.min(soon)))
        } else {
            timer
        };
        self.watch.plan(now, wake_at, is_any_suspect);
        Next { wake_at: wake_at.map(Moment::nanos), drain: drain.map(Moment::nanos) }
    }
}

/// Limbo and quarantine are ordered by microseconds, rounded up.
fn limbo_key(time: Moment) -> u64 {
    time.nanos().div_ceil(1000)
}

/// The largest key that a drain time satisfies.
fn limbo_floor(drained: Moment) -> u64 {
    drained.nanos() / 1000
}

/// The drain time that satisfies a key.
fn limbo_time(key: u64) -> Moment {
    Moment::from_nanos(key * 1000)
}

/// Seeds that failed a property once are kept under `tests/regressions` and tried first.
#[cfg(test)]
fn kept_seeds() -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, FileFailurePersistence};
    let kept = FileFailurePersistence::SourceParallel("tests/regressions");
    Config { failure_persistence: Some(Box::new(kept)), ..Config::default() }
}
