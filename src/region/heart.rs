//! The heart line: all that a beat touches, on one cache line.
//!
//! Who writes what: loops write `last_beat`, `history` and `beat`; the registrar writes the rest,
//! and all of it while the line belongs to no lease. It sets `last_beat` back when a process died.
//! A slot is given to a new lease only after
//! every loop has finished the receive it was in when the old lease ended, so a beat never lands on
//! the lease after its own.
//!
//! Two loops that apply beats of one lease at the same instant (two sockets of one client) may
//! leave the older of the two times and sequence numbers, off by the time one of them stood still
//! between its clock and its store; a loop that stands still for long says so, and that counts as
//! deafness.

use super::heart_state::HeartState;
use super::part::Shared;
use super::restored_line::RestoredLine;
use super::right::Right;
use crate::limits::{TTL_MS_MAX, TTL_MS_MIN};
use crate::sync::{AtomicU64, IS_MEMORY};
use crate::wire::time::{Moment, Span};
use crate::wire::{Beat, Declared, Generation, Lease, Slot, Status};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use zerocopy::byteorder::little_endian::U64;

/// 64 bytes, 64-aligned.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct HeartLine {
    /// When the last beat that counted was received.
    last_beat: AtomicU64,
    /// Bit 0 is the newest beat; 1: it came within half a TTL after the one before.
    history: AtomicU64,
    /// Sequence in the low half, then load, then declared state: see [`BeatWord`].
    beat: AtomicU64,
    /// Generation in the high half, [`HeartState`] in the low half.
    head: AtomicU64,
    secret: AtomicU64,
    nonce: AtomicU64,
    /// TTL in nanoseconds.
    ttl: AtomicU64,
    /// Suspect: when the hold ends at the latest, 0 when it is not held. Down: when the tombstone
    /// ends. In other states it means nothing.
    until: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl Shared for HeartLine {}

const _: () = if IS_MEMORY {
    use std::mem::offset_of;
    assert!(size_of::<HeartLine>() == 64 && align_of::<HeartLine>() == 64);
    assert!(offset_of!(HeartLine, last_beat) == 0);
    assert!(offset_of!(HeartLine, history) == 8);
    assert!(offset_of!(HeartLine, beat) == 16);
    assert!(offset_of!(HeartLine, head) == 24);
    assert!(offset_of!(HeartLine, secret) == 32);
    assert!(offset_of!(HeartLine, nonce) == 40);
    assert!(offset_of!(HeartLine, ttl) == 48);
    assert!(offset_of!(HeartLine, until) == 56);
};

/// What the loops keep of the last beat in one word, as the wire has it: the last of
/// [`Beat::words`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BeatWord(u64);

impl BeatWord {
    const fn new(sequence: u32, load: u16, declared: u64) -> Self {
        Self(sequence as u64 | (load as u64) << 32 | declared << 48)
    }

    const fn sequence(self) -> u32 {
        self.0 as u32
    }

    const fn load(self) -> u16 {
        (self.0 >> 32) as u16
    }

    const fn declared(self) -> u64 {
        self.0 >> 48 & 3
    }
}

/// The last beat as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastBeat {
    /// When it was received.
    pub at: Moment,
    /// How busy the instance said it is.
    pub load: u16,
    /// What it said of its instance.
    pub declared: Declared,
}

/// What became of a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It counted, and nothing but the last beat changed.
    Accepted,
    /// It counted, and the registrar must look at the slot: the instance was not up, or declares
    /// another state than before.
    Attention,
    /// Its sequence number was old or repeated; nothing changed.
    Old,
    /// It is for no lease of ours.
    Refused(Status),
}

impl HeartLine {
    /// Applies a beat that was received at `now`.
    #[inline]
    pub fn apply(&self, beat: &Beat, now: Moment) -> Applied {
        let [lease, secret, new] = beat.words();
        // Acquire: pairs with the release store of `lease_to`, so that the secret belongs to this
        // generation.
        let head = self.head.load(Acquire);
        if head != (lease & !u64::from(u32::MAX) | HeartState::Up as u64)
            || self.secret.load(Relaxed) != secret
        {
            return self.apply_rare(beat, now, head);
        }
        let (old, new) = (BeatWord(self.beat.load(Relaxed)), BeatWord(new));
        if !is_newer(new.sequence(), old.sequence()) {
            return Applied::Old;
        }
        self.store(new, now);
        if new.declared() == old.declared() { Applied::Accepted } else { Applied::Attention }
    }

