//! Every kind of request and every status, against a real engine over real sockets.

use heartline::Config;
use heartline_client::proto::encode_registration;
use heartline_client::{
    Beat, Beats, Change, ClientError, Lease, Query, Refusal, Registration, Session, Target,
};
use heartline_test_support::*;
use heartline_wire::*;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromZeros, IntoBytes};

fn status<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Status {
    match result {
        Err(ClientError::Refused { status, .. }) => status,
        other => panic!("not refused: {other:?}"),
    }
}

/// Why the beats that did not count were refused.
fn refusals(outcome: Result<Beats, ClientError>) -> Vec<Status> {
    match outcome {
        Ok(Beats::Refused(refusals)) => refusals.iter().map(|refusal| refusal.status).collect(),
        other => panic!("not refused: {other:?}"),
    }
}

fn field<T: std::fmt::Debug>(result: Result<T, ClientError>) -> u16 {
    match result {
        Err(ClientError::Refused { status: Status::Invalid, field }) => field,
        other => panic!("not invalid: {other:?}"),
    }
}

#[test]
fn a_late_duplicate_of_a_replaced_registration_replaces_nothing() {
    let (_engine, mut session) = start(&config());
    let first = Registration { nonce: 71, ..instance("payments", "a", 60_000) };
    session.register(&first).unwrap();
    let second = session.register(&Registration { nonce: 72, ..first.clone() }).unwrap();
    assert_eq!(status(session.register(&first)), Status::Replaced);
    assert!(matches!(session.beat(&[beat(second.lease, 1)]).unwrap(), Beats::Acked(_)));
}

/// Somebody who asks by name while an instance is replaced is told of the old one or of the new
/// one.
#[test]
fn who_is_replaced_is_there_all_the_while() {
    let (engine, mut session) = start(&config());
    session.register(&instance("payments", "a", 60_000)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = Session::connect(engine.addresses()[0]).unwrap();
            while !stop.load(Relaxed) {
                // Where former slots all rest, it is refused for the moment.
                let _ = other.register(&instance("payments", "a", 60_000));
            }
        });
        let is_missing =
            |result| matches!(result, Err(ClientError::Refused { status: Status::NoInstance, .. }));
        let missing = (0..20_000)
            .filter(|_| is_missing(session.describe(Target::Names("payments", "a"))))
            .count();
        stop.store(true, Relaxed);
        assert_eq!(missing, 0);
    });
    assert!(stat(&mut session, Stat::Registered) > 100);
}

/// A session from another loopback address, which counts as another source.
fn session_from(ip: &str, engine: &heartline::Engine) -> Session {
    Session::from_socket(UdpSocket::bind((ip, 0)).unwrap(), engine.addresses()[0]).unwrap()
}

/// Sends raw bytes and returns the raw answer.
fn raw(engine: &heartline::Engine, bytes: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.send_to(bytes, engine.addresses()[0]).unwrap();
    let mut buffer = [0; 2048];
    socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())
}

/// Which field of a request is refused as invalid.
fn raw_field(engine: &heartline::Engine, kind: Kind, body: &[u8]) -> u16 {
    let reply = raw(engine, &[Header::request(kind, 3).as_bytes(), body].concat()).unwrap();
    let reply = Reply::decode(&reply).unwrap();
    assert_eq!((reply.status, reply.header.tag.get()), (Status::Invalid, 3));
    reply.header.count.get()
}

#[test]
fn hello_tells_the_limits() {
    let (engine, mut session) = start(&config());
    let welcome = session.hello().unwrap();
    assert_eq!((welcome.capacity, welcome.beats_max, welcome.frame_bytes_max), (1024, 50, 1232));
    let ttls = (Duration::from_millis(1), Duration::from_hours(24));
    assert_eq!((welcome.ttl_min, welcome.ttl_max), ttls);
    assert_eq!(welcome.attributes_bytes_max, 128);
    assert_ne!(welcome.cookie, 0);
    drop(engine);
}

