//! Leases, and the beats that keep them.

use heartline_wire::{self as wire, Declared, Status};
use std::fmt;
use std::time::Duration;

/// The right to beat for, change and remove one instance.
///
/// Anyone who has it acts as the instance: keep it private. `Debug` does not show the secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    slot: u32,
    generation: u32,
    secret: u64,
}

impl Lease {
    /// A lease from its three numbers, as a file or another process kept them.
    pub const fn from_parts(slot: u32, generation: u32, secret: u64) -> Self {
        Self { slot, generation, secret }
    }

    /// Which place in the engine; with the generation it names the instance to everybody.
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// Which use of that place; never 0.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// 64 random bits that make the lease.
    pub const fn secret(&self) -> u64 {
        self.secret
    }

    /// A beat of an instance that serves. The first sequence is 1; each further beat has one more.
    pub const fn beat(self, sequence: u32, load: u16) -> Beat {
        Beat { lease: self, sequence, load, declared: Declared::Serving }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lease({}, {}, secret)", self.slot, self.generation)
    }
}

impl From<Lease> for wire::Lease {
    fn from(lease: Lease) -> Self {
        Self {
            slot: lease.slot.into(),
            generation: lease.generation.into(),
            secret: lease.secret.into(),
        }
    }
}

impl From<wire::Lease> for Lease {
    fn from(lease: wire::Lease) -> Self {
        Self::from_parts(lease.slot.get(), lease.generation.get(), lease.secret.get())
    }
}

/// A lease as it was granted.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// The lease.
    pub lease: Lease,
    /// Random number of this run of the engine.
    pub epoch: u64,
    /// Time between beats that the engine wants.
    pub interval: Duration,
    /// Time from the reply to the first beat that the engine wants.
    pub phase: Duration,
    /// Time to live of the lease.
    pub ttl: Duration,
}

/// One heartbeat for one lease.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    /// The lease that it renews.
    pub lease: Lease,
    /// Grows with every beat of the lease, from 1 on.
    pub sequence: u32,
    /// How busy the instance is, in its own unit; less is less busy.
    pub load: u16,
    /// What the instance says of itself; [`Declared::Leaving`] ends the lease.
    pub declared: Declared,
}

impl From<Beat> for wire::Beat {
    fn from(beat: Beat) -> Self {
        Self {
            lease: beat.lease.into(),
            sequence: beat.sequence.into(),
            load: beat.load.into(),
            flags: (beat.declared as u16).into(),
        }
    }
}

/// The outcome of a frame of beats.
#[derive(Clone, Debug)]
pub enum Beats {
    /// All were for leases that stand.
    Acked(Ack),
    /// Some were refused; the others counted.
    Refused(Vec<Refusal>),
}

/// The engine's answer to beats for leases that stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Random number of this run of the engine.
    pub epoch: u64,
    /// Time between beats that the engine wants of the first lease in the frame.
    pub interval: Duration,
    /// Time from the reply to its next beat.
    pub phase: Duration,
    /// Beats that counted.
    pub accepted: u16,
    /// Beats with an old or repeated sequence.
    pub old: u16,
}

impl From<&wire::Ack> for Ack {
    fn from(ack: &wire::Ack) -> Self {
        Self {
            epoch: ack.epoch.get(),
            interval: Duration::from_micros(ack.interval_us.get().into()),
            phase: Duration::from_micros(ack.phase_us.get().into()),
            accepted: ack.accepted.get(),
            old: ack.old.get(),
        }
    }
}

/// A beat that did not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Slot of its lease.
    pub slot: u32,
    /// Generation of its lease.
    pub generation: u32,
    /// [`Status::Unknown`], [`Status::Replaced`] or [`Status::Removed`].
    pub status: Status,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_keeps_the_secret() {
        let lease = Lease::from_parts(71, 72, 0x1234_5678);
        assert_eq!(format!("{lease:?}"), "Lease(71, 72, secret)");
        let beat = format!("{:?} {:#?}", lease.beat(1, 0), Some(lease));
        for secret in ["305419896", "12345678"] {
            assert!(!beat.contains(secret), "{beat}");
        }
    }

    #[test]
    fn leases_and_beats_say_the_same_on_the_wire() {
        let lease = Lease::from_parts(1, 2, 3);
        let same = wire::Lease::from(lease);
        assert_eq!((same.slot.get(), same.generation.get(), same.secret.get()), (1, 2, 3));
        assert_eq!(Lease::from(same), lease);
        let beat = wire::Beat::from(Beat { declared: Declared::Leaving, ..lease.beat(4, 5) });
        assert_eq!((beat.sequence.get(), beat.load.get(), beat.flags.get()), (4, 5, 3));
        assert_eq!(wire::Beat::from(lease.beat(4, 5)).flags.get(), 0);
    }
}
