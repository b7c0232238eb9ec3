//! The network between agents and engines: what is lost, late, doubled, or sent by strangers.

use crate::plan::{Class, Fault};
use crate::world::{Happening, World};
use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::exchange::Peer;
use heartline_wire::{Header, Kind, Request, Watch, service_id};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zerocopy::{FromZeros, IntoBytes};

/// Longest time by which a fault makes a datagram late.
pub(crate) const LATE_MAX: Nanos = from_ms(1_000);
/// Marks the kinds of replies.
const REPLY_BIT: u8 = 0x80;
/// Datagrams that are kept to be sent again.
const TAPE: usize = 400;

/// An address in 10.0.0.0/8.
pub(crate) fn peer(net: u8, host: u8, port: u16) -> Peer {
    let ip = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 10, 0, net, host];
    Peer { ip, port, ..Peer::default() }
}

/// Nobody's address: the simulation's own questions come from there.
pub(crate) fn inspector() -> Peer {
    peer(9, 9, 9)
}

impl World {
    /// Whether a fault of the network is between this agent and this engine, in this direction.
    pub(crate) fn concerns(
        &self,
        fault: &Fault,
        agent: Option<usize>,
        engine: usize,
        to_engine: bool,
    ) -> bool {
        let (who, which) = (fault.seed % 3, fault.seed >> 8);
        let (engines, way) = ((fault.seed >> 4) % 3, (fault.seed >> 20) % 3);
        let is_of = match (who, agent) {
            (0, _) => true,
            (1, Some(agent)) => agent as u64 == which % self.plan.agents.len() as u64,
            (2, Some(agent)) => agent as u64 % 2 == which % 2,
            _ => false,
        };
        is_of
            && (engines == 0 || engine as u64 == engines - 1)
            && (way == 0 || (way == 1) == to_engine)
    }

    /// The times at which copies of a datagram arrive.
    fn travel(&mut self, agent: Option<usize>, engine: usize, to_engine: bool) -> Vec<Nanos> {
        let now = self.now;
        let mut copies = vec![now + self.network.random_range(20_000..300_000)];
        for index in 0..self.plan.faults.len() {
            let fault = self.plan.faults[index];
            if !self.is_active(&fault) || !self.concerns(&fault, agent, engine, to_engine) {
                continue;
            }
            let random = &mut self.network;
            match fault.class {
                Class::Loss => copies.retain(|_| random.random_range(0..100) > fault.seed % 40),
                Class::Partition => copies.clear(),
                Class::Delay => {
                    let late = from_ms(1) * (fault.seed % 80);
                    copies.iter_mut().for_each(|at| *at += late);
                }
                Class::Duplication if random.random_bool(0.3) => {
                    copies.extend(copies.first().map(|&at| at + random.random_range(0..LATE_MAX)));
                }
                Class::Reorder if random.random_bool(0.15) => {
                    copies.iter_mut().for_each(|at| *at += random.random_range(0..LATE_MAX));
                }
                _ => {}
            }
        }
        copies
    }

    pub(crate) fn send_to_engine(
        &mut self,
        agent: Option<usize>,
        engine: usize,
        from: Peer,
        bytes: Vec<u8>,
    ) {
        if self.tape.len() < TAPE {
            self.tape.push((engine, from, bytes.clone()));
        } else if self.network.random_bool(0.1) {
            let at = self.network.random_range(0..TAPE);
            self.tape[at] = (engine, from, bytes.clone());
        }
        for at in self.travel(agent, engine, true) {
            self.schedule(at, Happening::ToEngine(engine, from, bytes.clone()));
        }
    }

    pub(crate) fn send_to_agent(&mut self, engine: usize, to: Peer, bytes: Vec<u8>) {
        let agent = self.ports.get(&(to.ip, to.port)).map(|port| port.agent);
        let is_push = bytes.get(3) == Some(&(Kind::Push as u8 | REPLY_BIT));
        if is_push && self.network.random_range(0..100) < self.plan.push_loss {
            return;
        }
        for at in self.travel(agent, engine, false) {
            self.schedule(at, Happening::ToAgent(to, bytes.clone()));
        }
    }

