//! Eight threads pick while members change a thousand times a second.

use heartline_client::{Balance, WatchOptions};
use heartline_test_support::lists::{Viewed, endpoint};
use heartline_wire::{Endpoint, Version};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A list whose entries all tell of its round, in every field that a pick shows.
fn round_list(round: u32) -> Vec<Endpoint> {
    let count = 10 + round % 15;
    let of_round = |number: u32| Endpoint {
        generation: round.into(),
        version: Version::from_u64(u64::from(round) << 32 | u64::from(number)),
        zone: (round ^ number).into(),
        ..endpoint(number)
    };
    (0..count).map(of_round).collect()
}

/// A pick made of two views, and one of an older view than was seen.
#[test]
fn picks_are_whole_and_never_of_an_older_view() {
    for balance in [Balance::Weighted, Balance::RoundRobin, Balance::LeastInFlight, Balance::Maglev]
    {
        let mut viewed = Viewed::of(&round_list(1), WatchOptions::new().balance(balance));
        let (watch, stop) = (viewed.watch.clone(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..8_u64)
                .map(|reader| {
                    let (watch, stop) = (&watch, &stop);
                    scope.spawn(move || {
                        let (mut seen, mut picks) = (0, 0_u64);
                        while !stop.load(Relaxed) {
                            picks += 1;
                            let keyed = (picks + reader).is_multiple_of(16);
                            let picked =
                                if keyed { watch.pick_by_key(picks) } else { watch.pick() };
                            let picked = picked.unwrap();
                            let (round, number) = (picked.generation(), picked.slot());
                            let version = u64::from(round) << 32 | u64::from(number);
                            assert_eq!(picked.version().as_u64(), version, "torn");
                            assert_eq!(picked.zone_hash(), round ^ number, "torn");
                            let last = 0x0A00_0000 + number;
                            assert_eq!(picked.address(), (last.to_be_bytes(), 8080).into(), "torn");
                            assert!(number < 10 + round % 15, "not in this view");
                            assert!(round >= seen, "view {round} after {seen}");
                            seen = round;
                            if picks.is_multiple_of(512) {
                                let all = watch.all();
                                let first = all[0].generation;
                                assert_eq!(all.len() as u32, 10 + first % 15);
                                assert!(all.iter().all(|one| one.generation == first), "torn");
                            }
                        }
                        picks
                    })
                })
                .collect();
            // About a second; more on a busy machine.
            let mut round = 1;
            while round < 1000 {
                round += 1;
                viewed.tell(0, &round_list(round), 0);
                std::thread::sleep(Duration::from_micros(800));
            }
            stop.store(true, Relaxed);
            let picks: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
            assert!(picks > 5_000, "{balance:?}: {picks} picks");
        });
    }
}
