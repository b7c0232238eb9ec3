//! What is to happen, in order, and what has happened, as one number.

use heartline::internals::clock::Nanos;
use std::collections::BTreeMap;

/// Things to happen, the earliest first; those of one time in the order in which they came.
#[derive(Debug)]
pub struct Timeline<T> {
    things: BTreeMap<(Nanos, u64), T>,
    order: u64,
}

impl<T> Default for Timeline<T> {
    fn default() -> Self {
        Self { things: BTreeMap::new(), order: 0 }
    }
}

impl<T> Timeline<T> {
    /// Adds a thing.
    pub fn push(&mut self, at: Nanos, thing: T) {
        self.order += 1;
        self.things.insert((at, self.order), thing);
    }

    /// Takes the next thing, with its time.
    pub fn pop(&mut self) -> Option<(Nanos, T)> {
        self.things.pop_first().map(|((at, _), thing)| (at, thing))
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Nanos> {
        self.things.first_key_value().map(|((at, _), _)| *at)
    }
}

/// FNV-1a over all that happened: two runs with one trace did the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Trace {
    /// Adds a word.
    pub fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }

    /// Adds bytes.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        bytes.chunks(8).for_each(|chunk| {
            self.add(chunk.iter().fold(1, |word, &byte| word << 8 | u64::from(byte)))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_is_first_and_of_one_time_the_first_that_came() {
        let mut timeline = Timeline::default();
        for (at, thing) in [(7, 'c'), (3, 'a'), (7, 'd'), (3, 'b')] {
            timeline.push(at, thing);
        }
        assert_eq!(timeline.next_at(), Some(3));
        let order: Vec<_> = std::iter::from_fn(|| timeline.pop()).collect();
        assert_eq!(order, [(3, 'a'), (3, 'b'), (7, 'c'), (7, 'd')]);
    }
}
