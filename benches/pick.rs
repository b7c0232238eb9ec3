//! One endpoint of a hundred, picked from the view of a client.
//!
//! `cargo bench --bench pick`. The goal is 50 ns for a pick. `call` reads the clock as well: when
//! it begins, and when its outcome is told.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use heartline_client::{Balance, WatchOptions};
use heartline_test_support::beside;
use heartline_test_support::lists::{Viewed, endpoint};
use heartline_wire::Endpoint;
use std::hint::black_box;
use std::time::Duration;

fn viewed(balance: Balance) -> Viewed {
    let members: Vec<Endpoint> = (0..100).map(endpoint).collect();
    Viewed::of(&members, WatchOptions::new().balance(balance))
}

fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick-100");
    group.throughput(Throughput::Elements(1));
    for (name, balance) in [
        ("weighted", Balance::Weighted),
        ("round-robin", Balance::RoundRobin),
        ("least-in-flight", Balance::LeastInFlight),
        ("peak-ewma", Balance::PeakEwma),
    ] {
        let viewed = viewed(balance);
        group.bench_function(name, |bencher| bencher.iter(|| black_box(viewed.watch.pick())));
    }
    for (name, balance) in
        [("key-rendezvous", Balance::Rendezvous), ("key-maglev", Balance::Maglev)]
    {
        let (viewed, mut key) = (viewed(balance), 0_u64);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                key = key.wrapping_add(1);
                black_box(viewed.watch.pick_by_key(key))
            });
        });
    }
    let viewed = viewed(Balance::LeastInFlight);
    group.bench_function("call", |bencher| {
        bencher.iter(|| viewed.watch.call().unwrap().succeeded());
    });
    group.finish();
}

/// Picks while the list changes a thousand times a second.
fn picks_under_changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick-100-of-1000-lists-a-second");
    let mut viewed = viewed(Balance::Weighted);
    let (watch, mut round) = (viewed.watch.clone(), 0);
    let change = || {
        round += 1;
        let members: Vec<Endpoint> = (0..100 + round % 2).map(endpoint).collect();
        viewed.tell(0, &members, 0);
        std::thread::sleep(Duration::from_millis(1));
    };
    beside(change, || {
        group.bench_function("weighted", |bencher| bencher.iter(|| black_box(watch.pick())));
    });
    group.finish();
}

criterion_group!(benches, picks, picks_under_changes);
criterion_main!(benches);
