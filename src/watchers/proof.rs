//! Proof that a watcher receives: only the receiver of a reply or push knows its proof.

use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Makes and checks proofs: SipHash-2-4 under a key of this engine, over the secret of a watch and
/// the number of a push.
#[derive(Clone, Debug)]
pub(super) struct Proofs {
    key: (u64, u64),
}

impl Proofs {
    /// Proofs under this random key.
    pub(super) fn new(key: (u64, u64)) -> Self {
        Self { key }
    }

    /// The proof that goes with a number; never 0.
    pub(super) fn make(&self, secret: u64, number: u32) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write_u64(secret);
        hasher.write_u64(u64::from(number));
        hasher.finish().max(1)
    }

    /// Whether a proof goes with a number.
    pub(super) fn check(&self, secret: u64, number: u32, proof: u64) -> bool {
        proof == self.make(secret, number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_for_one_watch_and_one_number() {
        let (proofs, others) = (Proofs::new((1, 2)), Proofs::new((1, 3)));
        let proof = proofs.make(7, 5);
        assert!(proofs.check(7, 5, proof));
        assert!(!proofs.check(7, 6, proof) && !proofs.check(8, 5, proof));
        assert!(!proofs.check(7, 5, 0) && !others.check(7, 5, proof));
    }
}
