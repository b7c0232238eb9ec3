//! The `memory` scenario: an engine's parts without sockets. Beats decoded and applied beside walks
//! over as many lines; names looked up and inserted beside other hash tables.

use crate::floors::LineWalk;
use crate::machine;
use crate::report::{Outputs, Row, median};
use ahash::RandomState;
use clap::Args;
use dashmap::DashMap;
use hashbrown::HashMap;
use heartline::internals::clock::{Moment, Nanos, Span};
use heartline::internals::dataplane::{Datagram, Dataplane};
use heartline::internals::exchange::{Attributes, Command, Peer, Replies, Requester};
use heartline::internals::limits::FRAME_BYTES_MAX;
use heartline::internals::registrar::{Observed, Settings};
use heartline_region::{Counter, Geometry, Record, Region, Right};
use heartline_test_support::{Harness, START, settings};
use heartline_wire::{
    Beat, Header, Kind, Label, Lease, Name, Register, Reply, ReplyBody, Slot, service_id,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Beats between two looks at the clock.
const BEATS: usize = 1000;
/// Rounds of that many beats in a run.
const ROUNDS: usize = 2000;
/// Entries of the tables that are looked up in.
const ENTRIES: u32 = 1_000_000;
/// Room beside them for instances that come and go.
const EXTRA: u32 = 8192;
const SERVICES: u32 = 1000;
/// Lookups in a run.
const LOOKUPS: usize = 1 << 19;
/// Time between two writes, each of which adds an entry and removes it. At one pace for all tables:
/// otherwise the slower writer would disturb its readers less.
pub(crate) const PACED: Duration = Duration::from_micros(5);
const LONG_TTL_MS: u32 = 86_400_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Also with 16 M leases, which takes 6 GiB of memory
    #[arg(long)]
    large: bool,
    /// Runs of each figure, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    #[command(flatten)]
    outputs: Outputs,
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut report = options.outputs.begin("memory")?;
    let (cpu, writer_cpu) = machine::two_cpus()?;
    machine::pin(cpu);
    let sizes = [1 << 16, 1 << 20, 1 << 24].into_iter().take(if options.large { 3 } else { 2 });
    let mut middle = |what: String, measure: &mut dyn FnMut() -> f64| {
        let mut values: Vec<f64> = (0..options.runs).map(|_| measure()).collect();
        report.rows.push(Row::new(what, median(&mut values), "ns"));
    };
    for leases in sizes {
        let mut plane = Plane::new(leases);
        for batch in [50, 1] {
            for (order, grouped) in [("in groups", true), ("frame by frame", false)] {
                let what = format!("{leases} leases: beat, {batch} a frame, {order}");
                middle(what, &mut || plane.apply(batch, grouped));
            }
        }
        drop(plane);
        for (pages, huge) in [("small pages", false), ("huge pages", true)] {
            let mut walk = LineWalk::new(leases as usize, huge)?;
            for (how, ahead) in [("store", false), ("prefetched store", true)] {
                let what = format!("{leases} lines on {pages}: {how}");
                middle(what, &mut || walk.walk(ahead));
            }
        }
    }
    let (mut directory, keys) = (Directory::new()?, Keys::random());
    middle("lookup".into(), &mut || directory.split().0(&keys));
    let mut plain = plain();
    middle("lookup: hashbrown".into(), &mut || plain.split().0(&keys));
    let mut write = |name: &str, table: &mut dyn Table| {
        let (mut writes, mut runs) = (0.0, 0.0);
        middle(format!("lookup beside a writer: {name}"), &mut || {
            let (lookup, per_second) = while_writing(writer_cpu, Duration::ZERO, table, &keys);
            (writes, runs) = (writes + per_second, runs + 1.0);
            lookup
        });
        (format!("writes a second beside: {name}"), writes / runs)
    };
    let mut writes = vec![write("ours", &mut directory)];
    writes.extend(TABLES.map(|(name, make)| write(name, &mut *make())));
    let inserts = Inserts::new(directory)?;
    middle("insert, with the record".into(), &mut || inserts.ours());
    middle("insert: hashbrown, with its key".into(), &mut || inserts.theirs(&mut plain));
    report.rows.extend(writes.into_iter().map(|(name, rate)| Row::new(name, rate, "")));
    options.outputs.finish(report)
}