#[test]
fn register_describe_update_deregister() {
    let (_engine, mut session) = start(&config());
    let registration = Registration {
        address: "[2001:db8::7]:9000".parse().unwrap(),
        zone: "eu-1a".into(),
        version: Version::new(1, 2, 3, 0),
        weight: 70,
        attributes: vec!["canary".into(), "rack=b12".into()],
        ..instance("payments", "a", 5000)
    };
    let grant = session.register(&registration).unwrap();
    assert_eq!(grant.interval, Duration::from_millis(1250));
    let by_name = session.describe(Target::Names("payments", "a")).unwrap();
    assert_eq!(by_name.attributes, ["canary", "rack=b12"]);
    assert_eq!(by_name.endpoint.address, registration.address);
    assert_eq!((by_name.zone.as_str(), by_name.ttl), ("eu-1a", registration.ttl));
    assert_eq!(by_name.endpoint.weight, 70);
    assert_eq!((by_name.service.as_str(), by_name.instance.as_str()), ("payments", "a"));
    assert_eq!(by_name.endpoint.version, Version::new(1, 2, 3, 0));

    let change = Change {
        weight: Some(5),
        load: Some(900),
        version: Some(Version::new(2, 0, 0, 1)),
        attributes: Some(vec!["blue".into()]),
    };
    session.update(&grant.lease, &change).unwrap();
    let changed = session.describe(Target::from(&grant.lease)).unwrap();
    assert_eq!(changed.attributes, ["blue"]);
    assert_eq!((changed.endpoint.weight, changed.endpoint.load), (5, 900));
    assert_eq!(changed.endpoint.version.to_string(), "2.0.0.1");
    assert_eq!(changed.revision, by_name.revision + 1);

    session.deregister(&grant.lease).unwrap();
    session.deregister(&grant.lease).unwrap();
    assert_eq!(status(session.describe(Target::Names("payments", "a"))), Status::NoInstance);
    assert_eq!(status(session.update(&grant.lease, &change)), Status::Removed);
    assert_eq!(session.discover(&Query::new("payments")).unwrap().status, Status::NoneRegistered);
}

#[test]
fn a_retransmitted_register_gets_the_same_lease() {
    let (_engine, mut session) = start(&config());
    let registration = Registration { nonce: 77, ..instance("payments", "a", 5000) };
    let first = session.register(&registration).unwrap();
    let again = session.register(&registration).unwrap();
    assert_eq!(first.lease, again.lease);
    assert_eq!(stat(&mut session, Stat::Registered), 1);
}

#[test]
fn identities_conflict_are_replaced_and_leave_old_leases_dead() {
    let (engine, mut session) = start(&config());
    let first = session.register(&instance("payments", "a", 60_000)).unwrap();
    assert_eq!(
        status(session_from("127.0.0.2", &engine).register(&instance("payments", "a", 60_000))),
        Status::Conflict
    );
    let second = session.register(&instance("payments", "a", 100)).unwrap();
    assert_ne!(first.lease, second.lease);
    assert_eq!(refusals(session.beat(&[beat(first.lease, 1)])), [Status::Replaced]);
    assert_eq!(session.discover(&Query::new("payments")).unwrap().endpoints.len(), 1);
    eventually("the silent one is down", || stat(&mut session, Stat::Down) == 1);
    // Once it is down, whoever comes may take the name.
    let third =
        session_from("127.0.0.2", &engine).register(&instance("payments", "a", 60_000)).unwrap();
    assert_eq!(refusals(session.beat(&[beat(second.lease, 1)])), [Status::Replaced]);
    assert!(matches!(session.beat(&[beat(third.lease, 1)]).unwrap(), Beats::Acked(_)));
}

#[test]
fn beats_count_once_and_refusals_say_which() {
    let (_engine, mut session) = start(&config());
    let grant = session.register(&instance("payments", "a", 5000)).unwrap();
    let Beats::Acked(ack) =
        session.beat(&[beat(grant.lease, 1), beat(grant.lease, 1), beat(grant.lease, 2)]).unwrap()
    else {
        panic!()
    };
    assert_eq!((ack.accepted, ack.old, ack.epoch), (2, 1, grant.epoch));
    let (slot, generation, secret) =
        (grant.lease.slot(), grant.lease.generation(), grant.lease.secret());
    let forged = Lease::from_parts(slot, generation, secret ^ 1);
    let beyond = Lease::from_parts(u32::MAX, generation, secret);
    let Beats::Refused(refused) =
        session.beat(&[beat(forged, 3), beat(grant.lease, 3), beat(beyond, 3)]).unwrap()
    else {
        panic!()
    };
    let refusal = |slot| Refusal { slot, generation, status: Status::Unknown };
    assert_eq!(refused, [slot, u32::MAX].map(refusal));
    session.deregister(&grant.lease).unwrap();
    assert_eq!(refusals(session.beat(&[beat(grant.lease, 4)])), [Status::Removed]);
    let stats = session.stats().unwrap();
    assert_eq!(stats.get(Stat::BeatsAccepted), 3);
    assert_eq!((stats.get(Stat::BeatsOld), stats.get(Stat::BeatsRefused)), (1, 3));
}