    #[cold]
    #[inline(never)]
    fn apply_rare(&self, beat: &Beat, now: Moment, head: u64) -> Applied {
        if let Err(status) = self.check(&beat.lease, head) {
            return Applied::Refused(status);
        }
        if !is_newer(beat.sequence.get(), BeatWord(self.beat.load(Relaxed)).sequence()) {
            return Applied::Old;
        }
        self.store(BeatWord(beat.words()[2]), now);
        Applied::Attention
    }

    /// Relaxed stores: who draws a conclusion from silence first acquires the drain time that this
    /// loop releases after them.
    #[inline]
    fn store(&self, beat: BeatWord, now: Moment) {
        let before = Moment::from_nanos(self.last_beat.load(Relaxed));
        // A loop that was held up applies what it received before another loop did: the time never
        // goes back.
        let at = now.max(before);
        let on_time = u64::from(at - before <= self.ttl() / 2);
        self.history.store(self.history.load(Relaxed) << 1 | on_time, Relaxed);
        self.beat.store(beat.0, Relaxed);
        self.last_beat.store(at.nanos(), Relaxed);
    }

    /// Takes back the declared state of a beat whose [`Applied::Attention`] could not be passed on,
    /// so that the next beat asks again.
    #[cold]
    pub fn forget_declared(&self, registered: Declared) {
        self.change_beat(|word| BeatWord::new(word.sequence(), word.load(), registered as u64));
    }

    /// Sets the load outside a beat. Called by loops only.
    #[inline]
    pub fn set_load(&self, load: u16) {
        self.change_beat(|word| BeatWord::new(word.sequence(), load, word.declared()));
    }

    /// Sets what the instance of a new lease says of itself, before anybody knows the lease.
    pub fn set_declared(&self, _: &Right, declared: Declared) {
        self.change_beat(|word| BeatWord::new(word.sequence(), word.load(), declared as u64));
    }

    /// Changes a part of the beat word that another loop may be storing a beat to: its sequence
    /// must not go back.
    fn change_beat(&self, change: impl Fn(BeatWord) -> BeatWord) {
        let mut seen = self.beat.load(Relaxed);
        while let Err(other) =
            self.beat.compare_exchange_weak(seen, change(BeatWord(seen)).0, Relaxed, Relaxed)
        {
            seen = other;
        }
    }

    /// Whether the lease is the one this line holds, and alive or revivable.
    ///
    /// # Errors
    /// The status that refuses the lease: unknown, replaced or removed.
    #[inline]
    pub fn verify(&self, lease: &Lease) -> Result<(), Status> {
        self.check(lease, self.head.load(Acquire))
    }

    fn check(&self, lease: &Lease, head: u64) -> Result<(), Status> {
        let (given, current) = (lease.generation(), generation_of(head));
        if given != current {
            // Generations count up from 1: one below the current has ended, one above was never
            // given.
            return Err(if given > Generation::NONE && given < current {
                Status::Removed
            } else {
                Status::Unknown
            });
        }
        if self.secret.load(Relaxed) != lease.secret.get() {
            return Err(Status::Unknown);
        }
        match HeartState::from_bits(head) {
            HeartState::Up | HeartState::Suspect | HeartState::Down => Ok(()),
            HeartState::Removed => Err(Status::Removed),
            HeartState::Replaced => Err(Status::Replaced),
            HeartState::Free => Err(Status::Unknown),
        }
    }

    /// The last beat.
    #[inline]
    pub fn last(&self) -> LastBeat {
        let word = BeatWord(self.beat.load(Relaxed));
        LastBeat {
            at: Moment::from_nanos(self.last_beat.load(Relaxed)),
            load: word.load(),
            declared: Declared::from_bits(word.declared()),
        }
    }

    /// Sequence of the last beat.
    #[inline]
    pub fn sequence(&self) -> u32 {
        BeatWord(self.beat.load(Relaxed)).sequence()
    }

    /// On-time history: bit 0 is the newest beat.
    #[inline]
    pub fn history(&self) -> u64 {
        self.history.load(Relaxed)
    }

    /// Generation and state.
    #[inline]
    pub fn head(&self) -> (Generation, HeartState) {
        let head = self.head.load(Acquire);
        (generation_of(head), HeartState::from_bits(head))
    }

    /// The TTL of the lease.
    #[inline]
    pub fn ttl(&self) -> Span {
        Span::from_nanos(self.ttl.load(Relaxed))
    }

    /// The nonce that the lease was asked for with.
    #[inline]
    pub fn nonce(&self) -> u64 {
        self.nonce.load(Relaxed)
    }

    /// The lease as it was given.
    #[inline]
    pub fn lease(&self, slot: Slot) -> Lease {
        Lease {
            slot: slot.into(),
            generation: self.head().0.into(),
            secret: U64::new(self.secret.load(Relaxed)),
        }
    }

