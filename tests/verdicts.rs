//! When silence counts, in simulated time: the barrier through the loops, grace after deafness,
//! quarantine of slots, hold of the serving only.

use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::registrar::{Registrar, Settings};
use heartline_region::{Cause, EventKind};
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::*;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

fn engine() -> Harness {
    Harness::new(64, settings(64), 1)
}

fn register(engine: &mut Harness, name: &str, ttl_ms: u32) -> Result<Lease, Status> {
    let mut body = Register::new_zeroed();
    body.nonce = U64::new(engine.now | 1 << 63);
    body.ttl_ms = U32::new(ttl_ms);
    body.service = Name::new("s").unwrap();
    body.instance = Name::new(name).unwrap();
    let reply = engine.request(peer(1), Kind::Register, &[body.as_bytes()]).unwrap();
    let reply = Reply::decode(&reply).unwrap();
    match reply.body {
        ReplyBody::Granted(granted) => Ok(granted.lease),
        _ => Err(reply.status),
    }
}

fn beat(engine: &mut Harness, lease: Lease, sequence: u32, declared: Declared) {
    let header = Header { count: U16::new(1), ..Header::request(Kind::Beat, 5) };
    let beat = Beat {
        lease,
        sequence: U32::new(sequence),
        load: U16::ZERO,
        flags: U16::new(declared as u16),
    };
    assert_eq!(engine.send(peer(1), &[header.as_bytes(), beat.as_bytes()].concat()), None);
}

/// Times of the events of one kind, after the start of the history.
fn times(engine: &Harness, kind: EventKind) -> Vec<Nanos> {
    engine
        .feed()
        .iter()
        .filter(|event| event[2] & 0xFF == kind as u64)
        .map(|event| event[1])
        .collect()
}

#[test]
fn down_falls_into_the_first_tick_from_the_deadline() {
    for ttl in [1_u32, 2, 3, 10, 255, 256, 257, 1000, 65_537] {
        for offset in [0, 1, 499_999, 999_999] {
            let mut engine = engine();
            engine.now += offset;
            register(&mut engine, "a", ttl).unwrap();
            let deadline = engine.now + from_ms(ttl.into());
            while times(&engine, EventKind::Down).is_empty() {
                let mut next = engine.tick();
                if next.drain.is_some() {
                    // The loops drain at once.
                    next = engine.tick();
                }
                let Some(wake) = next.wake_at else { panic!("no timer is armed") };
                // Woken when asked, and never busy-waiting: each call moves time forward.
                assert!(wake >= engine.now || wake == engine.now);
                engine.now = wake.max(engine.now + 1);
                assert!(engine.now <= deadline + from_ms(2), "TTL {ttl}, offset {offset}");
                engine.tick();
                engine.tick();
            }
            let down = times(&engine, EventKind::Down)[0];
            assert!(
                (deadline..=deadline + from_ms(1)).contains(&down),
                "TTL {ttl}, offset {offset}: {} late",
                down as i64 - deadline as i64
            );
        }
    }
}

/// A loop that has not emptied its socket may hold the beat that matters.
#[test]
fn nobody_is_judged_before_every_loop_has_drained() {
    let mut engine = engine();
    register(&mut engine, "a", 30).unwrap();
    engine.drains = false;
    engine.pass(3000);
    assert_eq!(engine.registrar.counts().up, 1, "not even suspect");
    assert!(engine.next.unwrap().drain.is_some(), "the loops are asked");
    // A drain that is too old proves nothing.
    engine.drained = engine.now - from_ms(2990);
    engine.pass(1);
    assert_eq!(engine.registrar.counts().up, 1);
    engine.drains = true;
    engine.pass(3);
    assert_eq!(engine.registrar.counts().down, 1, "what is proved is judged at once");
}

