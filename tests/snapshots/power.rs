//! The power fails, or the disk does.

use crate::{live_a_little, load, new_file, slots};
use heartline::internals::snapshot::{Disk, MemoryDisk, Reader, Sizes, Writer};
use heartline_test_support::{Harness, settings};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::io;

/// A disk that remembers what it was told, so that the power can fail at any point.
#[derive(Debug, Default)]
struct Recorder {
    disk: MemoryDisk,
    log: Vec<Entry>,
}

#[derive(Clone, Debug)]
enum Entry {
    Write(u64, Vec<u8>),
    Sync,
}

impl Disk for Recorder {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.log.push(Entry::Write(offset, bytes.to_vec()));
        self.disk.write_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.log.push(Entry::Sync);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.read_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.disk.length()
    }
}

/// The power fails after any write, with any pages of what was not synced on the disk or not: one
/// whole edition is there, and none older than the last that was reported.
#[test]
fn a_power_loss_leaves_a_whole_edition() {
    let mut images = 0;
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut harness = Harness::new(64, settings(64), seed);
        let sizes = Sizes::new(harness.region.geometry());
        let start = new_file(harness.region.geometry());
        let recorder = Recorder { disk: start.clone(), log: Vec::new() };
        let mut writer = Writer::new(recorder, sizes, None, &harness.region, harness.now);
        // What each edition holds, and how much of the log there was when it was reported.
        let mut editions = vec![(0, BTreeMap::new())];
        for _ in 0..8 {
            live_a_little(&mut harness, &mut random, 12);
            let held = slots(&harness.region);
            if writer.write(&harness.region, harness.now, false).unwrap().is_some() {
                editions.push((writer.disk().log.len(), held));
            }
        }
        let log = writer.into_disk().log;
        for end in 0..=log.len() {
            let reported = editions.iter().filter(|(length, _)| *length <= end).count() - 1;
            for image in crash_images(&start, &log[..end], &mut random) {
                images += 1;
                let (number, found) = match load(&image, 64, harness.now)
                    .unwrap_or_else(|error| panic!("seed {seed}, {end}: {error}"))
                {
                    Some((number, region, _)) => (number as usize, slots(&region)),
                    None => (0, BTreeMap::new()),
                };
                assert!(
                    number == reported || number == reported + 1,
                    "seed {seed}, {end}: edition {number} after {reported}"
                );
                assert_eq!(found, editions[number].1, "seed {seed}, {end}: a mixture");
            }
        }
    }
    println!("{images} crash images");
    assert!(images >= 10_000, "{images}");
}

/// What can be on the disk: what was synced, and of the pages written since, none, all, each one
/// alone, all but one, and random ones.
fn crash_images(start: &MemoryDisk, log: &[Entry], random: &mut StdRng) -> Vec<MemoryDisk> {
    let synced = log.iter().rposition(|entry| matches!(entry, Entry::Sync)).map_or(0, |at| at + 1);
    let mut base = start.clone();
    for entry in &log[..synced] {
        if let Entry::Write(offset, bytes) = entry {
            base.write_at(bytes, *offset).unwrap();
        }
    }
    let pages: Vec<(u64, &[u8])> = log[synced..]
        .iter()
        .filter_map(|entry| match entry {
            Entry::Write(offset, bytes) => Some(
                bytes
                    .chunks(4096)
                    .enumerate()
                    .map(move |(at, page)| (offset + at as u64 * 4096, page)),
            ),
            Entry::Sync => None,
        })
        .flatten()
        .collect();
    let image = |takes: &mut dyn FnMut(usize) -> bool| {
        let mut image = base.clone();
        for (number, (offset, page)) in pages.iter().enumerate() {
            if takes(number) {
                image.write_at(page, *offset).unwrap();
            }
        }
        image
    };
    let mut images = vec![image(&mut |_| false), image(&mut |_| true)];
    for number in 0..pages.len() {
        images.push(image(&mut |other| other <= number));
        images.push(image(&mut |other| other != number));
        images.push(image(&mut |other| other == number));
    }
    for _ in 0..16 {
        let share = random.random_range(0.1..0.9);
        images.push(image(&mut |_| random.random_bool(share)));
    }
    images
}

/// A disk on which every call from the k-th on, or only the k-th, fails.
#[derive(Debug)]
struct Failing {
    /// What reads see, and what is there after a power loss.
    cache: MemoryDisk,
    durable: MemoryDisk,
    /// Writes since the last sync.
    dirty: Vec<(u64, Vec<u8>)>,
    calls: usize,
    fails: fn(usize, usize) -> bool,
    at: usize,
}

