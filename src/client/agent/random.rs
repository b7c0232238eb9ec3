//! Randomness that is an argument: tags, nonces, and waits that keep agents out of step.

use super::limits::BACKOFF_CAP;
use heartline_wire::balance::mix;
use heartline_wire::time::Nanos;

/// Two streams from one seed: public draws, and nonces, which must not follow from them.
#[derive(Debug)]
pub(super) struct Random {
    state: u64,
    key: u64,
    nonces: u64,
}

/// The step of splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Random {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        Self { state: mix(seed[0]), key: mix(seed[1]), nonces: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A secret number other than 0. The key is fed forward, so that a nonce on the wire does not
    /// give it away.
    pub(super) fn nonce(&mut self) -> u64 {
        self.nonces = self.nonces.wrapping_add(STEP);
        mix(mix(self.key ^ self.nonces) ^ self.key).max(1)
    }

    /// A time from 0 to a longest one, each as likely.
    pub(super) fn up_to(&mut self, longest: Nanos) -> Nanos {
        ((u128::from(self.next()) * (u128::from(longest) + 1)) >> 64) as Nanos
    }

    /// The wait before an attempt that follows `refusals` others.
    pub(super) fn backoff(&mut self, base: Nanos, refusals: u32) -> Nanos {
        self.up_to(ceiling(base, refusals, BACKOFF_CAP))
    }
}

/// The longest wait: it doubles with each refusal, up to a cap.
pub(super) fn ceiling(base: Nanos, refusals: u32, cap: Nanos) -> Nanos {
    base.saturating_mul(1 << refusals.min(32)).min(cap)
}

#[cfg(test)]
mod tests {
    use super::super::limits::BACKOFF_BASE;
    use super::*;
    use heartline_wire::time::NANOS_PER_SECOND;

    /// Full jitter: waits are spread evenly from 0 to the ceiling, which doubles up to the cap.
    #[test]
    fn waits_are_spread_over_the_whole_ceiling() {
        let mut random = Random::new([1, 2]);
        for (refusals, seconds) in [(0, 1), (1, 2), (4, 16), (5, 30), (60, 30), (u32::MAX, 30)] {
            let longest = seconds * NANOS_PER_SECOND;
            let mut tenths = [0; 10];
            for _ in 0..10_000 {
                let wait = random.backoff(BACKOFF_BASE, refusals);
                assert!(wait <= longest);
                tenths[(wait * 10 / (longest + 1)) as usize] += 1;
            }
            // 1,000 each are expected, with a standard deviation of 30.
            assert!(tenths.iter().all(|count| (850..1150).contains(count)), "{tenths:?}");
        }
    }

    #[test]
    fn nonces_differ_and_are_never_0() {
        let mut random = Random::new([0, 0]);
        let nonces: std::collections::BTreeSet<_> = (0..1000).map(|_| random.nonce()).collect();
        assert_eq!(nonces.len(), 1000);
        assert!(!nonces.contains(&0));
    }
}