#[test]
fn a_beat_revives_the_dead_and_says_what_the_instance_does() {
    let (_engine, mut session) = start(&config());
    let grant = session.register(&instance("payments", "a", 60)).unwrap();
    eventually("it is down", || stat(&mut session, Stat::Down) == 1);
    session.beat(&[beat(grant.lease, 1)]).unwrap();
    eventually("it is revived", || stat(&mut session, Stat::Revived) == 1);

    let steady = session.register(&instance("payments", "b", 60_000)).unwrap();
    for (sequence, declared) in [(1, Declared::Draining), (2, Declared::Maintenance)] {
        session.beat(&[Beat { declared, ..beat(steady.lease, sequence) }]).unwrap();
        eventually("all shows it, marked", || {
            let page = session.discover(&Query::new("payments")).unwrap();
            page.endpoints.iter().any(|endpoint| {
                endpoint.slot == steady.lease.slot() && endpoint.declared == declared
            })
        });
        let picked = session
            .discover(&Query { strategy: Strategy::Random, limit: 25, ..Query::new("payments") })
            .unwrap();
        assert!(
            picked.endpoints.iter().all(|endpoint| endpoint.slot != steady.lease.slot()),
            "never picked"
        );
    }
    session.beat(&[Beat { declared: Declared::Leaving, ..beat(steady.lease, 3) }]).unwrap();
    eventually("it has left", || match session.beat(&[beat(steady.lease, 1 << 20)]).unwrap() {
        Beats::Refused(refused) => refused[0].status == Status::Removed,
        Beats::Acked(_) => false,
    });
}

#[test]
fn wrong_values_name_their_field() {
    let (engine, mut session) = start(&config());
    let good = instance("payments", "a", 5000);
    let (mut nonceless, _) = encode_registration(&good).unwrap();
    nonceless.cookie = session.hello().unwrap().cookie.into();
    assert_eq!(raw_field(&engine, Kind::Register, nonceless.as_bytes()), 24, "nonce 0");
    assert_eq!(field(session.register(&Registration { ttl: Duration::ZERO, ..good.clone() })), 52);
    assert_eq!(
        field(
            session
                .register(&Registration { ttl: Duration::from_millis(86_400_001), ..good.clone() })
        ),
        52
    );
    let leaving = Registration { declared: Declared::Leaving, ..good.clone() };
    assert_eq!(field(session.register(&leaving)), 66);
    assert_eq!(
        field(session.register(&Registration { service: String::new(), ..good.clone() })),
        104
    );
    assert_eq!(
        field(session.register(&Registration { instance: String::new(), ..good.clone() })),
        168
    );
    assert_eq!(
        field(session.register(&Registration { attributes: vec!["=x".into()], ..good.clone() })),
        232
    );
    assert_eq!(
        status(
            session.register(&Registration { attributes: vec!["x".repeat(200)], ..good.clone() })
        ),
        Status::TooLarge
    );
    assert_eq!(field(session.describe(Target::Names("payments", ""))), 96);
    let discover = Discover { service: service_id("payments").into(), ..Discover::new_zeroed() };
    for (filter, what) in [
        (Filter::VERSION_EXACT | Filter::VERSION_COMPATIBLE, "two kinds of version"),
        (Filter::ZONE_ONLY | Filter::ZONE_PREFERRED, "two kinds of zone"),
        (64, "a bit that means nothing"),
    ] {
        let body = Discover { filter, ..discover };
        assert_eq!(raw_field(&engine, Kind::Discover, body.as_bytes()), 55, "{what}");
    }
    let body = Discover { strategy: 6, ..discover };
    assert_eq!(raw_field(&engine, Kind::Discover, body.as_bytes()), 54);
    assert_eq!(stat(&mut session, Stat::Registered), 0, "nothing was registered");
}

/// Law: nothing longer than the request goes to an address that is not proved.
#[test]
fn unproved_requests_get_short_replies() {
    let (engine, mut session) = start(&config());
    for number in 0..10 {
        session.register(&instance("payments", &format!("i-{number}"), 60_000)).unwrap();
    }
    let mut discover = Discover::new_zeroed();
    discover.service = U64::new(service_id("payments"));
    let mut frame = [Header::request(Kind::Discover, 3).as_bytes(), discover.as_bytes()].concat();
    let refused = raw(&engine, &frame).unwrap();
    assert_eq!((refused.len(), refused[7]), (16, Status::Cookie as u8));
    // The documented ways: ask for less, or pad.
    frame.resize(16 + 16 + 10 * 48, 0);
    let padded = raw(&engine, &frame).unwrap();
    assert_eq!((padded.len(), padded[7]), (512, Status::Ok as u8));
    discover.limit = U16::new(1);
    let one = raw(
        &engine,
        &[Header::request(Kind::Discover, 3).as_bytes(), discover.as_bytes()].concat(),
    )
    .unwrap();
    assert_eq!((one.len(), one[7]), (80, Status::Ok as u8));
    let (body, tail) = encode_registration(&instance("payments", "b", 5000)).unwrap();
    let register = raw(
        &engine,
        &[Header::request(Kind::Register, 3).as_bytes(), body.as_bytes(), &tail].concat(),
    )
    .unwrap();
    assert_eq!((register.len(), register[7]), (16, Status::Cookie as u8));
}

