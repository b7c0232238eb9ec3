//! Watches without threads and sockets, in simulated time: what is pushed to whom, when, and what
//! is not.

mod following;

use following::*;
use heartline::internals::limits::*;
use heartline_region::Counter;
use heartline_test_support::{Harness, Push, peer, settings};
use heartline_wire::*;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

#[test]
fn a_change_is_pushed_once_with_the_versions_around_it() {
    let mut engine = engine();
    let first = register(&mut engine, "a", 1);
    let watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 10_000);
    assert_eq!(watcher.take(&mut engine), []);
    let before = version(&engine, SERVICE);
    let second = register(&mut engine, "b", 2);
    engine.push();
    let pushes = watcher.take(&mut engine);
    assert_eq!(pushes.len(), 1);
    assert_eq!((pushes[0].number, pushes[0].before, pushes[0].after), (1, before, before + 1));
    assert_eq!(pushes[0].flags, header_flags::RECEIPT_WANTED, "the first after a time without");
    let endpoint = &pushes[0].endpoints[0];
    assert_eq!((endpoint.slot, endpoint.generation), (second.slot, second.generation));
    assert_eq!((endpoint.state, endpoint.weight.get()), (State::Up as u8, 2));
    engine.pass(1);
    deregister(&mut engine, first);
    set_weight(&mut engine, second, 9);
    engine.push();
    let pushes = watcher.take(&mut engine);
    assert_eq!((pushes.len(), pushes[0].number), (1, 2));
    assert_eq!((pushes[0].before, pushes[0].after), (before + 1, before + 3));
    let told: Vec<(u32, u8, u16)> = pushes[0]
        .endpoints
        .iter()
        .map(|one| (one.slot.get(), one.state, one.weight.get()))
        .collect();
    assert_eq!(told, [(first.slot.get(), 0, 0), (second.slot.get(), State::Up as u8, 9)]);
    assert_eq!(counted(&engine, Counter::Watches), 1);
}

/// Changes within a millisecond go out together, and each slot once.
#[test]
fn changes_are_gathered_for_a_millisecond() {
    let mut engine = engine();
    let watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 10_000);
    let lease = register(&mut engine, "a", 1);
    engine.push();
    assert_eq!(watcher.take(&mut engine).len(), 1, "the first goes at once");
    for weight in 2..12 {
        set_weight(&mut engine, lease, weight);
        engine.now += 50_000;
        assert!(engine.push().is_some_and(|at| at > engine.now));
    }
    assert_eq!(watcher.take(&mut engine), []);
    engine.pass(1);
    let pushes = watcher.take(&mut engine);
    assert_eq!((pushes.len(), pushes[0].endpoints.len()), (1, 1));
    assert_eq!(pushes[0].after, version(&engine, SERVICE));
    assert_eq!(pushes[0].endpoints[0].weight.get(), 11);
}

/// The cookie proves the IP address. Until a proof comes from the port, it gets
/// one frame for each request, and for a second.
#[test]
fn nothing_but_one_frame_goes_to_a_port_that_is_not_proved() {
    let mut engine = engine();
    let mut victim = Following::new(peer(9), 1, SERVICE);
    let watching = victim.ask(&mut engine, 60_000).unwrap();
    assert_eq!((watching.ttl_ms.get(), watching.credit.get()), (WATCH_UNPROVED_MS, 1232));
    let mut pushed = 0;
    for number in 0..900 {
        register(&mut engine, &format!("i{number}"), 1);
        engine.pass(1);
        pushed += std::mem::take(&mut engine.pushed).iter().map(|(_, f)| f.len()).sum::<usize>();
        assert!(pushed <= FRAME_BYTES_MAX, "{pushed} bytes after {number} changes");
    }
    assert!(pushed > 0);
    engine.pass(200);
    assert_eq!(counted(&engine, Counter::Watches), 0);
    assert_eq!(counted(&engine, Counter::Beacons), 0);
}

