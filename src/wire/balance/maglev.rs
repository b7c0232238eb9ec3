//! Keys to members through a table: constant time, an even share for each member, and few keys that
//! move when members come and go (Eisenbud et al., "Maglev", NSDI 2016, section 3.4).
//!
//! Each member has a preference list of all places, a permutation made from its identity. Members
//! take turns; at its turn a member takes the first place on its list that is free. Weights follow
//! the paper's remark: a member of half the weight takes half of the turns.

use super::mix;

/// Primes near the powers of two; the paper wants a table of prime size, about a hundred times
/// larger than there are members.
const SIZES: [u32; 14] = [
    251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071, 262_139, 524_287, 1_048_573,
    2_097_143,
];

/// Places of the table for so many members: at least a hundred for each, up to 20,971 members.
pub fn maglev_size(members: usize) -> u32 {
    let wanted = members.saturating_mul(100);
    let large_enough = SIZES.into_iter().find(|&size| size as usize >= wanted);
    large_enough.unwrap_or(SIZES[SIZES.len() - 1])
}

/// The table: for each place a position in `members`, which are identities and weights. A member of
/// weight 0 has no place. Empty: no member has weight.
///
/// The order of members does not matter but where two have the same first free place; callers that
/// want the same table everywhere sort them by identity.
pub fn maglev(members: &[(u64, u16)]) -> Vec<u32> {
    let heaviest = members.iter().map(|&(_, weight)| weight).max().unwrap_or(0);
    if heaviest == 0 {
        return Vec::new();
    }
    let size = u64::from(maglev_size(members.len()));
    let mut table = vec![u32::MAX; size as usize];
    let mut preferences: Vec<Preference> =
        members.iter().map(|&(identity, _)| Preference::new(identity, size)).collect();
    // Turns that a member has saved up, in parts of the heaviest weight.
    let mut saved = vec![0_u32; members.len()];
    let mut free = table.len();
    loop {
        for (position, &(_, weight)) in members.iter().enumerate() {
            saved[position] += u32::from(weight);
            if saved[position] < u32::from(heaviest) {
                continue;
            }
            saved[position] -= u32::from(heaviest);
            let preference = &mut preferences[position];
            while table[preference.place as usize] != u32::MAX {
                preference.advance(size);
            }
            table[preference.place as usize] = position as u32;
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

/// The place of a key in a table of this size.
#[inline]
pub fn maglev_place(key: u64, size: u32) -> u32 {
    (((mix(key) >> 32) * u64::from(size)) >> 32) as u32
}

/// Where a member stands on its preference list.
struct Preference {
    place: u64,
    skip: u64,
}

impl Preference {
    fn new(identity: u64, size: u64) -> Self {
        // Two hashes that have nothing to do with one another.
        let (offset, skip) = (mix(identity ^ 0x6F66_6673_6574), mix(identity ^ 0x736B_6970));
        Self { place: offset % size, skip: skip % (size - 1) + 1 }
    }

    fn advance(&mut self, size: u64) {
        self.place = (self.place + self.skip) % size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u64) -> Vec<(u64, u16)> {
        (1..=count).map(|number| (mix(number), 100)).collect()
    }

    fn shares(table: &[u32], count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        table.iter().for_each(|&position| shares[position as usize] += 1);
        shares
    }

    #[test]
    fn each_has_an_even_share() {
        for count in [1, 3, 100, 500] {
            let table = maglev(&members(count));
            assert!(table.len() >= 100 * count as usize);
            let shares = shares(&table, count as usize);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count}: {least} to {most}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let table = maglev(&[(mix(1), 100), (mix(2), 50), (mix(3), 0), (mix(4), 150)]);
        let shares = shares(&table, 4);
        assert_eq!(shares[2], 0);
        for (share, expected) in shares.iter().zip([1.0 / 3.0, 1.0 / 6.0, 0.0, 0.5]) {
            let share = *share as f64 / table.len() as f64;
            assert!((share - expected).abs() < 0.005, "{share} instead of {expected}");
        }
        assert!(maglev(&[(1, 0)]).is_empty() && maglev(&[]).is_empty());
    }

    /// A member that leaves takes its share with it; few other places change hands.
    #[test]
    fn little_moves_when_one_leaves() {
        let whole = members(100);
        let before = maglev(&whole);
        for gone in [0, 37, 99] {
            let mut less = whole.clone();
            less.remove(gone);
            let after = maglev(&less);
            assert_eq!(before.len(), after.len());
            let moved = before.iter().zip(&after).filter(|&(&before, &after)| {
                let kept = whole[before as usize].0 == less[after as usize].0;
                before as usize != gone && !kept
            });
            let moved = moved.count() as f64 / before.len() as f64;
            assert!(moved < 0.05, "{moved} of the places moved beside those of the one that left");
        }
    }

    #[test]
    fn places_are_in_the_table_and_spread() {
        let size = maglev_size(3);
        let mut hits = vec![0_u32; size as usize];
        for key in 0..509_000 {
            hits[maglev_place(key, size) as usize] += 1;
        }
        assert!(hits.iter().all(|&hits| (800..1200).contains(&hits)));
        assert!(maglev_place(u64::MAX, 251) < 251);
    }
}
