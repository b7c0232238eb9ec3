//! The index of instances against general hash maps at 1 M entries: random lookups alone, beside a
//! thread that inserts and removes all the time, and inserts.
//!
//! `cargo bench --bench index`; one iteration is one lookup or 1,000 inserts, elements are keys.
//! Ours hashes with keyed SipHash-1-3 and compares the name in the record; the maps hash with ahash
//! and own their keys. Beside a writer, two idle processors are needed.

use ahash::RandomState;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;
use hashbrown::HashMap;
use heartline::region::{Geometry, Record, Region, Writer};
use heartline::wire::{Label, Name, service_id};
use heartline_test_support::beside;
use heartline_test_support::fleet::{Fleet, LONG_TTL_MS, SERVICES, instance_name, service_name};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const ENTRIES: u32 = 1_000_000;
/// Keys that are inserted and removed; the entries and these fit the capacity.
const FRESH: u32 = 40_000;
const CAPACITY: u32 = 1 << 20;
const INSERTS: usize = 1000;
const _: () = assert!(ENTRIES + FRESH <= CAPACITY && (FRESH as usize).is_multiple_of(INSERTS));

/// Service id and instance name.
type Key = (u64, Box<str>);

/// A key, and where its service is in the directory.
struct Wanted {
    service: u32,
    name: Name,
    key: Key,
}

/// A key that comes and goes, and what a member needs that has it.
struct Fresh {
    slot: u32,
    wanted: Wanted,
    record: Record,
}

/// The region, its writer and keys.
struct Setting {
    region: Arc<Region>,
    writer: Writer,
    /// All entries in random order, which is also the order in which they lie in memory.
    wanted: Vec<Wanted>,
    fresh: Vec<Fresh>,
}

impl Setting {
    fn new() -> Self {
        let fleet = Fleet::new(Geometry::new(CAPACITY, 0), ENTRIES, LONG_TTL_MS);
        let (region, writer) = fleet.registrar.release();
        let services: Vec<(u64, u32)> = (0..SERVICES)
            .map(|number| service_id(&service_name(number)))
            .map(|id| (id, region.find_service(id).expect("nobody disturbs").expect("a service")))
            .collect();
        let wanted = |number: u32| {
            let (id, service) = services[(number % SERVICES) as usize];
            let name = instance_name(number);
            Wanted { service, name: Name::new(&name).expect("a name"), key: (id, name.into()) }
        };
        let mut numbers: Vec<u32> = (0..ENTRIES).collect();
        numbers.shuffle(&mut SmallRng::seed_from_u64(4));
        let fresh = (ENTRIES..ENTRIES + FRESH).map(|slot| {
            let wanted = wanted(slot);
            let record = Record {
                service: wanted.service,
                replaced_nonce: 0,
                source: [0; 16],
                zone: Label::EMPTY,
                instance: wanted.name,
            };
            Fresh { slot, wanted, record }
        });
        let fresh = fresh.collect();
        Self { region, writer, wanted: numbers.into_iter().map(wanted).collect(), fresh }
    }

    fn find(&self, wanted: &Wanted) -> Option<u32> {
        self.region
            .find_instance(wanted.service, wanted.key.0, &wanted.name)
            .expect("nobody disturbs")
    }

    /// Writes what the key is compared with, then the index entry.
    fn insert(&self, fresh: &Fresh) {
        let (region, writer, Wanted { key, name, .. }) =
            (&self.region, &self.writer, &fresh.wanted);
        region.records().write(writer, fresh.slot, &fresh.record, &[]);
        region.index_instance(writer, key.0, name, fresh.slot).expect("room in the index");
    }

    fn remove(&self, fresh: &Fresh) {
        let Wanted { key, name, .. } = &fresh.wanted;
        self.region.unindex_instance(&self.writer, key.0, name, fresh.slot);
    }

    /// Every entry with its value.
    fn entries(&self) -> impl Iterator<Item = (Key, u32)> {
        self.wanted.iter().zip(0..).map(|(wanted, value)| (wanted.key.clone(), value))
    }

    fn hashbrown(&self) -> HashMap<Key, u32, RandomState> {
        let mut map = HashMap::with_capacity_and_hasher(CAPACITY as usize, RandomState::new());
        map.extend(self.entries());
        map
    }
}

fn lookup(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    wanted: &[Wanted],
    mut find: impl FnMut(&Wanted) -> Option<u32>,
) {
    assert!(wanted[..1000].iter().all(|wanted| find(wanted).is_some()), "{name}");
    let mut turns = wanted.iter().cycle();
    group.bench_function(name, |bencher| bencher.iter(|| turns.next().and_then(&mut find)));
}

