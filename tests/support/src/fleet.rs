//! A region full of leases, and the beats for them.

use crate::{Harness, settings};
use heartline::internals::clock::from_ms;
use heartline::internals::exchange::{Attributes, Command, Peer, Replies, Requester};
use heartline::internals::limits::FRAME_BYTES_MAX;
use heartline::internals::registrar::{Registrar, Settings};
use heartline_region::{Geometry, Region};
use heartline_wire::{Beat, Lease, Name, Register, Reply, ReplyBody};
use std::sync::Arc;
use zerocopy::FromZeros;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

/// Longest TTL there is: nothing falls silent while a bench runs.
pub const LONG_TTL_MS: u32 = 86_400_000;
/// Services that the leases are spread over.
const SERVICES: u32 = 1000;
/// What instances carry where the geometry has room for it.
const ATTRIBUTES: &[u8] = b"\x06canary\x08rack=b12";

/// A registrar over a region full of leases.
#[derive(Debug)]
pub struct Fleet {
    /// The memory.
    pub region: Arc<Region>,
    /// The registrar, which has granted the leases.
    pub registrar: Registrar,
    /// The leases, and their beats.
    pub beats: Beats,
}

/// Leases, and the sequence of the last beat for each.
#[derive(Debug)]
pub struct Beats {
    /// In the order in which they were granted.
    pub leases: Vec<Lease>,
    sequences: Vec<u32>,
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
            request.service = Name::new(&format!("service-{}", number % SERVICES)).expect("a name");
            request.instance = Name::new(&format!("instance-{number}")).expect("a name");
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
        let beats = Beats { sequences: vec![0; leases.len()], leases };
        let Harness { region, registrar, .. } = engine;
        Self { region, registrar, beats }
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
}
