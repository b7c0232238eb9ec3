//! The engine of the simulation: the real region, registrar, data planes, and duties of the loops
//! and of the registrar thread. Sockets, threads and clock are the simulation's.

use crate::oracle::{ATTRIBUTES_MAX, DENIED};
use crate::plan::Plan;
use crate::world::{Happening, World};
use crossbeam::queue::ArrayQueue;
use heartline::internals::clock::{NANOS_PER_MS, Nanos, from_ms};
use heartline::internals::dataplane::{Cookies, Dataplane};
use heartline::internals::duty::{LoopDuty, RegistrarDuty, Signals};
use heartline::internals::exchange::{Command, Peer};
use heartline::internals::limits::{DOZE_QUEUE_SHARE, STALL_NS_MIN};
use heartline::internals::registrar::{DenyList, Registrar, Settings};
use heartline_region::{Counter, Geometry, OwnCounters, Place, Region, Right, Run, Tally};
use rand::rngs::{SmallRng, StdRng};
use rand::{Rng, RngExt, SeedableRng};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The kernel's drop counts start here, so that they wrap.
const DROPS_AT_START: u32 = u32::MAX - 2;

/// A datagram in a receive queue.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) number: u64,
    pub(crate) arrived: Nanos,
    pub(crate) peer: Peer,
    pub(crate) bytes: Vec<u8>,
    /// The drop count of the socket when it was queued, once there were drops.
    pub(crate) drops: Option<u32>,
}

/// A socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) queue: VecDeque<Packet>,
    pub(crate) drops: u32,
    /// Something arrived since the poll last told so.
    pub(crate) readable: bool,
}

/// What a loop's thread is doing.
#[derive(Debug)]
pub(crate) enum Phase {
    /// It asks for its next step.
    Runs,
    /// It applies what it received from a socket.
    Applies {
        socket: usize,
        batch: Vec<Packet>,
        received: Nanos,
    },
    /// It reads the clock.
    Looks,
    Dozes,
    Sleeps,
    /// It was woken and is about to run.
    Wakes,
    Ended,
}

#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) dataplane: Dataplane,
    pub(crate) duty: LoopDuty,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) phase: Phase,
    /// Somebody signalled the loop.
    pub(crate) bell: bool,
    pub(crate) answers: u64,
    stalled_until: Nanos,
}

impl Loop {
    fn new(
        number: usize,
        plan: &Plan,
        now: Nanos,
        dataplane: Dataplane,
        sockets: Vec<Socket>,
    ) -> Self {
        let drops = sockets.iter().map(|socket| socket.drops);
        let queue = plan.socket_queue as u64 * DOZE_QUEUE_SHARE;
        Self {
            dataplane,
            duty: LoopDuty::new(number, drops, queue, plan.spin, now),
            sockets,
            phase: Phase::Runs,
            bell: false,
            answers: 0,
            stalled_until: 0,
        }
    }
}

/// The registrar's thread.
#[derive(Debug)]
pub(crate) struct RegistrarThread {
    pub(crate) duty: RegistrarDuty,
    pub(crate) asleep: bool,
    pub(crate) bell: bool,
    /// Number of the timer that is armed; an older one fires in vain.
    pub(crate) timer: u64,
    /// The drain that it asks for, once the clock has passed that time.
    pub(crate) wants: Option<Nanos>,
    stalled_until: Nanos,
}

impl RegistrarThread {
    fn new(duty: RegistrarDuty) -> Self {
        Self { duty, asleep: false, bell: false, timer: 0, wants: None, stalled_until: 0 }
    }
}

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) region: Arc<Region>,
    pub(crate) registrar: Registrar,
    pub(crate) commands: Arc<ArrayQueue<Command>>,
    pub(crate) signals: Signals,
    pub(crate) loops: Vec<Loop>,
    pub(crate) thread: RegistrarThread,
    /// Of the registrar, and where it publishes them.
    tally: Tally,
    counters: OwnCounters,
    pub(crate) random: StdRng,
    pub(crate) paused_until: Nanos,
    /// Longest time that a batch takes, when loops are slow.
    pub(crate) slow: Nanos,
    /// When it was told to stop, and whether the sockets go to a successor.
    pub(crate) stop: Option<(Nanos, bool)>,
    /// Longest time that a loop stood still over a batch since the registrar last looked.
    pub(crate) stood_still: Nanos,
    /// When datagrams were dropped.
    pub(crate) dropped: Vec<Nanos>,
    cookies: (u64, u64),
}

