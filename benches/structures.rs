//! The structures between the threads, one by one: timers of the registrar, the command queue, and
//! the sequence lock.
//!
//! `cargo bench --bench structures`. The timing wheel is the registrar's own, so its numbers hold
//! what the registrar does beside: a look reads a heart line and arms its timer anew, and a timer
//! that fires is judged. The benches with two threads need two idle processors.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::queue::ArrayQueue;
use heartline::internals::clock::{Moment, Nanos, from_ms};
use heartline::internals::exchange::{Command, Replies};
use heartline::internals::limits::COMMAND_QUEUE;
use heartline::internals::registrar::{Next, Observed};
use heartline_region::Geometry;
use heartline_test_support::fleet::{Fleet, LONG_TTL_MS};
use heartline_test_support::{START, beside};
use heartline_wire::{Endpoint, Generation, Slot};
use std::hint::spin_loop;
use std::sync::atomic::{
    AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::time::{Duration, Instant};
use zerocopy::FromZeros;
use zerocopy::byteorder::little_endian::U16;

const TIMERS: u32 = 100_000;
/// The timers of the storm are armed for two thirds of this: 30 turns of the lowest level of the
/// wheel, so that all storms are alike.
const STORM_TTL_MS: u32 = 11_520;
const STORM_PERIOD: Nanos = from_ms(7_680);

fn observed(now: Nanos) -> Observed {
    Observed { now, drained: now, drops: 0, stall: 0 }
}

fn timers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers");
    let mut fleet = Fleet::new(Geometry::new(TIMERS, 0), TIMERS, LONG_TTL_MS);
    group.throughput(Throughput::Elements(1));
    let (mut replies, mut turn) = (Replies::default(), 0);
    group.bench_function("look and arm", |bencher| {
        bencher.iter(|| {
            turn = (turn + 7919) % TIMERS;
            let look = Command::Look {
                slot: Slot::new(turn),
                generation: Generation::new(1),
                leaving: false,
            };
            fleet.registrar.handle(START, &look, &mut || 1, &mut replies);
        });
    });
    let mut now = START;
    group.bench_function("tick with nothing due", |bencher| {
        bencher.iter(|| {
            // A microsecond each, so that many ticks don't add up to the TTL.
            now += 1000;
            fleet.registrar.tick(&observed(now))
        });
    });
    assert_eq!(fleet.registrar.counts().up, TIMERS);
    group.finish();
}

/// Leases whose timers are all due at the same time, again and again.
struct Storm {
    fleet: Fleet,
    due: Nanos,
    next: Next,
}

impl Storm {
    fn new() -> Self {
        let mut fleet = Fleet::new(Geometry::new(TIMERS, 0), TIMERS, STORM_TTL_MS);
        let next = fleet.registrar.tick(&observed(START));
        Self { fleet, due: START + STORM_PERIOD, next }
    }

    /// Ticks whenever the registrar asks for it, up to and including this time.
    fn tick_until(&mut self, until: Nanos) {
        while let Some(at) = self.next.wake_at.filter(|&at| at <= until) {
            self.next = self.fleet.registrar.tick(&observed(at));
        }
    }

    /// Everybody beats at the moment when all timers are due.
    fn beat(&mut self) {
        for slot in 0..TIMERS as usize {
            let beat = self.fleet.beats.next(slot);
            self.fleet.region.lines()[slot].apply(&beat, Moment::from_nanos(self.due));
        }
    }

    /// One storm; returns what the moves down the wheel before it took, and the storm itself.
    fn blow(&mut self) -> (Duration, Duration) {
        self.beat();
        let start = Instant::now();
        self.tick_until(self.due - 1);
        let moved = Instant::now();
        self.tick_until(self.due);
        let times = (moved - start, moved.elapsed());
        self.due += STORM_PERIOD;
        times
    }
}

