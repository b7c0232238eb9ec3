//! Snapshots: what is written is read again, whatever the power does in between, and nothing else
//! is.
//!
//! What could go wrong: half of a generation beside half of another, an older generation than the
//! last that was reported, a damaged file that is read half, a clock reading of another boot that
//! decides about somebody.

use heartline::clock::{Nanos, from_ms};
use heartline::region::{Geometry, HeartState, Place, Region, Writer as Right};
use heartline::registrar::Registrar;
use heartline::snapshot::{Disk, MemoryDisk, Reader, Sizes, SnapshotError, Writer};
use heartline::wire::*;
use heartline_test_support::{Harness, peer, settings};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Everything that a snapshot keeps of a slot, as it is in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    generation: u32,
    state: HeartState,
    secret: u64,
    nonce: u64,
    ttl: u64,
    endpoint: Vec<u8>,
    service: String,
    instance: String,
    source: [u8; 16],
    replaced: u64,
    attributes: Vec<u8>,
}

fn slots(region: &Region) -> BTreeMap<u32, Slot> {
    let mut buffer = [0; heartline::limits::ATTRIBUTES_BYTES_MAX];
    let leased = (0..region.geometry().slots)
        .filter(|&slot| region.lines()[slot as usize].head().1.is_leased());
    let read = leased.map(|slot| {
        let (line, endpoint) = (&region.lines()[slot as usize], &region.endpoints()[slot as usize]);
        let record = region.records().read(slot).unwrap();
        let (generation, state) = line.head();
        let read = Slot {
            generation,
            state,
            secret: line.lease(slot).secret.get(),
            nonce: line.nonce(),
            ttl: line.ttl(),
            endpoint: endpoint.entry().as_bytes().to_vec(),
            service: region.directory()[endpoint.service() as usize].name().as_str().to_owned(),
            instance: record.instance.as_str().to_owned(),
            source: record.source,
            replaced: record.replaced_nonce,
            attributes: region.records().attributes(slot, &mut buffer).unwrap().to_vec(),
        };
        (slot, read)
    });
    read.collect()
}

fn empty(capacity: u32, attributes: usize) -> (Region, Right) {
    Region::create(
        &Place::Scratch,
        Geometry::new(capacity, attributes),
        (5, 6),
        1,
        &AtomicBool::new(false),
    )
    .unwrap()
}

fn load(
    disk: &(impl Disk + Sync),
    capacity: u32,
    now: Nanos,
) -> Result<Option<(u64, Region, Right)>, SnapshotError> {
    let (region, right) = empty(capacity, 64);
    Ok(Reader::open(disk)?.load(&region, &right, now)?.map(|loaded| (loaded.number, region, right)))
}

fn new_file(geometry: &Geometry) -> MemoryDisk {
    let sizes = Sizes::new(geometry);
    let mut disk = MemoryDisk(vec![0; sizes.file_bytes() as usize]);
    sizes.write_header(&mut disk).unwrap();
    disk
}

/// A few members come, change, go, beat and fall silent.
fn live_a_little(harness: &mut Harness, random: &mut StdRng, steps: usize) {
    for _ in 0..steps {
        let name = format!("i{}", random.random_range(0..40));
        let service = format!("s{}", random.random_range(0..6));
        match random.random_range(0..6) {
            0..3 => register(
                harness,
                &service,
                &name,
                random.next_u64() | 1,
                random.random_range(50..500),
            ),
            3 => {
                let leases = leases(&harness.region);
                if !leases.is_empty() {
                    let lease = leases[random.random_range(0..leases.len())];
                    harness.request(peer(1), Kind::Deregister, &[lease.as_bytes()]);
                }
            }
            4 => {
                let frame_beats: Vec<Beat> = leases(&harness.region)
                    .into_iter()
                    .map(|lease| Beat {
                        lease,
                        sequence: U32::new(harness.now as u32 / 1000 + 1),
                        load: U16::new(3),
                        flags: U16::ZERO,
                    })
                    .take(10)
                    .collect();
                let mut header = Header::request(Kind::Beat, 1);
                header.count = U16::new(frame_beats.len() as u16);
                if !frame_beats.is_empty() {
                    harness.send(peer(1), &[header.as_bytes(), frame_beats.as_bytes()].concat());
                }
            }
            _ => harness.pass(random.random_range(1..40)),
        }
    }
}

fn leases(region: &Region) -> Vec<Lease> {
    let leased = region.lines().iter().zip(0..).filter(|(line, _)| line.head().1.is_leased());
    leased.map(|(line, slot)| line.lease(slot)).collect()
}

fn register(harness: &mut Harness, service: &str, instance: &str, nonce: u64, ttl_ms: u32) {
    let request = Register {
        nonce: U64::new(nonce),
        port: U16::new(80),
        weight: U16::new(nonce as u16),
        ttl_ms: U32::new(ttl_ms),
        version: Version::from_u64(nonce),
        attributes_len: U16::new(8),
        declared: nonce as u8 % 3,
        zone: Label::new("z").unwrap(),
        service: Name::new(service).unwrap(),
        instance: Name::new(instance).unwrap(),
        ..Register::new_zeroed()
    };
    harness.request(
        peer(1),
        Kind::Register,
        &[request.as_bytes(), &[1, b'k', 5, b'v', b'v', b'v', b'v', b'v']],
    );
}

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

