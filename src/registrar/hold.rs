//! The hold: when very many fall silent at once, the likeliest cause is between them and us.

use crate::clock::{Moment, Span};
use crate::limits::HOLD_SILENT_MIN;

/// Whether a hold is on, and when the last one lost its evidence.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HoldGuard {
    enabled: bool,
    on: bool,
    lost_at: Moment,
}

/// What became of the hold when the shares changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldChange {
    None,
    Ended,
}

impl HoldGuard {
    pub(super) fn new(enabled: bool) -> Self {
        Self { enabled, on: false, lost_at: Moment::ZERO }
    }

    /// A hold that a former engine left on or off. Whoever it left held is let go one TTL from now,
    /// unless the hold goes on.
    pub(super) fn resume(&mut self, on: bool, now: Moment) {
        (self.on, self.lost_at) = (self.enabled && on, now);
    }

    /// Whether so many silent among so many live are evidence: at least [`HOLD_SILENT_MIN`], and at
    /// least half.
    fn is_evidence(silent: u32, live: u32) -> bool {
        silent >= HOLD_SILENT_MIN && u64::from(silent) * 2 >= u64::from(live)
    }

    /// An instance would be declared down now. Whether it is to be held instead, and whether that
    /// begins a hold.
    pub(super) fn admit(&mut self, silent: u32, live: u32) -> Option<bool> {
        if !self.enabled || !Self::is_evidence(silent, live) {
            return None;
        }
        Some(!std::mem::replace(&mut self.on, true))
    }

    /// The shares have changed.
    pub(super) fn observe(&mut self, silent: u32, live: u32, now: Moment) -> HoldChange {
        if !self.on || Self::is_evidence(silent, live) {
            return HoldChange::None;
        }
        self.on = false;
        self.lost_at = now;
        HoldChange::Ended
    }

    /// When an instance that is held until `until` at the latest is let go: one TTL after the
    /// evidence is gone, if that is earlier.
    pub(super) fn release_at(&self, until: Moment, ttl: Span) -> Moment {
        if self.on { until } else { until.min(self.lost_at.saturating_add(ttl)) }
    }

    /// Whether a hold is on.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Moment {
        Moment::from_nanos(nanos)
    }

    fn span(nanos: u64) -> Span {
        Span::from_nanos(nanos)
    }

    #[test]
    fn needs_eight_and_half() {
        for (silent, live, held) in [
            (1, 1, false),
            (2, 2, false),
            (3, 3, false),
            (7, 7, false),
            (8, 8, true),
            (8, 16, true),
            (8, 17, false),
        ] {
            assert_eq!(
                HoldGuard::new(true).admit(silent, live).is_some(),
                held,
                "{silent} of {live}"
            );
        }
        assert_eq!(HoldGuard::new(false).admit(1000, 1000), None);
    }

    #[test]
    fn ends_by_itself() {
        let mut guard = HoldGuard::new(true);
        assert_eq!(guard.admit(8, 8), Some(true));
        assert_eq!(guard.admit(8, 8), Some(false));
        assert_eq!(guard.release_at(at(500), span(100)), at(500));
        assert_eq!(guard.observe(8, 10, at(200)), HoldChange::None);
        assert_eq!(guard.observe(7, 10, at(200)), HoldChange::Ended);
        assert_eq!(guard.release_at(at(500), span(100)), at(300));
    }

    proptest::proptest! {
        #![proptest_config(crate::registrar::kept_seeds())]

        /// A hold that is never admitted lets a failing switch take everybody down; one that never
        /// ends keeps the dead.
        #[test]
        fn is_on_from_the_first_admission_to_the_first_lack_of_evidence(
            steps in proptest::collection::vec(
                (0_u32..30, 0_u32..40, 1_u64..50, proptest::bool::ANY), 1..200,
            ),
            enabled in proptest::bool::ANY,
        ) {
            let mut guard = HoldGuard::new(enabled);
            let (mut on, mut lost_at, mut now) = (false, at(0), at(0));
            for (silent, more, pause, expires) in steps {
                now = now + span(pause);
                let live = silent + more;
                let evidence = silent >= 8 && 2 * silent >= live;
                if expires {
                    let admitted = guard.admit(silent, live);
                    proptest::prop_assert_eq!(admitted, (enabled && evidence).then_some(!on));
                    on |= enabled && evidence;
                }
                let ends = on && !evidence;
                let change = if ends { HoldChange::Ended } else { HoldChange::None };
                proptest::prop_assert_eq!(guard.observe(silent, live, now), change);
                if ends {
                    (on, lost_at) = (false, now);
                }
                proptest::prop_assert_eq!(guard.is_on(), on);
                let (until, ttl) = (now + span(100), span(30));
                let release = if on { until } else { until.min(lost_at + ttl) };
                proptest::prop_assert_eq!(guard.release_at(until, ttl), release);
            }
        }
    }
}
