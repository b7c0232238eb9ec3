//! The machine in simulated time, against engines of a few lines. What could go wrong: an agent
//! that forgets a lease, fights for one, storms an engine that comes back, or leaves one engine
//! before it is at the other.

mod chaos;
mod engine;
mod fleet;
mod leases;
mod load;

use super::event::{Event, Standing};
use super::instance::Instance;
use super::machine::{LinkId, Machine, Output, RegistrationId};
use super::random::Random;
use engine::Engine;
use heartline_wire::Kind;
use heartline_wire::time::{NANOS_PER_SECOND, Nanos, from_ms};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Time that a datagram takes in one direction.
const LATENCY: Nanos = 50_000;

/// An agent, its engines, and the network between them.
struct World {
    now: Nanos,
    machine: Machine,
    engines: Vec<Engine>,
    /// Datagrams on their way: to an engine, or to the agent.
    flying: BTreeMap<(Nanos, u64), (usize, bool, Vec<u8>)>,
    flown: u64,
    events: Vec<(Nanos, Event)>,
    /// Datagrams that the agent sent: when, to which engine, of what kind.
    sent: Vec<(Nanos, usize, u8)>,
    /// The agent's own address.
    address: Ipv4Addr,
    faults: Faults,
    random: Random,
}

/// What the network does to datagrams: so many of a hundred.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    lost: u64,
    doubled: u64,
    /// Late by up to a second, and so behind others.
    late: u64,
}

impl World {
    fn new(engines: usize, replicas: usize) -> Self {
        Self::seeded(engines, replicas, [7, 8])
    }

    fn seeded(engines: usize, replicas: usize, seed: [u64; 2]) -> Self {
        let names: Vec<Arc<str>> =
            (0..engines).map(|number| format!("engine-{number}").into()).collect();
        Self {
            now: from_ms(1000),
            machine: Machine::new(&names, replicas, seed),
            engines: (0..engines).map(|number| Engine::new(number as u64 + 1)).collect(),
            flying: BTreeMap::new(),
            flown: 0,
            events: Vec::new(),
            sent: Vec::new(),
            address: Ipv4Addr::new(10, 0, 0, 1),
            faults: Faults::default(),
            random: Random::new(seed),
        }
    }

    fn register(&mut self, name: &str) -> RegistrationId {
        self.machine.register(&Instance::new("s", 80).name(name)).unwrap()
    }

    /// Everything that the agent wants to do now; when it wants to be asked again.
    fn drive(&mut self) -> Nanos {
        loop {
            match self.machine.poll(self.now) {
                Output::Send { link, frame } => {
                    self.sent.push((self.now, link.0, frame[3]));
                    let frame = frame.to_vec();
                    self.fly(link.0, true, frame);
                }
                Output::Event(event, _) => self.events.push((self.now, event)),
                Output::Open { link } => {
                    self.machine.opened(self.now, link, IpAddr::V4(self.address));
                }
                Output::Resolve { .. } | Output::Granted { .. } => {}
                Output::Wait { until } => {
                    assert!(until > self.now, "the agent would turn in circles");
                    return until;
                }
            }
        }
    }

    /// Lets time pass until then.
    fn run_until(&mut self, end: Nanos) {
        loop {
            let due = self.drive();
            let arrival = self.flying.keys().next().map_or(Nanos::MAX, |(at, _)| *at);
            let next = due.min(arrival);
            if next > end {
                self.now = end;
                return;
            }
            self.now = next.max(self.now);
            while let Some(entry) = self.flying.first_entry()
                && entry.key().0 <= self.now
            {
                let (link, is_up, frame) = entry.remove();
                self.arrive(link, is_up, &frame);
            }
        }
    }

    /// Lets time pass for all but the agent, which is not run.
    fn starve(&mut self, time: Nanos) {
        let end = self.now + time;
        let is_due = |at: Nanos, is_up: bool| is_up && at <= end;
        while let Some(key) =
            self.flying.iter().find(|(key, it)| is_due(key.0, it.1)).map(|(key, _)| *key)
        {
            let (link, _, frame) = self.flying.remove(&key).unwrap();
            self.now = key.0.max(self.now);
            self.arrive(link, true, &frame);
        }
        self.now = end;
    }

    fn run(&mut self, time: Nanos) {
        self.run_until(self.now + time);
    }

    fn run_seconds(&mut self, seconds: u64) {
        self.run(seconds * NANOS_PER_SECOND);
    }

    fn arrive(&mut self, link: usize, is_up: bool, frame: &[u8]) {
        if !is_up {
            return self.machine.receive(self.now, LinkId(link), frame);
        }
        if let Some(reply) = self.engines[link].receive(self.now, self.address, frame) {
            self.fly(link, false, reply);
        }
    }

    /// Hands a datagram to the network.
    fn fly(&mut self, link: usize, is_up: bool, frame: Vec<u8>) {
        let mut chance = |percent: u64| percent > 0 && self.random.next() % 100 < percent;
        let (is_lost, is_late) = (chance(self.faults.lost), chance(self.faults.late));
        let copies = if is_lost { 0 } else { 1 + u64::from(chance(self.faults.doubled)) };
        // A copy of a register request that outlives its lease and its engine is another agent's
        // request to the next engine: it replaces, and the agent must not fight it.
        let is_register = is_up && frame[3] == Kind::Register as u8;
        let (is_late, copies) = (is_late && !is_register, copies.min(2 - u64::from(is_register)));
        for copy in 0..copies {
            let delay = if is_late || copy > 0 { self.random.up_to(NANOS_PER_SECOND) } else { 0 };
            let arrives = self.now + LATENCY + delay;
            self.flying.insert((arrives, self.flown), (link, is_up, frame.clone()));
            self.flown += 1;
        }
    }

    /// Frames of a kind that were sent to an engine since a time.
    fn sent_since(&self, since: Nanos, link: usize, kind: Kind) -> Vec<Nanos> {
        let sent = self
            .sent
            .iter()
            .filter(|(at, to, sent)| *at >= since && *to == link && *sent == kind as u8);
        sent.map(|(at, _, _)| *at).collect()
    }

    fn events_since(&self, since: Nanos) -> Vec<Event> {
        let events = self.events.iter().filter(|(at, _)| *at >= since);
        events.map(|(_, event)| event.clone()).collect()
    }

    fn is_up(&self, registration: RegistrationId) -> bool {
        matches!(self.machine.standing(registration), Standing::Up { .. })
    }

    /// An agent with one registration that has been up for a while.
    fn with_one(engines: usize, replicas: usize) -> (Self, RegistrationId) {
        let mut world = Self::new(engines, replicas);
        let registration = world.register("a");
        world.run_seconds(5);
        assert!(world.is_up(registration));
        (world, registration)
    }
}