/// Lookups while another thread changes one fresh key after the other.
fn contended(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    setting: &Setting,
    mut change: impl FnMut(&Fresh) + Send,
    mut find: impl FnMut(&Wanted) -> Option<u32>,
) {
    let mut turns = setting.fresh.iter().cycle();
    let work = || turns.next().into_iter().for_each(&mut change);
    let (rounds, time) = beside(work, || {
        let mut turns = setting.wanted.iter().cycle();
        group.bench_function(name, |bencher| bencher.iter(|| turns.next().and_then(&mut find)));
    });
    println!(
        "{name}: the other thread inserted and removed {:.0} keys a second",
        rounds as f64 / time.as_secs_f64()
    );
}

fn lookups(criterion: &mut Criterion, setting: &Setting) {
    let mut group = criterion.benchmark_group("index/lookup");
    group.throughput(Throughput::Elements(1));
    lookup(&mut group, "ours", &setting.wanted, |wanted| setting.find(wanted));
    let map = setting.hashbrown();
    lookup(&mut group, "hashbrown", &setting.wanted, |wanted| map.get(&wanted.key).copied());
    group.finish();
}

fn contended_lookups(criterion: &mut Criterion, setting: &Setting) {
    let mut group = criterion.benchmark_group("index/lookup beside a writer");
    group.throughput(Throughput::Elements(1));
    let change = |fresh: &Fresh| {
        setting.insert(fresh);
        setting.remove(fresh);
    };
    let (mut asked, mut disturbed) = (0_u64, 0_u64);
    contended(&mut group, "ours", setting, change, |wanted| {
        let found = setting.region.find_instance(wanted.service, wanted.key.0, &wanted.name);
        asked += 1;
        disturbed += u64::from(found.is_err());
        found.ok().flatten()
    });
    println!("ours: {disturbed} of {asked} lookups were given up");
    let map = DashMap::with_capacity_and_hasher(CAPACITY as usize, RandomState::new());
    setting.entries().for_each(|(key, value)| assert!(map.insert(key, value).is_none()));
    let change = |fresh: &Fresh| {
        map.insert(fresh.wanted.key.clone(), fresh.slot);
        map.remove(&fresh.wanted.key);
    };
    contended(&mut group, "dashmap", setting, change, |wanted| {
        map.get(&wanted.key).map(|value| *value)
    });
    drop(map);
    let map = papaya::HashMap::with_capacity_and_hasher(CAPACITY as usize, RandomState::new());
    setting.entries().for_each(|(key, value)| assert!(map.pin().insert(key, value).is_none()));
    let change = |fresh: &Fresh| {
        map.pin().insert(fresh.wanted.key.clone(), fresh.slot);
        map.pin().remove(&fresh.wanted.key);
    };
    contended(&mut group, "papaya", setting, change, |wanted| map.pin().get(&wanted.key).copied());
    drop(map);
    let map = Mutex::new(setting.hashbrown());
    let lock = || map.lock().unwrap_or_else(PoisonError::into_inner);
    let change = |fresh: &Fresh| {
        lock().insert(fresh.wanted.key.clone(), fresh.slot);
        lock().remove(&fresh.wanted.key);
    };
    contended(&mut group, "mutex around hashbrown", setting, change, |wanted| {
        lock().get(&wanted.key).copied()
    });
    group.finish();
}

/// The time that `rounds` times [`INSERTS`] inserts take; what was inserted is removed again off
/// the clock.
fn timed<M>(
    into: &mut M,
    fresh: &[Fresh],
    rounds: u64,
    insert: impl Fn(&mut M, &Fresh),
    remove: impl Fn(&mut M, &Fresh),
) -> Duration {
    let mut spent = Duration::ZERO;
    for chunk in fresh.chunks(INSERTS).cycle().take(rounds as usize) {
        let start = Instant::now();
        chunk.iter().for_each(|fresh| insert(into, fresh));
        spent += start.elapsed();
        chunk.iter().for_each(|fresh| remove(into, fresh));
    }
    spent
}

fn inserts(criterion: &mut Criterion, setting: &Setting) {
    let mut group = criterion.benchmark_group("index/insert");
    group.throughput(Throughput::Elements(INSERTS as u64));
    group.bench_function("ours, with the record", |bencher| {
        bencher.iter_custom(|rounds| {
            timed(
                &mut (),
                &setting.fresh,
                rounds,
                |(), fresh| setting.insert(fresh),
                |(), fresh| setting.remove(fresh),
            )
        });
    });
    let mut map = setting.hashbrown();
    group.bench_function("hashbrown, with its key", |bencher| {
        bencher.iter_custom(|rounds| {
            let insert = |map: &mut HashMap<_, _, _>, fresh: &Fresh| {
                map.insert(fresh.wanted.key.clone(), fresh.slot);
            };
            let remove = |map: &mut HashMap<_, _, _>, fresh: &Fresh| {
                map.remove(&fresh.wanted.key);
            };
            timed(&mut map, &setting.fresh, rounds, insert, remove)
        });
    });
    group.finish();
}

fn index(criterion: &mut Criterion) {
    let setting = Setting::new();
    lookups(criterion, &setting);
    contended_lookups(criterion, &setting);
    inserts(criterion, &setting);
}

criterion_group!(benches, index);
criterion_main!(benches);
