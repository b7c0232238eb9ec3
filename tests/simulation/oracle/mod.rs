//! The oracle: what may be true, from `docs/PROTOCOL.md` alone and with maps of the standard
//! library alone.
//!
//! It stands at the borders of the engine: it sees every datagram that reaches a receive queue,
//! every batch that a loop applies, every command and every look of the registrar, the replies and
//! the events that come of them; and it refuses what the protocol does not allow.

mod beats;
mod discovery;
mod hearing;
mod life;
mod queries;
mod requests;

pub(crate) use life::{Doing, Look};
pub(crate) use requests::{ATTRIBUTES_MAX, DENIED, From};

pub(crate) use heartline_test_support::must;
pub(crate) use heartline_test_support::seeds::{Verdict, Violation};

use crate::plan::Plan;
use heartline::internals::clock::Nanos;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the oracle has come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    Event,
    Answer,
    /// A loop dozed.
    Doze,
    /// The engine stopped in order: 0 by itself, 1 for a successor.
    Stop,
}

/// The invariants, by name.
pub(crate) const INVARIANTS: [(&str, &str); 16] = [
    (
        "never-early",
        "no instance is declared suspect or down before its time, counted from the last beat that arrived",
    ),
    (
        "never-late",
        "every silent instance is declared down within a tick of its deadline, of observed time; grace and hold are bounded",
    ),
    (
        "hold",
        "instances are held if and only if there is evidence, and let go when the protocol says",
    ),
    ("old-leases", "a lease that has ended changes nothing, and is told why"),
    ("beats", "every beat is judged as the protocol's table says, and the answer tells it"),
    ("transitions", "every event is a step of the state diagram, with its cause"),
    (
        "versions",
        "every step of a service is one event with the next version; event numbers have no gap",
    ),
    (
        "tables",
        "index, records, directory, lists, endpoints, heart lines and counters agree with one another and with the oracle",
    ),
    (
        "answers",
        "every query is answered with what stands: whole entries, the right ones, the right status",
    ),
    ("requests", "every request is done or refused as the protocol's order of checks says"),
    (
        "no-amplification",
        "no reply is longer than its request unless the source address is proved; frames that are no requests get none",
    ),
    (
        "restart",
        "an engine that goes on where another one died has lost nothing that was acknowledged, and no word of a beat",
    ),
    (
        "hearing",
        "nothing that came before a drain waits; the registrar knows of each stall of a loop, and before a verdict of each drop before the drain",
    ),
    ("heard", "no datagram and no command waits while nothing keeps its thread from taking it"),
    (
        "stop",
        "an engine that stops in order has handled what came before, or leaves it to its successor",
    ),
    ("recovery", "once faults end, every instance that lives is up and found, and nobody else is"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Up = 1,
    Suspect = 2,
    Down = 3,
}

/// A lease that stands, and its instance.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) secret: u64,
    pub(crate) nonce: u64,
    pub(crate) replaced_nonce: u64,
    pub(crate) service: Vec<u8>,
    pub(crate) instance: Vec<u8>,
    pub(crate) source: [u8; 16],
    pub(crate) ttl: Nanos,
    pub(crate) address: [u8; 16],
    pub(crate) port: u16,
    pub(crate) weight: u16,
    pub(crate) version: u64,
    pub(crate) zone: Vec<u8>,
    pub(crate) attributes: Vec<u8>,
    pub(crate) last: Nanos,
    pub(crate) sequence: u32,
    pub(crate) load: u16,
    pub(crate) history: u64,
    /// What the last beat that counted said of its instance; `None`: the queue was full, so the
    /// engine may have forgotten it.
    pub(crate) said: Option<u8>,
    /// What the engine says of it.
    pub(crate) declared: u8,
    pub(crate) state: State,
    pub(crate) held_at: Option<Nanos>,
    pub(crate) down_at: Nanos,
    /// When the engine was told that its process is dead, until it is down for that.
    dying: Option<Nanos>,
    /// The time at which it is due, the time of the look at which it was seen to be, and whether
    /// the loops have drained since.
    due: Option<(Nanos, Nanos, bool)>,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Replaced = 11,
    Removed = 12,
}

/// A datagram that waits in a receive queue.
#[derive(Clone, Debug)]
struct Waiting {
    arrived: Nanos,
    /// Slot, generation, secret and sequence of its beats.
    beats: Vec<(u32, u32, u64, u32)>,
}

/// A time in which the engine could not hear.
#[derive(Clone, Copy, Debug)]
struct Spell {
    end: Nanos,
    /// `None`: datagrams were dropped.
    length: Option<Nanos>,
}

/// Which lease stands in a slot.
type Key = (u32, u32);

