//! Snapshots: what is written is read again, whatever the power does in between, and nothing else
//! is.
//!
//! What could go wrong: half of an edition beside half of another, an older edition than the
//! last that was reported, a damaged file that is read half, a clock reading of another boot that
//! decides about somebody.

mod damage;
mod power;

use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::registrar::Registrar;
use heartline::internals::snapshot::{Disk, MemoryDisk, Reader, Sizes, SnapshotError, Writer};
use heartline_region::{Geometry, HeartState, Place, Region, Right, Run};
use heartline_test_support::{Harness, peer, settings};
use heartline_wire::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Everything that a snapshot keeps of a slot, as it is in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    generation: Generation,
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

fn slots(region: &Region) -> BTreeMap<Slot, Kept> {
    let mut buffer = [0; heartline::internals::limits::ATTRIBUTES_BYTES_MAX];
    let leased = (0..region.geometry().slots)
        .map(Slot::new)
        .filter(|&slot| region.lines()[slot.index()].head().1.is_leased());
    let read = leased.map(|slot| {
        let (line, endpoint) = (&region.lines()[slot.index()], &region.endpoints()[slot.index()]);
        let record = region.records().read(slot).unwrap();
        let (generation, state) = line.head();
        let read = Kept {
            generation,
            state,
            secret: line.lease(slot).secret.get(),
            nonce: line.nonce(),
            ttl: line.ttl().nanos(),
            endpoint: endpoint.entry().as_bytes().to_vec(),
            service: region.directory()[endpoint.service().index()].name().as_str().to_owned(),
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
        Run { key: (5, 6), ..Run::default() },
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
    Ok(Reader::open(disk)?
        .load(&region, &right, now)?
        .map(|loaded| (loaded.edition, region, right)))
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
    leased.map(|(line, slot)| line.lease(Slot::new(slot))).collect()
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
            assert_eq!(old.until(), new.until(), "seed {seed}");
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
        let slot = (0..64).map(Slot::new).find(|&slot| {
            region.lines()[slot.index()].head().1.is_leased()
                && region.records().read(slot).unwrap().instance.bytes() == name
        });
        slot.unwrap().index()
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
        let left =
            harness.region.lines()[of(&harness.region, b"down")].until().nanos() - harness.now;
        assert_eq!(down.until().nanos() - boot, left, "boot {boot}");
        let silent =
            harness.now - harness.region.lines()[of(&harness.region, b"up")].last().at.nanos();
        assert_eq!(boot - up.last().at.nanos(), silent.min(boot), "boot {boot}");
    }
}
