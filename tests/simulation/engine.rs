//! The engine of the simulation: the real region, registrar and data planes; threads, sockets and
//! clock are the simulation's.
//!
//! The loops and the registrar thread act as those of `src/engine` do: a batch is received at one
//! time and applied at a later one, drain times are published after that, drop counts are read
//! after drain times. Between any two of these steps a stall may come.

use crate::oracle::{Look, Verdict};
use crate::plan::Plan;
use crate::world::{Happening, World};
use crossbeam::queue::ArrayQueue;
use heartline::clock::{NANOS_PER_MS, Nanos, from_ms};
use heartline::dataplane::{Cookies, Datagram, Dataplane};
use heartline::exchange::{Command, Peer, Replies};
use heartline::limits::{
    COMMANDS_PER_STEP, GROUP_BEATS, GROUP_FRAMES, RECEIVE_BATCH, STALL_NS_MIN,
};
use heartline::region::{Geometry, Place, Region, Writer};
use heartline::registrar::{DenyList, Observed, Registrar, Settings};
use rand::rngs::{SmallRng, StdRng};
use rand::{Rng, RngExt, SeedableRng};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use zerocopy::IntoBytes;

/// A datagram in a receive queue.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) number: u64,
    pub(crate) peer: Peer,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
struct Loop {
    dataplane: Dataplane,
    queue: VecDeque<Packet>,
    batch: Vec<Packet>,
    /// The clock before the receive of the batch.
    before: Nanos,
    drained: Nanos,
    asleep: bool,
    stall: Nanos,
    /// Kernel drops, and those that received datagrams have told of.
    drops: u64,
    drops_told: u64,
    stalled_until: Nanos,
    messages: u64,
    /// Packets that waited when they were counted, or later.
    waiting: u64,
    /// A time, and after how many messages the socket is drained up to it.
    goal: Option<(Nanos, u64)>,
}

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) region: Arc<Region>,
    pub(crate) registrar: Registrar,
    commands: Arc<ArrayQueue<Command>>,
    loops: Vec<Loop>,
    random: StdRng,
    pub(crate) paused_until: Nanos,
    registrar_stalled_until: Nanos,
    registrar_asleep: bool,
    drain_wanted: Nanos,
    counted: Nanos,
    drops_known: u64,
    /// Number of the timer that is armed; an older one fires in vain.
    timer: u64,
    /// Longest time that a batch takes, when loops are slow.
    pub(crate) slow: Nanos,
}

/// Which thread a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Loop(usize),
    Registrar,
}

impl Engine {
    /// An engine that starts; with what another one left, if that was not lost.
    pub(crate) fn new(
        plan: &Plan,
        seed: u64,
        epoch: u64,
        now: Nanos,
        left: Option<(Arc<Region>, Writer)>,
    ) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let geometry = Geometry::new(plan.capacity, crate::oracle::ATTRIBUTES_MAX);
        let key = (random.next_u64(), random.next_u64());
        let begin = if left.is_some() { Registrar::resume } else { Registrar::new };
        let (region, writer) = left.unwrap_or_else(|| {
            let (region, writer) =
                Region::create(&Place::Scratch, geometry, key, epoch, &AtomicBool::new(false))
                    .unwrap();
            (Arc::new(region), writer)
        });
        let commands = Arc::new(ArrayQueue::new(plan.command_queue));
        let cookies = Cookies::new((random.next_u64(), random.next_u64()));
        let settings = Settings {
            quota: plan.quota,
            hold: plan.hold,
            tombstone_min: plan.tombstone,
            deny: DenyList::new(vec![crate::oracle::DENIED.into()]),
            epoch,
        };
        let loops = (0..plan.loops)
            .map(|_| Loop {
                dataplane: Dataplane::new(
                    Arc::clone(&region),
                    Arc::clone(&commands),
                    cookies.clone(),
                    epoch,
                    SmallRng::seed_from_u64(random.next_u64()),
                ),
                queue: VecDeque::new(),
                batch: Vec::new(),
                before: now,
                drained: now,
                asleep: true,
                stall: 0,
                drops: 0,
                drops_told: 0,
                stalled_until: 0,
                messages: 0,
                waiting: 0,
                goal: None,
            })
            .collect();
        Self {
            registrar: begin(Arc::clone(&region), writer, settings, now),
            region,
            commands,
            loops,
            random,
            paused_until: 0,
            registrar_stalled_until: 0,
            registrar_asleep: true,
            drain_wanted: 0,
            counted: 0,
            drops_known: 0,
            timer: 0,
            slow: 0,
        }
    }

    /// The process dies; its memory files stay.
    pub(crate) fn die(self) -> (Arc<Region>, Writer) {
        self.registrar.release()
    }

    /// Until when a thread stands still.
    pub(crate) fn stands_until(&self, thread: Thread) -> Nanos {
        self.paused_until.max(match thread {
            Thread::Loop(number) => self.loops[number].stalled_until,
            Thread::Registrar => self.registrar_stalled_until,
        })
    }

    /// Stops one thread; `which` may be any number.
    pub(crate) fn stall(&mut self, which: u64, until: Nanos) {
        let threads = self.loops.len() as u64 + 1;
        match (which % threads) as usize {
            0 => self.registrar_stalled_until = until,
            number => self.loops[number - 1].stalled_until = until,
        }
    }

    fn drained(&self) -> Nanos {
        self.loops.iter().map(|one| one.drained).min().unwrap_or(0)
    }

    fn feed(&self, from: u64) -> Vec<Option<[u64; 8]>> {
        let feed = self.region.feed();
        (from + 1..=feed.head()).map(|number| feed.raw(number)).collect()
    }
}

