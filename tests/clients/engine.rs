//! An engine of the real parts: region, registrar, data plane and watchers. Its threads, its socket
//! and its clock are the simulation's: one step does all that is due.

use crate::network::inspector;
use crate::plan::Plan;
use crossbeam::queue::ArrayQueue;
use heartline::internals::clock::Nanos;
use heartline::internals::dataplane::{Cookies, Datagram, Dataplane};
use heartline::internals::exchange::{Command, Peer, Pushes, Replies, WatchCommand};
use heartline::internals::limits::{COMMANDS_PER_STEP, GROUP_FRAMES, WATCH_QUEUE};
use heartline::internals::registrar::{DenyList, Observed, Registrar, Settings};
use heartline::internals::watchers::Watchers;
use heartline_region::{Geometry, Place, Region, Right, Run};
use heartline_wire::{
    Describe, Discover, Endpoint, Header, Kind, Lease, Name, Reply, ReplyBody, Slot, State, Status,
    service_id,
};
use rand::rngs::{SmallRng, StdRng};
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use zerocopy::{FromZeros, IntoBytes};

/// Longest attribute tail that is kept.
const ATTRIBUTES_MAX: usize = 64;

/// What an engine did in a step, in this order.
#[derive(Debug)]
pub(crate) enum Said {
    /// It took this datagram.
    Heard(Peer, Vec<u8>),
    Reply(Peer, Vec<u8>),
    Push(Peer, Vec<u8>),
}

pub(crate) struct Engine {
    pub(crate) region: Arc<Region>,
    registrar: Registrar,
    dataplane: Dataplane,
    /// A data plane of its own, so that looking changes nothing.
    inspector: Dataplane,
    commands: Arc<ArrayQueue<Command>>,
    watch_commands: Arc<ArrayQueue<WatchCommand>>,
    watchers: Watchers,
    pushes: Pushes,
    replies: Replies,
    pub(crate) cookies: Cookies,
    cookie_key: (u64, u64),
    queue: VecDeque<(Peer, Vec<u8>)>,
    queue_max: usize,
    drops: u64,
    pub(crate) epoch: u64,
    random: StdRng,
    pub(crate) paused_until: Nanos,
    /// The newest event that was looked at.
    pub(crate) feed_read: u64,
    /// When the next step is planned, and its number.
    pub(crate) planned: Option<Nanos>,
    pub(crate) step: u64,
}

/// What a successor is handed: waiting datagrams and the key of the cookies.
type Handed = (VecDeque<(Peer, Vec<u8>)>, (u64, u64));

/// What an engine leaves to the next one.
pub(crate) struct Left {
    region: Arc<Region>,
    right: Right,
    /// When it was handed over.
    handed: Option<Handed>,
}

impl Left {
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed.is_some()
    }
}

