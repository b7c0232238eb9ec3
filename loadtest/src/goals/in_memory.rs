//! What memory bounds: beats applied beside a walk over as many lines, and lookups beside other
//! hash tables.

use super::Lab;
use crate::floors::LineWalk;
use crate::machine;
use crate::report::Goal;
use crossbeam::queue::ArrayQueue;
use dashmap::DashMap;
use hashbrown::HashMap;
use heartline::clock::{Nanos, from_ms};
use heartline::dataplane::{Cookies, Datagram, Dataplane};
use heartline::exchange::{Attributes, Command, Peer, Replies, Requester};
use heartline::limits::{COMMAND_QUEUE, FRAME_BYTES_MAX};
use heartline::region::{Geometry, Place, Region};
use heartline::registrar::{DenyList, Observed, Registrar, Settings};
use heartline::wire::{Beat, Header, Kind, Lease, Name, Register, Reply, ReplyBody, service_id};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const BEATS_PER_FRAME: usize = 50;
/// Frames applied between two looks at the clock.
const FRAMES: usize = 20;
/// Rounds of that many frames in a run.
const ROUNDS: usize = 2000;
/// Entries of the tables that are looked up in.
const ENTRIES: u32 = 1_000_000;
const SERVICES: u32 = 1000;
/// Time between two writes, each of which adds an entry and removes it.
const WRITE_GAP: Duration = Duration::from_micros(5);
/// Lookups in a run.
const LOOKUPS: usize = 1 << 19;

/// G4: decoding and applying batches of beats for random leases.
pub(super) fn apply(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let mut goals = Vec::new();
    for (leases, name) in [(1 << 16, "64 k"), (1 << 20, "1 M"), (1 << 24, "16 M")] {
        let cpu = lab.engine_cpu;
        let mut fleet = machine::pinned(cpu, || Fleet::new(leases))?;
        let mut walk = machine::pinned(cpu, || LineWalk::new(leases as usize))?;
        let pairs = lab.pairs(
            || Ok(machine::pinned(cpu, || fleet.apply())),
            || Ok(machine::pinned(cpu, || walk.walk(true))),
        )?;
        let what = format!("decoding and applying a beat in batches of 50, {name} leases");
        goals.push(Goal::ratio("G4", what, "ns", &pairs, 1.5).against("prefetched line store"));
    }
    Ok(goals)
}

/// A data plane over leased lines.
struct Fleet {
    dataplane: Dataplane,
    leases: Vec<Lease>,
    random: SmallRng,
    sequence: u32,
}

impl Fleet {
    fn new(leases: u32) -> Result<Self, String> {
        let (region, writer) = Region::create(
            &Place::Scratch,
            Geometry::new(leases, 0),
            (1, 2),
            7,
            &AtomicBool::new(false),
        )
        .map_err(|error| error.to_string())?;
        let granted = region.lines().iter().zip(0..leases).map(|(line, slot)| {
            line.lease_to(&writer, 1, from_ms(86_400_000), u64::from(slot) + 1, 1);
            line.lease(slot)
        });
        let leases = granted.collect();
        let commands = Arc::new(ArrayQueue::new(COMMAND_QUEUE));
        let dataplane = Dataplane::new(
            Arc::new(region),
            commands,
            Cookies::new((1, 2)),
            7,
            SmallRng::seed_from_u64(2),
        );
        Ok(Self { dataplane, leases, random: SmallRng::seed_from_u64(1), sequence: 0 })
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        let header =
            Header { count: U16::new(BEATS_PER_FRAME as u16), ..Header::request(Kind::Beat, 1) };
        let frame = |_| {
            let mut frame = header.as_bytes().to_vec();
            for _ in 0..BEATS_PER_FRAME {
                self.sequence += 1;
                let lease = self.leases[self.random.random_range(0..self.leases.len())];
                frame.extend_from_slice(
                    Beat {
                        lease,
                        sequence: U32::new(self.sequence),
                        load: U16::ZERO,
                        flags: U16::ZERO,
                    }
                    .as_bytes(),
                );
            }
            frame
        };
        (0..FRAMES).map(frame).collect()
    }

