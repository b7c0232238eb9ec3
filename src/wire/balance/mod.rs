//! Choosing endpoints: pure functions over what may be chosen from, for engine and clients. Each
//! strategy is here once.
//!
//! A chooser sees members by their position in the service's list. Randomness is an argument. The
//! cost is bounded: at most [`SCAN_MEMBERS_MAX`] members are looked at for one request.
//!
//! The engine chooses from lists that it meets for the first time. A client picks from one list
//! many times, so it prepares tables: [`columns`] for weighted draws, [`turns`] for round robin,
//! [`maglev()`] for keys; [`prefer_zone`] makes the weights for them.

use crate::limits::{ENDPOINTS_PER_FRAME_MAX, SCAN_MEMBERS_MAX};
use smallvec::SmallVec;

mod alias;
mod latency;
mod maglev;
mod spread;

pub use alias::{columns, draw};
pub use latency::{peak_average, peak_cost};
pub use maglev::{maglev, maglev_place, maglev_size};
pub use spread::{prefer_zone, turns};

/// Positions that were chosen; room for two for each endpoint of a frame, so that choosing pairs
/// allocates nothing.
pub type Picks = SmallVec<[u32; 2 * ENDPOINTS_PER_FRAME_MAX]>;

/// Below this many members all are looked at; above, random positions are tried first.
const SCAN_ALL: u32 = 64;
/// Random positions tried for each endpoint wanted.
const TRIES_EACH: usize = 8;

/// What a chooser asks of a member.
pub trait Members {
    /// How many there are.
    fn count(&self) -> u32;
    /// Whether the member may be chosen.
    fn is_eligible(&self, position: u32) -> bool;
    /// Its share of weighted picks.
    fn weight(&self, position: u32) -> u16;
    /// How busy it says it is.
    fn load(&self, position: u32) -> u16;
    /// Its [`identity`], the same in every engine and every client.
    fn identity(&self, position: u32) -> u64;
}

/// Members that were chosen.
pub struct Chosen {
    /// Positions in the list of the service.
    pub picks: Picks,
    /// Where the next page of a list starts; 0: there is none.
    pub next: u32,
}

/// Eligible members in list order from `from` on.
pub fn page(members: &impl Members, from: u32, limit: usize) -> Chosen {
    let mut picks = Picks::new();
    let end = members.count().min(from.saturating_add(SCAN_MEMBERS_MAX));
    for position in from..end {
        if members.is_eligible(position) {
            if picks.len() == limit {
                return Chosen { picks, next: position };
            }
            picks.push(position);
        }
    }
    Chosen { picks, next: if end < members.count() { end } else { 0 } }
}

/// The next eligible members from `turn` on, around the end once; and the turn after them.
pub fn round_robin(members: &impl Members, turn: u32, limit: usize) -> (Picks, u32) {
    let mut picks = Picks::new();
    let count = members.count();
    if count == 0 {
        return (picks, 0);
    }
    let mut position = turn % count;
    for _ in 0..count.min(SCAN_MEMBERS_MAX) {
        if members.is_eligible(position) {
            picks.push(position);
        }
        position = (position + 1) % count;
        if picks.len() == limit {
            break;
        }
    }
    (picks, position)
}

/// Eligible members, each with the same chance, in random order.
pub fn random(members: &impl Members, limit: usize, mut draw: impl FnMut() -> u64) -> Picks {
    let count = members.count();
    if count > SCAN_ALL {
        let mut picks = Picks::new();
        for _ in 0..limit * TRIES_EACH {
            // Multiply-shift maps a draw to a position without a division (Lemire, ACM TOMACS
            // 29(1), 2019); the bias is below 2^-32.
            let position = (((draw() >> 32) * u64::from(count)) >> 32) as u32;
            if !picks.contains(&position) && members.is_eligible(position) {
                picks.push(position);
                if picks.len() == limit {
                    return picks;
                }
            }
        }
    }
    highest(members, limit, |_| Some((draw() >> 11) as f64))
}

/// Eligible members, each with a chance in proportion to its weight, without repetition
/// (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", IPL 97(5), 2006).
pub fn weighted(members: &impl Members, limit: usize, mut draw: impl FnMut() -> u64) -> Picks {
    highest(members, limit, |position| {
        let weight = members.weight(position);
        (weight != 0).then(|| unit(draw()).ln() / f64::from(weight))
    })
}

/// Eligible members with the highest weighted rendezvous hash of the key
/// (Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998; weights as in draft-ietf-bess-weighted-hrw).
pub fn rendezvous(members: &impl Members, limit: usize, key: u64) -> Picks {
    highest(members, limit, |position| {
        let weight = members.weight(position);
        (weight != 0).then(|| unit(mix(key ^ members.identity(position))).ln() / f64::from(weight))
    })
}

/// For each endpoint wanted, the less loaded of two random ones (Mitzenmacher, IEEE TPDS 12(10),
/// 2001).
pub fn two_choices(members: &impl Members, limit: usize, draw: impl FnMut() -> u64) -> Picks {
    let mut drawn = random(members, 2 * limit, draw);
    // Winners of their pairs first; the losers fill up when there are too few members for that many
    // pairs.
    let (mut winners, mut losers) = (Picks::new(), Picks::new());
    for pair in drawn.chunks_mut(2) {
        pair.sort_unstable_by_key(|&position| members.load(position));
        winners.push(pair[0]);
        losers.extend(pair.get(1).copied());
    }
    winners.extend(losers);
    winners.truncate(limit);
    winners
}

