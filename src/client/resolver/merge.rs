//! One list from those of several engines.
//!
//! An instance is the same at two engines if address and port agree. It is alive if any engine that
//! can be reached says so, and down only if all of them do. An engine that cannot be reached says
//! nothing. Of what the engines say of an instance, the word after its latest beat counts.

use super::follow::{Follow, WATCH_MS};
use heartline_wire::endpoint_flags::HELD;
use heartline_wire::time::{Nanos, from_ms};
use heartline_wire::{Endpoint, State};
use std::cmp::Ordering;

/// A list at one engine, and whether the engine answers.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The list.
    pub follow: &'a Follow,
    /// The engine, as its position in the list of engines.
    pub engine: u16,
    /// Whether the engine can be reached.
    pub is_reachable: bool,
}

/// A list that was not confirmed for so long says nothing: two times for which a watch stands.
const SILENCE: Nanos = from_ms(2 * WATCH_MS as u64);

impl Source<'_> {
    /// Whether its word counts.
    pub(super) fn speaks(&self, now: Nanos) -> bool {
        self.is_reachable && self.follow.is_known() && now < self.silent_at()
    }

    /// When its word counts no more unless the engine is heard before.
    pub(super) fn silent_at(&self) -> Nanos {
        self.follow.fresh_at().map_or(0, |at| at.saturating_add(SILENCE))
    }

    /// Whether its word counts, its changes and its gaps.
    pub(super) fn seen(&self, now: Nanos) -> (bool, u64, u64) {
        (self.speaks(now), self.follow.changes(), self.follow.gaps())
    }
}

/// An endpoint, the same at every engine. `nth` tells instances apart that share address and port,
/// such as those without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    address: [u8; 16],
    port: u16,
    nth: u16,
}

/// An instance as the engines know it together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// What makes it the same everywhere.
    pub(super) key: Key,
    /// Slot and generation are those at the engine that heard it last.
    pub(super) entry: Endpoint,
    /// That engine, as its position in the list of engines.
    pub(super) engine: u16,
}

impl Member {
    /// Whether the two are different registrations for sure. Slots and generations compare within
    /// one engine.
    pub(super) fn is_other_registration(&self, other: &Self) -> bool {
        let lease = |member: &Self| (member.entry.slot, member.entry.generation);
        self.engine == other.engine && lease(self) != lease(other)
    }
}

/// The list that the engines make together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    /// In the order of their keys.
    pub(super) members: Vec<Member>,
    /// The largest hold of any engine; 0: none.
    pub(super) hold_percent: u8,
}

/// What one engine says of one instance.
struct Word {
    member: Member,
    /// When its last beat came, by the clock of this process.
    beat_at: i128,
}

/// Whether an engine that can be reached says that a member left in order.
pub(super) fn has_left(now: Nanos, sources: &[Source<'_>], key: &Key) -> bool {
    let mut speaking = sources.iter().filter(|source| source.speaks(now));
    speaking.any(|source| source.follow.has_left(key.address, key.port))
}

/// The list of all engines that can be reached; `None` if none of them can.
pub(super) fn merge(now: Nanos, sources: &[Source<'_>]) -> Option<Merged> {
    let mut words = Vec::new();
    let (mut hold_percent, mut anybody) = (0, false);
    for source in sources.iter().filter(|source| source.speaks(now)) {
        anybody = true;
        hold_percent = source.follow.hold_percent().max(hold_percent);
        words.extend(words_of(source.follow, source.engine));
    }
    if !anybody {
        return None;
    }
    words.sort_by(|one, other| {
        one.member.key.cmp(&other.member.key).then_with(|| later_beat_first(one, other))
    });
    let of_one = words.chunk_by(|one, other| one.member.key == other.member.key);
    Some(Merged { members: of_one.map(one_word).collect(), hold_percent })
}

fn later_beat_first(one: &Word, other: &Word) -> Ordering {
    other.beat_at.cmp(&one.beat_at).then(one.member.engine.cmp(&other.member.engine))
}

fn words_of(follow: &Follow, engine: u16) -> Vec<Word> {
    let word = |(entry, at): (&Endpoint, Nanos)| {
        let key = Key { address: entry.address, port: entry.port.get(), nth: 0 };
        let age = from_ms(entry.age_ms.get().into());
        let beat_at = i128::from(at) - i128::from(age);
        Word { member: Member { key, entry: *entry, engine }, beat_at }
    };
    let mut words: Vec<Word> = follow.members_with_times().map(word).collect();
    // Stable: instances that share address and port stay in the order of their slots.
    words.sort_by_key(|word| word.member.key);
    for at in 1..words.len() {
        let before = words[at - 1].member.key;
        let key = &mut words[at].member.key;
        if (before.address, before.port) == (key.address, key.port) {
            key.nth = before.nth.saturating_add(1);
        }
    }
    words
}

/// One word from those of several engines on one instance, the one after the latest beat first.
fn one_word(words: &[Word]) -> Member {
    let mut member = words[0].member;
    let is_up = |word: &&Word| word.member.entry.state() == Some(State::Up);
    if member.entry.state() != Some(State::Up) && words.iter().any(|word| is_up(&word)) {
        member.entry.state = State::Up as u8;
    }
    // Not held if one engine need not hold it.
    if words.iter().any(|word| !word.member.entry.is_held()) {
        member.entry.flags &= !HELD;
    }
    member
}