/// Whether no two datagrams have the same sender and tag.
fn are_distinct(packets: &[Packet]) -> bool {
    packets.iter().enumerate().all(|(at, one)| {
        packets[..at]
            .iter()
            .all(|other| one.peer != other.peer || one.bytes.get(8..16) != other.bytes.get(8..16))
    })
}

fn replies_of(replies: &mut Replies) -> Vec<(Peer, Vec<u8>)> {
    let taken = replies.iter().map(|(peer, frame)| (*peer, frame.to_vec())).collect();
    replies.clear();
    taken
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
        if one.queue.len() >= self.plan.socket_queue {
            one.drops += 1;
            self.oracle.disturbed = self.oracle.disturbed.max(now);
            return;
        }
        self.oracle.arrived(number, now, &bytes);
        one.queue.push_back(Packet { number, peer, bytes });
        // The registrar counts when the time that it asks for has passed, a microsecond or two
        // later.
        one.waiting += u64::from(now <= engine.counted);
        if std::mem::take(&mut one.asleep) {
            let latency = engine.random.random_range(500..40_000);
            self.schedule(now + latency, Happening::Receive(which));
        }
    }

    pub(crate) fn loop_receives(&mut self, which: usize) {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return };
        let one = &mut engine.loops[which];
        one.before = now;
        if one.goal.is_none() && one.drained < engine.drain_wanted && engine.counted < now {
            one.goal = Some((engine.counted, one.messages + one.waiting));
        }
        let count = one.queue.len().min(RECEIVE_BATCH);
        one.batch = one.queue.drain(..count).collect();
        if count > 0 {
            one.drops_told = one.drops;
        }
        let mut work = engine.random.random_range(500..15_000);
        if engine.slow > 0 && count > 0 {
            work += engine.random.random_range(0..engine.slow);
            self.oracle.disturbed = self.oracle.disturbed.max(now + work);
        }
        self.schedule(now + work, Happening::Apply(which, now));
    }

    pub(crate) fn loop_applies(&mut self, which: usize, received: Nanos) -> Verdict {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let batch = std::mem::take(&mut engine.loops[which].batch);
        let mut replies = Replies::default();
        let mut rest = &batch[..];
        while !rest.is_empty() {
            // One at a time where it would not be known which of them was answered, or which found
            // the command queue full.
            let clear = self.command_room() > GROUP_FRAMES + GROUP_BEATS && are_distinct(rest);
            let together = if clear { rest.len() } else { 1 };
            let Some(engine) = &mut self.engine else { return Ok(()) };
            let one = &mut engine.loops[which];
            let datagrams = rest[..together]
                .iter()
                .map(|packet| Datagram { peer: packet.peer, bytes: &packet.bytes });
            let taken = one.dataplane.receive(received, datagrams, &mut replies);
            let full = self.command_room() == 0;
            self.check_answers(received, &rest[..taken], full, &mut replies)?;
            rest = &rest[taken..];
        }
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let one = &mut engine.loops[which];
        one.messages += batch.len() as u64;
        if now - one.before >= STALL_NS_MIN && !batch.is_empty() {
            one.stall = one.stall.max(now - one.before);
        }
        if batch.len() < RECEIVE_BATCH {
            one.drained = one.drained.max(one.before);
            one.goal = None;
        } else if let Some((counted, messages)) = one.goal
            && one.messages >= messages
        {
            one.drained = one.drained.max(counted);
            one.goal = None;
        }
        let commanded = one.dataplane.take_commanded();
        if !one.queue.is_empty()
            || one.drained < engine.drain_wanted
            || batch.len() == RECEIVE_BATCH
        {
            self.schedule(now + 700, Happening::Receive(which));
        } else {
            one.asleep = true;
        }
        let done = self.engine.as_ref().is_some_and(|engine| {
            engine.drain_wanted != 0 && engine.drained() >= engine.drain_wanted
        });
        if commanded || done {
            self.wake_registrar();
        }
        Ok(())
    }

    /// Free places in the command queue.
    fn command_room(&self) -> usize {
        self.engine.as_ref().map_or(0, |engine| engine.commands.capacity() - engine.commands.len())
    }

    /// Gives each datagram its reply, shows both to the oracle, and sends the replies.
    fn check_answers(
        &mut self,
        received: Nanos,
        packets: &[Packet],
        queue_full: bool,
        replies: &mut Replies,
    ) -> Verdict {
        let mut answers = replies_of(replies).into_iter().peekable();
        for packet in packets {
            let is_own = |answer: &(Peer, Vec<u8>)| {
                answer.0 == packet.peer && packet.bytes.get(8..16) == answer.1.get(8..16)
            };
            let answer = answers.next_if(is_own);
            self.oracle.heard(packet.number);
            let reply = answer.as_ref().map(|(_, reply)| &reply[..]);
            self.oracle.answered(received, packet.peer.ip, &packet.bytes, queue_full, reply)?;
            if let Some((peer, reply)) = answer {
                self.send_to_client(peer, reply);
            }
        }
        crate::oracle::must!("no-amplification", answers.next().is_none(), "an answer to nobody");
        Ok(())
    }

    fn wake_registrar(&mut self) {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return };
        if std::mem::take(&mut engine.registrar_asleep) {
            let latency = engine.random.random_range(500..40_000);
            self.schedule(now + latency, Happening::Commands);
        }
    }

    pub(crate) fn registrar_timer(&mut self, number: u64) {
        if self
            .engine
            .as_ref()
            .is_some_and(|engine| engine.timer == number && engine.registrar_asleep)
        {
            self.wake_registrar();
        }
    }

    pub(crate) fn registrar_commands(&mut self) -> Verdict {
        let now = self.now;
        let mut count = 0;
        let mut replies = Replies::default();
        while count < COMMANDS_PER_STEP
            && let Some(engine) = &mut self.engine
            && let Some(command) = engine.commands.pop()
        {
            count += 1;
            if matches!(command, Command::Stats { .. }) {
                // The registrar thread answers these, from counters.
                continue;
            }
            let before = engine.region.feed().head();
            let random = &mut engine.random;
            engine.registrar.handle(now, &command, &mut || random.next_u64(), &mut replies);
            self.check_command(now, &command, before, replies_of(&mut replies))?;
        }
        let Some(engine) = &mut self.engine else { return Ok(()) };
        if engine.commands.is_empty() {
            self.oracle.caught_up()?;
        }
        let drained = engine.drained();
        let gap = engine.random.random_range(200..3_000);
        self.schedule(now + gap, Happening::Tick { drained, commands: count });
        Ok(())
    }

    fn check_command(
        &mut self,
        now: Nanos,
        command: &Command,
        before: u64,
        answers: Vec<(Peer, Vec<u8>)>,
    ) -> Verdict {
        let reply = answers.first().map(|(_, reply)| &reply[..]);
        let mut looked_at = None;
        let doing = match command {
            Command::Register { from, request, attributes } => {
                let from = crate::oracle::From { source: from.peer.ip, tag: from.tag.get() };
                self.oracle.registers(
                    now,
                    from,
                    request.as_bytes(),
                    attributes.as_slice(),
                    reply,
                )?
            }
            Command::Update { request, attributes, .. } => {
                self.oracle.updates(request.as_bytes(), attributes.as_slice(), reply)?
            }
            Command::Deregister { lease, .. } => self.oracle.deregisters(
                lease.slot.get(),
                lease.generation.get(),
                lease.secret.get(),
                reply,
            )?,
            Command::Look { slot, generation, leaving } => {
                looked_at = Some((*slot, *generation, *leaving));
                self.oracle.looks(*slot, *generation, *leaving)
            }
            Command::Stats { .. } => Default::default(),
        };
        self.check_events(now, before, &doing)?;
        self.oracle.done(now, &doing, looked_at)?;
        if let Some(reply) = reply {
            self.oracle.reply_from_registrar(reply)?;
        }
        for (peer, reply) in answers {
            self.send_to_client(peer, reply);
        }
        Ok(())
    }

    pub(crate) fn check_events(
        &mut self,
        now: Nanos,
        before: u64,
        doing: &crate::oracle::Doing,
    ) -> Verdict {
        let Some(engine) = &self.engine else { return Ok(()) };
        let events = engine.feed(before);
        for event in &events {
            let Some(words) = event else {
                crate::oracle::must!("versions", false, "an event that can't be read");
                continue;
            };
            words.iter().for_each(|word| self.trace.add(*word));
            let declared =
                engine.region.endpoints()[words[5] as u32 as usize].entry().declared() as u8;
            self.oracle.event(now, words, doing, declared)?;
        }
        if !events.is_empty() {
            crate::tables::check(&engine.region, &engine.registrar, &self.oracle)?;
        }
        Ok(())
    }

    pub(crate) fn registrar_tick(&mut self, drained: Nanos, commands: usize) -> Verdict {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let told: u64 = engine.loops.iter().map(|one| one.drops_told).sum();
        if engine.registrar.is_judging() || told > engine.drops_known {
            engine.drops_known = engine.loops.iter().map(|one| one.drops).sum();
        }
        let stall =
            engine.loops.iter_mut().map(|one| std::mem::take(&mut one.stall)).max().unwrap_or(0);
        let observed = Observed { now, drained, drops: engine.drops_known, stall };
        let before = engine.region.feed().head();
        let mut look =
            Look { now, drained, drops: observed.drops, stall, wake_at: None, drain: None };
        self.oracle.listening(&look);
        let next = engine.registrar.tick(&observed);
        (look.wake_at, look.drain) = (next.wake_at, next.drain);
        self.check_events(now, before, &Default::default())?;
        self.oracle.looked(&look)?;
        self.want_drain(next.drain.unwrap_or(0));
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let again = commands == COMMANDS_PER_STEP
            || next.wake_at.is_some_and(|at| at <= now)
            || !engine.commands.is_empty();
        if again || next.drain.is_some_and(|drain| engine.drained() >= drain) {
            self.schedule(now + 500, Happening::Commands);
            return Ok(());
        }
        engine.registrar_asleep = true;
        engine.timer += 1;
        let (timer, latency) = (engine.timer, engine.random.random_range(0..50_000));
        if let Some(at) = next.wake_at {
            self.schedule(at + latency, Happening::Timer(timer));
        }
        Ok(())
    }

    fn want_drain(&mut self, time: Nanos) {
        let now = self.now;
        let Some(engine) = &mut self.engine else { return };
        if std::mem::replace(&mut engine.drain_wanted, time) == time || time == 0 {
            return;
        }
        engine.counted = now.max(time);
        let mut woken = Vec::new();
        for (which, one) in engine.loops.iter_mut().enumerate() {
            one.waiting = one.queue.len() as u64;
            if one.asleep {
                one.asleep = false;
                woken.push((which, engine.random.random_range(500..40_000)));
            }
        }
        for (which, latency) in woken {
            self.schedule(now + latency, Happening::Receive(which));
        }
    }

    /// A thread that stands still does its step later; whoever else must wait for it is not prompt.
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