impl Engine {
    /// An engine that starts; with what another one left, if that was not lost.
    pub(crate) fn new(plan: &Plan, epoch: u64, now: Nanos, left: Option<Left>) -> Self {
        let mut random = StdRng::seed_from_u64(epoch ^ 0xE61E);
        let begin = match &left {
            None => Registrar::new,
            Some(Left { handed: None, .. }) => Registrar::resume,
            Some(Left { handed: Some(_), .. }) => Registrar::take_over,
        };
        let (region, right, handed) = match left {
            Some(Left { region, right, handed }) => (region, right, handed),
            None => {
                let geometry = Geometry::new(plan.capacity, ATTRIBUTES_MAX);
                let key = (random.next_u64(), random.next_u64());
                let run = Run { key, epoch, ..Run::default() };
                let never = AtomicBool::new(false);
                let (region, right) =
                    Region::create(&Place::Scratch, geometry, run, &never).expect("memory");
                (Arc::new(region), right, None)
            }
        };
        let fresh = (random.next_u64(), random.next_u64());
        let (queue, cookie_key) = handed.unwrap_or((VecDeque::new(), fresh));
        let cookies = Cookies::new(cookie_key);
        let commands = Arc::new(ArrayQueue::new(plan.command_queue));
        let watch_commands = Arc::new(ArrayQueue::new(plan.command_queue.min(WATCH_QUEUE)));
        let mut dataplane = || {
            Dataplane::new(
                Arc::clone(&region),
                Arc::clone(&commands),
                Arc::clone(&watch_commands),
                cookies.clone(),
                epoch,
                SmallRng::seed_from_u64(random.next_u64()),
            )
        };
        let (dataplane, inspector) = (dataplane(), dataplane());
        let settings = Settings {
            quota: plan.quota,
            hold: plan.hold,
            tombstone_min: plan.tombstone,
            deny: DenyList::default(),
            epoch,
        };
        let proofs = (random.next_u64(), random.next_u64());
        Self {
            registrar: begin(Arc::clone(&region), right, settings, now),
            watchers: Watchers::new(Arc::clone(&region), proofs, epoch),
            feed_read: region.feed().head(),
            region,
            dataplane,
            inspector,
            commands,
            watch_commands,
            pushes: Pushes::default(),
            replies: Replies::default(),
            cookies,
            cookie_key,
            queue,
            queue_max: plan.socket_queue,
            drops: 0,
            epoch,
            random,
            paused_until: 0,
            planned: None,
            step: 0,
        }
    }

    /// The process ends. Its memory stays, and with a hand-over its socket.
    pub(crate) fn end(self, hands_over: bool) -> Left {
        let handed = hands_over.then_some((self.queue, self.cookie_key));
        let (region, right) = self.registrar.release();
        Left { region, right, handed }
    }

    /// A datagram has come to the socket; `false`: it was dropped.
    pub(crate) fn arrive(&mut self, peer: Peer, bytes: Vec<u8>) -> bool {
        let has_room = self.queue.len() < self.queue_max;
        if has_room {
            self.queue.push_back((peer, bytes));
        } else {
            self.drops += 1;
        }
        has_room
    }

    /// Takes what waits, looks at the timers, pushes. What it said, and when it is to be called
    /// again.
    pub(crate) fn run(&mut self, now: Nanos) -> (Vec<Said>, Option<Nanos>) {
        let mut said = Vec::new();
        while !self.queue.is_empty() {
            let count = self.queue.len().min(GROUP_FRAMES);
            let batch: Vec<_> = self.queue.drain(..count).collect();
            said.extend(batch.iter().map(|(peer, bytes)| Said::Heard(*peer, bytes.clone())));
            let mut at = 0;
            while at < batch.len() {
                let datagrams =
                    batch[at..].iter().map(|(peer, bytes)| Datagram { peer: *peer, bytes });
                at += self.dataplane.receive(now, datagrams, &mut self.replies);
                reply(&mut said, &mut self.replies);
            }
        }
        let commanded = self.command(now, &mut said);
        let observed = Observed { now, drained: now, drops: self.drops, stall: 0 };
        let mut next = self.registrar.tick(&observed);
        if next.drain.is_some_and(|drain| drain <= now) {
            // Whoever waited for the drain is judged in the second look.
            next = self.registrar.tick(&observed);
        }
        let watching = self.watch(now, &mut said);
        let more = (commanded == COMMANDS_PER_STEP).then_some(now);
        (said, [next.wake_at, watching, more].into_iter().flatten().min())
    }

    fn command(&mut self, now: Nanos, said: &mut Vec<Said>) -> usize {
        let (random, replies) = (&mut self.random, &mut self.replies);
        let mut commanded = 0;
        while commanded < COMMANDS_PER_STEP
            && let Some(command) = self.commands.pop()
        {
            commanded += 1;
            self.registrar.handle(now, &command, &mut || random.next_u64(), replies);
            reply(said, replies);
        }
        commanded
    }

