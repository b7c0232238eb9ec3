//! Which endpoints may be picked, and what the view says of itself.

use heartline_client::{Balance, Declared, Degraded, MemberChange, PickError, State, WatchOptions};
use heartline_test_support::lists::{Viewed, endpoint, endpoint_as};
use heartline_wire::Endpoint;
use heartline_wire::time::from_ms;
use std::collections::BTreeSet;
use std::time::Duration;

const UP: State = State::Up;
const SUSPECT: State = State::Suspect;

fn options() -> WatchOptions {
    WatchOptions::new().balance(Balance::Random)
}

/// Slots that picks find, and how they are degraded.
fn found(viewed: &Viewed) -> (BTreeSet<u32>, Option<Degraded>) {
    let picks: Vec<_> = (0..200).map(|_| viewed.watch.pick().unwrap()).collect();
    let degraded = picks[0].degraded();
    assert!(picks.iter().all(|pick| pick.degraded() == degraded));
    (picks.iter().map(|pick| pick.slot()).collect(), degraded)
}

#[test]
fn before_an_engine_has_answered_there_is_nothing() {
    let viewed = Viewed::new(1, options());
    assert_eq!(viewed.watch.pick().unwrap_err(), PickError::NotReady);
    assert_eq!(viewed.watch.pick_by(b"key").unwrap_err(), PickError::NotReady);
    assert!(viewed.watch.call().is_err() && viewed.watch.all().is_empty());
    assert_eq!((viewed.watch.age(), viewed.watch.is_current()), (None, false));
    let waited = viewed.watch.wait_ready(Duration::from_millis(5));
    assert_eq!(waited, Err(PickError::NotReady));
}

#[test]
fn draining_and_maintenance_are_never_picked_and_always_shown() {
    let members = [
        endpoint(0),
        endpoint_as(1, UP, Declared::Draining),
        endpoint_as(2, UP, Declared::Maintenance),
        endpoint(3),
        endpoint_as(4, SUSPECT, Declared::Draining),
    ];
    let mut viewed = Viewed::of(&members, options());
    assert_eq!(found(&viewed), (BTreeSet::from([0, 3]), None));
    assert_eq!(viewed.watch.all().len(), 5);
    for key in 0..200_u64 {
        assert!([0, 3].contains(&viewed.watch.pick_by_key(key).unwrap().slot()));
    }
    // Also when nobody else is left, and when they were good a moment ago.
    viewed.tell(0, &[endpoint_as(0, UP, Declared::Draining), members[1]], 0);
    assert_eq!(found(&viewed).0, BTreeSet::from([3]), "the last good one stands in");
    viewed.tell(0, &[endpoint_as(3, UP, Declared::Maintenance), members[1]], 0);
    assert_eq!(found(&viewed).0, BTreeSet::from([0]));
    let all = [0, 3].map(|number| endpoint_as(number, UP, Declared::Maintenance));
    viewed.tell(0, &all, 0);
    assert_eq!(viewed.watch.pick().unwrap_err(), PickError::NoneHealthy);
}

#[test]
fn suspects_are_last() {
    let members = [
        endpoint(0),
        endpoint_as(1, SUSPECT, Declared::Serving),
        endpoint_as(2, UP, Declared::Serving),
    ];
    let mut viewed = Viewed::of(&members, options());
    assert_eq!(found(&viewed), (BTreeSet::from([0, 2]), None));
    assert!(viewed.watch.all().iter().any(|endpoint| endpoint.state == SUSPECT));
    viewed.tell(0, &members[1..2], 0);
    assert_eq!(found(&viewed), (BTreeSet::from([1]), Some(Degraded::Suspect)));
    assert!(viewed.watch.pick().unwrap().is_suspect());
}

