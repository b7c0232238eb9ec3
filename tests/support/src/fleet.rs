//! A region full of leases, the beats for them, and threads that work beside what is measured.

use crate::{Harness, settings};
use heartline::clock::from_ms;
use heartline::dataplane::Dataplane;
use heartline::exchange::{Attributes, Command, Peer, Replies, Requester};
use heartline::limits::FRAME_BYTES_MAX;
use heartline::region::{Geometry, Region};
use heartline::registrar::{Registrar, Settings};
use heartline::wire::{Beat, Header, Kind, Lease, Name, Register, Reply, ReplyBody};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Longest TTL there is: nothing falls silent while a bench runs.
pub const LONG_TTL_MS: u32 = 86_400_000;
/// Services that the leases are spread over.
pub const SERVICES: u32 = 1000;
/// What instances carry where the geometry has room for it.
const ATTRIBUTES: &[u8] = b"\x06canary\x08rack=b12";

/// Registrar and data plane over one region.
#[derive(Debug)]
pub struct Fleet {
    /// The memory.
    pub region: Arc<Region>,
    /// The registrar, which has granted the leases.
    pub registrar: Registrar,
    /// A loop's data plane.
    pub dataplane: Dataplane,
    /// The leases, and their beats.
    pub beats: Beats,
}

/// Leases, and the sequence of the last beat for each.
#[derive(Debug)]
pub struct Beats {
    /// In the order in which they were granted.
    pub leases: Vec<Lease>,
    sequences: Vec<u32>,
    random: SmallRng,
}

/// Name of the service of a lease.
pub fn service_name(number: u32) -> String {
    format!("service-{}", number % SERVICES)
}

/// Name of the instance of a lease.
pub fn instance_name(number: u32) -> String {
    format!("instance-{number}")
}

impl Fleet {
    /// Registers `leases` instances, in slots 0, 1, and so on.
    pub fn new(geometry: Geometry, leases: u32, ttl_ms: u32) -> Self {
        let attributes = Attributes::new(if geometry.attributes_bytes >= ATTRIBUTES.len() {
            ATTRIBUTES
        } else {
            &[]
        });
        let settings = Settings { tombstone_min: from_ms(1000), ..settings(leases) };
        let mut engine = Harness::with_geometry(geometry, settings, 1);
        let from =
            Requester { peer: Peer::default(), tag: U64::ZERO, budget: FRAME_BYTES_MAX as u16 };
        let mut replies = Replies::default();
        let granted = (0..leases).map(|number| {
            let mut request = Register::new_zeroed();
            (request.nonce, request.ttl_ms) = (U64::new(1), U32::new(ttl_ms));
            request.service = Name::new(&service_name(number)).expect("a name");
            request.instance = Name::new(&instance_name(number)).expect("a name");
            engine.handle(&Command::Register { from, request, attributes }, &mut replies);
            let lease = replies.iter().next().and_then(|(_, frame)| {
                match Reply::decode(frame).ok()?.body {
                    ReplyBody::Granted(granted) => Some(granted.lease),
                    _ => None,
                }
            });
            replies.clear();
            lease.expect("a lease")
        });
        let leases: Vec<Lease> = granted.collect();
        let random = SmallRng::seed_from_u64(1);
        let beats = Beats { sequences: vec![0; leases.len()], leases, random };
        let Harness { region, registrar, dataplane, .. } = engine;
        Self { region, registrar, dataplane, beats }
    }
}

impl Beats {
    /// The next beat for a lease.
    pub fn next(&mut self, at: usize) -> Beat {
        self.sequences[at] += 1;
        Beat {
            lease: self.leases[at],
            sequence: U32::new(self.sequences[at]),
            load: U16::ZERO,
            flags: U16::ZERO,
        }
    }

    /// Frames of beats for random leases.
    pub fn frames(&mut self, count: usize, beats_per_frame: usize) -> Vec<Vec<u8>> {
        let header =
            Header { count: U16::new(beats_per_frame as u16), ..Header::request(Kind::Beat, 1) };
        (0..count)
            .map(|_| {
                let mut frame = header.as_bytes().to_vec();
                for _ in 0..beats_per_frame {
                    let at = self.random.random_range(0..self.leases.len());
                    frame.extend_from_slice(self.next(at).as_bytes());
                }
                frame
            })
            .collect()
    }
}