    /// Whether times that an engine wrote before `now` are possible: a line that was damaged must
    /// not decide about anybody.
    #[inline]
    pub fn is_plausible(&self, now: Moment) -> bool {
        let (ttl, longest) = (self.ttl(), Span::from_ms(u64::from(TTL_MS_MAX)));
        (Span::from_ms(u64::from(TTL_MS_MIN))..=longest).contains(&ttl)
            && self.last().at <= now
            && self.until() <= now + longest * 4
    }

    /// Of a suspect: when its hold ends at the latest, 0 when it is not held. Of a member that is
    /// down: when its tombstone ends. In other states it means nothing.
    #[inline]
    pub fn until(&self) -> Moment {
        Moment::from_nanos(self.until.load(Relaxed))
    }

    /// Whether a hold keeps the member from being declared down. A member that is down is not held.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.head().1 == HeartState::Suspect && self.until() != Moment::ZERO
    }

    /// Sets the last beat back to a time before, or to [`Moment::ZERO`], where it means none: the
    /// process that sent it is dead. A beat that a loop applies at the same instant may be lost by
    /// that or be newer; the next one counts either way.
    pub fn set_back(&self, _: &Right, to: Moment) {
        if self.last_beat.load(Relaxed) > to.nanos() {
            self.last_beat.store(to.nanos(), Relaxed);
        }
    }

    /// Sets when hold or tombstone ends.
    pub fn set_until(&self, _: &Right, until: Moment) {
        self.until.store(until.nanos(), Relaxed);
    }

    /// Changes the state within a lease, or ends it.
    pub fn set_state(&self, _: &Right, state: HeartState) {
        self.head.store(head_of(generation_of(self.head.load(Relaxed)), state), Release);
    }

    /// Makes a line that was never used what it was in another region.
    pub fn restore(&self, _: &Right, line: &RestoredLine) {
        self.last_beat.store(line.last.nanos(), Relaxed);
        self.history.store(line.history, Relaxed);
        self.beat.store(BeatWord::new(line.sequence, line.load, line.declared as u64).0, Relaxed);
        self.secret.store(line.secret, Relaxed);
        self.nonce.store(line.nonce, Relaxed);
        self.ttl.store(line.ttl.nanos(), Relaxed);
        self.until.store(line.until.nanos(), Relaxed);
        // Release: pairs with the acquire load in `apply`.
        self.head.store(head_of(line.generation, line.state), Release);
    }

    /// Gives the line, which belongs to no lease, to a new one that counts as having beaten `now`.
    /// Returns its generation.
    pub fn lease_to(
        &self,
        _: &Right,
        now: Moment,
        ttl: Span,
        secret: u64,
        nonce: u64,
    ) -> Generation {
        let generation = generation_of(self.head.load(Relaxed)).next();
        self.last_beat.store(now.nanos(), Relaxed);
        self.history.store(0, Relaxed);
        self.beat.store(0, Relaxed);
        self.secret.store(secret, Relaxed);
        self.nonce.store(nonce, Relaxed);
        self.ttl.store(ttl.nanos(), Relaxed);
        self.until.store(0, Relaxed);
        // Release: pairs with the acquire load in `apply`.
        self.head.store(head_of(generation, HeartState::Up), Release);
        generation
    }
}

/// The generation in a head word.
fn generation_of(head: u64) -> Generation {
    Generation::new((head >> 32) as u32)
}

/// A head word.
fn head_of(generation: Generation, state: HeartState) -> u64 {
    u64::from(generation.get()) << 32 | state as u64
}

