//! Versions of instances: four numbers in one that compares as a whole.

use std::fmt;
use std::str::FromStr;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `major.minor.patch.revision`, 16 bits each, major in the highest bits; 0 when not stated.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct Version(U64);

impl Version {
    /// Puts the four numbers together.
    #[inline]
    pub const fn new(major: u16, minor: u16, patch: u16, revision: u16) -> Self {
        Self(U64::new(
            (major as u64) << 48 | (minor as u64) << 32 | (patch as u64) << 16 | revision as u64,
        ))
    }

    /// From the packed number.
    #[inline]
    pub const fn from_u64(packed: u64) -> Self {
        Self(U64::new(packed))
    }

    /// The packed number.
    #[inline]
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// Same major number and not older: what a client built against `wanted` can use.
    #[inline]
    pub const fn is_compatible_with(self, wanted: Self) -> bool {
        self.as_u64() >> 48 == wanted.as_u64() >> 48 && self.as_u64() >= wanted.as_u64()
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Version({self})")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packed = self.as_u64();
        write!(formatter, "{}.{}.{}", packed >> 48, packed >> 32 & 0xFFFF, packed >> 16 & 0xFFFF)?;
        if packed & 0xFFFF == 0 { Ok(()) } else { write!(formatter, ".{}", packed & 0xFFFF) }
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = [0; 4];
        let parts: Vec<&str> = text.split('.').collect();
        if parts.len() > 4 {
            return Err(format!("version {text:?} has more than four numbers"));
        }
        for (number, part) in numbers.iter_mut().zip(parts) {
            *number = part.parse().map_err(|_| {
                format!("version {text:?}: {part:?} is not a number from 0 to 65535")
            })?;
        }
        Ok(Self::new(numbers[0], numbers[1], numbers[2], numbers[3]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatible_means_same_major_and_not_older() {
        let wanted = Version::new(2, 3, 0, 0);
        assert!(Version::new(2, 3, 0, 0).is_compatible_with(wanted));
        assert!(Version::new(2, 10, 0, 0).is_compatible_with(wanted));
        assert!(!Version::new(2, 2, 9, 0).is_compatible_with(wanted));
        assert!(!Version::new(3, 3, 0, 0).is_compatible_with(wanted));
    }

    #[test]
    fn text_and_back() {
        assert_eq!("1.2.3".parse::<Version>().unwrap().to_string(), "1.2.3");
        assert_eq!("1.2.3.4".parse::<Version>().unwrap().to_string(), "1.2.3.4");
        assert!("1.2.3.4.5".parse::<Version>().is_err());
        assert!("1.70000".parse::<Version>().is_err());
    }
}