#[test]
fn a_beat_that_waited_at_the_socket_saves_its_instance() {
    let mut engine = engine();
    let lease = register(&mut engine, "a", 30).unwrap();
    engine.drains = false;
    engine.pass(300);
    beat(&mut engine, lease, 1, Declared::Serving);
    engine.drains = true;
    engine.pass(5);
    assert_eq!(engine.registrar.counts().up, 1);
    assert!(times(&engine, EventKind::Suspect).is_empty());
}

/// The same for somebody who is held when the hold lets go, and for somebody who is down when the
/// tombstone ends.
#[test]
fn a_beat_that_waited_saves_the_held_and_the_down() {
    let mut held = engine();
    let leases: Vec<Lease> =
        (0..8).map(|n| register(&mut held, &format!("i{n}"), 90).unwrap()).collect();
    held.pass(95);
    assert_eq!(held.registrar.counts().held, 8);
    held.drains = false;
    held.pass(600);
    assert_eq!(
        (held.registrar.counts().held, held.registrar.counts().down),
        (8, 0),
        "no verdict before the loops have drained"
    );
    beat(&mut held, leases[0], 1, Declared::Serving);
    held.drains = true;
    held.pass(5);
    assert_eq!((held.registrar.counts().up, held.registrar.counts().down), (1, 7));

    let mut down = engine();
    let lease = register(&mut down, "a", 60).unwrap();
    down.pass(70);
    assert_eq!(down.registrar.counts().down, 1);
    down.drains = false;
    down.pass(300);
    assert_eq!(down.registrar.counts().down, 1, "not buried before the loops have drained");
    beat(&mut down, lease, 1, Declared::Serving);
    down.drains = true;
    down.pass(5);
    assert_eq!(down.registrar.counts().up, 1);
}

/// Dropped datagrams excuse everybody for one TTL, and for three at most: a flood can't blind the
/// engine for ever.
#[test]
fn drops_give_grace_and_the_grace_ends() {
    let mut engine = engine();
    register(&mut engine, "a", 90).unwrap();
    let start = engine.now;
    engine.pass(50);
    engine.drops += 7;
    engine.pass(1);
    let once = engine.now + from_ms(90);
    engine.pass(150);
    assert_eq!(times(&engine, EventKind::Down), [once], "one TTL after the drops");
    assert_eq!(times(&engine, EventKind::Deaf).len(), 1);

    let mut flooded = self::engine();
    register(&mut flooded, "a", 90).unwrap();
    assert_eq!(flooded.now, start);
    for _ in 0..500 {
        flooded.drops += 1;
        flooded.pass(1);
    }
    assert_eq!(
        times(&flooded, EventKind::Down),
        [start + from_ms(4 * 90)],
        "three TTLs late, no more"
    );
    assert_eq!(times(&flooded, EventKind::Deaf).len(), 1, "told once a second at most");
}

#[test]
fn a_stall_of_ours_gives_grace() {
    let mut engine = engine();
    register(&mut engine, "a", 500).unwrap();
    engine.pass(300);
    // The registrar was to look at two thirds of the TTL and comes 1.7 s late.
    engine.now += from_ms(1700);
    engine.tick();
    engine.pass(1);
    assert_eq!(engine.registrar.counts().up, 1, "nobody is blamed at once");
    let back = engine.now;
    engine.pass(1000);
    let down = times(&engine, EventKind::Down)[0];
    assert!(
        (back + from_ms(490)..=back + from_ms(510)).contains(&down),
        "one TTL after we were back"
    );
}

/// When an instance goes down that never beats, counted from its registration, in an engine that
/// sleeps until its next look and stands still for `length` from `stop` on.
fn down_after_a_stall(ttl_ms: u32, stop: Nanos, length: Nanos) -> Nanos {
    let mut engine = engine();
    let start = engine.now;
    register(&mut engine, "a", ttl_ms).unwrap();
    loop {
        let mut next = engine.tick();
        if next.drain.is_some() {
            // The loops drain at once.
            next = engine.tick();
        }
        if let Some(down) = times(&engine, EventKind::Down).first() {
            return down - start;
        }
        engine.now = next.wake_at.expect("a timer is armed").max(engine.now + 1);
        if (start + stop..start + stop + length).contains(&engine.now) {
            engine.now = start + stop + length;
        }
    }
}