    /// Nanoseconds a beat.
    fn apply(&mut self) -> f64 {
        let (mut took, mut replies) = (Duration::ZERO, Replies::default());
        for round in 0..ROUNDS {
            let frames = self.frames();
            let begin = Instant::now();
            let mut datagrams =
                frames.iter().map(|bytes| Datagram { peer: Peer::default(), bytes }).peekable();
            while datagrams.peek().is_some() {
                self.dataplane.receive(round as u64 + 3, &mut datagrams, &mut replies);
            }
            took += begin.elapsed();
        }
        took.as_nanos() as f64 / (ROUNDS * FRAMES * BEATS_PER_FRAME) as f64
    }
}

/// G5: finding an instance by service and name.
pub(super) fn lookup(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let (engine_cpu, writer_cpu) = (lab.engine_cpu, lab.generator_cpu);
    let mut names = Directory::new()?;
    let region = Arc::clone(&names.region);
    let keys = &random_keys();
    let wanted: Vec<(u64, Name)> =
        keys.iter().map(|(id, name)| (*id, Name::new(name).expect("a name"))).collect();
    let ours = || {
        machine::pinned(engine_cpu, || {
            time(&wanted, |(id, name)| region.find(*id, name).ok().flatten())
        })
    };
    let mut goals = Vec::new();
    {
        let plain: HashMap<Key, u32, ahash::RandomState> = all_keys().zip(0..).collect();
        let theirs = || machine::pinned(engine_cpu, || time(keys, |key| plain.get(key).copied()));
        let pairs = lab.pairs(|| Ok(ours()), || Ok(theirs()))?;
        let goal =
            Goal::ratio("G5", "lookup by service and instance, a million", "ns", &pairs, 1.0)
                .against("hashbrown, one thread");
        goals.push(goal.note("ours is on huge pages, theirs where the allocator puts it"));
    }
    let disturbed = |lab: &mut Lab,
                     names: &mut Directory,
                     name: &str,
                     read: &(dyn Fn(&Key) -> Option<u32> + Sync),
                     write: &(dyn Fn(u32) + Sync)| {
        let mut ours = || while_writing(writer_cpu, |number| names.come_and_go(number), ours);
        let theirs = || {
            while_writing(writer_cpu, write, || machine::pinned(engine_cpu, || time(keys, read)))
        };
        let pairs = lab.pairs(|| Ok(ours()), || Ok(theirs()))?;
        let what = "lookup while another thread adds and removes";
        Ok::<_, String>(Goal::ratio("G5", what, "ns", &pairs, 0.5).against(name))
    };
    let dash: DashMap<Key, u32, ahash::RandomState> = all_keys().zip(0..).collect();
    goals.push(disturbed(
        lab,
        &mut names,
        "dashmap",
        &|key| dash.get(key).map(|value| *value),
        &|number| {
            dash.insert(extra_key(number), number);
            dash.remove(&extra_key(number));
        },
    )?);
    drop(dash);
    let papaya: papaya::HashMap<Key, u32, ahash::RandomState> = all_keys().zip(0..).collect();
    goals.push(disturbed(
        lab,
        &mut names,
        "papaya",
        &|key| papaya.pin().get(key).copied(),
        &|number| {
            papaya.pin().insert(extra_key(number), number);
            papaya.pin().remove(&extra_key(number));
        },
    )?);
    drop(papaya);
    let locked: Mutex<HashMap<Key, u32, ahash::RandomState>> =
        Mutex::new(all_keys().zip(0..).collect());
    let lock = || locked.lock().expect("nobody panics with the lock");
    goals.push(disturbed(
        lab,
        &mut names,
        "Mutex<HashMap>",
        &|key| lock().get(key).copied(),
        &|number| {
            lock().insert(extra_key(number), number);
            lock().remove(&extra_key(number));
        },
    )?);
    Ok(goals)
}

/// Service id and instance name.
type Key = (u64, Box<str>);

fn key(number: u32, name: &str) -> Key {
    (service_id(&format!("service-{}", number % SERVICES)), format!("{name}-{number}").into())
}

fn extra_key(number: u32) -> Key {
    key(number % 4096, "extra")
}