    fn watch(&mut self, now: Nanos, said: &mut Vec<Said>) -> Option<Nanos> {
        let (random, replies) = (&mut self.random, &mut self.replies);
        while let Some(command) = self.watch_commands.pop() {
            self.watchers.handle(now, &command, &mut || random.next_u64(), replies);
            reply(said, replies);
        }
        loop {
            let next = self.watchers.advance(now, &mut self.pushes);
            let is_done = self.pushes.is_empty();
            said.extend(
                self.pushes
                    .iter()
                    .map(|(peer, head, body)| Said::Push(*peer, [head, body].concat())),
            );
            self.pushes.clear();
            if is_done || next.is_none_or(|next| next > now) {
                return next;
            }
        }
    }

    /// The list of a service, as it would be told now: version and members; `None`: there is no
    /// such service.
    pub(crate) fn list(&mut self, now: Nanos, service: &str) -> Option<(u64, Vec<Endpoint>)> {
        let mut body = Discover::new_zeroed();
        let mut members = Vec::new();
        loop {
            body.service = service_id(service).into();
            body.cookie = self.cookies.make(&inspector().ip, now).into();
            let frame = self.inspect(now, Kind::Discover, body.as_bytes())?;
            let reply = Reply::decode(&frame).ok()?;
            if reply.status == Status::NoService {
                return None;
            }
            let ReplyBody::Endpoints(head, entries) = reply.body else { return None };
            members.extend_from_slice(entries);
            body.cursor = head.cursor;
            if head.cursor.get() == 0 {
                members.sort_by_key(|member| member.slot.get());
                return Some((head.version.get(), members));
            }
        }
    }

    /// The state of an instance; `None`: there is no such instance.
    pub(crate) fn state_of(&mut self, now: Nanos, service: &str, name: &str) -> Option<State> {
        let mut body = Describe::new_zeroed();
        body.cookie = self.cookies.make(&inspector().ip, now).into();
        body.service = Name::new(service).ok()?;
        body.instance = Name::new(name).ok()?;
        let frame = self.inspect(now, Kind::Describe, body.as_bytes())?;
        match Reply::decode(&frame).ok()?.body {
            ReplyBody::Description(facts, _) => facts.endpoint.state(),
            _ => None,
        }
    }

    /// Whether this is a lease of its memory.
    pub(crate) fn has_granted(&self, lease: &Lease) -> bool {
        self.region.lines().get(lease.slot().index()).is_some_and(|line| line.verify(lease).is_ok())
    }

    /// The name of the instance in a slot.
    pub(crate) fn name_of(&self, slot: u32) -> Option<String> {
        let record = self.region.records().read(Slot::new(slot))?;
        Some(record.instance.as_str().to_owned())
    }

    /// Leases that count for the quota of an address.
    pub(crate) fn leases_of(&self, ip: &[u8; 16]) -> usize {
        let lines = self.region.lines().iter().zip(0..);
        let leased = lines.filter(|(line, _)| line.head().1.is_leased());
        let sources = leased.filter_map(|(_, slot)| self.region.records().read(Slot::new(slot)));
        sources.filter(|record| record.source == *ip).count()
    }

    /// Instances that count for its capacity.
    pub(crate) fn members(&self) -> u32 {
        let counts = self.registrar.counts();
        counts.up + counts.suspect + counts.down
    }

    fn inspect(&mut self, now: Nanos, kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
        let frame = [Header::request(kind, 1).as_bytes(), body].concat();
        let datagram = Datagram { peer: inspector(), bytes: &frame };
        self.inspector.receive(now, [datagram].into_iter(), &mut self.replies);
        let reply = self.replies.iter().next().map(|(_, frame)| frame.to_vec());
        self.replies.clear();
        reply
    }

    /// What happened to members since this was last asked.
    pub(crate) fn events(&mut self) -> Vec<[u64; 8]> {
        let feed = self.region.feed();
        let from = std::mem::replace(&mut self.feed_read, feed.head());
        (from + 1..=feed.head()).filter_map(|number| feed.raw(number)).collect()
    }
}

fn reply(said: &mut Vec<Said>, replies: &mut Replies) {
    said.extend(replies.iter().map(|(peer, frame)| Said::Reply(*peer, frame.to_vec())));
    replies.clear();
}