/// What an engine leaves to the next one.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) region: Arc<Region>,
    pub(crate) writer: Right,
    /// Sockets and the key of the cookies, when it was handed over.
    pub(crate) handed: Option<Handed>,
}

/// What a successor gets beside the memory.
#[derive(Debug)]
pub(crate) struct Handed {
    sockets: Vec<Vec<Socket>>,
    cookies: (u64, u64),
}

/// Which thread a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Loop(usize),
    Registrar,
}

impl Engine {
    /// An engine that starts; with what another one left, if that was not lost.
    pub(crate) fn new(plan: &Plan, seed: u64, epoch: u64, now: Nanos, left: Option<Left>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let geometry = Geometry::new(plan.capacity, ATTRIBUTES_MAX);
        let key = (random.next_u64(), random.next_u64());
        let begin = match &left {
            None => Registrar::new,
            Some(Left { handed: None, .. }) => Registrar::resume,
            Some(Left { handed: Some(_), .. }) => Registrar::take_over,
        };
        let (region, writer, handed) = match left {
            Some(Left { region, writer, handed }) => (region, writer, handed),
            None => {
                let no = AtomicBool::new(false);
                let run = Run { boot: [0; 16], epoch, key };
                let (region, writer) = Region::create(&Place::Scratch, geometry, run, &no).unwrap();
                (Arc::new(region), writer, None)
            }
        };
        let fresh = (random.next_u64(), random.next_u64());
        let (sockets, cookie_key) =
            handed.map_or_else(|| (closed(plan), fresh), |handed| (handed.sockets, handed.cookies));
        let commands = Arc::new(ArrayQueue::new(plan.command_queue));
        let cookies = Cookies::new(cookie_key);
        let drops = sockets.iter().flatten().map(|socket| socket.drops);
        let thread = RegistrarThread::new(RegistrarDuty::new(drops));
        let counters = region.begin_counters(&writer, sockets.len());
        let tally = tally(sockets.len(), epoch, now);
        let mut dataplane = |counters| {
            let random = SmallRng::seed_from_u64(random.next_u64());
            let (region, commands) = (Arc::clone(&region), Arc::clone(&commands));
            // Nobody takes these: the world has no watchers.
            let watches = Arc::new(ArrayQueue::new(8));
            let cookies = cookies.clone();
            let mut dataplane = Dataplane::new(region, commands, watches, cookies, epoch, random);
            dataplane.publish_in(counters);
            dataplane
        };
        let loops: Vec<Loop> = sockets
            .into_iter()
            .zip(counters.loops)
            .enumerate()
            .map(|(number, (sockets, counters))| {
                Loop::new(number, plan, now, dataplane(counters), sockets)
            })
            .collect();
        let mut engine = Self {
            registrar: begin(Arc::clone(&region), writer, settings(plan, epoch), now),
            region,
            commands,
            signals: Signals::new(loops.len()),
            loops,
            thread,
            random,
            paused_until: 0,
            slow: 0,
            stop: None,
            stood_still: 0,
            dropped: Vec::new(),
            cookies: cookie_key,
            tally,
            counters: counters.registrar,
        };
        engine.publish();
        engine
    }

    /// The registrar shows what it has counted.
    pub(crate) fn publish(&mut self) {
        self.registrar.counts().tell(&mut self.tally);
        self.tally.set(Counter::DropsRead, self.thread.duty.drops());
        self.counters.publish(&self.tally);
    }

    /// The process ends; its memory files stay, and the sockets if they were handed over.
    pub(crate) fn end(self) -> Left {
        let handed = self.stop.is_some_and(|(_, leave)| leave).then(|| Handed {
            sockets: self.loops.into_iter().map(|one| one.sockets).collect(),
            cookies: self.cookies,
        });
        let (region, writer) = self.registrar.release();
        Left { region, writer, handed }
    }

    /// Until when a thread stands still.
    pub(crate) fn stands_until(&self, thread: Thread) -> Nanos {
        self.paused_until.max(match thread {
            Thread::Loop(number) => self.loops[number].stalled_until,
            Thread::Registrar => self.thread.stalled_until,
        })
    }

    /// Stops one thread; `which` may be any number.
    pub(crate) fn stall(&mut self, which: u64, until: Nanos) {
        let threads = self.loops.len() as u64 + 1;
        match (which % threads) as usize {
            0 => self.thread.stalled_until = until,
            number => self.loops[number - 1].stalled_until = until,
        }
    }