impl Failing {
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        if (self.fails)(self.calls, self.at) {
            Err(io::Error::from_raw_os_error(libc::EIO))
        } else {
            Ok(())
        }
    }
}

impl Disk for Failing {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.call()?;
        self.dirty.push((offset, bytes.to_vec()));
        self.cache.write_at(bytes, offset)
    }

    /// After a failed sync the kernel takes what it could not write for clean: the next sync says
    /// nothing of it.
    fn sync(&mut self) -> io::Result<()> {
        let result = self.call();
        for (offset, bytes) in self.dirty.drain(..) {
            if result.is_ok() {
                self.durable.write_at(&bytes, offset)?;
            }
        }
        result
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.cache.read_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.cache.length()
    }
}

/// After a failure the same half is written whole, and the edition before stays.
#[test]
fn a_failing_disk_costs_no_edition() {
    for at in 1..36 {
        let mut random = StdRng::seed_from_u64(at as u64);
        let mut harness = Harness::new(64, settings(64), 3);
        let file = new_file(harness.region.geometry());
        let (cache, durable) = (file.clone(), file);
        let disk = Failing {
            cache,
            durable,
            dirty: Vec::new(),
            calls: 0,
            fails: |call, at| call == at || call == at + 1,
            at,
        };
        let mut writer = Writer::new(
            disk,
            Sizes::new(harness.region.geometry()),
            None,
            &harness.region,
            harness.now,
        );
        // The last that was reported, and those whose writing failed since.
        let (mut last, mut tried) = (BTreeMap::new(), Vec::new());
        let mut failures = 0;
        for _ in 0..8 {
            live_a_little(&mut harness, &mut random, 10);
            let held = slots(&harness.region);
            let result = writer.write(&harness.region, harness.now, false);
            let found = load(&writer.disk().durable, 64, harness.now)
                .unwrap()
                .map_or_else(BTreeMap::new, |(_, region, _)| slots(&region));
            // What a failed sync was about may be there all the same.
            assert!(
                found == held || result.is_err() && (found == last || tried.contains(&found)),
                "call {at}"
            );
            if let Ok(written) = result {
                if !tried.is_empty() {
                    let sizes = Sizes::new(harness.region.geometry());
                    let mut whole = Writer::new(
                        new_file(harness.region.geometry()),
                        sizes,
                        None,
                        &harness.region,
                        harness.now,
                    );
                    assert_eq!(
                        written.unwrap().bytes,
                        whole.write(&harness.region, harness.now, false).unwrap().unwrap().bytes,
                        "call {at}"
                    );
                }
                (last, tried) = (held, Vec::new());
            } else {
                failures += 1;
                tried.push(held);
            }
        }
        assert!(failures > 0 && !last.is_empty(), "call {at}");
    }
}

/// A writer that was killed between a header and its sync, or whose sync failed: the next one must
/// not touch the other half, the only durable one, before that header is durable.
#[test]
fn an_edition_that_may_not_be_durable_is_made_so_first() {
    let mut harness = Harness::new(64, settings(64), 3);
    let mut random = StdRng::seed_from_u64(3);
    let sizes = Sizes::new(harness.region.geometry());
    let start = new_file(harness.region.geometry());
    let mut writer = Writer::new(
        Recorder { disk: start.clone(), log: Vec::new() },
        sizes,
        None,
        &harness.region,
        harness.now,
    );
    let mut editions = vec![BTreeMap::new()];
    for _ in 0..2 {
        live_a_little(&mut harness, &mut random, 20);
        editions.push(slots(&harness.region));
        writer.write(&harness.region, harness.now, false).unwrap().unwrap();
    }
    let mut recorder = writer.into_disk();
    // The last sync never happened.
    assert!(matches!(recorder.log.pop(), Some(Entry::Sync)));
    let last = Reader::open(&recorder).unwrap().newest();
    let mut next = Writer::new(recorder, sizes, last.as_ref(), &harness.region, harness.now);
    live_a_little(&mut harness, &mut random, 20);
    editions.push(slots(&harness.region));
    next.write(&harness.region, harness.now, false).unwrap().unwrap();
    let log = next.into_disk().log;
    for end in 0..=log.len() {
        for image in crash_images(&start, &log[..end], &mut random) {
            let found = load(&image, 64, harness.now)
                .unwrap()
                .map_or((0, BTreeMap::new()), |(number, region, _)| (number, slots(&region)));
            assert_eq!(found.1, editions[found.0 as usize], "{end}");
        }
    }
}
