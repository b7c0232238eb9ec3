//! The real region, registrar, data plane and watchers in one thread, with simulated time and no
//! sockets.

use crossbeam::queue::ArrayQueue;
use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::dataplane::{Cookies, Datagram, Dataplane};
use heartline::internals::exchange::{Command, Peer, Pushes, Replies, WatchCommand};
use heartline::internals::limits::{COMMAND_QUEUE, WATCH_QUEUE};
use heartline::internals::registrar::{DenyList, Next, Observed, Registrar, Settings};
use heartline::internals::watchers::Watchers;
use heartline_region::{Counter, Geometry, OwnCounters, Place, Region, Run, Tally, boot_id};
use heartline_wire::{Header, Kind};
use rand::rngs::{SmallRng, StdRng};
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use zerocopy::IntoBytes;

/// An engine in memory. Without a call nothing happens and no time passes.
#[derive(Debug)]
pub struct Harness {
    /// Its memory.
    pub region: Arc<Region>,
    /// Its registrar.
    pub registrar: Registrar,
    /// Its only loop; [`Harness::another_dataplane`] makes more.
    pub dataplane: Dataplane,
    /// What loops ask of the registrar.
    pub commands: Arc<ArrayQueue<Command>>,
    /// Its watches.
    pub watchers: Watchers,
    /// What loops ask of the watch thread.
    pub watch_commands: Arc<ArrayQueue<WatchCommand>>,
    /// Pushes that were sent, oldest first, with whom they went to; to be taken away.
    pub pushed: Vec<(Peer, Vec<u8>)>,
    /// The cookies that it takes.
    pub cookies: Cookies,
    /// Where its random numbers come from.
    pub random: StdRng,
    /// The present time.
    pub now: Nanos,
    /// Kernel drops so far.
    pub drops: u64,
    /// Whether the loops drain; `false`: an overloaded or stopped engine.
    pub drains: bool,
    /// When they last did.
    pub drained: Nanos,
    /// What the registrar said when it last looked.
    pub next: Option<Next>,
    epoch: u64,
    tally: Tally,
    /// Where the registrar shows what it has counted.
    pub counters: OwnCounters,
}

/// When it starts.
pub const START: Nanos = from_ms(1_000_000);

/// An address in 10.0.0.0/8, mapped.
pub fn peer(number: u8) -> Peer {
    Peer {
        ip: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 10, 0, 0, number],
        port: 4000 + u16::from(number),
        ..Peer::default()
    }
}

/// Settings for an engine of this capacity.
pub fn settings(capacity: u32) -> Settings {
    Settings {
        quota: capacity,
        hold: true,
        tombstone_min: from_ms(60),
        deny: DenyList::default(),
        epoch: 7,
    }
}

impl Harness {
    /// An engine for so many leases with up to 64 bytes of attributes each.
    pub fn new(capacity: u32, settings: Settings, seed: u64) -> Self {
        Self::with_geometry(Geometry::new(capacity, 64), settings, seed)
    }

    /// An engine whose memory has these sizes.
    pub fn with_geometry(geometry: Geometry, settings: Settings, seed: u64) -> Self {
        Self::in_place(&Place::Scratch, geometry, settings, seed)
    }

    /// The same, with its files in a place.
    pub fn in_place(place: &Place, geometry: Geometry, settings: Settings, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let key = (random.next_u64(), random.next_u64());
        let run = Run { key, epoch: settings.epoch, boot: boot_id() };
        let never = AtomicBool::new(false);
        let (region, writer) = Region::create(place, geometry, run, &never).unwrap();
        let region = Arc::new(region);
        let commands = Arc::new(ArrayQueue::new(COMMAND_QUEUE));
        let watch_commands = Arc::new(ArrayQueue::new(WATCH_QUEUE));
        let cookies = Cookies::new((random.next_u64(), random.next_u64()));
        let epoch = settings.epoch;
        let mut counters = region.begin_counters(&writer, 1);
        let mut engine = Self {
            registrar: Registrar::new(Arc::clone(&region), writer, settings, START),
            dataplane: Dataplane::new(
                Arc::clone(&region),
                Arc::clone(&commands),
                Arc::clone(&watch_commands),
                cookies.clone(),
                epoch,
                SmallRng::seed_from_u64(random.next_u64()),
            ),
            watchers: Watchers::new(
                Arc::clone(&region),
                (random.next_u64(), random.next_u64()),
                epoch,
            ),
            watch_commands,
            pushed: Vec::new(),
            region,
            commands,
            cookies,
            random,
            now: START,
            drops: 0,
            drains: true,
            drained: START,
            next: None,
            epoch,
            tally: Tally::default(),
            counters: counters.registrar,
        };
        engine.dataplane.publish_in(counters.loops.remove(0));
        engine.publish();
        engine
    }