#[test]
fn what_was_written_is_read_again() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut harness = Harness::new(64, settings(64), seed);
        let mut writer = Writer::new(
            new_file(harness.region.geometry()),
            Sizes::new(harness.region.geometry()),
            None,
            &harness.region,
            harness.now,
        );
        for round in 1..10 {
            live_a_little(&mut harness, &mut random, 30);
            writer.write(&harness.region, harness.now, round == 9).unwrap();
        }
        let disk = writer.into_disk();
        let (_, region, right) = load(&disk, 64, harness.now).unwrap().unwrap();
        assert_eq!(slots(&region), slots(&harness.region), "seed {seed}");
        for (old, new) in harness
            .region
            .lines()
            .iter()
            .zip(region.lines())
            .filter(|(old, _)| old.head().1.is_leased())
        {
            assert_eq!(
                (old.last(), old.sequence(), old.history()),
                (new.last(), new.sequence(), new.history()),
                "seed {seed}"
            );
            assert_eq!(old.hold_until(), new.hold_until(), "seed {seed}");
        }
        // And an engine goes on with it.
        let (before, head) = (slots(&region), region.feed().head());
        assert!(head > harness.region.feed().head() + (1 << 31), "no number is given out twice");
        let registrar = Registrar::resume(Arc::new(region), right, settings(64), harness.now);
        let counts = registrar.counts();
        assert_eq!(
            (counts.up + counts.suspect + counts.down) as usize,
            before.len(),
            "seed {seed}"
        );
        // Nothing has changed since: nothing is written.
        let mut again = Writer::new(
            disk,
            Sizes::new(harness.region.geometry()),
            None,
            &harness.region,
            harness.now,
        );
        assert!(
            again.write(&harness.region, harness.now, false).unwrap().is_some(),
            "a writer that has just begun writes all"
        );
        assert_eq!(again.write(&harness.region, harness.now, false).unwrap(), None);
    }
}

/// Threads load pieces of a half at once: whatever room the engine has now, each member gets the
/// beats of its own slot, and a piece that is damaged costs the half.
#[test]
fn a_half_is_put_together_from_pieces() {
    let leases_wanted = 2500;
    let mut harness = Harness::new(4096, settings(4096), 3);
    let name = |number: u32| (format!("s{}", number % 7), format!("i{number}"));
    let join = |harness: &mut Harness, number: u32| {
        register(harness, &name(number).0, &name(number).1, u64::from(number) + 1, 60_000)
    };
    (0..leases_wanted).for_each(|number| join(&mut harness, number));
    for (lease, number) in leases(&harness.region).into_iter().zip(1..) {
        harness.now += 1000;
        let beat = Beat {
            lease,
            sequence: U32::new(number),
            load: U16::new(number as u16),
            flags: U16::ZERO,
        };
        let header = Header { count: U16::new(1), ..Header::request(Kind::Beat, 1) };
        harness.send(peer(1), &[header.as_bytes(), beat.as_bytes()].concat());
    }
    let sizes = Sizes::new(harness.region.geometry());
    let mut writer =
        Writer::new(new_file(harness.region.geometry()), sizes, None, &harness.region, harness.now);
    writer.write(&harness.region, harness.now, true).unwrap().unwrap();
    join(&mut harness, leases_wanted);
    writer.write(&harness.region, harness.now, true).unwrap().unwrap();
    let disk = writer.into_disk();
    for capacity in [2501, 4096, 10_000] {
        let (_, region, _) = load(&disk, capacity, harness.now).unwrap().unwrap();
        assert_eq!(slots(&region), slots(&harness.region), "capacity {capacity}");
        for (old, new) in harness
            .region
            .lines()
            .iter()
            .zip(region.lines())
            .filter(|(old, _)| old.head().1.is_leased())
        {
            assert_eq!(
                (old.last(), old.sequence(), old.history()),
                (new.last(), new.sequence(), new.history()),
                "capacity {capacity}"
            );
        }
    }
    assert!(matches!(load(&disk, 2000, harness.now), Err(SnapshotError::TooLarge { .. })));
    // Sequence and load of one of the last, in each half.
    let entry = [2400_u32.to_le_bytes().as_slice(), &2400_u16.to_le_bytes()].concat();
    let places = disk
        .0
        .windows(entry.len())
        .enumerate()
        .filter(|(_, bytes)| *bytes == entry)
        .map(|(at, _)| at);
    let loaded = places.map(|at| {
        let mut damaged = disk.clone();
        damaged.0[at] ^= 1;
        load(&damaged, 4096, harness.now).unwrap().unwrap().0
    });
    let mut loaded: Vec<u64> = loaded.collect();
    loaded.sort_unstable();
    assert_eq!(loaded, [1, 2], "the other half, where the newer one is damaged");
}

