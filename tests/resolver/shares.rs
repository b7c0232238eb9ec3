//! The share of each endpoint under each strategy, and how little moves when members change.

use heartline_client::{Balance, Declared, State, WatchOptions};
use heartline_test_support::lists::{Viewed, endpoint, endpoint_as, endpoint_in};
use heartline_wire::Endpoint;
use heartline_wire::balance::mix;
use heartline_wire::time::from_ms;
use std::collections::BTreeMap;
use std::time::Duration;

fn options(balance: Balance) -> WatchOptions {
    WatchOptions::new().balance(balance)
}

fn many(count: u32) -> Vec<Endpoint> {
    (0..count).map(endpoint).collect()
}

/// Pearson's statistic of picks against shares.
fn chi(hits: &BTreeMap<u32, u32>, shares: &[f64]) -> f64 {
    let picks: f64 = hits.values().map(|&hits| f64::from(hits)).sum();
    let total: f64 = shares.iter().sum();
    let of_one = |(number, share): (usize, &f64)| {
        let expected = share / total * picks;
        let hits = f64::from(hits.get(&(number as u32)).copied().unwrap_or(0));
        (hits - expected).powi(2) / expected
    };
    shares.iter().enumerate().map(of_one).sum()
}

/// Beyond the 0.9999 quantile for 19 degrees of freedom.
const CHI_19: f64 = 50.8;

#[test]
fn random_and_two_choices_are_even() {
    for balance in [Balance::Random, Balance::LeastInFlight, Balance::PeakEwma] {
        let mut members = many(20);
        members.iter_mut().for_each(|entry| entry.weight = (entry.slot.get() as u16).into());
        let viewed = Viewed::of(&members, options(balance));
        let chi = chi(&viewed.hits(100_000), &[1.0; 20]);
        assert!(chi < CHI_19, "{balance:?}: {chi}");
    }
}

#[test]
fn weighted_goes_by_weight() {
    for balance in [Balance::Weighted, Balance::Rendezvous, Balance::Maglev] {
        let mut members = many(20);
        let weight = |entry: &Endpoint| entry.slot.get() as u16 + 1;
        members.iter_mut().for_each(|entry| entry.weight = weight(entry).into());
        members.push(Endpoint { weight: 0.into(), ..endpoint(20) });
        let viewed = Viewed::of(&members, options(balance));
        let hits = viewed.hits(100_000);
        assert_eq!(hits.get(&20), None, "weight 0");
        let shares: Vec<f64> = (1..=20).map(f64::from).collect();
        assert!(chi(&hits, &shares) < CHI_19, "{balance:?}");
    }
}

#[test]
fn round_robin_takes_turns() {
    let viewed = Viewed::of(&many(7), options(Balance::RoundRobin));
    let slots: Vec<u32> = (0..70).map(|_| viewed.watch.pick().unwrap().slot()).collect();
    for round in slots.windows(8) {
        assert_eq!(round[0], round[7], "seven others in between");
    }
    assert!(viewed.hits(7000).values().all(|&hits| hits == 1000));
}

#[test]
fn the_fewest_calls_in_flight_are_preferred() {
    let viewed = Viewed::of(&many(2), options(Balance::LeastInFlight));
    let mut calls = Vec::new();
    for _ in 0..40 {
        calls.push(viewed.watch.call().unwrap());
    }
    let first = calls.iter().filter(|call| call.picked().slot() == 0).count();
    assert!((19..=21).contains(&first), "{first} of 40");
    // All of the first end: the next ones go there.
    calls.retain(|call| call.picked().slot() == 1);
    let next: Vec<_> = (0..18).map(|_| viewed.watch.call().unwrap()).collect();
    let to_first = next.iter().filter(|call| call.picked().slot() == 0).count();
    // Draws that find the busy one alone happen in an eighth of all.
    assert!(to_first > 10, "{to_first} of 18");
}

#[test]
fn the_faster_one_is_preferred() {
    let viewed = Viewed::of(&many(2), options(Balance::PeakEwma));
    let mut slow_calls = 0;
    for _ in 0..30 {
        let call = viewed.watch.call().unwrap();
        if call.picked().slot() == 1 {
            slow_calls += 1;
            // Much longer than a machine that is busy delays the others.
            std::thread::sleep(Duration::from_millis(200));
        }
        call.succeeded();
    }
    assert!(slow_calls < 16, "{slow_calls} of 30");
    let hits = viewed.hits(2000);
    // Two draws of the slow one happen in an eighth of all picks.
    assert!(hits[&0] > 1600, "{hits:?}");
}

fn owners(viewed: &Viewed) -> Vec<u32> {
    (0..20_000_u64).map(|key| viewed.watch.pick_by_key(key).unwrap().slot()).collect()
}

