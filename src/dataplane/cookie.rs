//! Cookies: stateless proof that a requester receives at its source address.

use crate::clock::Nanos;
use crate::limits::COOKIE_PERIOD_NS;
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Makes and checks cookies: SipHash-2-4 with a secret key over the number of the current period
/// and the IP address (as RFC 9018 does for DNS). The port is left out, so that one hello serves
/// all sockets of a client and survives a changed port.
#[derive(Clone, Debug)]
pub struct Cookies {
    key: (u64, u64),
}

impl Cookies {
    /// Cookies under this random key.
    pub fn new(key: (u64, u64)) -> Self {
        Self { key }
    }

    /// The cookie for an address; never 0.
    pub fn make(&self, ip: &[u8; 16], now: Nanos) -> u64 {
        self.hash(ip, now / COOKIE_PERIOD_NS)
    }

    /// Whether a cookie was made for this address in this period or the one before.
    pub fn check(&self, ip: &[u8; 16], cookie: u64, now: Nanos) -> bool {
        let period = now / COOKIE_PERIOD_NS;
        cookie != 0
            && (cookie == self.hash(ip, period) || cookie == self.hash(ip, period.wrapping_sub(1)))
    }

    fn hash(&self, ip: &[u8; 16], period: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write_u64(period);
        hasher.write(ip);
        hasher.finish().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_for_one_address_and_one_more_period() {
        let cookies = Cookies::new((1, 2));
        let (mine, other) = ([1; 16], [2; 16]);
        let cookie = cookies.make(&mine, 5 * COOKIE_PERIOD_NS);
        assert!(cookies.check(&mine, cookie, 5 * COOKIE_PERIOD_NS));
        assert!(cookies.check(&mine, cookie, 7 * COOKIE_PERIOD_NS - 1));
        assert!(!cookies.check(&mine, cookie, 7 * COOKIE_PERIOD_NS));
        assert!(!cookies.check(&other, cookie, 5 * COOKIE_PERIOD_NS));
        assert!(!cookies.check(&mine, 0, 0));
    }
}