/// What the machine shows as time, and how long it was off, moves no deadline: what is left of a
/// TTL is what was left.
#[test]
fn another_boot_changes_no_remaining_time() {
    let mut harness = Harness::new(64, settings(64), 1);
    register(&mut harness, "s", "down", 1, 100);
    register(&mut harness, "s", "up", 2, 1000);
    harness.pass(130);
    let of = |region: &Region, name: &[u8]| {
        // Indexes are made when an engine goes on; here the records are searched.
        let slot = (0..64).find(|&slot| {
            region.lines()[slot as usize].head().1.is_leased()
                && region.records().read(slot).unwrap().instance.bytes() == name
        });
        slot.unwrap() as usize
    };
    let mut writer = Writer::new(
        new_file(harness.region.geometry()),
        Sizes::new(harness.region.geometry()),
        None,
        &harness.region,
        harness.now,
    );
    writer.write(&harness.region, harness.now, true).unwrap();
    let disk = writer.into_disk();
    for boot in [from_ms(5), from_ms(2_000), from_ms(1_000_000_000_000)] {
        let (_, region, _) = load(&disk, 64, boot).unwrap().unwrap();
        let (down, up) =
            (&region.lines()[of(&region, b"down")], &region.lines()[of(&region, b"up")]);
        let left = harness.region.lines()[of(&harness.region, b"down")].hold_until() - harness.now;
        assert_eq!(down.hold_until() - boot, left, "boot {boot}");
        let silent = harness.now - harness.region.lines()[of(&harness.region, b"up")].last().at;
        assert_eq!(boot - up.last().at, silent.min(boot), "boot {boot}");
    }
}

/// The power fails after any write, with any pages of what was not synced on the disk or not: one
/// whole generation is there, and none older than the last that was reported.
#[test]
fn a_power_loss_leaves_a_whole_generation() {
    let mut images = 0;
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut harness = Harness::new(64, settings(64), seed);
        let sizes = Sizes::new(harness.region.geometry());
        let start = new_file(harness.region.geometry());
        let recorder = Recorder { disk: start.clone(), log: Vec::new() };
        let mut writer = Writer::new(recorder, sizes, None, &harness.region, harness.now);
        // What each generation holds, and how much of the log there was when it was reported.
        let mut generations = vec![(0, BTreeMap::new())];
        for _ in 0..8 {
            live_a_little(&mut harness, &mut random, 12);
            let held = slots(&harness.region);
            if writer.write(&harness.region, harness.now, false).unwrap().is_some() {
                generations.push((writer.disk().log.len(), held));
            }
        }
        let log = writer.into_disk().log;
        for end in 0..=log.len() {
            let reported = generations.iter().filter(|(length, _)| *length <= end).count() - 1;
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
                    "seed {seed}, {end}: generation {number} after {reported}"
                );
                assert_eq!(found, generations[number].1, "seed {seed}, {end}: a mixture");
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

/// After a failure the same half is written whole, and the generation before stays.
#[test]
fn a_failing_disk_costs_no_generation() {
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
fn a_generation_that_may_not_be_durable_is_made_so_first() {
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
    let mut generations = vec![BTreeMap::new()];
    for _ in 0..2 {
        live_a_little(&mut harness, &mut random, 20);
        generations.push(slots(&harness.region));
        writer.write(&harness.region, harness.now, false).unwrap().unwrap();
    }
    let mut recorder = writer.into_disk();
    // The last sync never happened.
    assert!(matches!(recorder.log.pop(), Some(Entry::Sync)));
    let last = Reader::open(&recorder).unwrap().newest();
    let mut next = Writer::new(recorder, sizes, last.as_ref(), &harness.region, harness.now);
    live_a_little(&mut harness, &mut random, 20);
    generations.push(slots(&harness.region));
    next.write(&harness.region, harness.now, false).unwrap().unwrap();
    let log = next.into_disk().log;
    for end in 0..=log.len() {
        for image in crash_images(&start, &log[..end], &mut random) {
            let found = load(&image, 64, harness.now)
                .unwrap()
                .map_or((0, BTreeMap::new()), |(number, region, _)| (number, slots(&region)));
            assert_eq!(found.1, generations[found.0 as usize], "{end}");
        }
    }
}

/// Every bit of the headers, and ten thousand others: the file is refused, or a whole generation is
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
    let mut generations = vec![BTreeMap::new()];
    for _ in 0..4 {
        live_a_little(&mut harness, &mut random, 30);
        generations.push(slots(&harness.region));
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
                assert_eq!(slots(&region), generations[number as usize], "bit {bit}");
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
    assert!(matches!(error, SnapshotError::TooLarge { slot: 0, attributes: 8 }), "{error}");
    assert!(
        region.lines().iter().all(|line| line.head().0 == 0),
        "nothing stays of a half that was refused"
    );
    // More room is fine.
    let (region, right) = empty(1000, 128);
    assert_eq!(
        Reader::open(&good).unwrap().load(&region, &right, harness.now).unwrap().unwrap().leases,
        1
    );
}
