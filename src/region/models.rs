//! Index and feed against plain maps.

use super::feed::{Cause, Event, EventKind, Feed};
use super::index::HashIndex;
use super::mapping::{Mapping, Place, Source};
use super::right::Right;
use crate::wire::time::Moment;
use crate::wire::{Generation, Slot};
use proptest::prelude::*;
use std::collections::BTreeMap;

const BUCKETS: usize = 32;

/// Seeds that failed a property once are kept under `tests/regressions` and tried first.
pub(super) fn kept_seeds() -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, FileFailurePersistence};
    let kept = FileFailurePersistence::SourceParallel("../tests/regressions/region");
    Config { failure_persistence: Some(Box::new(kept)), ..Config::default() }
}

proptest! {
    #![proptest_config(kept_seeds())]

    /// A deletion that cuts a probe chain loses a neighbour; a wrong shift finds a key twice or
    /// under another's hash.
    #[test]
    fn finds_what_a_map_finds(
        steps in prop::collection::vec((0_u8..4, 0_u32..40, 0_u32..40), 1..400),
        homes in 1_u64..40,
    ) {
        let mapping = Mapping::create(&Place::Scratch, "index", 4096, &false.into()).unwrap();
        let (buckets, moves) = (mapping.part(0, BUCKETS), mapping.part(BUCKETS * 8, 1));
        let index: HashIndex<Slot> = HashIndex::new(buckets, moves);
        let right = Right::new();
        // Key to value; few homes make long chains, and whole hashes that are equal.
        let mut model: BTreeMap<u32, u32> = BTreeMap::new();
        let hash = |key: u32| u64::from(key) % homes * 0x1_0000_0001;
        for (action, key, value) in steps {
            let is_free = !model.contains_key(&key) && !model.values().any(|&other| other == value);
            match action {
                0 | 1 if is_free => {
                    let room = model.len() < BUCKETS - 1;
                    let inserted = index.insert(&right, hash(key), Slot::new(value)).is_ok();
                    prop_assert!(inserted || !room || model.len() >= BUCKETS / 2);
                    if inserted {
                        model.insert(key, value);
                    }
                }
                2 => {
                    if let Some(gone) = model.remove(&key) {
                        index.remove(&right, hash(key), Slot::new(gone));
                    }
                }
                3 if !model.values().any(|&other| other == value) => {
                    if let Some(old) = model.get_mut(&key) {
                        index.replace(&right, hash(key), Slot::new(*old), Slot::new(value));
                        *old = value;
                    }
                }
                _ => {}
            }
            for key in 0..40 {
                let expected = model.get(&key).copied().map(Slot::new);
                let found = index.find(hash(key), |value| Some(expected == Some(value)));
                prop_assert_eq!(found, Ok(expected));
            }
        }
    }
}

const LINES: usize = 8;

proptest! {
    #![proptest_config(kept_seeds())]

    /// An event that is read under another's number, or silently missing, makes a watcher believe
    /// in a history that never was.
    #[test]
    fn keeps_the_newest_events_under_their_numbers(
        slots in prop::collection::vec(any::<(u32, u32, u64)>(), 0..60),
    ) {
        let mapping = Mapping::create(&Place::Scratch, "feed", 4096, &false.into()).unwrap();
        let feed = Feed::new(mapping.part(0, LINES), mapping.part(2048, 1));
        let mut model = BTreeMap::new();
        for (number, (slot, generation, at)) in slots.into_iter().enumerate() {
            let number = number as u64 + 1;
            let event = Event {
                at: Moment::from_nanos(at),
                kind: EventKind::Held,
                cause: Cause::MassSilence,
                service: at ^ 7,
                revision: number * 3,
                slot: Slot::new(slot),
                generation: Generation::new(generation),
                silent: generation ^ 1,
                live: slot ^ 1,
            };
            feed.push(&Right::new(), &event);
            let words = [
                number,
                at,
                4 << 8 | 4,
                at ^ 7,
                number * 3,
                u64::from(generation) << 32 | u64::from(slot),
                u64::from(slot ^ 1) << 32 | u64::from(generation ^ 1),
                0,
            ];
            model.insert(number, words);
            if model.len() > LINES {
                model.pop_first();
            }
            prop_assert_eq!(feed.head(), number);
            for asked in 0..number + 3 {
                prop_assert_eq!(feed.raw(asked), model.get(&asked).copied());
            }
        }
    }
}
