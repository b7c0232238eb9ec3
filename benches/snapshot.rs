//! Copying 100,000 members into a snapshot file in memory: what the snapshot thread computes,
//! without the disk.
//!
//! `cargo bench --bench snapshot`; one iteration is one edition, elements are leases of the
//! whole region. Each edition takes the other half of the file, so with 1 % changed since the
//! last one a half is brought up to date with the changes of two.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use heartline::internals::limits::ATTRIBUTES_BYTES_DEFAULT;
use heartline::internals::snapshot::{MemoryDisk, Sizes, Writer};
use heartline_region::Geometry;
use heartline_test_support::START;
use heartline_test_support::fleet::{Fleet, LONG_TTL_MS};
use heartline_wire::Slot;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::time::{Duration, Instant};

const LEASES: u32 = 100_000;

fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    group.throughput(Throughput::Elements(LEASES.into()));
    let fleet = Fleet::new(Geometry::new(LEASES, ATTRIBUTES_BYTES_DEFAULT), LEASES, LONG_TTL_MS);
    let (region, right) = fleet.registrar.release();
    let sizes = Sizes::new(region.geometry());
    // Not zeros: those would be page faults on the clock.
    let mut disk = MemoryDisk(vec![1; sizes.file_bytes() as usize]);
    sizes.write_header(&mut disk).expect("memory takes it");

    let (mut file, mut bytes) = (Some(disk), 0);
    group.bench_function("complete", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                // A writer that has just begun writes all.
                let mut writer =
                    Writer::new(file.take().expect("the file"), sizes, None, &region, START);
                let start = Instant::now();
                let written = writer.write(&region, START, true).expect("memory takes it");
                spent += start.elapsed();
                bytes = written.map_or(0, |written| written.bytes);
                file = Some(writer.into_disk());
            }
            spent
        });
    });
    println!("complete: {bytes} bytes an edition");

    let mut writer = Writer::new(file.expect("the file"), sizes, None, &region, START);
    let mut random = SmallRng::seed_from_u64(5);
    for _ in 0..2 {
        writer.write(&region, START, true).expect("memory takes it");
    }
    group.bench_function("1 % changed", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                (0..LEASES / 100).for_each(|_| {
                    region.mark_changed(&right, Slot::new(random.random_range(0..LEASES)))
                });
                let start = Instant::now();
                let written = writer.write(&region, START, false).expect("memory takes it");
                spent += start.elapsed();
                bytes = written.map_or(0, |written| written.bytes);
            }
            spent
        });
    });
    println!("1 % changed: {bytes} bytes an edition");
    group.finish();
}

criterion_group!(benches, snapshot);
criterion_main!(benches);