/// A data plane over leased lines.
pub(crate) struct Plane {
    dataplane: Dataplane,
    leases: Vec<Lease>,
    random: SmallRng,
    sequence: u32,
}

impl Plane {
    pub(crate) fn new(leases: u32) -> Self {
        let geometry = Geometry::new(leases, 0);
        let Harness { registrar, dataplane, .. } =
            Harness::with_geometry(geometry, settings(leases), 1);
        let (region, writer) = registrar.release();
        let granted = region.lines().iter().zip(0..leases).map(|(line, slot)| {
            let (now, ttl) = (Moment::from_nanos(1), Span::from_ms(LONG_TTL_MS.into()));
            line.lease_to(&writer, now, ttl, u64::from(slot) + 1, 1);
            line.lease(Slot::new(slot))
        });
        let leases = granted.collect();
        Self { dataplane, leases, random: SmallRng::seed_from_u64(1), sequence: 0 }
    }

    fn frames(&mut self, batch: usize) -> Vec<Vec<u8>> {
        let header = Header { count: U16::new(batch as u16), ..Header::request(Kind::Beat, 1) };
        let frame = |_| {
            let mut frame = header.as_bytes().to_vec();
            for _ in 0..batch {
                self.sequence += 1;
                let lease = self.leases[self.random.random_range(0..self.leases.len())];
                let sequence = U32::new(self.sequence);
                let beat = Beat { lease, sequence, load: U16::ZERO, flags: U16::ZERO };
                frame.extend_from_slice(beat.as_bytes());
            }
            frame
        };
        (0..BEATS / batch).map(frame).collect()
    }

    /// Nanoseconds a beat. Grouped: as a loop does that has received all frames of a round;
    /// otherwise as one that receives one datagram at a time, so that no line is asked for before
    /// its frame.
    pub(crate) fn apply(&mut self, batch: usize, grouped: bool) -> f64 {
        let (mut took, mut replies) = (Duration::ZERO, Replies::default());
        for round in 0..ROUNDS {
            let frames = self.frames(batch);
            let now = START + round as Nanos;
            let begin = Instant::now();
            let mut datagrams =
                frames.iter().map(|bytes| Datagram { peer: Peer::default(), bytes }).peekable();
            if grouped {
                while datagrams.peek().is_some() {
                    self.dataplane.receive(now, &mut datagrams, &mut replies);
                }
            } else {
                for datagram in datagrams {
                    self.dataplane.receive(now, std::iter::once(datagram), &mut replies);
                }
            }
            took += begin.elapsed();
        }
        let tally = self.dataplane.tally();
        let lost = tally.rejected() + tally.get(Counter::BeatsRefused);
        assert_eq!(lost, 0, "every beat is for a lease");
        took.as_nanos() as f64 / (ROUNDS * BEATS) as f64
    }
}

/// Service id and instance name.
type Key = (u64, Box<str>);

fn key(number: u32, name: &str) -> Key {
    (service_id(&service(number)), format!("{name}-{number}").into())
}

fn service(number: u32) -> String {
    format!("service-{}", number % SERVICES)
}

fn extra_key(number: u32) -> Key {
    key(number % 4096, "extra")
}

fn all_keys() -> impl Iterator<Item = Key> {
    (0..ENTRIES).map(|number| key(number, "instance"))
}

/// Random ones of all keys, as the tables want them.
pub(crate) struct Keys {
    theirs: Vec<Key>,
    ours: Vec<(u64, Name)>,
}

impl Keys {
    pub(crate) fn random() -> Self {
        let mut random = SmallRng::seed_from_u64(5);
        let theirs: Vec<Key> =
            (0..LOOKUPS).map(|_| key(random.random_range(0..ENTRIES), "instance")).collect();
        let name = |(id, name): &Key| (*id, Name::new(name).expect("a name"));
        Self { ours: theirs.iter().map(name).collect(), theirs }
    }
}