/// An engine that is stopped while it sleeps (SIGSTOP, a paused machine) must not take the time for
/// the silence of others.
#[test]
fn a_stall_of_a_sleeping_engine_counts_whole() {
    let down = down_after_a_stall(2000, from_ms(1850), from_ms(100));
    assert!((from_ms(2750)..=from_ms(2831)).contains(&down), "{down}");
    for ttl_ms in [200, 500, 2000, 3000, 20_000] {
        let ttl = from_ms(ttl_ms.into());
        // From here on the engine watches itself.
        let watched = ttl - (ttl / 3).min(from_ms(1000));
        for (length, step) in [20, 27, 100, 400, 3000].into_iter().flat_map(|ms| {
            let length = from_ms(ms) + 321_987;
            (0..80).map(move |step| (length, step))
        }) {
            let stop = ttl - (ttl / 80 * step).min(ttl / 7 * 6);
            let (back, down) = (stop + length, down_after_a_stall(ttl_ms, stop, length));
            let least = if stop >= watched {
                back + ttl.min(8 * length)
            } else {
                // A look that is planned for the time when the watch begins may be a tick later.
                match back.saturating_sub(watched + from_ms(1)) {
                    seen if seen >= from_ms(20) => back + ttl.min(8 * seen),
                    _ => ttl,
                }
            };
            let most = back + ttl.min(8 * (length + from_ms(10)));
            let case = format!("TTL {ttl_ms} ms, {length} ns from {stop} on: down at {down}");
            assert!(down >= least.max(ttl), "{case}, not before {least}");
            assert!(down <= most.max(ttl) + from_ms(2), "{case}, not after {most}");
        }
    }
}

/// Nobody is woken for nothing: without members there is nothing to look at, and somebody who beats
/// is looked at with its timers only.
#[test]
fn looks_are_few_while_nobody_is_suspect() {
    let mut engine = engine();
    assert_eq!(engine.tick().wake_at, None);
    let lease = register(&mut engine, "a", 60_000).unwrap();
    let mut looks = 0;
    for sequence in 1..=40 {
        let beats_at = engine.now + from_ms(15_000);
        while let Some(wake) = engine.tick().wake_at.filter(|wake| *wake < beats_at) {
            engine.now = wake.max(engine.now + 1);
            looks += 1;
        }
        engine.now = beats_at;
        beat(&mut engine, lease, sequence, Declared::Serving);
    }
    assert!(looks < 100, "{looks} looks in ten minutes");
    assert_eq!(engine.registrar.counts().up, 1);
}

/// A tombstone runs on while no engine runs. Yet each lease has one TTL from the start of the next
/// engine to be heard in.
#[test]
fn a_tombstone_that_ended_while_no_engine_ran_waits_for_one_ttl() {
    for returns in [true, false] {
        let mut engine = engine();
        let lease = register(&mut engine, "a", 50).unwrap();
        engine.pass(55);
        assert_eq!(engine.registrar.counts().down, 1);
        engine.now += from_ms(10_000);
        let (region, writer) = engine.registrar.release();
        engine.registrar = Registrar::resume(region, writer, settings(64), engine.now);
        engine.pass(45);
        assert_eq!(engine.registrar.counts().down, 1, "within its TTL");
        if returns {
            beat(&mut engine, lease, 1, Declared::Serving);
        }
        engine.pass(8);
        let counts = engine.registrar.counts();
        assert_eq!((counts.up, counts.down), (u32::from(returns), 0));
    }
}