#[test]
fn a_hold_makes_suspects_as_good_as_others_and_says_so() {
    let members = [endpoint(0), endpoint_as(1, SUSPECT, Declared::Serving)];
    let mut viewed = Viewed::of(&members, options());
    assert_eq!((found(&viewed), viewed.watch.hold()), ((BTreeSet::from([0]), None), None));
    viewed.tell(0, &members, 60);
    assert_eq!(found(&viewed), (BTreeSet::from([0, 1]), Some(Degraded::Hold)));
    assert_eq!(viewed.watch.hold(), Some(60));
    viewed.tell(0, &members, 0);
    assert_eq!((found(&viewed), viewed.watch.hold()), ((BTreeSet::from([0]), None), None));
}

#[test]
fn the_last_good_ones_stand_in_until_they_are_too_old() {
    let options = options().max_stale(Duration::from_secs(30));
    let mut viewed = Viewed::of(&[endpoint(0), endpoint(1)], options);
    viewed.tell(0, &[], 0);
    assert_eq!(found(&viewed), (BTreeSet::from([0, 1]), Some(Degraded::LastGood)));
    assert!(viewed.watch.all().is_empty(), "no engine lists them");
    viewed.pass(from_ms(29_000));
    assert_eq!(found(&viewed).1, Some(Degraded::LastGood));
    viewed.pass(from_ms(1_100));
    assert_eq!(viewed.watch.pick().unwrap_err(), PickError::NoInstance);
    viewed.tell(0, &[endpoint(7)], 0);
    assert_eq!(found(&viewed), (BTreeSet::from([7]), None));
}

#[test]
fn without_an_engine_the_last_view_counts_until_it_is_too_old() {
    let options = options().max_stale(Duration::from_secs(60));
    let mut viewed = Viewed::of(&[endpoint(0)], options);
    assert!(viewed.watch.is_current());
    viewed.reachable[0] = false;
    viewed.update();
    assert_eq!(found(&viewed), (BTreeSet::from([0]), Some(Degraded::Unreachable)));
    assert!(!viewed.watch.is_current());
    viewed.pass(from_ms(59_000));
    assert_eq!(found(&viewed).1, Some(Degraded::Unreachable));
    viewed.pass(from_ms(1_100));
    assert_eq!(viewed.watch.pick().unwrap_err(), PickError::Stale);
    viewed.reachable[0] = true;
    viewed.pass(from_ms(20));
    assert_eq!(found(&viewed), (BTreeSet::from([0]), None));
}

/// A link that looks well while the watch is not answered must not pass for a current view.
#[test]
fn a_list_that_nobody_confirms_says_nothing() {
    let mut viewed = Viewed::of(&[endpoint(0)], options());
    let until = viewed.now + from_ms(20_100);
    while viewed.now < until {
        viewed.now = viewed.resolver.due().min(until);
        viewed.update();
    }
    assert_eq!(found(&viewed).1, Some(Degraded::Unreachable));
    assert!(!viewed.watch.is_current());
}

#[test]
fn several_engines_are_one_list() {
    let mut viewed = Viewed::new(2, options());
    viewed.tell(0, &[endpoint(0), endpoint(1)], 0);
    // The same address under another slot, with an older beat.
    let other = |number: u32, slot: u32, state: State| Endpoint {
        slot: slot.into(),
        age_ms: 9_000.into(),
        ..endpoint_as(number, state, Declared::Serving)
    };
    let second = [other(1, 50, SUSPECT), other(2, 51, UP), other(3, 52, SUSPECT)];
    viewed.tell(1, &second, 0);
    // 0 only at the first, 1 at both and up at one, 2 only at the second, 3 suspect.
    assert_eq!(found(&viewed), (BTreeSet::from([0, 1, 51]), None));
    assert_eq!(viewed.watch.all().len(), 4);
    let picked = (0..99).map(|_| viewed.watch.pick().unwrap()).find(|pick| pick.slot() == 51);
    assert_eq!(picked.unwrap().engine(), 1);
    // The first cannot be reached: only the second says something.
    viewed.reachable[0] = false;
    viewed.update();
    assert_eq!(found(&viewed), (BTreeSet::from([51]), None));
    // Down at one and alive at the other is alive.
    viewed.reachable[0] = true;
    viewed.tell(1, &[], 0);
    assert_eq!(found(&viewed).0, BTreeSet::from([0, 1]));
    // Neither can be reached: the last view counts.
    viewed.reachable = vec![false; 2];
    viewed.update();
    assert_eq!(found(&viewed), (BTreeSet::from([0, 1]), Some(Degraded::Unreachable)));
}

