//! Files that are damaged, foreign, newer or short.

use crate::{empty, live_a_little, load, new_file, register, slots};
use heartline::internals::snapshot::{Reader, Sizes, SnapshotError, Writer};
use heartline_test_support::{Harness, settings};
use heartline_wire::Generation;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

/// Every bit of the headers, and ten thousand others: the file is refused, or a whole edition is
/// read; never something else.
#[test]
fn flipped_bits_are_refused_or_the_other_half_is_used() {
    let mut harness = Harness::new(64, settings(64), 9);
    let mut random = StdRng::seed_from_u64(9);
    let mut writer = Writer::new(
        new_file(harness.region.geometry()),
        Sizes::new(harness.region.geometry()),
        None,
        &harness.region,
        harness.now,
    );
    let mut editions = vec![BTreeMap::new()];
    for _ in 0..4 {
        live_a_little(&mut harness, &mut random, 30);
        editions.push(slots(&harness.region));
        writer.write(&harness.region, harness.now, true).unwrap().unwrap();
    }
    let disk = writer.into_disk();
    let headers = (0..24 * 8).chain(4096 * 8..(4096 + 40) * 8).chain(8192 * 8..(8192 + 40) * 8);
    let bits: Vec<usize> = headers
        .chain((0..10_000).map(|_| random.random_range(3 * 4096 * 8..disk.0.len() * 8)))
        .collect();
    let (mut refused, mut older) = (0, 0);
    for bit in bits {
        let mut damaged = disk.clone();
        damaged.0[bit / 8] ^= 1 << (bit % 8);
        match load(&damaged, 64, harness.now) {
            Ok(Some((number, region, _))) => {
                assert_eq!(slots(&region), editions[number as usize], "bit {bit}");
                older += u32::from(number < 4);
            }
            Ok(None) => panic!("bit {bit}: as if nothing had been written"),
            Err(error) => {
                assert!(bit < 24 * 8, "bit {bit}: {error}");
                refused += 1;
            }
        }
    }
    println!("refused {refused}, the other half {older}");
    assert_eq!(refused, 24 * 8);
    assert!(older >= 40 * 8, "{older}");
}

#[test]
fn foreign_newer_and_short_files_are_named() {
    let mut harness = Harness::new(64, settings(64), 2);
    register(&mut harness, "s", "a", 1, 1000);
    let mut writer = Writer::new(
        new_file(harness.region.geometry()),
        Sizes::new(harness.region.geometry()),
        None,
        &harness.region,
        harness.now,
    );
    writer.write(&harness.region, harness.now, false).unwrap().unwrap();
    let good = writer.into_disk();
    let refusal = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut disk = good.clone();
        change(&mut disk.0);
        load(&disk, 64, harness.now).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refusal(&|bytes| bytes.clear()).contains("is no snapshot"));
    assert!(refusal(&|bytes| bytes[0] = b'X').contains("is no snapshot"));
    assert!(refusal(&|bytes| bytes[8] = 2).contains("has format 2, this program knows format 1"));
    assert!(refusal(&|bytes| bytes.truncate(5000)).contains("cut short"));
    assert!(refusal(&|bytes| bytes[13] = 9).contains("damaged (its file header)"));
    assert!(
        refusal(&|bytes| bytes[4096..3 * 4096].fill(7))
            .contains("damaged (the headers of both halves)")
    );
    // Less room than there is in use.
    let (region, right) = empty(16, 0);
    let error = Reader::open(&good).unwrap().load(&region, &right, harness.now).unwrap_err();
    assert!(
        matches!(error, SnapshotError::TooLarge { slot, attributes: 8 } if slot.index() == 0),
        "{error}"
    );
    assert!(
        region.lines().iter().all(|line| line.head().0 == Generation::NONE),
        "nothing stays of a half that was refused"
    );
    // More room is fine.
    let (region, right) = empty(1000, 128);
    assert_eq!(
        Reader::open(&good).unwrap().load(&region, &right, harness.now).unwrap().unwrap().leases,
        1
    );
}