#[test]
fn a_freed_slot_rests_until_every_loop_has_drained() {
    let mut engine = Harness::new(16, settings(16), 1);
    let slots = engine.region.geometry().slots;
    engine.drains = false;
    let (mut refused, mut used) = (0, std::collections::BTreeSet::new());
    for _ in 0..slots + 10 {
        engine.pass(1);
        match register(&mut engine, "a", 60_000) {
            Ok(lease) => assert!(
                used.insert(lease.slot.get()),
                "a slot was given away while a loop could still write to it"
            ),
            Err(status) => {
                assert_eq!(status, Status::Busy);
                refused += 1;
            }
        }
    }
    assert_eq!((used.len() as u32, refused), (slots, 10));
    engine.pass(1);
    assert!(engine.next.unwrap().drain.is_some(), "the loops are asked");
    engine.drains = true;
    engine.pass(1);
    assert_eq!(engine.next.unwrap().drain, None, "and not asked again for what they have done");
    let lease = register(&mut engine, "a", 60_000).unwrap();
    assert_eq!(lease.generation.get(), 2);
}

#[test]
fn who_drains_or_is_in_maintenance_is_never_held_and_proves_nothing() {
    let mut engine = engine();
    let leases: Vec<Lease> =
        (0..24).map(|n| register(&mut engine, &format!("i{n}"), 90).unwrap()).collect();
    for (n, lease) in leases.iter().enumerate() {
        let declared = [Declared::Serving, Declared::Draining, Declared::Maintenance][n % 3];
        beat(&mut engine, *lease, 1, declared);
    }
    engine.pass(92);
    let counts = *engine.registrar.counts();
    assert_eq!((counts.held, counts.down), (8, 16), "the eight that serve are held");
    // The evidence ends with a single return, and one TTL later the others are let go.
    beat(&mut engine, leases[0], 2, Declared::Serving);
    let lost = engine.now;
    engine.pass(60);
    assert_eq!(engine.registrar.counts().held, 7);
    engine.pass(60);
    let downs = times(&engine, EventKind::Down);
    assert!(
        downs[16..].iter().all(|&down| (lost + from_ms(90)..=lost + from_ms(114)).contains(&down)),
        "{lost} {downs:?}"
    );
    let ended: Vec<[u64; 8]> = engine
        .feed()
        .into_iter()
        .filter(|event| event[2] & 0xFF == EventKind::HoldEnded as u64)
        .collect();
    assert_eq!((ended.len(), ended[0][2] >> 8), (1, Cause::HoldOver as u64));
}

/// A service that is forgotten and comes back must not start its versions anew: a client would take
/// an old list for a new one.
#[test]
fn versions_grow_over_the_end_of_a_service() {
    let mut engine = Harness::new(16, Settings { hold: false, ..settings(16) }, 1);
    let version = |engine: &mut Harness, service: &str| {
        let mut body = Discover::new_zeroed();
        body.service = U64::new(service_id(service));
        let reply = engine.request(peer(1), Kind::Discover, &[body.as_bytes()]).unwrap();
        match Reply::decode(&reply).unwrap().body {
            ReplyBody::Endpoints(head, _) => head.version.get(),
            _ => 0,
        }
    };
    let first = register(&mut engine, "a", 60_000).unwrap();
    let before = version(&mut engine, "s");
    assert!(engine.request(peer(1), Kind::Deregister, &[first.as_bytes()]).is_some());
    // As many other services as the directory has entries push it out.
    for round in 0..engine.region.geometry().services_max + 3 {
        let mut body = Register::new_zeroed();
        (body.nonce, body.ttl_ms) = (U64::new(5), U32::new(60_000));
        body.service = Name::new(&format!("other-{round}")).unwrap();
        body.instance = Name::new("x").unwrap();
        let reply = engine.request(peer(1), Kind::Register, &[body.as_bytes()]).unwrap();
        let ReplyBody::Granted(granted) = Reply::decode(&reply).unwrap().body else {
            panic!("refused")
        };
        engine.request(peer(1), Kind::Deregister, &[granted.lease.as_bytes()]).unwrap();
        engine.pass(1);
    }
    assert_eq!(version(&mut engine, "s"), 0, "it was forgotten");
    register(&mut engine, "a", 60_000).unwrap();
    assert!(version(&mut engine, "s") > before + 1);
}