/// A watch that the first reply has proved is granted the time that was asked for; a wrong proof,
/// one of another number, and one of another watch are none.
#[test]
fn a_proof_is_good_for_its_watch_and_its_number() {
    let mut engine = engine();
    let mut one = Following::new(peer(9), 1, SERVICE);
    let mut other = Following::new(peer(9), 2, SERVICE);
    one.ask(&mut engine, 10_000).unwrap();
    other.ask(&mut engine, 10_000).unwrap();
    assert_ne!(one.core.proof.1, other.core.proof.1);
    let right = one.core.proof;
    for wrong in [(0, 0), (0, right.1 ^ 1), (1, right.1), other.core.proof] {
        one.core.proof = wrong;
        let watching = one.ask(&mut engine, 10_000).unwrap();
        assert_eq!(watching.ttl_ms.get(), WATCH_UNPROVED_MS, "{wrong:?}");
        assert_eq!((watching.number.get(), watching.proof.get()), right, "the same watch");
    }
    one.core.proof = right;
    assert_eq!(one.ask(&mut engine, 10_000).unwrap().ttl_ms.get(), 10_000);
    // A push makes another proof; that of an older number stays good for its number.
    register(&mut engine, "a", 1);
    engine.push();
    let (_, frame) = engine.pushed.iter().find(|(_, frame)| frame[8] == 1).unwrap().clone();
    let proof = Push::read(&frame).unwrap().proof;
    assert_ne!(proof, right.1, "each number has its own");
    one.core.proof = (0, proof);
    engine.pass(100);
    let late = one.ask(&mut engine, 60_000).unwrap();
    assert!(late.ttl_ms.get() <= 9_900, "a wrong proof renews nothing: {}", late.ttl_ms);
}

/// A late copy of the first request must not take the watch from its watcher.
#[test]
fn a_late_copy_of_the_first_request_changes_nothing() {
    let mut engine = engine();
    let mut watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 10_000);
    let proof = watcher.core.proof;
    engine.pass(1000);
    watcher.core.proof = (0, 0);
    let watching = watcher.ask(&mut engine, 10_000).unwrap();
    assert_eq!((watching.ttl_ms.get(), watching.credit.get()), (9000, WATCH_CREDIT_BYTES));
    assert_eq!(watcher.core.proof, proof);
    engine.pass(9001);
    assert_eq!(counted(&engine, Counter::WatchesExpired), 1, "it renews nothing either");
}

#[test]
fn a_push_without_receipt_is_followed_by_beacons() {
    let mut engine = engine();
    let mut watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 10_000);
    register(&mut engine, "a", 1);
    engine.push();
    let push = watcher.take(&mut engine).remove(0);
    let mut at = Vec::new();
    for ms in 1..=2000 {
        engine.pass(1);
        for beacon in watcher.take(&mut engine) {
            at.push(ms);
            assert_eq!((beacon.number, beacon.before, beacon.after), (1, push.after, push.after));
            assert_eq!(beacon.flags, header_flags::RECEIPT_WANTED);
            assert_eq!(beacon.endpoints, []);
        }
    }
    assert_eq!(at, [5, 10, 15, 20, 25, 30, 35, 40, 45, 55, 75, 115, 195, 355, 675, 1315]);
    // A receipt ends them.
    register(&mut engine, "b", 1);
    engine.push();
    watcher.follow(&mut engine, || false);
    assert_eq!(watcher.core.proof.0, 2);
    watcher.receipt(&mut engine);
    engine.pass(2000);
    assert_eq!(watcher.take(&mut engine), []);
    assert_eq!(counted(&engine, Counter::Beacons), 16);
}

/// Somebody else may have the port by now, and an old proof may be known: bytes end with the
/// credit, and come again only for the proof of something newer.
#[test]
fn the_credit_ends_without_a_newer_proof() {
    let mut engine = engine();
    let mut watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 60_000);
    let lease = register(&mut engine, "a", 1);
    let old = watcher.core.proof;
    let mut bytes = 0;
    for step in 0..6000_u32 {
        set_weight(&mut engine, lease, step as u16 | 1);
        engine.pass(1);
        bytes += std::mem::take(&mut engine.pushed).iter().map(|(_, f)| f.len()).sum::<usize>();
        if step.is_multiple_of(500) {
            watcher.core.proof = old;
            assert!(watcher.ask(&mut engine, 60_000).unwrap().ttl_ms.get() == 60_000);
            watcher.core.proof = old;
            watcher.receipt(&mut engine);
        }
    }
    assert!(bytes <= WATCH_CREDIT_BYTES as usize, "{bytes} bytes for an old proof");
    assert!(bytes > WATCH_CREDIT_BYTES as usize - 100);
    // The reply to a renewal proves that it was received, and tells how far behind the watcher is.
    let watching = watcher.ask(&mut engine, 60_000).unwrap();
    assert!(watching.credit.get() < 100 && watching.version.get() == version(&engine, SERVICE));
    watcher.receipt(&mut engine);
    engine.push();
    let pushes = watcher.take(&mut engine);
    assert_eq!(pushes.len(), 0, "the reply has told");
    set_weight(&mut engine, lease, 7);
    engine.pass(1);
    assert_eq!(watcher.take(&mut engine).len(), 1);
}

