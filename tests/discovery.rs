//! What discover and services answer, by a real engine over real sockets.

use heartline_client::{
    Query, Registration, Session, Stat, State, Status, Strategy, Version, VersionFilter, ZoneFilter,
};
use heartline_test_support::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

#[test]
fn strategies_and_filters() {
    let (_engine, mut session) = start(&config());
    for number in 0..20_u16 {
        let registration = Registration {
            zone: if number < 5 { "a" } else { "b" }.into(),
            version: Version::new(1 + number / 10, number % 10, 0, 0),
            weight: if number == 0 { 0 } else { 10 },
            attributes: if number % 2 == 0 { vec!["even".into()] } else { Vec::new() },
            address: SocketAddr::from(([10, 0, 0, number as u8], 80)),
            ..instance("s", &format!("i{number}"), 60_000)
        };
        session.register(&registration).unwrap();
    }
    let all = |session: &mut Session, query: Query| {
        session.discover(&Query { limit: 25, ..query }).unwrap()
    };
    let base = Query::new("s");
    assert_eq!(all(&mut session, base.clone()).endpoints.len(), 20);
    let version = Version::new(1, 3, 0, 0);
    let exact = Query { version: VersionFilter::Exact(version), ..base.clone() };
    assert_eq!(all(&mut session, exact).endpoints.len(), 1);
    let compatible = Query { version: VersionFilter::Compatible(version), ..base.clone() };
    assert_eq!(all(&mut session, compatible).endpoints.len(), 7);
    let tagged = Query { tag: Some("even".into()), ..base.clone() };
    assert_eq!(all(&mut session, tagged).endpoints.len(), 10);
    let only = |zone: &str| Query { zone: ZoneFilter::Only(zone.into()), ..base.clone() };
    let preferred = |zone: &str| Query { zone: ZoneFilter::Preferred(zone.into()), ..base.clone() };
    assert_eq!(all(&mut session, only("a")).endpoints.len(), 5);
    assert_eq!(all(&mut session, only("c")).status, Status::AllFiltered);
    assert_eq!(all(&mut session, preferred("a")).endpoints.len(), 5);
    assert_eq!(all(&mut session, preferred("c")).endpoints.len(), 20);
    let mut paged = preferred("c");
    paged.limit = 7;
    let mut seen = 0;
    loop {
        let page = session.discover(&paged).unwrap();
        seen += page.endpoints.len();
        paged.cursor = page.cursor;
        if page.cursor == 0 {
            break;
        }
    }
    assert_eq!(seen, 20, "the fallback goes on through the pages");
    for strategy in [
        Strategy::Random,
        Strategy::RoundRobin,
        Strategy::Weighted,
        Strategy::Rendezvous,
        Strategy::TwoChoices,
    ] {
        let mut hits = BTreeMap::new();
        for key in 0..200 {
            let page = session.discover(&Query { strategy, key, ..base.clone() }).unwrap();
            assert_eq!(page.endpoints.len(), 1, "{strategy:?}");
            *hits.entry(page.endpoints[0].slot).or_insert(0) += 1;
        }
        let weighted = matches!(strategy, Strategy::Weighted | Strategy::Rendezvous);
        assert_eq!(hits.len(), if weighted { 19 } else { 20 }, "{strategy:?}: {hits:?}");
        let three = session.discover(&Query { strategy, limit: 3, ..base.clone() }).unwrap();
        assert_eq!(three.endpoints.len(), 3, "{strategy:?}");
    }
    let same = |session: &mut Session| {
        session
            .discover(&Query { strategy: Strategy::Rendezvous, key: 42, ..base.clone() })
            .unwrap()
            .endpoints[0]
            .slot
    };
    assert_eq!(same(&mut session), same(&mut session));
    assert_eq!(session.discover(&Query::new("nobody")).unwrap().status, Status::NoService);
}

#[test]
fn suspects_are_answered_marked_unless_excluded() {
    let (_engine, mut session) = start(&config());
    session.register(&instance("s", "a", 3000)).unwrap();
    eventually("it is suspect", || stat(&mut session, Stat::Suspect) == 1);
    let page = session.discover(&Query::new("s")).unwrap();
    let suspect = page.endpoints[0];
    assert_eq!((suspect.state, suspect.held), (State::Suspect, false));
    assert!(suspect.age >= Duration::from_secs(2));
    let strict = session.discover(&Query { without_suspect: true, ..Query::new("s") }).unwrap();
    assert_eq!(strict.status, Status::NoneHealthy);
}

#[test]
fn services_come_in_pages() {
    let (_engine, mut session) = start(&config());
    for number in 0..40 {
        session.register(&instance(&format!("svc-{number}"), "a", 60_000)).unwrap();
    }
    let first = session.services_page(0).unwrap();
    assert_eq!((first.count, first.services.len()), (40, 13));
    let mut names: Vec<String> =
        session.services().unwrap().into_iter().map(|service| service.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 40);
}
