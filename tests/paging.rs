//! A service of 10,000 instances, read in 400 pages while others come and go: within one revision,
//! nobody is missed and nobody doubled.

use heartline::Config;
use heartline_client::{Query, Session};
use heartline_test_support::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const STABLE: usize = 10_000;

#[test]
fn pages_of_one_revision_are_the_whole_list() {
    let (engine, mut session) = start(&Config { capacity: 16_384, ..config() });
    let stable: BTreeSet<u32> = (0..STABLE)
        .map(|number| {
            session
                .register(&instance("big", &format!("i{number}"), 86_400_000))
                .unwrap()
                .lease
                .slot()
        })
        .collect();
    assert_eq!(stable.len(), STABLE);
    let target = engine.addresses()[0];
    let stop = AtomicBool::new(false);
    let (mut whole, mut broken) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut churn = Session::connect(target).unwrap();
            let mut round = 0_u64;
            while !stop.load(Relaxed) {
                // Bursts, so that some lists are read in peace and others are not.
                let leases: Vec<_> = (0..20)
                    .map(|n| {
                        churn
                            .register(&instance("big", &format!("churn-{round}-{n}"), 60_000))
                            .unwrap()
                            .lease
                    })
                    .collect();
                leases.iter().for_each(|lease| churn.deregister(lease).unwrap());
                round += 1;
                std::thread::sleep(Duration::from_millis(round % 4 * 40));
            }
        });
        while whole < 15 || broken < 5 {
            // The library's own loop: a whole list of one revision, or none.
            if let Some(all) = session.discover_all("big", 0).unwrap() {
                let slots: BTreeSet<u32> =
                    all.endpoints.iter().map(|endpoint| endpoint.slot).collect();
                assert!(
                    slots.len() == all.endpoints.len() && slots.is_superset(&stable),
                    "a mixture of two revisions"
                );
            }
            let mut query = Query::new("big");
            let (mut revision, mut seen) = (None, Vec::new());
            let same = loop {
                let page = session.discover(&query).unwrap();
                if *revision.get_or_insert(page.revision) != page.revision {
                    break false;
                }
                seen.extend(page.endpoints.iter().map(|endpoint| endpoint.slot));
                query.cursor = page.cursor;
                if page.cursor == 0 {
                    break true;
                }
            };
            let set: BTreeSet<u32> = seen.iter().copied().collect();
            assert_eq!(set.len(), seen.len(), "somebody was doubled");
            if same {
                whole += 1;
                assert!(set.is_superset(&stable), "somebody was missed");
            } else {
                broken += 1;
            }
        }
        stop.store(true, Relaxed);
    });
    let all = session.discover_all("big", 10).unwrap().expect("nobody disturbs any more");
    assert_eq!(all.endpoints.len(), STABLE);
}

/// The library puts pages together only within one revision: members that leave from the front of a
/// list let others take their places, on pages that have been read already.
#[test]
fn the_library_lists_one_revision_or_nothing() {
    let (engine, mut session) = start(&Config { capacity: 4096, ..config() });
    let target = engine.addresses()[0];
    let (mut whole, mut disturbed) = (0, 0);
    for round in 0..30 {
        let service = format!("round-{round}");
        let mut register =
            |name: &str| session.register(&instance(&service, name, 60_000)).unwrap().lease;
        let leave: Vec<_> = (0..40).map(|number| register(&format!("leaves-{number}"))).collect();
        let stay: BTreeSet<u32> =
            (0..60).map(|number| register(&format!("stays-{number}")).slot()).collect();
        std::thread::scope(|scope| {
            let leaving = scope.spawn(|| {
                let mut churn = Session::connect(target).unwrap();
                for lease in &leave {
                    churn.deregister(lease).unwrap();
                }
            });
            while !leaving.is_finished() {
                match session.discover_all(&service, 0).unwrap() {
                    None => disturbed += 1,
                    Some(all) => {
                        let slots: BTreeSet<u32> =
                            all.endpoints.iter().map(|endpoint| endpoint.slot).collect();
                        assert_eq!(slots.len(), all.endpoints.len(), "somebody was doubled");
                        assert!(slots.is_superset(&stay), "somebody was missed");
                        whole += 1;
                    }
                }
            }
        });
    }
    assert!(disturbed > 0, "{whole} lists, and none of them was disturbed");
}