/// A change for which there was no credit is said as soon as there is some.
#[test]
fn who_was_left_out_is_told_to_pull() {
    let mut engine = engine();
    let mut watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 60_000);
    let lease = register(&mut engine, "a", 1);
    for step in 0..4000_u32 {
        set_weight(&mut engine, lease, step as u16 | 1);
        engine.pass(1);
    }
    // All pushes arrive late and at once, and one receipt is sent for them.
    for push in watcher.take(&mut engine) {
        watcher.core.pushed(&push);
    }
    let (left_out, before) = (version(&engine, SERVICE), counted(&engine, Counter::Pulls));
    watcher.receipt(&mut engine);
    engine.push();
    let pushes = watcher.take(&mut engine);
    assert_eq!((pushes.len(), pushes[0].after, pushes[0].endpoints.len()), (1, left_out, 0));
    assert_ne!(pushes[0].before, left_out, "it says pull");
    assert!(watcher.core.pushed(&pushes[0]));
    assert_eq!(counted(&engine, Counter::Pulls), before + 1);
}

#[test]
fn watches_end_by_request_and_by_time() {
    let mut engine = engine();
    let mut ends = Following::begin(&mut engine, peer(9), 1, SERVICE, 10_000);
    let expires = Following::begin(&mut engine, peer(9), 2, SERVICE, 500);
    // An end without proof is none.
    let proof = std::mem::replace(&mut ends.core.proof, (0, 1));
    assert_ne!(ends.ask(&mut engine, 0).unwrap().ttl_ms.get(), 0);
    ends.core.proof = proof;
    let watching = ends.ask(&mut engine, 0).unwrap();
    assert_eq!((watching.ttl_ms.get(), watching.credit.get()), (0, 0));
    engine.pass(499);
    register(&mut engine, "a", 1);
    engine.push();
    assert_eq!((ends.take(&mut engine).len(), expires.take(&mut engine).len()), (0, 1));
    engine.pass(1);
    std::mem::take(&mut engine.pushed);
    register(&mut engine, "b", 1);
    engine.pass(100);
    assert_eq!(engine.pushed, []);
    assert_eq!(counted(&engine, Counter::WatchesExpired), 1);
    assert_eq!(counted(&engine, Counter::Watches), 0);
}

#[test]
fn requests_that_are_not_right_are_refused() {
    let mut engine = engine();
    let mut watcher = Following::new(peer(9), 1, SERVICE);
    for ttl_ms in [1, 99, 60_001, u32::MAX] {
        let cookie = engine.cookies.make(&peer(9).ip, engine.now);
        let reply = engine.send(peer(9), &watcher.core.request(cookie, ttl_ms)).unwrap();
        assert_eq!((reply.len(), reply[7], reply[4]), (16, Status::Invalid as u8, 48), "{ttl_ms}");
    }
    let reply = engine.send(peer(9), &watcher.core.request(0, 1000)).unwrap();
    assert_eq!((reply.len(), reply[7]), (16, Status::Cookie as u8));
    for tag in 0..u64::from(WATCHES_PER_ADDRESS_MAX) {
        watcher.core.tag = tag;
        watcher.ask(&mut engine, 1000).unwrap();
    }
    watcher.core.tag += 1;
    assert_eq!(watcher.ask(&mut engine, 1000).err(), Some(Status::Quota));
    engine.pass(1001);
    watcher.ask(&mut engine, 1000).expect("the others have ended");
    // A receipt without a good cookie is dropped.
    let mut receipt = Received::new_zeroed();
    receipt.number = U32::new(1);
    let frame = [Header::request(Kind::Push, 1).as_bytes(), receipt.as_bytes()].concat();
    assert_eq!(engine.send(peer(9), &frame), None);
    assert_eq!(engine.dataplane.tally().get(Counter::ReceiptsDropped), 1);
}

