//! Endpoints whose calls fail are left out, as far as the cap allows, and come back by a trial.

use heartline_client::{Balance, Call, Outliers, Watch, WatchOptions};
use heartline_test_support::lists::{Viewed, endpoint};
use heartline_wire::Endpoint;
use heartline_wire::time::from_ms;
use std::collections::BTreeSet;

fn viewed(count: u32) -> Viewed {
    viewed_with(count, Some(Outliers::default()))
}

fn viewed_with(count: u32, outliers: Option<Outliers>) -> Viewed {
    let members: Vec<Endpoint> = (0..count).map(endpoint).collect();
    let options = WatchOptions::new().balance(Balance::Random).outliers(outliers);
    Viewed::of(&members, options)
}

/// So many calls, of which those to the bad ones fail; the endpoints that were called.
fn calls(watch: &Watch, count: u32, bad: &[u32]) -> BTreeSet<u32> {
    let one = |_| {
        let call = watch.call().unwrap();
        let slot = call.picked().slot();
        if bad.contains(&slot) {
            call.failed()
        } else {
            call.succeeded()
        }
        slot
    };
    (0..count).map(one).collect()
}

#[test]
fn an_endpoint_that_fails_is_left_out_and_tried_again() {
    let mut viewed = viewed(10);
    calls(&viewed.watch, 1000, &[3]);
    assert!(!calls(&viewed.watch, 1000, &[]).contains(&3), "calls");
    assert_eq!(viewed.hits(5000).len(), 9, "picks as well");
    let key = (0..).find(|&key| viewed.watch.pick_by_key(key).unwrap().slot() == 0).unwrap();
    assert_eq!(viewed.watch.pick_by_key(key).unwrap().slot(), 0, "others keep their keys");
    viewed.pass(from_ms(9_000));
    assert!(!calls(&viewed.watch, 1000, &[]).contains(&3));
    viewed.pass(from_ms(12_000));
    // One call at a time is the trial.
    assert!(!viewed.hits(1000).contains_key(&3), "unreported picks are no trial");
    let mut held: Vec<Call> = (0..500).map(|_| viewed.watch.call().unwrap()).collect();
    let trials = held.iter().filter(|call| call.picked().slot() == 3).count();
    assert_eq!(trials, 1);
    held.retain(|call| call.picked().slot() == 3);
    held.pop().unwrap().failed();
    assert!(!calls(&viewed.watch, 1000, &[]).contains(&3), "the trial failed");
    viewed.pass(from_ms(22_000));
    calls(&viewed.watch, 1000, &[]);
    let hits = viewed.hits(5000);
    assert!(hits[&3] > 350, "back with its whole share: {hits:?}");
}

/// If everything fails, the fault is the caller's own.
#[test]
fn no_more_are_left_out_than_the_cap_allows() {
    let everybody: Vec<u32> = (0..10).collect();
    let mut viewed = viewed(10);
    calls(&viewed.watch, 5000, &everybody);
    assert_eq!(viewed.hits(5000).len(), 7);
    // Fewer members, a lower cap: some are taken back.
    let members: Vec<Endpoint> = (0..10).map(endpoint).collect();
    let left: BTreeSet<u32> = viewed.hits(5000).into_keys().collect();
    let kept = members.iter().filter(|entry| !left.contains(&entry.slot.get())).copied();
    let kept: Vec<Endpoint> = kept.collect();
    viewed.tell(0, &kept, 0);
    assert_eq!(viewed.hits(5000).len(), 2, "one of three at most");
    viewed.tell(0, &kept[..1], 0);
    assert_eq!(viewed.hits(50).len(), 1, "never the last one");
}

#[test]
fn none_is_left_out_unless_wanted_or_reported() {
    let viewed = viewed_with(5, None);
    calls(&viewed.watch, 2000, &[0, 1, 2, 3, 4]);
    assert_eq!(viewed.hits(2000).len(), 5);
    let viewed = viewed_with(5, Some(Outliers::default()));
    for _ in 0..2000 {
        drop(viewed.watch.call().unwrap());
    }
    assert_eq!(viewed.hits(2000).len(), 5, "nobody said how they ended");
}

/// A third of the calls fails, never five in a row: only the comparison with others shows it.
#[test]
fn a_low_success_rate_is_found_by_comparison() {
    let rules = Outliers { consecutive_failures: 0, ..Outliers::default() };
    let mut viewed = viewed_with(10, Some(rules));
    let mut count = 0;
    for _ in 0..3000 {
        let call = viewed.watch.call().unwrap();
        count += 1;
        let fails = call.picked().slot() == 6 && count % 3 == 0;
        if fails { call.failed() } else { call.succeeded() }
    }
    assert_eq!(viewed.hits(3000).len(), 10, "not before the interval is over");
    viewed.pass(from_ms(11_000));
    let hits = viewed.hits(3000);
    assert!(hits.len() == 9 && !hits.contains_key(&6), "{hits:?}");
}

/// Counts outlive views, and follow an endpoint that leaves and comes back.
#[test]
fn what_is_in_flight_survives_changes_of_the_list() {
    let members: Vec<Endpoint> = (0..2).map(endpoint).collect();
    let options = WatchOptions::new().balance(Balance::LeastInFlight);
    let mut viewed = Viewed::of(&members, options);
    let mut calls: Vec<Call> = (0..20).map(|_| viewed.watch.call().unwrap()).collect();
    calls.retain(|call| call.picked().slot() == 0);
    viewed.tell(0, &members[1..], 0);
    viewed.pass(from_ms(100_000));
    // A newcomer must not get the numbers of one that has calls in flight.
    viewed.tell(0, &[members[1], endpoint(9)], 0);
    let next: Vec<Call> = (0..20).map(|_| viewed.watch.call().unwrap()).collect();
    let to_newcomer = next.iter().filter(|call| call.picked().slot() == 9).count();
    assert!((9..=11).contains(&to_newcomer), "{to_newcomer} of 20");
    drop(next);
    viewed.tell(0, &members, 0);
    let mut to_other = 0;
    for _ in 0..40 {
        to_other += u32::from(viewed.watch.call().unwrap().picked().slot() == 1);
    }
    assert!(to_other >= 28, "{to_other} of 40, with ten calls still in flight at the first");
}