    pub(crate) fn events(&self, from: u64) -> Vec<Option<[u64; 8]>> {
        let feed = self.region.feed();
        (from + 1..=feed.head()).map(|number| feed.raw(number)).collect()
    }
}

fn settings(plan: &Plan, epoch: u64) -> Settings {
    Settings {
        quota: plan.quota,
        hold: plan.hold,
        tombstone_min: plan.tombstone,
        deny: DenyList::new(vec![DENIED.into()]),
        epoch,
    }
}

/// What the registrar has counted when it begins.
fn tally(loops: usize, epoch: u64, now: Nanos) -> Tally {
    let mut tally = Tally::default();
    tally.set(Counter::Loops, loops as u64);
    tally.set(Counter::Epoch, epoch);
    tally.set(Counter::Started, now);
    tally
}

/// Empty sockets.
fn closed(plan: &Plan) -> Vec<Vec<Socket>> {
    let socket = || Socket { queue: VecDeque::new(), drops: DROPS_AT_START, readable: false };
    let group = || (0..plan.sockets).map(|_| socket()).collect();
    (0..plan.loops).map(|_| group()).collect()
}

impl World {
    /// A datagram has come to the engine's host.
    pub(crate) fn arrive(&mut self, peer: Peer, bytes: Vec<u8>) {
        let now = self.now;
        let number = self.packets;
        self.packets += 1;
        let Some(engine) = &mut self.engine else { return };
        let flow = peer.ip.iter().fold(u64::from(peer.port), |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
        let which = (flow >> 7) as usize % engine.loops.len();
        let one = &mut engine.loops[which];
        let which_socket = (flow >> 23) as usize % one.sockets.len();
        let socket = &mut one.sockets[which_socket];
        if socket.queue.len() >= self.plan.socket_queue {
            socket.drops = socket.drops.wrapping_add(1);
            engine.dropped.push(now);
            self.oracle.disturbed = self.oracle.disturbed.max(now);
            return;
        }
        self.oracle.arrived(number, now, &bytes);
        let drops = (socket.drops != DROPS_AT_START).then_some(socket.drops);
        socket.queue.push_back(Packet { number, arrived: now, peer, bytes, drops });
        socket.readable = true;
        self.rouse(which);
    }

    /// Wakes a loop that sleeps, if there is reason to.
    pub(crate) fn rouse(&mut self, which: usize) {
        let Some(engine) = &mut self.engine else { return };
        let one = &mut engine.loops[which];
        let reason = one.bell || one.sockets.iter().any(|socket| socket.readable);
        if reason && matches!(one.phase, Phase::Sleeps) {
            one.phase = Phase::Wakes;
            let latency = engine.random.random_range(500..40_000);
            self.schedule(self.now + latency, Happening::Loop(which));
        }
    }

    /// Signals the registrar, whether it sleeps or is about to.
    pub(crate) fn signal_registrar(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        engine.thread.bell = true;
        if std::mem::take(&mut engine.thread.asleep) {
            let latency = engine.random.random_range(500..40_000);
            self.schedule(self.now + latency, Happening::Registrar);
        }
    }

    pub(crate) fn registrar_timer(&mut self, number: u64) {
        let Some(engine) = &mut self.engine else { return };
        if engine.thread.timer == number && engine.thread.asleep {
            engine.thread.asleep = false;
            self.schedule(self.now, Happening::Registrar);
        }
    }

    /// Tells the engine to stop in order.
    pub(crate) fn stop_engine(&mut self, leave: bool) {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return };
        if engine.stop.is_some() {
            return;
        }
        engine.stop = Some((now, leave));
        let loops = &mut engine.loops;
        engine.signals.rendezvous.stop(leave, |number| loops[number].bell = true);
        let wake = engine.signals.rendezvous.must_wake_registrar();
        (0..engine.loops.len()).for_each(|number| self.rouse(number));
        if wake {
            self.signal_registrar();
        }
    }

    /// A thread that stands still does its step later. Whatever waits for it is not prompt.
    pub(crate) fn held_up(&mut self, thread: Thread) -> Option<Nanos> {
        let until = self.engine.as_ref()?.stands_until(thread);
        if until <= self.now {
            return None;
        }
        self.oracle.disturbed = self.oracle.disturbed.max(until + from_ms(1));
        Some(until)
    }
}

const _: () = assert!(STALL_NS_MIN == 20 * NANOS_PER_MS);