/// Nanoseconds a lookup.
fn time<K>(keys: &[K], find: impl Fn(&K) -> Option<u32>) -> f64 {
    let begin = Instant::now();
    let found = keys.iter().filter(|key| black_box(find(key)).is_some()).count();
    assert_eq!(found, keys.len(), "every key is there");
    begin.elapsed().as_nanos() as f64 / keys.len() as f64
}

/// Looks all keys up; returns the nanoseconds a lookup.
type Reader<'a> = Box<dyn Fn(&Keys) -> f64 + 'a>;
/// Adds one of the extra keys and removes it.
type Change<'a> = Box<dyn FnMut(u32) + Send + 'a>;

/// A table with an entry for each key.
pub(crate) trait Table: Send {
    fn split(&mut self) -> (Reader<'_>, Change<'_>);
}

/// A table of one thread.
pub(crate) type Plain = HashMap<Key, u32, RandomState>;

/// Makes a table with its entries.
type Make = fn() -> Box<dyn Table>;

/// Tables that threads can share.
pub(crate) const TABLES: [(&str, Make); 3] = [
    ("dashmap", || Box::new(all_keys().zip(0..).collect::<DashMap<_, _, RandomState>>())),
    ("papaya", || Box::new(all_keys().zip(0..).collect::<papaya::HashMap<_, _, RandomState>>())),
    ("Mutex<HashMap>", || Box::new(Mutex::new(plain()))),
];

pub(crate) fn plain() -> Plain {
    all_keys().zip(0..).collect()
}

impl Table for Plain {
    fn split(&mut self) -> (Reader<'_>, Change<'_>) {
        let read = |keys: &Keys| time(&keys.theirs, |key| self.get(key).copied());
        (Box::new(read), Box::new(|_| ()))
    }
}

impl Table for Mutex<Plain> {
    fn split(&mut self) -> (Reader<'_>, Change<'_>) {
        let table = &*self;
        let lock = || table.lock().expect("no thread panics with the lock");
        let change = move |number| {
            lock().insert(extra_key(number), number);
            lock().remove(&extra_key(number));
        };
        let read = move |keys: &Keys| time(&keys.theirs, |key| lock().get(key).copied());
        (Box::new(read), Box::new(change))
    }
}

impl Table for DashMap<Key, u32, RandomState> {
    fn split(&mut self) -> (Reader<'_>, Change<'_>) {
        let table = &*self;
        let change = |number| {
            table.insert(extra_key(number), number);
            table.remove(&extra_key(number));
        };
        let read = |keys: &Keys| time(&keys.theirs, |key| table.get(key).map(|value| *value));
        (Box::new(read), Box::new(change))
    }
}

impl Table for papaya::HashMap<Key, u32, RandomState> {
    fn split(&mut self) -> (Reader<'_>, Change<'_>) {
        let table = &*self;
        let change = |number| {
            table.pin().insert(extra_key(number), number);
            table.pin().remove(&extra_key(number));
        };
        let read = |keys: &Keys| time(&keys.theirs, |key| table.pin().get(key).copied());
        (Box::new(read), Box::new(change))
    }
}

/// Looks keys up while a thread on another CPU writes; returns the nanoseconds a lookup, and how
/// many writes came a second.
pub(crate) fn while_writing(
    cpu: usize,
    gap: Duration,
    table: &mut (impl Table + ?Sized),
    keys: &Keys,
) -> (f64, f64) {
    let stop = AtomicBool::new(false);
    let (read, mut change) = table.split();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            machine::pin(cpu);
            let (begin, mut number) = (Instant::now(), 0);
            while !stop.load(Relaxed) {
                if begin.elapsed() >= number * gap {
                    change(number);
                    number += 1;
                }
            }
            f64::from(number) / begin.elapsed().as_secs_f64()
        });
        std::thread::sleep(Duration::from_millis(10));
        let measured = read(keys);
        stop.store(true, Relaxed);
        (measured, writer.join().expect("the writer does not panic"))
    })
}

/// An engine in memory whose index holds all keys.
pub(crate) struct Directory {
    engine: Harness,
    replies: Replies,
}

