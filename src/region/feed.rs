//! The ring of membership events: in order, numbered, loss always visible.

use super::part::{Part, Shared};
use super::right::Right;
use crate::sync::{AtomicU64, IS_MEMORY, fence};
use crate::wire::time::Moment;
use crate::wire::{Generation, Slot};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use zerocopy::TryFromBytes;

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u8)]
pub enum EventKind {
    /// An instance was registered.
    Registered = 1,
    /// Up again after suspect.
    Up = 2,
    /// Silent for two thirds of its TTL.
    Suspect = 3,
    /// Its deadline passed, and a hold keeps it.
    Held = 4,
    /// Silent for its TTL, and no hold keeps it.
    Down = 5,
    /// Back from down.
    Revived = 6,
    /// Weight, version or attributes changed.
    Updated = 7,
    /// It says another thing of itself.
    Declared = 8,
    /// The lease ended.
    Gone = 9,
    /// A hold began. Not about an instance.
    HoldBegan = 10,
    /// The hold ended. Not about an instance.
    HoldEnded = 11,
    /// The engine was deaf. Not about an instance; at most one such event a second.
    Deaf = 12,
}

/// Why it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u8)]
pub enum Cause {
    /// Somebody asked for it.
    Request = 1,
    /// A beat that counted.
    Beat = 2,
    /// Silence, proved.
    Silence = 3,
    /// Silence of so many that the cause is likelier between them and us.
    MassSilence = 4,
    /// The evidence for the hold is gone, or its time is over.
    HoldOver = 5,
    /// The instance said it leaves.
    Leaving = 6,
    /// The tombstone period is over.
    Tombstone = 7,
    /// The identity was registered anew.
    Replaced = 8,
    /// The kernel dropped datagrams at our sockets.
    Drops = 9,
    /// A thread of ours stood still.
    Stall = 10,
    /// Its process died, as the kernel told.
    Died = 11,
}

/// One event. Which fields have a meaning depends on the kind; the others are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub at: Moment,
    /// What the event tells.
    pub kind: EventKind,
    /// Why it happened.
    pub cause: Cause,
    /// Id of the service, the hash of its name.
    pub service: u64,
    /// Revision of the service's list after the event.
    pub revision: u64,
    /// Slot of the instance.
    pub slot: Slot,
    /// Generation of the instance.
    pub generation: Generation,
    /// Held, hold began and ended: silent instances; deaf: datagrams dropped.
    pub silent: u32,
    /// Held, hold began and ended: live instances; deaf: milliseconds stood still.
    pub live: u32,
}

impl Event {
    /// Words that an event takes beside its number.
    pub const WORDS: usize = 6;

    /// From the words that [`Feed::raw`] gives; `None`: of a kind or with a cause that is none.
    pub fn from_raw(words: &[u64; 8]) -> Option<Self> {
        let [_, at, what, service, revision, member, shares, _] = *words;
        Some(Self {
            at: Moment::from_nanos(at),
            kind: EventKind::try_read_from_bytes(&[what as u8]).ok()?,
            cause: Cause::try_read_from_bytes(&[(what >> 8) as u8]).ok()?,
            service,
            revision,
            slot: Slot::new(member as u32),
            generation: Generation::new((member >> 32) as u32),
            silent: shares as u32,
            live: (shares >> 32) as u32,
        })
    }

    /// As it lies in memory: time; kind and cause; service; revision; generation and slot; live and
    /// silent.
    pub(super) fn words(&self) -> [u64; Self::WORDS] {
        [
            self.at.nanos(),
            u64::from(self.kind as u8) | u64::from(self.cause as u8) << 8,
            self.service,
            self.revision,
            u64::from(self.generation.get()) << 32 | u64::from(self.slot.get()),
            u64::from(self.live) << 32 | u64::from(self.silent),
        ]
    }
}

/// One event as it lies in memory: its number, then six words; the number is 0 while they are
/// written.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct EventLine {
    words: [AtomicU64; 8],
}

// SAFETY: atomics only.
unsafe impl Shared for EventLine {}

const _: () = assert!(!IS_MEMORY || size_of::<EventLine>() == 64);

/// The ring of the newest events.
#[derive(Debug)]
pub struct Feed {
    lines: Part<EventLine>,
    head: Part<AtomicU64>,
}

impl Feed {
    pub(super) fn new(lines: Part<EventLine>, head: Part<AtomicU64>) -> Self {
        assert!(lines.len().is_power_of_two());
        Self { lines, head }
    }

    /// How many events it keeps.
    pub fn capacity(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Number of the newest event; 0 before the first.
    pub fn head(&self) -> u64 {
        // Acquire: pairs with the release store of `push`.
        self.head[0].load(Acquire)
    }

    /// Appends an event.
    pub fn push(&self, right: &Right, event: &Event) {
        self.put(right, self.head[0].load(Relaxed) + 1, event.words());
    }

    /// Lets the numbers of an empty feed go on after this one.
    pub fn start_after(&self, _: &Right, number: u64) {
        self.head[0].store(number, Release);
    }

    /// Writes the event with this number, which is the newest.
    pub(super) fn put(&self, _: &Right, number: u64, event: [u64; Event::WORDS]) {
        let [first, words @ ..] = &self.line(number).words;
        first.store(0, Relaxed);
        // The fence keeps the words below the zero; pairs with the fence in `raw`.
        fence(Release);
        for (word, value) in words.iter().zip(event.into_iter().chain([0])) {
            word.store(value, Relaxed);
        }
        // Release: pairs with the acquire load in `raw`.
        first.store(number, Release);
        self.head[0].store(number, Release);
    }

    /// The eight words of an event: its number, time, kind and cause, service, revision, instance,
    /// shares, zero. `None` when it has been overwritten or has not happened yet.
    pub fn raw(&self, number: u64) -> Option<[u64; 8]> {
        let line = self.line(number);
        if number == 0 || line.words[0].load(Acquire) != number {
            return None;
        }
        let words = std::array::from_fn(|at| line.words[at].load(Relaxed));
        // The fence keeps the reads above the check; pairs with the fence in `push`.
        fence(Acquire);
        (line.words[0].load(Relaxed) == number).then_some(words)
    }

    fn line(&self, number: u64) -> &EventLine {
        &self.lines[number as usize & (self.lines.len() - 1)]
    }
}