    /// Shows what the registrar has counted.
    pub fn publish(&mut self) {
        self.tally.set(Counter::Loops, 1);
        self.tally.set(Counter::Started, 1);
        self.registrar.counts().tell(&mut self.tally);
        self.counters.publish(&self.tally);
    }

    /// The data plane of one more loop.
    pub fn another_dataplane(&mut self) -> Dataplane {
        Dataplane::new(
            Arc::clone(&self.region),
            Arc::clone(&self.commands),
            Arc::clone(&self.watch_commands),
            self.cookies.clone(),
            self.epoch,
            SmallRng::seed_from_u64(self.random.next_u64()),
        )
    }

    /// Hands one datagram in and returns the reply, if there is one.
    pub fn send(&mut self, from: Peer, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut replies = Replies::default();
        self.dataplane.receive(
            self.now,
            [Datagram { peer: from, bytes }].into_iter(),
            &mut replies,
        );
        while let Some(command) = self.commands.pop() {
            self.handle(&command, &mut replies);
        }
        while let Some(command) = self.watch_commands.pop() {
            let random = &mut self.random;
            self.watchers.handle(self.now, &command, &mut || random.next_u64(), &mut replies);
        }
        self.publish();
        let mut frames = replies.iter().map(|(_, frame)| frame.to_vec());
        let first = frames.next();
        assert!(frames.next().is_none(), "one request, two replies");
        first
    }

    /// Hands the registrar one command, as if a loop had.
    pub fn handle(&mut self, command: &Command, replies: &mut Replies) {
        let random = &mut self.random;
        self.registrar.handle(self.now, command, &mut || random.next_u64(), replies);
    }

    /// Sends a request of this kind; a cookie field is filled in.
    pub fn request(&mut self, from: Peer, kind: Kind, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let mut frame = Header::request(kind, 1).as_bytes().to_vec();
        parts.iter().for_each(|part| frame.extend_from_slice(part));
        if matches!(
            kind,
            Kind::Register
                | Kind::Describe
                | Kind::Services
                | Kind::Discover
                | Kind::Stats
                | Kind::Watch
                | Kind::Push
        ) {
            let cookie = self.cookies.make(&from.ip, self.now);
            frame[16..24].copy_from_slice(&cookie.to_le_bytes());
        }
        self.send(from, &frame)
    }

    /// One look of the registrar at the present time.
    pub fn tick(&mut self) -> Next {
        if self.drains {
            self.drained = self.now;
        }
        let next = self.registrar.tick(&Observed {
            now: self.now,
            drained: self.drained,
            drops: self.drops,
            stall: 0,
        });
        self.next = Some(next);
        self.publish();
        next
    }

    /// Lets time pass, a millisecond at a time, with the registrar and the watch thread looking at
    /// each.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += from_ms(1);
            self.tick();
            // Whoever waited for the drain is judged in the second look.
            self.tick();
            self.push();
        }
    }

    /// Makes the pushes that are due at the present time. When the next are.
    pub fn push(&mut self) -> Option<Nanos> {
        let mut pushes = Pushes::default();
        loop {
            let next = self.watchers.advance(self.now, &mut pushes);
            let frames = pushes.iter().map(|(peer, head, body)| (*peer, [head, body].concat()));
            self.pushed.extend(frames);
            pushes.clear();
            if next.is_none_or(|at| at > self.now) {
                return next;
            }
        }
    }

    /// The feed, as the words that lie in memory.
    pub fn feed(&self) -> Vec<[u64; 8]> {
        let feed = self.region.feed();
        (1..=feed.head()).filter_map(|number| feed.raw(number)).collect()
    }
}
