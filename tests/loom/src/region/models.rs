//! One writer, readers without locks.

use super::endpoint::EndpointLine;
use super::feed::{Cause, Event, EventKind, Feed};
use super::heart::{Applied, HeartLine};
use super::heart_state::HeartState;
use super::index::HashIndex;
use super::part::Part;
use super::right::Right;
use super::seqlock::Sequence;
use super::service_number::ServiceNumber;
use crate::sync::AtomicU64;
use heartline::internals::clock::{Moment, Span};
use heartline_wire::{Beat, Endpoint, Generation, Lease, Slot, Status};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use zerocopy::FromZeros;
use zerocopy::byteorder::little_endian::U32;

const RIGHT: Right = Right::new();
const TTL: Span = Span::from_nanos(100);

fn at(nanos: u64) -> Moment {
    Moment::from_nanos(nanos)
}

/// Readers of a sequence lock see whole writes, and nothing else.
pub fn seqlock() {
    let shared = Arc::new((Sequence::default(), [AtomicU64::new(0), AtomicU64::new(0)]));
    let writer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            for value in 1..=2 {
                shared
                    .0
                    .write(&RIGHT, || shared.1.iter().for_each(|word| word.store(value, Relaxed)));
            }
        })
    };
    if let Some((one, other)) =
        shared.0.read(|| (shared.1[0].load(Relaxed), shared.1[1].load(Relaxed)))
    {
        assert_eq!(one, other, "a torn read");
    }
    writer.join().unwrap();
    assert_eq!(shared.0.read(|| shared.1[1].load(Relaxed)), Some(2), "undisturbed");
}

/// The endpoint of a slot under the sequence of its service: a reader sees one whole entry, the old
/// or the new.
pub fn endpoint() {
    let shared = Arc::new((Sequence::default(), EndpointLine::default()));
    let entry = |number: u16| Endpoint {
        port: number.into(),
        version: heartline_wire::Version::new(number, 0, 0, 0),
        ..Endpoint::new_zeroed()
    };
    let writer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            shared.0.write(&RIGHT, || {
                shared.1.set_entry(&RIGHT, entry(7));
                shared.1.set_place(&RIGHT, ServiceNumber::new(7), 7);
            });
        })
    };
    if let Some((seen, place)) = shared.0.read(|| (shared.1.entry(), shared.1.position())) {
        let number = seen.port.get();
        assert!(
            seen.version == entry(number).version && place == u32::from(number),
            "a torn endpoint"
        );
    }
    writer.join().unwrap();
}

fn beat(generation: u32, secret: u64, sequence: u32) -> Beat {
    let lease =
        Lease { slot: U32::new(0), generation: U32::new(generation), secret: secret.into() };
    Beat { lease, sequence: U32::new(sequence), ..Beat::new_zeroed() }
}

/// A slot is given to another lease while a loop applies a beat of the old one. The loop says when
/// it is done, as in `engine`; the registrar waits for that.
pub fn heart_line_reuse() {
    let shared = Arc::new((HeartLine::default(), AtomicU64::new(0)));
    shared.0.lease_to(&RIGHT, at(10), TTL, 7, 1);
    let of_loop = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let applied = shared.0.apply(&beat(1, 7, 5), at(20));
            assert!(
                matches!(applied, Applied::Accepted | Applied::Refused(Status::Removed)),
                "{applied:?}"
            );
            // A drain time, as `Rendezvous::publish_drained` stores it.
            shared.1.store(30, Release);
        })
    };
    shared.0.set_state(&RIGHT, HeartState::Removed);
    if shared.1.load(Acquire) >= 30 {
        assert_eq!(shared.0.lease_to(&RIGHT, at(40), TTL, 9, 2), Generation::new(2));
        of_loop.join().unwrap();
        assert_eq!(
            (shared.0.last().at, shared.0.history()),
            (at(40), 0),
            "a beat of the old lease landed on the new one"
        );
    } else {
        of_loop.join().unwrap();
    }
}

/// While a line is given to a new lease, nobody but its holder is accepted: not the old lease, and
/// not a guess that has the new generation and the old secret.
pub fn heart_line_secret() {
    let line = Arc::new(HeartLine::default());
    line.lease_to(&RIGHT, at(10), TTL, 7, 1);
    line.set_state(&RIGHT, HeartState::Removed);
    let stranger = {
        let line = Arc::clone(&line);
        thread::spawn(move || {
            assert!(
                matches!(line.apply(&beat(2, 7, 1), at(20)), Applied::Refused(_)),
                "the new generation with the old secret"
            );
            assert!(
                matches!(line.apply(&beat(1, 7, 1), at(20)), Applied::Refused(_)),
                "the old lease"
            );
        })
    };
    line.lease_to(&RIGHT, at(40), TTL, 9, 2);
    stranger.join().unwrap();
    assert_eq!(line.last().at, at(40));
}

