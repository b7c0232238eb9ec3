//! Registering an instance, and the attributes that an instance carries.

use super::{Label, Lease, Name, Version};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The body of a register request; the attributes follow it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Register {
    /// From a hello reply to the same IP address.
    pub cookie: U64,
    /// Random; the same nonce for the same identity gets the same lease again.
    pub nonce: U64,
    /// Where the instance serves: IPv6, or IPv4 mapped into it (RFC 4291, section 2.5.5.2); all
    /// zeros: the source address.
    pub address: [u8; 16],
    /// Port at which the instance serves; 0 when it has none.
    pub port: U16,
    /// Share of weighted picks; 0 is never picked by weight.
    pub weight: U16,
    /// Time to live in milliseconds.
    pub ttl_ms: U32,
    /// Version of the instance.
    pub version: Version,
    /// Bytes of attributes that follow.
    pub attributes_len: U16,
    /// Zeros.
    pub reserved: [u8; 6],
    /// Where it runs; may be empty.
    pub zone: Label,
    /// Service name.
    pub service: Name,
    /// Instance name, unique in the service.
    pub instance: Name,
}

/// The body of a reply to register.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Granted {
    /// The lease.
    pub lease: Lease,
    /// Random number of this run of the engine.
    pub epoch: U64,
    /// Time between beats that the engine wants, in microseconds.
    pub interval_us: U32,
    /// Time from this reply to the first beat that the engine wants, in microseconds.
    pub phase_us: U32,
    /// The TTL of the lease in milliseconds.
    pub ttl_ms: U32,
    /// Zeros.
    pub reserved: [u8; 4],
}

const _: () = {
    assert!(size_of::<Register>() == 216);
    assert!(std::mem::offset_of!(Register, nonce) == 8);
    assert!(std::mem::offset_of!(Register, address) == 16);
    assert!(std::mem::offset_of!(Register, port) == 32);
    assert!(std::mem::offset_of!(Register, weight) == 34);
    assert!(std::mem::offset_of!(Register, ttl_ms) == 36);
    assert!(std::mem::offset_of!(Register, version) == 40);
    assert!(std::mem::offset_of!(Register, attributes_len) == 48);
    assert!(std::mem::offset_of!(Register, zone) == 56);
    assert!(std::mem::offset_of!(Register, service) == 88);
    assert!(std::mem::offset_of!(Register, instance) == 152);
    assert!(size_of::<Granted>() == 40);
    assert!(std::mem::offset_of!(Granted, phase_us) == 28);
    assert!(std::mem::offset_of!(Granted, epoch) == 16);
    assert!(std::mem::offset_of!(Granted, interval_us) == 24);
    assert!(std::mem::offset_of!(Granted, ttl_ms) == 32);
};

/// Whether a tail is a sequence of entries: a length byte of at least 1, then so many bytes of
/// UTF-8 without control characters. An entry is a tag, or `key=value` with a key of at least one
/// byte.
pub fn check_attributes(tail: &[u8]) -> bool {
    let mut entries = Entries(tail);
    entries.by_ref().all(|entry| {
        !entry.is_empty()
            && entry[0] != b'='
            && str::from_utf8(entry).is_ok_and(|text| !text.chars().any(char::is_control))
    }) && entries.0.is_empty()
}

/// Whether the tail has this tag.
pub fn has_tag(tail: &[u8], tag: &[u8]) -> bool {
    Entries(tail).any(|entry| entry == tag)
}

/// The entries of a tail; stops in front of one that is cut short.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        let (entry, rest) = rest.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_whole_entries() {
        assert!(check_attributes(b""));
        assert!(check_attributes(b"\x06canary\x08rack=b12"));
        assert!(!check_attributes(b"\x07canary"), "cut short");
        assert!(!check_attributes(b"\x00"), "empty entry");
        assert!(!check_attributes(b"\x02=a"), "no key");
        assert!(!check_attributes(b"\x02a\x07"), "control character");
        assert!(!check_attributes(b"\x01\xFF"), "not UTF-8");
    }

    #[test]
    fn tags_match_whole_entries_only() {
        let tail = b"\x06canary\x08rack=b12";
        assert!(has_tag(tail, b"canary"));
        assert!(has_tag(tail, b"rack=b12"));
        assert!(!has_tag(tail, b"rack"));
        assert!(!has_tag(tail, b"canar"));
    }
}
