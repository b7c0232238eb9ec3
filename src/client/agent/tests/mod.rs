//! The machine in simulated time, against engines of a few lines. What could go wrong: an agent
//! that forgets a lease, fights for one, storms an engine that comes back, or leaves one engine
//! before it is at the other.

mod engine;
mod fleet;
mod leases;
mod load;

use super::event::{Event, Standing};
use super::instance::Instance;
use super::machine::{LinkId, Machine, Output, RegistrationId};
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
                    let arrives = (self.now + LATENCY, self.flown);
                    self.flying.insert(arrives, (link.0, true, frame.to_vec()));
                    self.flown += 1;
                }
                Output::Event(event, _) => self.events.push((self.now, event)),
                Output::Open { link } => {
                    self.machine.opened(self.now, link, IpAddr::V4(self.address));
                }
                Output::Resolve { .. } => {}
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
            self.now = next;
            while let Some(entry) = self.flying.first_entry()
                && entry.key().0 <= self.now
            {
                let (link, is_up, frame) = entry.remove();
                self.arrive(link, is_up, &frame);
            }
        }
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
            self.flying.insert((self.now + LATENCY, self.flown), (link, false, reply));
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