/// A service that is not there yet is watched all the same; one that loses its last instance is
/// watched on.
#[test]
fn services_come_and_go() {
    let mut engine = engine();
    let mut watcher = Following::begin(&mut engine, peer(9), 1, "later", 10_000);
    assert_eq!(watcher.core.version, 0);
    let lease = register_for(&mut engine, "later", "a", 3, 60_000);
    engine.pass(1);
    watcher.follow(&mut engine, || false);
    assert_eq!(watcher.core.view(), [(lease.slot.get(), lease.generation.get(), 1, 3)]);
    deregister(&mut engine, lease);
    engine.pass(1);
    watcher.follow(&mut engine, || false);
    assert_eq!((watcher.core.view(), watcher.core.pulls), (vec![], 0));
    assert_eq!(watcher.core.version, version(&engine, "later"));
}

/// Down instances are told as down, suspect ones as listed.
#[test]
fn silence_is_pushed() {
    let mut engine = engine();
    let lease = register_for(&mut engine, SERVICE, "a", 1, 30);
    let mut watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 10_000);
    engine.pass(22);
    let states = |pushes: &[Push]| -> Vec<u8> {
        pushes.iter().flat_map(|push| &push.endpoints).map(|one| one.state).collect()
    };
    let pushes = watcher.take(&mut engine);
    assert_eq!(states(&pushes), [State::Suspect as u8]);
    engine.pass(12);
    let down = watcher.take(&mut engine);
    let told: Vec<&Push> = down.iter().filter(|push| !push.endpoints.is_empty()).collect();
    assert_eq!(told[0].endpoints[0].state, State::Down as u8);
    assert_eq!(told[0].endpoints[0].slot, lease.slot);
    watcher.core.members.clear();
    engine.pass(100);
    let gone = states(&watcher.take(&mut engine));
    assert_eq!(gone, [0], "the tombstone is over");
}

#[test]
fn the_list_of_services_is_watched_under_id_0() {
    let mut engine = engine();
    let mut watcher = Following::begin(&mut engine, peer(9), 1, "", 10_000);
    let lease = register(&mut engine, "a", 1);
    engine.pass(1);
    let pushes = watcher.take(&mut engine);
    let (revision, _) = engine.region.service_count().unwrap();
    assert_eq!(pushes.len(), 1);
    assert_eq!((pushes[0].before, pushes[0].after), (watcher.core.version, revision));
    assert_eq!(pushes[0].endpoints, []);
    register(&mut engine, "b", 1);
    engine.pass(1);
    assert_eq!(watcher.take(&mut engine), [], "no service came or went");
    watcher.core.version = revision;
    deregister(&mut engine, lease);
    register_for(&mut engine, "another", "a", 1, 1000);
    engine.pass(1);
    let pushes = watcher.take(&mut engine);
    assert_eq!((pushes.len(), pushes[0].before, pushes[0].after), (1, revision, revision + 1));
}

/// A hold begins and ends: every watch hears of it, whatever it watches.
#[test]
fn holds_are_told_to_every_watch() {
    let mut engine = engine();
    for number in 0..20 {
        register_for(&mut engine, SERVICE, &format!("i{number}"), 1, 300);
    }
    let mut other = Following::begin(&mut engine, peer(9), 1, "other", 60_000);
    let mut services = Following::begin(&mut engine, peer(8), 1, "", 60_000);
    engine.pass(310);
    let pushes = other.take(&mut engine);
    assert_eq!((pushes[0].before, pushes[0].after, pushes[0].endpoints.len()), (0, 0, 0));
    assert_ne!(pushes[0].flags & header_flags::HOLD, 0);
    services.follow(&mut engine, || false);
    assert_eq!(services.core.hold_percent, 100);
    assert!(other.ask(&mut engine, 60_000).unwrap().hold_percent == 100);
    engine.pass(3000);
    other.follow(&mut engine, || false);
    assert_eq!(other.core.hold_percent, 0, "it is over");
}

/// A thread that comes late to the ring says so: watchers whose list has changed pull.
#[test]
fn overwritten_events_make_watchers_pull() {
    let mut engine = engine();
    let lease = register(&mut engine, "a", 1);
    register_for(&mut engine, "still", "a", 1, 60_000);
    let mut watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 60_000);
    let still = Following::begin(&mut engine, peer(9), 2, "still", 60_000);
    let before = watcher.core.version;
    for weight in 0..5000 {
        set_weight(&mut engine, lease, weight | 1);
    }
    engine.push();
    let pushes = watcher.take(&mut engine);
    assert_eq!((pushes.len(), pushes[0].endpoints.len()), (1, 0));
    assert_eq!((pushes[0].before, pushes[0].after), (before, version(&engine, SERVICE)));
    assert_eq!(still.take(&mut engine), [], "nothing has changed there");
    assert_eq!(counted(&engine, Counter::FeedMissed), 1);
    set_weight(&mut engine, lease, 3);
    engine.pass(1);
    let next = watcher.take(&mut engine);
    assert_eq!((next[0].before, next[0].endpoints.len()), (pushes[0].after, 1), "it goes on");
    watcher.pull(&mut engine);
}

