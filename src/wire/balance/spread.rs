//! Shares that are prepared for a caller: turns by weight, and a zone that spills over.

use std::collections::BTreeMap;

/// Turns of the heaviest member in one round of uneven weights: weights are kept to about 6 %.
const TURNS_EACH: f64 = 16.0;

/// The order in which members take turns. Equal weights: one turn each. Others: as many turns as
/// the weight says, spread over the round. A member of weight 0 has no turn.
pub fn turns(weights: &[f64]) -> Vec<u32> {
    let heaviest = weights.iter().copied().fold(0.0, f64::max);
    let has_turn = |weight: f64| weight > 0.0;
    if weights.iter().all(|&weight| weight == heaviest || !has_turn(weight)) {
        let members = weights.iter().enumerate().filter(|(_, weight)| has_turn(**weight));
        return members.map(|(position, _)| position as u32).collect();
    }
    let mut turns = Vec::new();
    for (position, &weight) in weights.iter().enumerate().filter(|(_, weight)| has_turn(**weight)) {
        let count = (weight / heaviest * TURNS_EACH).round().max(1.0);
        let places = (0..count as u32).map(|turn| (f64::from(turn) + 0.5) / count);
        turns.extend(places.map(|place| (place, position as u32)));
    }
    turns.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    turns.into_iter().map(|(_, position)| position).collect()
}

/// Turns weights of members that may be picked into shares that prefer one zone.
///
/// `members` are zones and weights of those that may be picked; `zones` is the number of zones that
/// the service has. Each zone is due the same part of all callers, 1 / `zones`. A zone that has at
/// least this part of the whole weight serves its own callers alone. A zone that has less serves
/// the part that it covers; the rest goes to zones with more than their due, in proportion to what
/// they have above it. So members carry about the same everywhere, and calls stay in the zone as
/// far as that allows. The rule is that of Envoy's zone aware routing, for callers that are spread
/// evenly.
///
/// Without a member in the zone, shares are weights.
pub fn prefer_zone(own: u32, zones: usize, members: &mut [(u32, f64)]) {
    let mut weight_of = BTreeMap::<u32, f64>::new();
    members.iter().for_each(|&(zone, weight)| *weight_of.entry(zone).or_default() += weight);
    let total: f64 = weight_of.values().sum();
    let own_weight = weight_of.get(&own).copied().unwrap_or(0.0);
    if own_weight <= 0.0 || total.is_nan() {
        return;
    }
    let due = 1.0 / zones.max(weight_of.len()) as f64;
    let kept = (own_weight / total / due).min(1.0);
    // What each other zone has above its due.
    let above = |weight: f64| (weight / total - due).max(0.0);
    let spare: f64 =
        weight_of.iter().filter(|(zone, _)| **zone != own).map(|(_, weight)| above(*weight)).sum();
    for (zone, weight) in members {
        let of_zone = weight_of[zone];
        let part = if *zone == own {
            kept
        } else if spare > 0.0 {
            (1.0 - kept) * above(of_zone) / spare
        } else {
            0.0
        };
        *weight = if of_zone > 0.0 { part * *weight / of_zone } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_take_turns_in_order() {
        assert_eq!(turns(&[2.0, 0.0, 2.0, 2.0]), [0, 2, 3]);
        assert_eq!(turns(&[]), [0; 0]);
        assert_eq!(turns(&[0.0]), [0; 0]);
    }

    #[test]
    fn uneven_weights_are_spread_over_the_round() {
        let round = turns(&[1.0, 0.5, 0.01]);
        let count = |position| round.iter().filter(|&&turn| turn == position).count();
        assert_eq!((count(0), count(1), count(2)), (16, 8, 1));
        assert!(round.windows(3).all(|three| three != [1; 3] && three != [0; 3]), "{round:?}");
    }

    fn shares(own: u32, zones: usize, members: &[(u32, f64)]) -> BTreeMap<u32, f64> {
        let mut members = members.to_vec();
        prefer_zone(own, zones, &mut members);
        let mut shares = BTreeMap::<u32, f64>::new();
        members.iter().for_each(|&(zone, share)| *shares.entry(zone).or_default() += share);
        shares
    }

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn a_zone_that_covers_its_due_keeps_its_calls() {
        let even = [(1, 1.0), (1, 1.0), (2, 1.0), (2, 1.0)];
        let shares = shares(1, 2, &even);
        assert!(near(shares[&1], 1.0) && near(shares[&2], 0.0), "{shares:?}");
    }

    #[test]
    fn a_zone_that_does_not_spills_the_rest_to_those_with_more() {
        // 1 of 4 where a third is due: three quarters stay. Zone 2 has half, zone 3 a quarter,
        // which is below its due.
        let members = [(1, 1.0), (2, 1.0), (2, 1.0), (3, 1.0)];
        let spilled = shares(1, 3, &members);
        assert!(near(spilled[&1], 0.75), "{spilled:?}");
        assert!(near(spilled[&2], 0.25) && near(spilled[&3], 0.0), "{spilled:?}");
        // A zone whose members all fell silent is still one that is due.
        let shares = shares(1, 4, &[(1, 1.0), (2, 3.0)]);
        assert!(near(shares[&1], 1.0), "a quarter of the weight covers a quarter: {shares:?}");
    }

    #[test]
    fn without_members_in_the_zone_weights_decide() {
        let shares = shares(9, 2, &[(1, 1.0), (2, 3.0)]);
        assert_eq!((shares[&1], shares[&2]), (1.0, 3.0));
    }

    #[test]
    fn weights_within_a_zone_stay_as_they_are() {
        let mut members = [(1, 1.0), (1, 3.0), (2, 4.0)];
        prefer_zone(1, 2, &mut members);
        assert!(near(members[1].1 / members[0].1, 3.0), "{members:?}");
    }
}