/// The eligible members with the highest scores, highest first; a member without a score is not
/// chosen.
fn highest(
    members: &impl Members,
    limit: usize,
    mut score: impl FnMut(u32) -> Option<f64>,
) -> Picks {
    let mut best: SmallVec<[(f64, u32); 2 * ENDPOINTS_PER_FRAME_MAX]> = SmallVec::new();
    for position in 0..members.count().min(SCAN_MEMBERS_MAX) {
        if !members.is_eligible(position) {
            continue;
        }
        let Some(score) = score(position) else { continue };
        if best.len() == limit {
            if best.last().is_some_and(|&(lowest, _)| lowest >= score) {
                continue;
            }
            best.pop();
        }
        let at = best.partition_point(|&(other, _)| other >= score);
        best.insert(at, (score, position));
    }
    best.into_iter().map(|(_, position)| position).collect()
}

/// A number in (0, 1) from 53 random bits.
fn unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit moves every
/// output bit.
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// The identity of an endpoint in [`rendezvous`] hashes, made from its address (IPv6, or IPv4
/// mapped into it) and its port.
pub fn identity(address: [u8; 16], port: u16) -> u64 {
    let address = u128::from_be_bytes(address);
    mix(mix((address >> 64) as u64 ^ u64::from(port)) ^ address as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    /// (eligible, weight, load)
    struct List(Vec<(bool, u16, u16)>);

    impl Members for List {
        fn count(&self) -> u32 {
            self.0.len() as u32
        }
        fn is_eligible(&self, position: u32) -> bool {
            self.0[position as usize].0
        }
        fn weight(&self, position: u32) -> u16 {
            self.0[position as usize].1
        }
        fn load(&self, position: u32) -> u16 {
            self.0[position as usize].2
        }
        fn identity(&self, position: u32) -> u64 {
            mix(u64::from(position) + 1)
        }
    }

    fn even(count: usize) -> List {
        List(vec![(true, 100, 0); count])
    }

    #[test]
    fn pages_cover_everything_once() {
        let list = List((0..100).map(|n| (n % 3 != 0, 1, 0)).collect());
        let (mut seen, mut from) = (Vec::new(), 0);
        loop {
            let Chosen { picks, next } = page(&list, from, 25);
            seen.extend(picks);
            from = next;
            if from == 0 {
                break;
            }
        }
        assert_eq!(seen, (0..100).filter(|n| n % 3 != 0).collect::<Vec<u32>>());
    }

    #[test]
    fn round_robin_takes_turns() {
        let list = List(vec![(true, 1, 0), (false, 1, 0), (true, 1, 0)]);
        let (first, turn) = round_robin(&list, 0, 1);
        let (second, turn) = round_robin(&list, turn, 1);
        let (third, _) = round_robin(&list, turn, 1);
        assert_eq!([first[0], second[0], third[0]], [0, 2, 0]);
        assert_eq!(round_robin(&list, 2, 9).0.as_slice(), [2, 0], "each at most once");
    }

    #[test]
    fn random_is_even_small_and_large() {
        let mut rng = SmallRng::seed_from_u64(1);
        for count in [10, 100] {
            let mut hits = vec![0; count];
            for _ in 0..count * 1000 {
                random(&even(count), 1, || rng.next_u64())
                    .iter()
                    .for_each(|&at| hits[at as usize] += 1);
            }
            assert!(hits.iter().all(|&hits| (850..1150).contains(&hits)), "{hits:?}");
        }
        assert_eq!(random(&even(100), 25, || rng.next_u64()).len(), 25);
    }

    #[test]
    fn a_single_eligible_member_among_many_is_found() {
        let mut list = even(5000);
        list.0.iter_mut().for_each(|member| member.0 = false);
        list.0[4321].0 = true;
        let mut rng = SmallRng::seed_from_u64(2);
        assert_eq!(random(&list, 3, || rng.next_u64()).as_slice(), [4321]);
    }

    #[test]
    fn weights_are_shares() {
        let list = List(vec![(true, 10, 0), (true, 30, 0), (true, 0, 0), (false, 60, 0)]);
        let mut rng = SmallRng::seed_from_u64(3);
        let mut hits = [0; 4];
        for _ in 0..40_000 {
            hits[weighted(&list, 1, || rng.next_u64())[0] as usize] += 1;
        }
        assert!((9_500..10_500).contains(&hits[0]) && hits[2] == 0 && hits[3] == 0, "{hits:?}");
        assert_eq!(weighted(&list, 9, || rng.next_u64()).len(), 2);
    }

    #[test]
    fn rendezvous_moves_only_what_it_must() {
        let whole = even(20);
        let mut less = even(20);
        less.0[7].0 = false;
        let mut moved = 0;
        for key in 0..10_000 {
            let (before, after) =
                (rendezvous(&whole, 1, mix(key))[0], rendezvous(&less, 1, mix(key))[0]);
            assert!(before == after || before == 7);
            moved += u32::from(before == 7);
        }
        assert!((400..600).contains(&moved), "{moved}");
    }

    #[test]
    fn two_choices_prefers_the_less_loaded() {
        let list = List(vec![(true, 1, 10), (true, 1, 5)]);
        let mut rng = SmallRng::seed_from_u64(4);
        for _ in 0..100 {
            assert_eq!(two_choices(&list, 1, || rng.next_u64()).as_slice(), [1]);
        }
        assert_eq!(two_choices(&even(100), 5, || rng.next_u64()).len(), 5);
        assert_eq!(two_choices(&even(5), 5, || rng.next_u64()).len(), 5, "few members fill up");
    }
}