    /// Datagrams that no agent sends: recorded ones, and broken ones.
    pub(crate) fn strangers(&mut self, fault: &Fault, until: Nanos) {
        let mut random = StdRng::seed_from_u64(fault.seed);
        for _ in 0..60 {
            let at = self.now + random.random_range(0..(until - self.now).max(1));
            let stranger = peer(3, 3, random.random_range(1..60_000));
            let recorded = (!self.tape.is_empty())
                .then(|| self.tape[random.random_range(0..self.tape.len())].clone());
            let engine = random.random_range(0..self.plan.engines);
            let (engine, from, mut bytes) = recorded.unwrap_or((engine, stranger, vec![0x48; 40]));
            let from = if random.random_bool(0.5) { from } else { stranger };
            if fault.class == Class::Hostile {
                mutate(&mut bytes, &mut random);
                if has_secret(&bytes) {
                    // Whoever reads a nonce or the secret of a lease can act as its owner.
                    continue;
                }
                if random.random_bool(0.3) {
                    // Whoever forges the engine's address reaches agents, too.
                    bytes.get_mut(3).into_iter().for_each(|kind| *kind |= 0x80);
                    bytes.iter_mut().skip(8).take(8).for_each(|byte| *byte = random.random());
                    self.schedule(at, Happening::ToAgent(from, bytes));
                    continue;
                }
            }
            self.schedule(at, Happening::ToEngine(engine, from, bytes));
        }
    }

    /// Watch requests with the cookie of an agent's address from ports at which nobody receives,
    /// and from its own port, without a proof or with a wrong one.
    pub(crate) fn spoofers(&mut self, fault: &Fault, until: Nanos) {
        let mut random = StdRng::seed_from_u64(fault.seed);
        let victim = (fault.seed >> 8) as usize % self.agents.len();
        for _ in 0..80 {
            let at = self.now + random.random_range(0..(until - self.now).max(1));
            let engine = random.random_range(0..self.plan.engines);
            let port = random.random_range(1..20);
            let is_own = random.random_bool(0.2);
            let proof = if random.random_bool(0.5) { 0 } else { random.random() };
            let tag = random.random_range(0..3);
            self.schedule(at, Happening::Spoof { victim, engine, port, is_own, proof, tag });
        }
    }

    /// One of them.
    pub(crate) fn spoof(
        &mut self,
        victim: usize,
        engine: usize,
        (port, is_own): (u16, bool),
        proof: u64,
        tag: u64,
    ) {
        let now = self.now;
        let outside = self.agents[victim].outside(engine);
        let Some(cookies) = self.places[engine].engine.as_ref().map(|one| one.cookies.clone())
        else {
            return;
        };
        let from = if is_own { outside } else { Peer { port, ..outside } };
        let mut body = Watch::new_zeroed();
        body.cookie = cookies.make(&from.ip, now).into();
        body.service = service_id("s0").into();
        body.ttl_ms = 10_000.into();
        (body.proof, body.number) = (proof.into(), (proof as u32 % 4).into());
        // Perhaps the tag of one of its watches: then that watch is at stake.
        let known =
            self.tape.iter().rev().find_map(|(to, sender, bytes)| match Request::decode(bytes) {
                Ok(Request::Watch(header, watch)) if *to == engine && sender.ip == from.ip => {
                    Some((header.tag.get(), watch.service))
                }
                _ => None,
            });
        let (tag, service) = known.filter(|_| tag == 0).unwrap_or((tag, body.service));
        body.service = service;
        let bytes = [Header::request(Kind::Watch, tag).as_bytes(), body.as_bytes()].concat();
        self.schedule(now + 50_000, Happening::ToEngine(engine, from, bytes));
    }
}

fn has_secret(bytes: &[u8]) -> bool {
    matches!(
        Request::decode(bytes),
        Ok(Request::Register(..)
            | Request::Beat(..)
            | Request::Update(..)
            | Request::Deregister(..))
    )
}

fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        match random.random_range(0..4) {
            0 if !bytes.is_empty() => bytes.truncate(random.random_range(0..bytes.len())),
            1 => bytes.extend((0..random.random_range(1..40)).map(|_| random.random::<u8>())),
            _ if !bytes.is_empty() => {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            _ => {}
        }
    }
}
