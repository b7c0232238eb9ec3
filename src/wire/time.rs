//! Points in time and spans of it, as types that can't be mistaken for one another. The format and
//! the tables use nanoseconds of one clock; reading it is not their business.

use std::ops::{Add, AddAssign, Div, Mul, Sub};

/// Nanoseconds where the type does not say whether they are a [`Moment`] or a [`Span`].
pub type Nanos = u64;

/// Nanoseconds in a millisecond: one tick of the timing wheel.
pub const NANOS_PER_MS: Nanos = 1_000_000;
/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: Nanos = 1_000_000_000;

/// Converts milliseconds to nanoseconds.
#[inline]
pub const fn from_ms(ms: u64) -> Nanos {
    ms * NANOS_PER_MS
}

/// A reading of the monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Moment(u64);

/// A time between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Span(u64);

impl Moment {
    /// When the clock began. Where a moment may be missing, it stands for none.
    pub const ZERO: Self = Self(0);
    /// Later than every reading.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment at which the clock shows this.
    #[inline]
    pub const fn from_nanos(nanos: Nanos) -> Self {
        Self(nanos)
    }

    /// What the clock shows then.
    #[inline]
    pub const fn nanos(self) -> Nanos {
        self.0
    }

    /// A later moment, [`Self::NEVER`] at the latest.
    #[inline]
    pub const fn saturating_add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// An earlier moment, [`Self::ZERO`] at the earliest.
    #[inline]
    pub const fn saturating_sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// The time since another moment; none if that is later.
    #[inline]
    pub const fn saturating_since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Span {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// So many nanoseconds.
    #[inline]
    pub const fn from_nanos(nanos: Nanos) -> Self {
        Self(nanos)
    }

    /// So many milliseconds.
    #[inline]
    pub const fn from_ms(ms: u64) -> Self {
        Self(from_ms(ms))
    }

    /// In nanoseconds.
    #[inline]
    pub const fn nanos(self) -> Nanos {
        self.0
    }

    /// In whole milliseconds.
    #[inline]
    pub const fn ms(self) -> u64 {
        self.0 / NANOS_PER_MS
    }

    /// A multiple, the longest span at the longest.
    #[inline]
    pub const fn saturating_mul(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl Add<Span> for Moment {
    type Output = Self;

    #[inline]
    fn add(self, span: Span) -> Self {
        Self(self.0 + span.0)
    }
}

impl Sub<Span> for Moment {
    type Output = Self;

    #[inline]
    fn sub(self, span: Span) -> Self {
        Self(self.0 - span.0)
    }
}

impl Sub for Moment {
    type Output = Span;

    #[inline]
    fn sub(self, earlier: Self) -> Span {
        Span(self.0 - earlier.0)
    }
}

impl Add for Span {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Span {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Span {
    type Output = Self;

    #[inline]
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Mul<u64> for Span {
    type Output = Self;

    #[inline]
    fn mul(self, factor: u64) -> Self {
        Self(self.0 * factor)
    }
}

impl Div<u64> for Span {
    type Output = Self;

    #[inline]
    fn div(self, parts: u64) -> Self {
        Self(self.0 / parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_spans_go_together() {
        let (start, second) = (Moment::from_nanos(5), Span::from_ms(1000));
        assert_eq!((start + second * 3) - start, Span::from_ms(3000));
        assert_eq!((start + second) - second / 4, start + Span::from_ms(750));
        assert_eq!(start.saturating_since(start + second), Span::ZERO);
        assert_eq!(start.saturating_sub(second), Moment::ZERO);
        assert_eq!(Moment::NEVER.saturating_add(second), Moment::NEVER);
        assert_eq!(second.saturating_mul(u64::MAX).nanos(), u64::MAX);
        assert_eq!(Span::from_nanos(1_999_999).ms(), 1);
    }
}
