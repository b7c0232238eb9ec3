//! The hierarchical timing wheel (Varghese and Lauck, SOSP 1987, scheme 6): one timer a slot, one
//! tick a millisecond.
//!
//! Six levels of 256: a timer is on the level of the highest byte in which its tick differs from
//! now, and moves down when its time on that level has come. Arming and disarming are a few stores;
//! nothing runs while nothing is due.

use super::links::Links;
use crate::clock::{Moment, NANOS_PER_MS};
use crate::wire::Slot;

const LEVELS: usize = 6;
const FAN_OUT: usize = 256;
/// Lists of slots beside the wheel's own.
const LIMBO: usize = LEVELS * FAN_OUT;
const FREED: usize = LIMBO + 1;
const FREE: usize = LIMBO + 2;

/// What one step of the wheel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// This timer is due.
    Fire(Slot),
    /// A timer moved down a level.
    Moved,
    /// Nothing more is due; the next timer is due at this tick or later.
    Rest(Option<u64>),
}

/// Timers of all slots, and the two queues a slot can be in instead.
#[derive(Debug)]
pub(super) struct Wheel {
    links: Links,
    /// A bit for each list of each level that is not empty.
    occupied: [[u64; FAN_OUT / 64]; LEVELS],
    now: u64,
}

/// The tick that has begun at `time`.
pub(super) fn tick_at(time: Moment) -> u64 {
    time.nanos() / NANOS_PER_MS
}

/// When a tick begins.
pub(super) fn start_of(tick: u64) -> Moment {
    Moment::from_nanos(tick * NANOS_PER_MS)
}

/// The first tick that begins not before `time`.
pub(super) fn tick_from(time: Moment) -> u64 {
    time.nanos().div_ceil(NANOS_PER_MS)
}

impl Wheel {
    pub(super) fn new(slots: usize, now: Moment) -> Self {
        Self {
            links: Links::new(slots, FREE + 1),
            occupied: [[0; FAN_OUT / 64]; LEVELS],
            now: tick_at(now),
        }
    }

    /// Bytes that the timers take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.links.memory_bytes()
    }

    /// Sets the timer of a slot to a tick; one that has passed is due at once. The slot leaves
    /// whatever queue it is in.
    pub(super) fn arm(&mut self, slot: Slot, tick: u64) {
        self.disarm(slot);
        let tick = tick.max(self.now);
        let level = ((63 - ((tick ^ self.now) | 0xFF).leading_zeros()) / 8) as usize;
        debug_assert!(level < LEVELS);
        let at = (tick >> (8 * level)) as usize % FAN_OUT;
        self.occupied[level][at / 64] |= 1 << (at % 64);
        self.links.push(level * FAN_OUT + at, slot, tick);
    }

    /// Takes a slot off the wheel or out of the queue it is in.
    pub(super) fn disarm(&mut self, slot: Slot) {
        let Some(list) = self.links.remove(slot) else { return };
        if list < LIMBO && self.links.is_empty(list) {
            let (level, at) = (list / FAN_OUT, list % FAN_OUT);
            self.occupied[level][at / 64] &= !(1 << (at % 64));
        }
    }

    /// Takes one step towards `until`.
    #[inline]
    pub(super) fn advance(&mut self, until: u64) -> Advance {
        let earliest = self.earliest();
        let Some((level, at, tick)) = earliest.filter(|&(_, _, tick)| tick <= until) else {
            self.now = self.now.max(until);
            return Advance::Rest(earliest.map(|(_, _, tick)| tick));
        };
        self.now = tick;
        let (slot, key) =
            self.links.first(level * FAN_OUT + at).expect("an occupied list has a first slot");
        if level == 0 {
            self.disarm(slot);
            Advance::Fire(slot)
        } else {
            self.arm(slot, key);
            Advance::Moved
        }
    }

    /// The list to be looked at next and its tick; of two with the same tick the higher level,
    /// whose timers may belong to the lower.
    #[inline]
    fn earliest(&self) -> Option<(usize, usize, u64)> {
        let mut best: Option<(usize, usize, u64)> = None;
        for level in 0..LEVELS {
            let shift = 8 * level;
            let here = (self.now >> shift) as usize % FAN_OUT;
            let Some(at) = first_from(&self.occupied[level], here) else { continue };
            let tick = ((self.now >> shift) - here as u64 + at as u64) << shift;
            let tick = tick.max(self.now);
            if best.is_none_or(|(_, _, other)| tick <= other) {
                best = Some((level, at, tick));
            }
        }
        best
    }

    /// Puts a slot into limbo: its verdict waits for the drain of every loop after `key`.
    pub(super) fn enter_limbo(&mut self, slot: Slot, key: u64) {
        self.disarm(slot);
        self.links.push(LIMBO, slot, key);
    }

    /// The slot that is longest in limbo, and its key.
    pub(super) fn limbo(&self) -> Option<(Slot, u64)> {
        self.links.first(LIMBO)
    }

    /// Puts aside a slot whose lease has just ended.
    pub(super) fn set_freed(&mut self, slot: Slot) {
        self.disarm(slot);
        self.links.push(FREED, slot, 0);
    }

    /// Makes slots that were put aside free: they may be used again once every loop has drained
    /// after `key`. At most `budget` of them.
    #[inline]
    pub(super) fn stamp_freed(&mut self, key: u64, budget: usize) {
        for _ in 0..budget {
            let Some((slot, _)) = self.links.first(FREED) else { return };
            self.links.remove(slot);
            self.links.push(FREE, slot, key);
        }
    }

    /// The slot that is longest free, and its key.
    pub(super) fn free(&self) -> Option<(Slot, u64)> {
        self.links.first(FREE)
    }
}