/// RFC 1982 serial number order on 32 bits; a difference of exactly 2^31 counts as old.
#[inline]
fn is_newer(sequence: u32, than: u32) -> bool {
    sequence.wrapping_sub(than) as i32 > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;
    use zerocopy::byteorder::little_endian::{U16, U32};

    const TTL: Span = Span::from_nanos(100);

    fn at(nanos: u64) -> Moment {
        Moment::from_nanos(nanos)
    }

    fn beat(line: &HeartLine, sequence: u32) -> Beat {
        let mut beat = Beat::new_zeroed();
        beat.lease = line.lease(Slot::new(0));
        beat.sequence = U32::new(sequence);
        beat
    }

    #[test]
    fn a_beat_counts_once() {
        let (line, right) = (HeartLine::default(), Right::new());
        line.lease_to(&right, at(10), TTL, 7, 1);
        assert_eq!(line.apply(&beat(&line, 1), at(20)), Applied::Accepted);
        assert_eq!(line.apply(&beat(&line, 1), at(30)), Applied::Old);
        assert_eq!(line.apply(&beat(&line, 0), at(30)), Applied::Old);
        assert_eq!(line.last().at, at(20));
        assert_eq!(
            line.apply(&beat(&line, u32::MAX), at(30)),
            Applied::Old,
            "2^31 or more ahead is behind"
        );
        assert_eq!(line.history(), 1);
        assert_eq!(line.apply(&beat(&line, 2), at(90)), Applied::Accepted);
        assert_eq!(line.history(), 2, "70 of a TTL of 100 is late");
    }

    #[test]
    fn a_loop_that_was_held_up_does_not_turn_the_time_back() {
        let (line, right) = (HeartLine::default(), Right::new());
        line.lease_to(&right, at(10), TTL, 7, 1);
        assert_eq!(line.apply(&beat(&line, 1), at(60)), Applied::Accepted);
        assert_eq!(line.apply(&beat(&line, 2), at(20)), Applied::Accepted);
        assert_eq!(line.last().at, at(60));
    }

    #[test]
    fn what_is_kept_of_a_beat_is_what_it_said() {
        let (line, right) = (HeartLine::default(), Right::new());
        line.lease_to(&right, at(10), TTL, 7, 1);
        let mut beat = beat(&line, 0x2122_2324);
        (beat.load, beat.flags) = (U16::new(0x3132), U16::new(2));
        assert_eq!(BeatWord(beat.words()[2]), BeatWord::new(0x2122_2324, 0x3132, 2));
        assert_eq!(line.apply(&beat, at(20)), Applied::Attention, "it declares another state");
        assert_eq!(
            line.last(),
            LastBeat { at: at(20), load: 0x3132, declared: Declared::Maintenance }
        );
        assert_eq!(line.sequence(), 0x2122_2324);
    }

    #[test]
    fn sequence_numbers_wrap() {
        assert!(is_newer(0, u32::MAX) && is_newer(5, u32::MAX - 5));
        assert!(!is_newer(u32::MAX, 0) && !is_newer(1 << 31, 0));
    }

    #[test]
    fn refusals_say_which() {
        let (line, right) = (HeartLine::default(), Right::new());
        assert_eq!(
            line.apply(&beat(&line, 1), at(1)),
            Applied::Refused(Status::Unknown),
            "never given"
        );
        line.lease_to(&right, at(10), TTL, 7, 1);
        let first = beat(&line, 1);
        let mut forged = first;
        forged.lease.secret = U64::new(8);
        assert_eq!(line.apply(&forged, at(20)), Applied::Refused(Status::Unknown));
        line.set_state(&right, HeartState::Replaced);
        assert_eq!(line.apply(&first, at(20)), Applied::Refused(Status::Replaced));
        line.lease_to(&right, at(10), TTL, 9, 1);
        assert_eq!(line.apply(&first, at(20)), Applied::Refused(Status::Removed));
        let mut future = first;
        future.lease.generation = U32::new(3);
        assert_eq!(line.apply(&future, at(20)), Applied::Refused(Status::Unknown));
        assert_eq!(line.last().at, at(10), "nothing changed");
    }

    #[test]
    fn a_change_of_state_or_declaration_asks_for_attention() {
        let (line, right) = (HeartLine::default(), Right::new());
        line.lease_to(&right, at(10), TTL, 7, 1);
        let mut draining = beat(&line, 1);
        draining.flags = U16::new(1);
        assert_eq!(line.apply(&draining, at(20)), Applied::Attention);
        draining.sequence = U32::new(2);
        assert_eq!(line.apply(&draining, at(20)), Applied::Accepted);
        line.forget_declared(Declared::Serving);
        draining.sequence = U32::new(3);
        assert_eq!(line.apply(&draining, at(20)), Applied::Attention, "the next beat asks again");
        line.set_state(&right, HeartState::Down);
        draining.sequence = U32::new(4);
        assert_eq!(line.apply(&draining, at(30)), Applied::Attention);
        assert_eq!(line.last(), LastBeat { at: at(30), load: 0, declared: Declared::Draining });
    }

    /// A load that comes by an update on one loop while another applies beats: the sequence never
    /// goes back, or a beat would count twice. With threads, not with loom, which lets a
    /// compare-and-swap take the place of a later store.
    #[test]
    fn a_load_never_puts_a_sequence_back() {
        let (line, right) = (HeartLine::default(), Right::new());
        line.lease_to(&right, at(10), TTL, 7, 1);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut load = 0;
                while !done.load(Relaxed) {
                    load = (load + 1) % 1000;
                    line.set_load(load);
                }
            });
            let twice = (1..400_000).filter(|&sequence| {
                assert_eq!(line.apply(&beat(&line, sequence), at(20)), Applied::Accepted);
                line.apply(&beat(&line, sequence), at(20)) != Applied::Old
            });
            let twice = twice.count();
            done.store(true, Relaxed);
            assert_eq!(twice, 0);
        });
    }
}