/// What the engine heard last is the newest word on weight and declaration.
#[test]
fn the_word_after_the_latest_beat_counts() {
    let mut viewed = Viewed::new(2, options());
    let drained = endpoint_as(0, UP, Declared::Draining);
    let stale = Endpoint { age_ms: 5_000.into(), ..endpoint(0) };
    viewed.tell(0, &[stale, endpoint(1)], 0);
    viewed.tell(1, &[drained, endpoint(1)], 0);
    assert_eq!(found(&viewed).0, BTreeSet::from([1]));
}

#[test]
fn instances_at_one_address_stay_several() {
    let same = |slot: u32| Endpoint { slot: slot.into(), ..endpoint(0) };
    let mut viewed = Viewed::of(&[same(3), same(4), endpoint(5)], options());
    assert_eq!(found(&viewed).0, BTreeSet::from([3, 4, 5]));
    viewed.tell(0, &[same(4), endpoint(5)], 0);
    assert_eq!(found(&viewed).0, BTreeSet::from([4, 5]));
}

#[test]
fn changes_are_told_one_by_one() {
    let mut viewed = Viewed::of(&[endpoint(0), endpoint(1)], options());
    let mut changes = viewed.watch.changes();
    assert_eq!(changes.try_next(), None, "from now on");
    let heavier = Endpoint { weight: 7.into(), ..endpoint(1) };
    viewed.tell(0, &[heavier, endpoint(2)], 55);
    let told: Vec<_> = std::iter::from_fn(|| changes.try_next()).collect();
    let slots: Vec<_> = told
        .iter()
        .map(|change| match change {
            MemberChange::Left(endpoint) => (-1, endpoint.slot),
            MemberChange::Altered(endpoint) => (0, endpoint.slot),
            MemberChange::Joined(endpoint) => (1, endpoint.slot),
            MemberChange::Hold(percent) => (2, u32::from(*percent)),
            MemberChange::Gap => (3, 0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(slots, [(3, 0), (-1, 0), (0, 1), (1, 2), (2, 55)]);
    // Load and age are no changes.
    let busy = Endpoint { load: 9.into(), age_ms: 9.into(), ..heavier };
    viewed.tell(0, &[busy, endpoint(2)], 55);
    assert_eq!(changes.try_next(), Some(MemberChange::Gap));
    assert_eq!(changes.try_next(), None);
    let watch = viewed.watch.clone();
    drop(viewed);
    assert_eq!((changes.next(), watch.pick().unwrap_err()), (None, PickError::Ended));
    assert_eq!(watch.changes().next(), None);
    assert_eq!(watch.wait_ready(Duration::from_secs(60)), Err(PickError::Ended));
}

#[test]
fn a_view_is_ready_once_an_endpoint_is_there() {
    let mut viewed = Viewed::new(1, options());
    let watch = viewed.watch.clone();
    let waiting = std::thread::spawn(move || watch.wait_ready(Duration::from_secs(20)));
    viewed.tell(0, &[], 0);
    assert_eq!(viewed.watch.error(), Some(PickError::NoInstance));
    viewed.tell(0, &[endpoint(0)], 0);
    assert_eq!(waiting.join().unwrap(), Ok(()));
    assert!(viewed.watch.age().is_some() && viewed.watch.is_current());
    assert!(viewed.resolver.is_watched());
    let Viewed { resolver, watch, .. } = viewed;
    drop(watch);
    assert!(!resolver.is_watched());
}
