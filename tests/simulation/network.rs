//! The network between clients and engine: what is lost, late, doubled, or sent by strangers.

use crate::client::peer;
use crate::plan::{Class, Fault};
use crate::world::{Happening, World};
use heartline::internals::clock::{Nanos, from_ms};
use heartline::internals::exchange::Peer;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

impl World {
    /// Whether a fault of the network concerns this client, in this direction.
    fn concerns(&self, fault: &Fault, client: Option<usize>, to_engine: bool) -> bool {
        let (who, which, way) = (fault.seed % 3, fault.seed >> 8, (fault.seed >> 4) % 3);
        let is_of = match (who, client) {
            (0, _) => true,
            (1, Some(client)) => client as u64 == which % self.plan.clients.len() as u64,
            (2, Some(client)) => client as u64 % 2 == which % 2,
            _ => false,
        };
        is_of && (way == 0 || (way == 1) == to_engine)
    }

    /// The times at which copies of a datagram arrive.
    fn travel(&mut self, client: Option<usize>, to_engine: bool) -> Vec<Nanos> {
        let scale = self.plan.scale;
        let faults: Vec<Fault> =
            [Class::Loss, Class::Duplication, Class::Delay, Class::Reorder, Class::Partition]
                .into_iter()
                .flat_map(|class| self.active(class).collect::<Vec<_>>())
                .filter(|fault| self.concerns(fault, client, to_engine))
                .collect();
        let random = &mut self.network;
        let base = random.random_range(20_000..60_000 + (scale / 40).min(from_ms(5)));
        let mut copies = vec![self.now + base];
        for fault in faults {
            match fault.class {
                Class::Loss => copies.retain(|_| random.random_range(0..100) > fault.seed % 30),
                Class::Partition => copies.clear(),
                Class::Delay => {
                    copies.iter_mut().for_each(|at| *at += scale / 100 * (fault.seed % 40))
                }
                Class::Duplication if random.random_bool(0.3) => {
                    copies.extend(copies.first().map(|&at| at + random.random_range(0..scale)));
                }
                Class::Reorder if random.random_bool(0.15) => {
                    copies.iter_mut().for_each(|at| *at += random.random_range(0..scale * 4))
                }
                _ => {}
            }
        }
        copies
    }

    pub(crate) fn send_to_engine(&mut self, client: Option<usize>, peer: Peer, bytes: Vec<u8>) {
        if self.tape.len() < 400 {
            self.tape.push((peer, bytes.clone()));
        } else if self.network.random_bool(0.1) {
            let at = self.network.random_range(0..400);
            self.tape[at] = (peer, bytes.clone());
        }
        for at in self.travel(client, true) {
            self.schedule(at, Happening::ToEngine(peer, bytes.clone()));
        }
    }

    pub(crate) fn send_to_client(&mut self, peer: Peer, bytes: Vec<u8>) {
        let client = self.clients.iter().position(|client| client.peer.ip == peer.ip);
        for at in self.travel(client, false) {
            self.schedule(at, Happening::ToClient(peer, bytes.clone()));
        }
    }

    /// Datagrams that no client sends: recorded ones, many at once, and broken ones.
    pub(crate) fn strangers(&mut self, fault: &Fault, now: Nanos, until: Nanos) {
        let mut random = StdRng::seed_from_u64(fault.seed);
        let (count, window) = match fault.class {
            Class::Flood => (
                (self.plan.socket_queue * self.plan.loops * 2).min(900),
                (self.plan.scale / 20).min(from_ms(20)),
            ),
            // Eight for each loop in the time that it dozes.
            Class::Dense => (self.plan.loops * 2400, from_ms(30)),
            _ => (40, until - now),
        };
        for _ in 0..count {
            let at = now + random.random_range(0..window.max(1));
            let stranger = peer(250, random.random_range(1..60_000));
            let recorded = (!self.tape.is_empty())
                .then(|| self.tape[random.random_range(0..self.tape.len())].clone());
            let (from, mut bytes) = recorded.unwrap_or((stranger, vec![0x48; 40]));
            let from = if random.random_bool(0.5) { from } else { stranger };
            match fault.class {
                Class::Replay => {}
                Class::Dense => bytes = vec![0x48; 40],
                Class::Flood if random.random_bool(0.7) => bytes = garbage_beats(&mut random),
                Class::Flood => {}
                _ => mutate(&mut bytes, &mut random),
            }
            self.schedule(at, Happening::ToEngine(from, bytes));
        }
    }
}

fn garbage_beats(random: &mut StdRng) -> Vec<u8> {
    let mut frame = b"HL\x01\x03\x01\x00\x00\x00".to_vec();
    frame.extend_from_slice(&random.next_u64().to_le_bytes());
    let generation = random.random_range(0..4_u64);
    frame.extend_from_slice(&(random.random_range(0..128_u64) | generation << 32).to_le_bytes());
    frame.extend_from_slice(&random.next_u64().to_le_bytes());
    frame.extend_from_slice(&[random.random(), 0, 0, 0, 0, 0, 0, 0]);
    frame
}

fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        match random.random_range(0..4) {
            0 if !bytes.is_empty() => bytes.truncate(random.random_range(0..bytes.len())),
            1 => bytes.extend(
                (0..random.random_range(1..40))
                    .map(|_| random.random::<u8>() & random.random::<u8>()),
            ),
            _ if !bytes.is_empty() => {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            _ => {}
        }
    }
}