/// Keys of the one that left move, and few others.
#[test]
fn few_keys_move_when_members_change() {
    for (balance, others) in [(Balance::Rendezvous, 0.0), (Balance::Maglev, 0.06)] {
        let mut viewed = Viewed::of(&many(50), options(balance));
        let before = owners(&viewed);
        let mut less = many(50);
        less.remove(17);
        viewed.tell(0, &less, 0);
        let after = owners(&viewed);
        let (mut of_gone, mut of_others) = (0, 0);
        for (before, after) in before.iter().zip(&after) {
            of_gone += u32::from(*before == 17);
            of_others += u32::from(*before != 17 && before != after);
        }
        assert!((250..600).contains(&of_gone), "{balance:?}: {of_gone} of 20,000 keys");
        let part = f64::from(of_others) / 20_000.0;
        assert!(part <= others, "{balance:?}: {part} of the other keys moved");
        viewed.tell(0, &many(50), 0);
        assert_eq!(owners(&viewed), before, "{balance:?}: everything is back");
    }
}

/// Every process must find the same endpoint, and the engine as well: the score of PROTOCOL.md.
#[test]
fn a_key_finds_what_the_engine_finds() {
    let mut members = many(9);
    members.iter_mut().for_each(|entry| entry.weight = (1 + 40 * entry.slot.get() as u16).into());
    let viewed = Viewed::of(&members, options(Balance::Weighted));
    for key in (0..300_u64).map(|key| key.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
        let score = |entry: &Endpoint| {
            let high = u64::from_be_bytes(entry.address[..8].try_into().unwrap());
            let low = u64::from_be_bytes(entry.address[8..].try_into().unwrap());
            let identity = mix(mix(high ^ u64::from(entry.port.get())) ^ low);
            let bits = mix(mix(key) ^ identity) >> 11;
            ((bits as f64 + 0.5) / (1_u64 << 53) as f64).ln() / f64::from(entry.weight.get())
        };
        let best = members.iter().max_by(|one, other| score(one).total_cmp(&score(other)));
        assert_eq!(viewed.watch.pick_by_key(key).unwrap().slot(), best.unwrap().slot.get());
    }
    assert_eq!(viewed.watch.pick_by(b"user-7"), viewed.watch.pick_by(b"user-7"));
}

/// Shares of the first ten numbers.
fn of_own_zone(viewed: &Viewed) -> f64 {
    let hits = viewed.hits(20_000);
    f64::from(hits.range(..10).map(|(_, hits)| hits).sum::<u32>()) / 20_000.0
}

#[test]
fn a_zone_keeps_what_it_covers_and_spills_the_rest() {
    for balance in [Balance::Random, Balance::Weighted, Balance::RoundRobin, Balance::LeastInFlight]
    {
        let options = options(balance).zone("a").unwrap();
        let mut members: Vec<Endpoint> = (0..10).map(|at| endpoint_in("a", at)).collect();
        members.extend((10..20).map(|at| endpoint_in("b", at)));
        let mut viewed = Viewed::of(&members, options);
        assert_eq!(of_own_zone(&viewed), 1.0, "{balance:?}: half is due and half is there");
        // 5 of 15 are a third, and half is due: two thirds stay.
        viewed.tell(0, &members[5..], 0);
        let share = of_own_zone(&viewed);
        assert!((share - 2.0 / 3.0).abs() < 0.02, "{balance:?}: {share}");
        // Suspects are no capacity, but the zone is still one of two.
        let suspect = endpoint_as(9, State::Suspect, Declared::Serving);
        let suspect = Endpoint { zone: members[9].zone, ..suspect };
        let ups = [&members[10..], &[suspect]].concat();
        viewed.tell(0, &ups, 0);
        assert_eq!(of_own_zone(&viewed), 0.0, "{balance:?}: nobody is left there");
        viewed.tell(0, &[&ups[..], &[endpoint_in("a", 0)]].concat(), 0);
        let share = of_own_zone(&viewed);
        assert!((share - 2.0 / 11.0).abs() < 0.02, "{balance:?}: {share}");
    }
}

#[test]
fn a_newcomer_starts_with_a_tenth_and_grows() {
    let slow = options(Balance::Weighted).slow_start(Duration::from_secs(10));
    let mut viewed = Viewed::of(&many(3), slow);
    let share =
        |viewed: &Viewed| f64::from(viewed.hits(20_000).get(&3).copied().unwrap_or(0)) / 20_000.0;
    assert!(viewed.hits(3000).values().all(|&hits| hits > 850), "the first ones are no newcomers");
    viewed.tell(0, &many(4), 0);
    assert!((share(&viewed) - 0.1 / 3.1).abs() < 0.01, "{}", share(&viewed));
    viewed.pass(from_ms(5_050));
    assert!((share(&viewed) - 0.5 / 3.5).abs() < 0.02, "{}", share(&viewed));
    viewed.pass(from_ms(5_050));
    assert!((share(&viewed) - 0.25).abs() < 0.02, "{}", share(&viewed));
    // A restart at the same address is a newcomer as well.
    let mut again = many(4);
    (again[3].slot, again[3].generation) = (3.into(), 2.into());
    viewed.tell(0, &again, 0);
    assert!((share(&viewed) - 0.1 / 3.1).abs() < 0.01, "{}", share(&viewed));
    let mut without = Viewed::of(&many(3), options(Balance::Weighted));
    without.tell(0, &many(4), 0);
    assert!((share(&without) - 0.25).abs() < 0.02, "off unless set");
}