/// A beat that counts is for the lease as it was granted: TTL and sequence are those of its
/// generation.
pub fn heart_line_grant() {
    let line = Arc::new(HeartLine::default());
    let holder = {
        let line = Arc::clone(&line);
        thread::spawn(move || {
            if line.apply(&beat(1, 9, 1), at(50)) == Applied::Accepted {
                assert_eq!((line.ttl(), line.history()), (TTL, 1), "a beat before its lease");
            }
        })
    };
    line.lease_to(&RIGHT, at(40), TTL, 9, 2);
    holder.join().unwrap();
}

/// An index of four buckets, in which keys are their values and what a value stands for is in
/// `facts`.
struct Indexed {
    index: HashIndex<Slot>,
    facts: [AtomicU64; 4],
}

impl Indexed {
    fn new() -> Self {
        Self { index: HashIndex::new(Part::new(4), Part::new(1)), facts: Default::default() }
    }

    /// All hash to bucket 1, so that they are neighbours.
    fn insert(&self, value: u32) {
        self.facts[value as usize].store(u64::from(value) + 100, Relaxed);
        self.index.insert(&RIGHT, 1, Slot::new(value)).unwrap();
    }

    fn find(&self, key: u32) -> Option<u32> {
        let found = self.index.find(1, |slot| Some(slot.get() == key)).ok()?.map(Slot::get);
        if let Some(value) = found {
            assert_eq!(
                self.facts[value as usize].load(Relaxed),
                u64::from(value) + 100,
                "found before it was written"
            );
        }
        Some(found.map_or(u32::MAX, |value| value))
    }
}

/// A key is inserted while it is looked up: found with all that it stands for, or not at all; and a
/// key that is there is found.
pub fn index_insert() {
    let indexed = Arc::new(Indexed::new());
    indexed.insert(1);
    let reader = {
        let indexed = Arc::clone(&indexed);
        thread::spawn(move || {
            assert!(matches!(indexed.find(2), None | Some(2 | u32::MAX)));
            assert_eq!(indexed.find(1), Some(1), "a key that was there all the time");
        })
    };
    indexed.insert(2);
    reader.join().unwrap();
    assert_eq!(indexed.find(2), Some(2));
}

/// A neighbour is deleted, which moves a key: a reader finds it at the old or the new place, or
/// says that it was disturbed; never that the key is not there.
pub fn index_remove() {
    let indexed = Arc::new(Indexed::new());
    (1..=2).for_each(|value| indexed.insert(value));
    let reader = {
        let indexed = Arc::clone(&indexed);
        thread::spawn(move || {
            assert!(
                matches!(indexed.find(2), None | Some(2)),
                "a key that was there all the time was not found"
            )
        })
    };
    indexed.index.remove(&RIGHT, 1, Slot::new(1));
    reader.join().unwrap();
    assert_eq!((indexed.find(1), indexed.find(2)), (Some(u32::MAX), Some(2)));
}

/// A value takes another's place under the same key.
pub fn index_replace() {
    let indexed = Arc::new(Indexed::new());
    indexed.insert(1);
    let reader = {
        let indexed = Arc::clone(&indexed);
        thread::spawn(move || {
            let found = indexed
                .index
                .find(1, |slot| Some(slot.get() == 1 || slot.get() == 2))
                .unwrap()
                .expect("one of them is there");
            assert_eq!(
                indexed.facts[found.index()].load(Relaxed),
                u64::from(found.get()) + 100,
                "found before it was written"
            );
        })
    };
    indexed.facts[2].store(102, Relaxed);
    indexed.index.replace(&RIGHT, 1, Slot::new(1), Slot::new(2));
    reader.join().unwrap();
}

fn event(number: u64) -> Event {
    Event {
        at: at(number),
        kind: EventKind::Up,
        cause: Cause::Beat,
        service: number,
        revision: number,
        slot: Slot::new(number as u32),
        generation: Generation::new(number as u32),
        silent: 0,
        live: 0,
    }
}

/// The ring of events is overwritten while it is read: a reader sees whole events under their own
/// numbers, and none that is announced is missing unless it was overwritten.
pub fn feed() {
    let feed = Arc::new(Feed::new(Part::new(1), Part::new(1)));
    feed.push(&RIGHT, &event(1));
    let reader = {
        let feed = Arc::clone(&feed);
        thread::spawn(move || {
            let head = feed.head();
            match feed.raw(head) {
                Some(words) => {
                    assert_eq!(
                        (words[0], words[1], words[4], words[3]),
                        (head, head, head, head),
                        "a mixture of two events"
                    );
                    assert_eq!(words[5], head << 32 | head);
                }
                None => assert!(feed.head() >= head),
            }
        })
    };
    feed.push(&RIGHT, &event(2));
    reader.join().unwrap();
    assert!(feed.raw(1).is_none() && feed.raw(2).is_some());
}

/// What the head announces can be read, as long as the ring has room for it.
pub fn feed_announces() {
    let feed = Arc::new(Feed::new(Part::new(2), Part::new(1)));
    let reader = {
        let feed = Arc::clone(&feed);
        thread::spawn(move || {
            let head = feed.head();
            assert!(head == 0 || feed.raw(head).is_some(), "announced, and not there");
        })
    };
    feed.push(&RIGHT, &event(1));
    feed.push(&RIGHT, &event(2));
    reader.join().unwrap();
}