impl Directory {
    pub(crate) fn new() -> Result<Self, String> {
        let settings = Settings { tombstone_min: 0, ..settings(u32::MAX) };
        let engine = Harness::with_geometry(Geometry::new(ENTRIES + 2 * EXTRA, 0), settings, 1);
        let mut directory = Self { engine, replies: Replies::default() };
        for (number, key) in (0..).zip(all_keys()) {
            directory.register(number, &key.1).ok_or("a registration was refused")?;
        }
        Ok(directory)
    }

    fn handle(&mut self, command: impl FnOnce(Requester) -> Command) {
        let budget = FRAME_BYTES_MAX as u16;
        let command = command(Requester { peer: Peer::default(), tag: U64::ZERO, budget });
        self.replies.clear();
        self.engine.handle(&command, &mut self.replies);
    }

    fn register(&mut self, number: u32, name: &str) -> Option<Lease> {
        let mut request = Register::new_zeroed();
        (request.nonce, request.ttl_ms) = (U64::new(1), U32::new(LONG_TTL_MS));
        request.service = Name::new(&service(number)).ok()?;
        request.instance = Name::new(name).ok()?;
        let attributes = Attributes::new(&[]);
        self.handle(|from| Command::Register { from, request, attributes });
        match Reply::decode(self.replies.iter().next()?.1).ok()?.body {
            ReplyBody::Granted(granted) => Some(granted.lease),
            _ => None,
        }
    }

    /// One instance comes and goes. Slots that it had are free again once the registrar has looked.
    fn come_and_go(&mut self, number: u32) {
        let (_, name) = extra_key(number);
        let lease = self.register(number % 4096, &name).expect("there is room");
        self.handle(|from| Command::Deregister { from, lease });
        if number.is_multiple_of(64) {
            self.engine.now += 1000;
            let now = self.engine.now;
            self.engine.registrar.tick(&Observed { now, drained: now, drops: 0, stall: 0 });
        }
    }
}

impl Table for Directory {
    fn split(&mut self) -> (Reader<'_>, Change<'_>) {
        let region = Arc::clone(&self.engine.region);
        let find =
            move |(id, name): &(u64, Name)| region.find(*id, name).ok().flatten().map(Slot::get);
        let read = move |keys: &Keys| time(&keys.ours, &find);
        (Box::new(read), Box::new(|number| self.come_and_go(number)))
    }
}

/// Keys that are inserted and removed.
struct Inserts {
    region: Arc<Region>,
    writer: Right,
    fresh: Vec<(Slot, Key, Record)>,
}

impl Inserts {
    fn new(directory: Directory) -> Result<Self, String> {
        let (region, writer) = directory.engine.registrar.release();
        // Beyond the slots that came and went.
        let fresh = (ENTRIES + EXTRA..ENTRIES + 2 * EXTRA).map(|slot| {
            let (id, name) = key(slot, "fresh");
            let service = region.find_service(id).ok().flatten().ok_or("a service is missing")?;
            let instance = Name::new(&name).map_err(|error| format!("{error:?}"))?;
            let zone = Label::EMPTY;
            let record = Record { service, replaced_nonce: 0, source: [0; 16], zone, instance };
            Ok::<_, String>((Slot::new(slot), (id, name), record))
        });
        let fresh = fresh.collect::<Result<_, _>>()?;
        Ok(Self { region, writer, fresh })
    }

    /// Nanoseconds an insert of the key that it is compared with, and of the entry.
    fn ours(&self) -> f64 {
        let (region, writer) = (&self.region, &self.writer);
        let begin = Instant::now();
        for (slot, key, record) in &self.fresh {
            region.records().write(writer, *slot, record, &[]);
            region.index_instance(writer, key.0, &record.instance, *slot).expect("there is room");
        }
        let took = begin.elapsed();
        for (slot, key, record) in &self.fresh {
            region.unindex_instance(writer, key.0, &record.instance, *slot);
        }
        took.as_nanos() as f64 / self.fresh.len() as f64
    }

    fn theirs(&self, table: &mut Plain) -> f64 {
        let begin = Instant::now();
        for (slot, key, _) in &self.fresh {
            table.insert(key.clone(), slot.get());
        }
        let took = begin.elapsed();
        for (_, key, _) in &self.fresh {
            table.remove(key);
        }
        took.as_nanos() as f64 / self.fresh.len() as f64
    }
}
