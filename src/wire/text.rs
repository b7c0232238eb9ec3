//! Texts of a fixed width: one length byte, the bytes, zeros.

use std::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A text field of `N` bytes: byte 0 is the length (0 to `N - 1`), the rest are the bytes and then
/// zeros.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct Text<const N: usize>([u8; N]);

/// A service or instance name: up to 63 bytes.
pub type Name = Text<64>;
/// A zone or a tag to filter by: up to 31 bytes.
pub type Label = Text<32>;

const _: () = assert!(size_of::<Name>() == 64 && size_of::<Label>() == 32);

/// Why a text was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Longer than the field.
    #[error("is longer than {0} bytes")]
    Long(usize),
    /// A byte that is not visible ASCII.
    #[error("has a byte outside visible ASCII (0x21 to 0x7E)")]
    Byte,
}

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const EMPTY: Self = Self([0; N]);

    /// Makes a field from visible ASCII.
    ///
    /// # Errors
    /// [`TextError`]: the text is too long, or not visible ASCII.
    pub fn new(text: &str) -> Result<Self, TextError> {
        if text.len() >= N {
            return Err(TextError::Long(N - 1));
        }
        let mut field = [0; N];
        field[0] = text.len() as u8;
        field[1..=text.len()].copy_from_slice(text.as_bytes());
        let field = Self(field);
        if field.is_visible() { Ok(field) } else { Err(TextError::Byte) }
    }

    /// A field as it stands in shared memory or a frame.
    #[inline]
    pub const fn from_array(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// The bytes of the text.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let length = usize::from(self.0[0]).min(N - 1);
        &self.0[1..=length]
    }

    /// The text; texts that the engine stores are ASCII, others are shown as far as they are.
    #[inline]
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.bytes()).unwrap_or("")
    }

    /// Whether there is no text.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0[0] == 0
    }

    /// The length fits and everything behind the text is zero.
    #[inline]
    pub(super) fn is_canonical(&self) -> bool {
        let length = usize::from(self.0[0]);
        length < N && self.0[length + 1..].iter().all(|&byte| byte == 0)
    }

    /// Whether every byte is visible ASCII.
    #[inline]
    pub fn is_visible(&self) -> bool {
        self.bytes().iter().all(u8::is_ascii_graphic)
    }

    /// Low 32 bits of the FNV-1a hash of the text, 0 for the empty text: how endpoints carry their
    /// zone.
    #[inline]
    pub fn hash32(&self) -> u32 {
        if self.is_empty() { 0 } else { fnv1a(self.bytes()) as u32 }
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

/// 64-bit FNV-1a (draft-eastlake-fnv, section 2): offset basis 14695981039346656037, prime
/// 1099511628211.
pub const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01B3);
        at += 1;
    }
    hash
}

/// The id of a service on the wire: 64-bit FNV-1a of its name.
pub const fn service_id(name: &str) -> u64 {
    fnv1a(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_matches_the_published_vectors() {
        // draft-eastlake-fnv, appendix C.
        assert_eq!(fnv1a(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_F739_67E8);
    }

    #[test]
    fn only_canonical_fields_pass() {
        let name = Name::new("payments").unwrap();
        assert!(name.is_canonical() && name.as_str() == "payments");
        let mut bytes = [0; 64];
        bytes[0] = 64;
        assert!(!Name::from_array(bytes).is_canonical());
        bytes[0] = 3;
        bytes[9] = 1;
        assert!(!Name::from_array(bytes).is_canonical());
        assert_eq!(Label::new(&"x".repeat(32)), Err(TextError::Long(31)));
        assert_eq!(Label::new("a b"), Err(TextError::Byte));
    }
}