/// Many changes at once: several pushes that lead on from one another, or the advice to pull.
#[test]
fn many_changes_take_several_pushes_or_a_pull() {
    let mut engine = engine();
    let mut watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 60_000);
    for number in 0..60 {
        register(&mut engine, &format!("i{number}"), 1);
    }
    engine.push();
    let pushes = watcher.take(&mut engine);
    let sizes: Vec<usize> = pushes.iter().map(|push| push.endpoints.len()).collect();
    assert_eq!(sizes, [24, 24, 12]);
    assert!(pushes.windows(2).all(|pair| pair[0].after == pair[1].before));
    pushes.iter().for_each(|push| watcher.core.apply(push));
    assert_eq!((watcher.core.members.len(), watcher.core.version), (60, version(&engine, SERVICE)));
    engine.pass(1);
    watcher.take(&mut engine);
    for number in 60..500 {
        register(&mut engine, &format!("i{number}"), 1);
    }
    engine.pass(1);
    let pushes = watcher.take(&mut engine);
    assert_eq!((pushes.len(), pushes[0].endpoints.len()), (1, 0));
    assert_eq!(
        (pushes[0].before, pushes[0].after),
        (watcher.core.version, version(&engine, SERVICE))
    );
}

/// Pushes, receipts and replies get lost, and still every view ends as the engine's.
#[test]
fn lost_pushes_heal_within_fifty_milliseconds() {
    let mut engine = Harness::new(1024, settings(1024), 3);
    let mut watchers: Vec<Following> = (0..20)
        .map(|number| Following::begin(&mut engine, peer(30 + number), 5, SERVICE, 60_000))
        .collect();
    let mut leases: Vec<Lease> =
        (0..40).map(|number| register(&mut engine, &format!("i{number}"), 1)).collect();
    let mut dice = 1_u64;
    let mut roll = move |of: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % of
    };
    let deliver = |engine: &mut Harness,
                   watchers: &mut Vec<Following>,
                   roll: &mut dyn FnMut(u64) -> u64| {
        let pushed = std::mem::take(&mut engine.pushed);
        for watcher in watchers {
            engine.pushed = pushed.iter().filter(|(to, _)| *to == watcher.peer).cloned().collect();
            watcher.follow(engine, || roll(5) == 0);
        }
        engine.pushed.clear();
    };
    for step in 0..500 {
        let at = roll(leases.len() as u64) as usize;
        match roll(3) {
            0 => {
                deregister(&mut engine, leases[at]);
                leases[at] = register(&mut engine, &format!("n{step}"), 1);
            }
            _ => set_weight(&mut engine, leases[at], 1 + roll(1000) as u16),
        }
        engine.pass(1);
        deliver(&mut engine, &mut watchers, &mut roll);
    }
    for _ in 0..50 {
        engine.pass(1);
        deliver(&mut engine, &mut watchers, &mut roll);
    }
    let mut truth = Following::begin(&mut engine, peer(99), 5, SERVICE, 60_000);
    truth.pull(&mut engine);
    for watcher in &watchers {
        assert_eq!(watcher.core.version, truth.core.version, "{:?}", watcher.peer.port);
        assert_eq!(watcher.core.view(), truth.core.view());
        assert!(watcher.core.pulls > 0 && watcher.core.pulls < 400, "{} pulls", watcher.core.pulls);
    }
}

/// The same watch serves another service when its tag is used again, but has to prove itself anew.
#[test]
fn another_service_under_the_same_tag_begins_anew() {
    let mut engine = engine();
    let mut watcher = Following::begin(&mut engine, peer(9), 1, SERVICE, 10_000);
    watcher.core.service = service_id("other");
    let watching = watcher.ask(&mut engine, 10_000).unwrap();
    assert_eq!((watching.ttl_ms.get(), watching.number.get()), (WATCH_UNPROVED_MS, 0));
    assert_eq!(counted(&engine, Counter::Watches), 1);
    watcher.ask(&mut engine, 10_000).unwrap();
    register(&mut engine, "a", 1);
    engine.pass(1);
    assert_eq!(watcher.take(&mut engine), []);
}