fn first_from(words: &[u64; FAN_OUT / 64], from: usize) -> Option<usize> {
    let first = words[from / 64] & (!0 << (from % 64));
    if first != 0 {
        return Some(from / 64 * 64 + first.trailing_zeros() as usize);
    }
    (from / 64 + 1..words.len())
        .find(|&word| words[word] != 0)
        .map(|word| word * 64 + words[word].trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The tick at which the wheel next has something to do; not later than the earliest timer.
    fn next(wheel: &Wheel) -> Option<u64> {
        wheel.earliest().map(|(_, _, tick)| tick)
    }

    fn fire_all(wheel: &mut Wheel, until: u64) -> BTreeSet<Slot> {
        let mut fired = BTreeSet::new();
        loop {
            match wheel.advance(until) {
                Advance::Fire(slot) => assert!(fired.insert(slot)),
                Advance::Moved => {}
                Advance::Rest(_) => return fired,
            }
        }
    }

    proptest! {
        #![proptest_config(crate::registrar::kept_seeds())]

        /// A timer that fires early declares the living dead, one that fires late or never keeps
        /// the dead alive.
        #[test]
        fn fires_what_a_sorted_map_fires(
            start in 0_u64..1 << 40,
            steps in prop::collection::vec((0_u8..4, 0_u32..32, 0_u32..33, any::<u32>()), 1..200),
        ) {
            let mut wheel = Wheel::new(32, start_of(start));
            let mut model: std::collections::BTreeMap<Slot, u64> = Default::default();
            let mut now = start;
            for (action, slot, bits, noise) in steps {
                let slot = Slot::new(slot);
                let span = u64::from(noise) & ((1_u64 << bits) - 1);
                match action {
                    0 | 1 => {
                        wheel.arm(slot, now + span);
                        model.insert(slot, now + span);
                    }
                    2 => {
                        wheel.disarm(slot);
                        model.remove(&slot);
                    }
                    _ => {
                        if let Some(next) = next(&wheel) {
                            prop_assert!(model.values().min().is_some_and(|&due| next <= due));
                        } else {
                            prop_assert!(model.is_empty());
                        }
                        now += span;
                        let due = model.iter().filter(|&(_, &tick)| tick <= now);
                        let due: BTreeSet<Slot> = due.map(|(&slot, _)| slot).collect();
                        prop_assert_eq!(fire_all(&mut wheel, now), due.clone());
                        for slot in &due {
                            model.remove(slot);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sleeps_between_timers() {
        let mut wheel = Wheel::new(4, Moment::ZERO);
        wheel.arm(Slot::new(0), 86_400_000);
        let mut wakes = 0;
        while let Some(tick) = next(&wheel) {
            wakes += 1;
            if !fire_all(&mut wheel, tick).is_empty() {
                assert_eq!(tick, 86_400_000);
            }
        }
        assert!(wakes <= LEVELS, "one wake a level, not one a tick: {wakes}");
    }

    /// A timer of each TTL there can be, armed at times at which every level of the wheel is about
    /// to turn: it fires at its tick, and at no other.
    #[test]
    fn every_ttl_fires_at_its_tick() {
        // All of them take seconds optimised and minutes otherwise; then the short ones and a
        // prime's multiples must do.
        let stride = if cfg!(debug_assertions) { 1009 } else { 1 };
        let ttls = (1..5000).chain((5000..=u64::from(crate::limits::TTL_MS_MAX)).step_by(stride));
        let starts = [0, 255, 65_535, 16_777_215, (1 << 32) - 1, 1_000_003, 86_399_999];
        let mut wheel = Wheel::new(1, Moment::ZERO);
        for (start, ttl) in starts.into_iter().cycle().zip(ttls) {
            // Nothing is armed, so the wheel may stand anywhere.
            wheel.now = start;
            wheel.arm(Slot::new(0), start + ttl);
            let fired = loop {
                let next = next(&wheel).expect("the timer is armed");
                if wheel.advance(next) == Advance::Fire(Slot::new(0)) {
                    break next;
                }
            };
            assert_eq!(fired, start + ttl, "TTL {ttl} from {start}");
        }
    }

    /// Ten years of 64 leases, each armed again when it fires, against a sorted map.
    #[test]
    fn years_fire_what_a_sorted_map_fires() {
        const TEN_YEARS: u64 = 10 * 365 * 86_400_000;
        let (mut wheel, mut model) = (Wheel::new(64, Moment::ZERO), BTreeSet::new());
        // A full-period generator (Knuth, TAOCP 2, section 3.2.1.2), so that the test needs no
        // seed.
        let mut state = 1_u64;
        let mut ttl = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (1 + (state >> 33) % u64::from(crate::limits::TTL_MS_MAX)) >> (state >> 60)
        };
        for slot in (0..64).map(Slot::new) {
            let tick = ttl();
            wheel.arm(slot, tick);
            model.insert((tick, slot));
        }
        let mut fires = 0_u64;
        while let Some((tick, _)) = model.first().copied()
            && tick < TEN_YEARS
            && (fires < 300_000 || !cfg!(debug_assertions))
        {
            let due: BTreeSet<Slot> =
                model.iter().take_while(|(at, _)| *at == tick).map(|&(_, slot)| slot).collect();
            assert_eq!(fire_all(&mut wheel, tick), due, "at {tick}");
            for slot in due {
                model.remove(&(tick, slot));
                let next = tick + ttl().max(1);
                wheel.arm(slot, next);
                model.insert((next, slot));
                fires += 1;
            }
        }
    }
}