#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) plan: Plan,
    pub(crate) epoch: u64,
    pub(crate) leases: BTreeMap<Key, Lease>,
    ended: BTreeMap<Key, (u64, Ended)>,
    /// The generation of each slot that was ever used.
    slots: BTreeMap<u32, u32>,
    /// Version of each service since it was created last.
    pub(crate) services: BTreeMap<Vec<u8>, u64>,
    cookies: BTreeMap<([u8; 16], u64), Nanos>,
    waiting: BTreeMap<u64, Waiting>,
    spells: Vec<Spell>,
    /// All stalls and their time together.
    stalls: u64,
    stood_still: Nanos,
    hold: Option<(Nanos, u32, u32)>,
    hold_ended: Nanos,
    events: u64,
    /// Version of the services that was told last, and the services that it stood for; whether one
    /// came or went since.
    directory: Option<(u64, BTreeSet<Vec<u8>>)>,
    directory_changed: bool,
    /// Listings under way: question to cursor, version and the slots so far.
    pages: BTreeMap<Vec<u8>, (u32, u64, BTreeSet<u32>)>,
    naks: VecDeque<Nanos>,
    /// The look that is planned, and how much of a stall before it can be missed.
    expected_look: Nanos,
    unseen: Nanos,
    drops: u64,
    granted: u64,
    /// Registered, ended, declared down, revived, and holds begun since the engine started.
    pub(crate) totals: (u64, u64, u64, u64, u64),
    /// Events with their causes, answers with their statuses.
    pub(crate) seen: BTreeSet<(Seen, u64)>,
    /// When the engine was last known not to be prompt: paused, stalled, slow or flooded.
    pub(crate) disturbed: Nanos,
}

/// Serial number arithmetic, section 5.3.
fn is_newer(sequence: u32, than: u32) -> bool {
    (1..=0x7FFF_FFFF).contains(&sequence.wrapping_sub(than))
}

impl Oracle {
    /// Of an engine that has just started.
    pub(crate) fn new(plan: &Plan, epoch: u64) -> Self {
        Self {
            plan: plan.clone(),
            epoch,
            leases: BTreeMap::new(),
            ended: BTreeMap::new(),
            slots: BTreeMap::new(),
            services: BTreeMap::new(),
            cookies: BTreeMap::new(),
            waiting: BTreeMap::new(),
            spells: Vec::new(),
            stalls: 0,
            stood_still: 0,
            hold: None,
            hold_ended: 0,
            events: 0,
            directory: None,
            directory_changed: false,
            pages: BTreeMap::new(),
            naks: VecDeque::new(),
            expected_look: Nanos::MAX,
            unseen: 0,
            drops: 0,
            granted: 0,
            totals: Default::default(),
            seen: BTreeSet::new(),
            disturbed: 0,
        }
    }

    /// Which standing lease this is, or the status that refuses it. Section 5.3.
    fn standing(&self, slot: u32, generation: u32, secret: u64) -> Result<Key, u8> {
        let Some(&current) = self.slots.get(&slot) else { return Err(10) };
        if generation == 0 || generation > current {
            return Err(10);
        }
        if generation < current {
            return Err(12);
        }
        let key = (slot, generation);
        match (self.leases.get(&key), self.ended.get(&key)) {
            (Some(lease), _) if lease.secret == secret => Ok(key),
            (None, Some((own, how))) if *own == secret => Err(*how as u8),
            _ => Err(10),
        }
    }

    pub(super) fn note_answer(&mut self, reply: &[u8]) {
        self.seen.insert((Seen::Answer, u64::from(reply[3] & 0x7F) | u64::from(reply[7]) << 8));
    }

    /// The members of a service.
    fn members<'a>(&'a self, service: &'a [u8]) -> impl Iterator<Item = &'a Lease> {
        self.leases.values().filter(move |lease| lease.service == service)
    }

    fn identity(&self, service: &[u8], instance: &[u8]) -> Option<&Lease> {
        self.leases.values().find(|lease| lease.service == service && lease.instance == instance)
    }

    /// Instances that are silent and that live, of those that serve. Section 7.
    fn shares(&self) -> (u32, u32) {
        let serving = || self.leases.values().filter(|lease| lease.declared == 0);
        let silent = serving().filter(|lease| lease.state == State::Suspect).count() as u32;
        let live = serving().filter(|lease| lease.state != State::Down).count() as u32;
        (silent, live)
    }

    fn is_evidence(&self) -> bool {
        let (silent, live) = self.shares();
        self.plan.hold && silent >= 8 && 2 * silent >= live
    }

    /// Whether a cookie proves an address: certainly, certainly not, or perhaps. Section 4.
    fn proof(&self, source: &[u8; 16], cookie: u64, now: Nanos) -> Option<bool> {
        let Some(&given) = self.cookies.get(&(*source, cookie)) else { return Some(false) };
        // Loops are not in step: one may handle what it received before another gave the cookie.
        match now.saturating_sub(given) {
            0..60_000_000_000 => Some(true),
            60_000_000_000..=120_000_000_000 => None,
            _ => Some(false),
        }
    }

    /// The longest reply that a request may have, least and most. Section 4.
    fn budget(&self, source: &[u8; 16], cookie: u64, length: usize, now: Nanos) -> (usize, usize) {
        match self.proof(source, cookie, now) {
            Some(true) => (1232, 1232),
            Some(false) => (length, length),
            None => (length, 1232),
        }
    }
}
