//! When to look at which watch: a binary heap with one time for each, which knows their places.
//!
//! A time may be earlier than what is due: a look puts the later time in. So a watch that is put
//! off again and again costs nothing until it is looked at.

use crate::clock::Moment;

/// A watch without a time.
const NOWHERE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Timers {
    heap: Vec<(Moment, u32)>,
    /// Where each watch is in the heap.
    places: Box<[u32]>,
}

impl Timers {
    pub(super) fn new(watches: usize) -> Self {
        Self {
            heap: Vec::with_capacity(watches),
            places: vec![NOWHERE; watches].into_boxed_slice(),
        }
    }

    /// The watch to be looked at first, and when.
    pub(super) fn first(&self) -> Option<(Moment, u32)> {
        self.heap.first().copied()
    }

    /// Looks at a watch at this time, and not before.
    pub(super) fn set(&mut self, watch: u32, at: Moment) {
        let place = match self.places[watch as usize] {
            NOWHERE => {
                self.heap.push((at, watch));
                self.heap.len() - 1
            }
            place => {
                self.heap[place as usize].0 = at;
                place as usize
            }
        };
        self.settle(place);
    }

    /// Looks at a watch at this time at the latest.
    pub(super) fn no_later(&mut self, watch: u32, at: Moment) {
        match self.heap.get(self.places[watch as usize] as usize) {
            Some(&(planned, _)) if planned <= at => {}
            _ => self.set(watch, at),
        }
    }

    /// Does not look at a watch any more.
    pub(super) fn remove(&mut self, watch: u32) {
        let place = std::mem::replace(&mut self.places[watch as usize], NOWHERE);
        if place != NOWHERE {
            self.heap.swap_remove(place as usize);
            if (place as usize) < self.heap.len() {
                self.settle(place as usize);
            }
        }
    }

    /// Moves what is at a place to where it belongs.
    fn settle(&mut self, mut place: usize) {
        while place > 0 && self.heap[place].0 < self.heap[(place - 1) / 2].0 {
            place = self.swap(place, (place - 1) / 2);
        }
        loop {
            let first = 2 * place + 1;
            let Some(child) =
                (first..self.heap.len().min(first + 2)).min_by_key(|&at| self.heap[at].0)
            else {
                break;
            };
            if self.heap[child].0 >= self.heap[place].0 {
                break;
            }
            place = self.swap(place, child);
        }
        self.places[self.heap[place].1 as usize] = place as u32;
    }

    /// Lets two places change what is there; the one that is left is right.
    fn swap(&mut self, from: usize, to: usize) -> usize {
        self.heap.swap(from, to);
        self.places[self.heap[from].1 as usize] = from as u32;
        to
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.heap.capacity() * size_of::<(Moment, u32)>() + size_of_val(&*self.places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Compared with a map that is searched.
    #[test]
    fn the_earliest_comes_first_whatever_was_put_off() {
        let mut timers = Timers::new(64);
        let mut expected: BTreeMap<u32, u64> = BTreeMap::new();
        let mut state = 1_u64;
        for step in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (watch, at) = ((state >> 40) as u32 % 64, state >> 50);
            match (state >> 33) % 4 {
                0 => {
                    timers.set(watch, Moment::from_nanos(at));
                    expected.insert(watch, at);
                }
                1 => {
                    timers.no_later(watch, Moment::from_nanos(at));
                    let planned = expected.entry(watch).or_insert(at);
                    *planned = at.min(*planned);
                }
                2 => {
                    timers.remove(watch);
                    expected.remove(&watch);
                }
                _ => {}
            }
            let first = timers.first().map(|(at, watch)| (at.nanos(), watch));
            let least = expected.values().min().copied();
            assert_eq!(first.map(|(at, _)| at), least, "step {step}");
            assert!(first.is_none_or(|(at, watch)| expected[&watch] == at));
        }
    }
}