fn storm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers");
    group.throughput(Throughput::Elements(TIMERS.into()));
    let mut storm = Storm::new();
    storm.blow();
    assert_eq!(
        storm.next.wake_at.map(|at| at / from_ms(256)),
        Some(storm.due / from_ms(256)),
        "the timers are armed again"
    );
    group.bench_function("100000 due in one tick", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| storm.blow().1).sum());
    });
    group.bench_function("100000 move down the wheel", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| storm.blow().0).sum());
    });
    let counts = storm.fleet.registrar.counts();
    assert_eq!((counts.up, counts.deafness), (TIMERS, 0));
    group.finish();
}

fn push(queue: &ArrayQueue<Command>, mut command: Command) {
    while let Err(back) = queue.push(command) {
        command = back;
        spin_loop();
    }
}

fn pop(queue: &ArrayQueue<Command>) -> Command {
    loop {
        match queue.pop() {
            Some(command) => return command,
            None => spin_loop(),
        }
    }
}

fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("command queue");
    group.throughput(Throughput::Elements(1));
    let command =
        || Command::Look { slot: Slot::new(1), generation: Generation::new(1), leaving: false };
    let (there, back) = (ArrayQueue::new(COMMAND_QUEUE), ArrayQueue::new(COMMAND_QUEUE));
    group.bench_function("push and pop, one thread", |bencher| {
        bencher.iter(|| {
            push(&there, command());
            pop(&there)
        });
    });
    let taken = AtomicU64::new(0);
    let take = || match there.pop() {
        Some(_) => taken.store(taken.load(Relaxed) + 1, Release),
        None => spin_loop(),
    };
    beside(take, || {
        group.bench_function("hand over to another thread", |bencher| {
            bencher.iter_custom(|rounds| {
                let (start, end) = (Instant::now(), taken.load(Acquire) + rounds);
                (0..rounds).for_each(|_| push(&there, command()));
                while taken.load(Acquire) < end {
                    spin_loop();
                }
                start.elapsed()
            });
        });
    });
    let echo = || match there.pop() {
        Some(command) => push(&back, command),
        None => spin_loop(),
    };
    beside(echo, || {
        group.bench_function("to another thread and back", |bencher| {
            bencher.iter(|| {
                push(&there, command());
                pop(&back)
            });
        });
    });
    group.finish();
}

fn sequence(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sequence lock");
    group.throughput(Throughput::Elements(1));
    let fleet = Fleet::new(Geometry::new(16, 0), 1, LONG_TTL_MS);
    let (region, writer) = fleet.registrar.release();
    let line = &region.endpoints()[0];
    let lock = region.directory()[line.service().index()].sequence();
    group.bench_function("read", |bencher| bencher.iter(|| lock.read(|| line.entry())));
    for (name, pause) in
        [("read beside a writer that never rests", 0), ("read beside a writer that rests", 100)]
    {
        let mut round = 0_u16;
        let write = || {
            round = round.wrapping_add(1);
            let entry = Endpoint {
                weight: U16::new(round),
                load: U16::new(round),
                ..Endpoint::new_zeroed()
            };
            lock.write(&writer, || line.set_entry(&writer, entry));
            (0..pause).for_each(|_| spin_loop());
        };
        let (mut reads, mut given_up) = (0_u64, 0_u64);
        let torn = AtomicBool::new(false);
        let (writes, time) = beside(write, || {
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let entry = lock.read(|| line.entry());
                    reads += 1;
                    match &entry {
                        Some(entry) => {
                            torn.store(torn.load(Relaxed) | (entry.weight != entry.load), Relaxed)
                        }
                        None => given_up += 1,
                    }
                    entry
                });
            });
        });
        assert!(!torn.into_inner(), "half of a write was read");
        println!(
            "{name}: {given_up} of {reads} reads were given up beside {:.0} writes a second",
            writes as f64 / time.as_secs_f64()
        );
    }
    group.finish();
}

criterion_group!(benches, timers, storm, queue, sequence);
criterion_main!(benches);