#[test]
fn full_table_quota_and_deny_list() {
    let (engine, mut session) = start(&Config {
        capacity: 16,
        quota: Some(10),
        deny: vec!["admin".into(), "test-*".into()],
        ..config()
    });
    assert_eq!(status(session.register(&instance("admin", "a", 60_000))), Status::Denied);
    assert_eq!(status(session.register(&instance("test-x", "a", 60_000))), Status::Denied);
    let leases = register_all(&mut session, 10, 60_000);
    assert_eq!(status(session.register(&instance("s", "i10", 60_000))), Status::Quota);
    session.register(&instance("s", "i9", 60_000)).unwrap();
    let mut other = session_from("127.0.0.2", &engine);
    for number in 10..16 {
        other.register(&instance("s", &format!("i{number}"), 60_000)).unwrap();
    }
    let before = session.stats().unwrap();
    assert_eq!(status(other.register(&instance("s", "i16", 60_000))), Status::Full);
    let after = session.stats().unwrap();
    assert_eq!(
        (before.get(Stat::Up), before.get(Stat::FeedSequence)),
        (16, after.get(Stat::FeedSequence))
    );
    // A restart in a full table is no new instance.
    other.register(&instance("s", "i15", 60_000)).unwrap();
    session.deregister(&leases[0]).unwrap();
    other.register(&instance("s", "i16", 60_000)).unwrap();
}

#[test]
fn ipv6_dual_stack_and_mixed_addresses() {
    let (engine, mut six) = start(&Config {
        listen: vec!["[::1]:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()],
        ..config()
    });
    let mut four = Session::connect(engine.addresses()[1]).unwrap();
    six.register(&instance("s", "six", 60_000)).unwrap();
    four.register(&instance("s", "four", 60_000)).unwrap();
    let mut seen: Vec<String> = six
        .discover(&Query::new("s"))
        .unwrap()
        .endpoints
        .iter()
        .map(|e| e.address.to_string())
        .collect();
    seen.sort();
    assert_eq!(seen, ["127.0.0.1:8080", "[::1]:8080"]);
    drop(engine);

    let (engine, _) = start(&Config { listen: vec!["[::]:0".parse().unwrap()], ..config() });
    let port = engine.addresses()[0].port();
    for address in ["[::1]", "127.0.0.1", "127.0.0.3"] {
        // Connected sockets only take replies that come from the address they asked.
        let mut session = Session::connect(format!("{address}:{port}").parse().unwrap()).unwrap();
        session.hello().unwrap_or_else(|error| panic!("{address}: {error}"));
    }
}

#[test]
fn several_engines_in_one_process_share_nothing() {
    let (one, mut first) = start(&config());
    let (two, mut second) = start(&config());
    first.register(&instance("s", "a", 60_000)).unwrap();
    assert_eq!(second.discover(&Query::new("s")).unwrap().status, Status::NoService);
    one.join();
    second.register(&instance("s", "a", 60_000)).unwrap();
    two.join();
    first.set_patience(Duration::from_millis(5));
    assert!(matches!(first.hello(), Err(ClientError::Timeout(_))));
}

#[test]
fn acks_tell_interval_and_phase() {
    let (_engine, mut session) = start(&config());
    let grant = session.register(&instance("s", "a", 4000)).unwrap();
    assert!(grant.phase >= Duration::from_millis(500) && grant.phase < Duration::from_millis(1500));
    let Beats::Acked(ack) = session.beat(&[beat(grant.lease, 1)]).unwrap() else { panic!() };
    assert_eq!(ack.interval, Duration::from_secs(1));
    assert!((Duration::from_millis(500)..Duration::from_millis(1500)).contains(&ack.phase));
}

/// An engine without snapshots has none, and none that grows old.
#[test]
fn without_snapshots_their_numbers_are_zero() {
    let (_engine, mut session) = start(&config());
    let stats = session.stats().unwrap();
    let numbers = [Stat::Snapshot, Stat::SnapshotAgeMs, Stat::SnapshotFailures];
    assert_eq!(numbers.map(|number| stats.get(number)), [0; 3]);
}
