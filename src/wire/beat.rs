//! Beats, and what comes back for them: an ack when asked for, naks for those refused.

use super::Lease;
use crate::limits::BEAT_BYTES;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One heartbeat for one lease.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Beat {
    /// The lease that it keeps alive.
    pub lease: Lease,
    /// Grows with every beat, starting at 1; compared in serial number arithmetic (RFC 1982).
    pub sequence: U32,
    /// How busy the instance is, in its own unit; less is less busy.
    pub load: U16,
    /// Bits 0 and 1: [`Declared`](crate::Declared); the others are zero.
    pub flags: U16,
}

impl Beat {
    /// Bits of [`Beat::flags`] that have a meaning.
    pub const FLAGS: u16 = 3;

    /// All of it as three numbers: slot below generation; secret; sequence below load below flags.
    #[inline]
    pub fn words(&self) -> [u64; 3] {
        let words: &[U64; 3] = zerocopy::transmute_ref!(self);
        words.map(U64::get)
    }
}

/// The body of an ack.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ack {
    /// Random number of this run of the engine.
    pub epoch: U64,
    /// Time between beats that the engine wants for the first lease of the frame, in microseconds.
    pub interval_us: U32,
    /// Time from this ack to the next beat that the engine wants, in microseconds.
    pub phase_us: U32,
    /// Beats that counted.
    pub accepted: U16,
    /// Beats whose sequence number was old or repeated: they changed nothing.
    pub old: U16,
    /// Zeros in this version of the format.
    pub reserved: [u8; 4],
}

/// The start of the body of a nak; [`Nak`] entries follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NakHead {
    /// Random number of this run of the engine.
    pub epoch: U64,
}

/// One refused beat.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Nak {
    /// The slot of the beat.
    pub slot: U32,
    /// The generation of the beat.
    pub generation: U32,
    /// A [`super::Status`]: unknown, replaced or removed.
    pub reason: u8,
    /// Zeros in this version of the format.
    pub reserved: [u8; 7],
}

const _: () = {
    assert!(size_of::<Beat>() == 24 && BEAT_BYTES == 24);
    assert!(std::mem::offset_of!(Beat, sequence) == 16);
    assert!(std::mem::offset_of!(Beat, load) == 20);
    assert!(std::mem::offset_of!(Beat, flags) == 22);
    assert!(size_of::<Ack>() == 24);
    assert!(std::mem::offset_of!(Ack, interval_us) == 8);
    assert!(std::mem::offset_of!(Ack, phase_us) == 12);
    assert!(std::mem::offset_of!(Ack, accepted) == 16);
    assert!(std::mem::offset_of!(Ack, old) == 18);
    assert!(size_of::<NakHead>() == 8 && size_of::<Nak>() == 16);
    assert!(std::mem::offset_of!(Nak, generation) == 4);
    assert!(std::mem::offset_of!(Nak, reason) == 8);
    // Neither answer is longer than the shortest frame that can cause it.
    assert!(size_of::<Ack>() <= size_of::<Beat>());
    assert!(size_of::<NakHead>() + size_of::<Nak>() <= size_of::<Beat>());
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BEATS_PER_FRAME_MAX;
    use crate::{Header, Kind, Reject, Request};

    fn beat() -> Beat {
        let lease = Lease {
            slot: U32::new(0x0102_0304),
            generation: U32::new(0x0506_0708),
            secret: U64::new(0x1112_1314_1516_1718),
        };
        Beat { lease, sequence: U32::new(0x2122_2324), load: U16::new(0x3132), flags: U16::new(3) }
    }

    #[test]
    fn words_are_the_fields() {
        assert_eq!(
            beat().words(),
            [0x0506_0708_0102_0304, 0x1112_1314_1516_1718, 0x0003_3132_2122_2324]
        );
    }

    /// Each bit that has no meaning, in each beat of a full frame and of a short one.
    #[test]
    fn unknown_flags_are_refused() {
        for count in [1, 2, 7, BEATS_PER_FRAME_MAX] {
            let header = Header { count: U16::new(count as u16), ..Header::request(Kind::Beat, 1) };
            let decode = |beats: &[Beat]| {
                Request::decode(&[header.as_bytes(), beats.as_bytes()].concat()).map(|_| ())
            };
            let mut beats = vec![beat(); count];
            assert_eq!(decode(&beats), Ok(()));
            for at in 0..count {
                for bit in 2..16 {
                    beats[at].flags = U16::new(1 << bit);
                    assert_eq!(
                        decode(&beats),
                        Err(Reject::Reserved),
                        "bit {bit} of beat {at} of {count}"
                    );
                }
                beats[at] = beat();
            }
        }
    }
}