fn all_keys() -> impl Iterator<Item = Key> {
    (0..ENTRIES).map(|number| key(number, "instance"))
}

fn random_keys() -> Vec<Key> {
    let mut random = SmallRng::seed_from_u64(5);
    (0..LOOKUPS).map(|_| key(random.random_range(0..ENTRIES), "instance")).collect()
}

/// Nanoseconds a lookup.
fn time<K>(keys: &[K], find: impl Fn(&K) -> Option<u32>) -> f64 {
    let begin = Instant::now();
    let found = keys.iter().filter(|key| black_box(find(key)).is_some()).count();
    assert_eq!(found, keys.len(), "every key is there");
    begin.elapsed().as_nanos() as f64 / keys.len() as f64
}

/// Measures while a thread on another CPU writes all the time.
fn while_writing(
    cpu: usize,
    mut write: impl FnMut(u32) + Send,
    measure: impl FnOnce() -> f64,
) -> f64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            machine::pin(cpu);
            let (begin, mut number) = (Instant::now(), 0);
            while !stop.load(Relaxed) {
                // At one pace for all tables: otherwise the slower writer would disturb its readers
                // less.
                if begin.elapsed() >= number * WRITE_GAP {
                    write(number);
                    number += 1;
                }
            }
        });
        std::thread::sleep(Duration::from_millis(10));
        let measured = measure();
        stop.store(true, Relaxed);
        measured
    })
}

/// A region whose index holds all keys, and its registrar.
struct Directory {
    region: Arc<Region>,
    registrar: Registrar,
    replies: Replies,
    random: SmallRng,
    now: Nanos,
}

impl Directory {
    fn new() -> Result<Self, String> {
        let (region, writer) = Region::create(
            &Place::Scratch,
            Geometry::new(ENTRIES + 8192, 0),
            (1, 2),
            7,
            &AtomicBool::new(false),
        )
        .map_err(|error| error.to_string())?;
        let region = Arc::new(region);
        let settings = Settings {
            quota: u32::MAX,
            hold: true,
            tombstone_min: 0,
            deny: DenyList::default(),
            epoch: 7,
        };
        let registrar = Registrar::new(Arc::clone(&region), writer, settings, 1);
        let mut directory = Self {
            region,
            registrar,
            replies: Replies::default(),
            random: SmallRng::seed_from_u64(9),
            now: 2,
        };
        for (number, key) in (0..).zip(all_keys()) {
            directory.register(number, &key.1).ok_or("a registration was refused")?;
        }
        Ok(directory)
    }

    fn register(&mut self, number: u32, name: &str) -> Option<Lease> {
        let from =
            Requester { peer: Peer::default(), tag: U64::ZERO, budget: FRAME_BYTES_MAX as u16 };
        let mut request = Register::new_zeroed();
        (request.nonce, request.ttl_ms) = (U64::new(1), U32::new(86_400_000));
        request.service = Name::new(&format!("service-{}", number % SERVICES)).ok()?;
        request.instance = Name::new(name).ok()?;
        let random = &mut self.random;
        self.replies.clear();
        let command = Command::Register { from, request, attributes: Attributes::new(&[]) };
        self.registrar.handle(self.now, &command, &mut || random.next_u64(), &mut self.replies);
        match Reply::decode(self.replies.iter().next()?.1).ok()?.body {
            ReplyBody::Granted(granted) => Some(granted.lease),
            _ => None,
        }
    }

    /// One instance comes and goes. Slots that it had are free again once the registrar has looked.
    fn come_and_go(&mut self, number: u32) {
        let (_, name) = extra_key(number);
        let lease = self.register(number % 4096, &name).expect("there is room");
        let from =
            Requester { peer: Peer::default(), tag: U64::ZERO, budget: FRAME_BYTES_MAX as u16 };
        let random = &mut self.random;
        self.replies.clear();
        self.registrar.handle(
            self.now,
            &Command::Deregister { from, lease },
            &mut || random.next_u64(),
            &mut self.replies,
        );
        if number.is_multiple_of(64) {
            self.now += 1000;
            self.registrar.tick(&Observed { now: self.now, drained: self.now, drops: 0, stall: 0 });
        }
    }
}
