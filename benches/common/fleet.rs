//! A region full of leases, the beats for them, and threads that work beside what is measured.
#![allow(dead_code, reason = "each bench uses its part")]

use crossbeam::queue::ArrayQueue;
use heartline::clock::{Nanos, from_ms};
use heartline::dataplane::{Cookies, Dataplane};
use heartline::exchange::{Attributes, Command, Peer, Replies, Requester};
use heartline::limits::{COMMAND_QUEUE, FRAME_BYTES_MAX};
use heartline::region::{Geometry, Place, Region};
use heartline::registrar::{DenyList, Registrar, Settings};
use heartline::wire::{Beat, Header, Kind, Lease, Name, Register, Reply, ReplyBody};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// When all leases are registered.
pub(crate) const START: Nanos = from_ms(1_000_000);
/// Longest TTL there is: nothing falls silent while a bench runs.
pub(crate) const LONG_TTL_MS: u32 = 86_400_000;
/// Services that the leases are spread over.
pub(crate) const SERVICES: u32 = 1000;
/// What instances carry where the geometry has room for it.
const ATTRIBUTES: &[u8] = b"\x06canary\x08rack=b12";

/// Registrar and data plane over one region.
pub(crate) struct Fleet {
    pub(crate) region: Arc<Region>,
    pub(crate) registrar: Registrar,
    pub(crate) dataplane: Dataplane,
    pub(crate) beats: Beats,
}

/// Leases, and the sequence of the last beat for each.
pub(crate) struct Beats {
    pub(crate) leases: Vec<Lease>,
    sequences: Vec<u32>,
    random: SmallRng,
}

/// Name of the service of a lease.
pub(crate) fn service_name(number: u32) -> String {
    format!("service-{}", number % SERVICES)
}

/// Name of the instance of a lease.
pub(crate) fn instance_name(number: u32) -> String {
    format!("instance-{number}")
}

impl Fleet {
    /// Registers `leases` instances, in slots 0, 1, and so on.
    pub(crate) fn new(geometry: Geometry, leases: u32, ttl_ms: u32) -> Self {
        let attributes = Attributes::new(if geometry.attributes_bytes >= ATTRIBUTES.len() {
            ATTRIBUTES
        } else {
            &[]
        });
        let (region, writer) =
            Region::create(&Place::Scratch, geometry, (1, 2), 7, &AtomicBool::new(false))
                .expect("memory for the region");
        let region = Arc::new(region);
        let settings = Settings {
            quota: leases,
            hold: true,
            tombstone_min: from_ms(1000),
            deny: DenyList::default(),
            epoch: 7,
        };
        let mut registrar = Registrar::new(Arc::clone(&region), writer, settings, START);
        let from =
            Requester { peer: Peer::default(), tag: U64::ZERO, budget: FRAME_BYTES_MAX as u16 };
        let mut random = SmallRng::seed_from_u64(1);
        let mut replies = Replies::default();
        let granted = (0..leases).map(|number| {
            let mut request = Register::new_zeroed();
            (request.nonce, request.ttl_ms) = (U64::new(1), U32::new(ttl_ms));
            request.service = Name::new(&service_name(number)).expect("a name");
            request.instance = Name::new(&instance_name(number)).expect("a name");
            let command = Command::Register { from, request, attributes };
            registrar.handle(START, &command, &mut || random.next_u64(), &mut replies);
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
        let commands = Arc::new(ArrayQueue::new(COMMAND_QUEUE));
        let dataplane = Dataplane::new(
            Arc::clone(&region),
            commands,
            Cookies::new((1, 2)),
            7,
            SmallRng::seed_from_u64(2),
        );
        Self {
            region,
            registrar,
            dataplane,
            beats: Beats { sequences: vec![0; leases.len()], leases, random },
        }
    }
}

impl Beats {
    /// The next beat for a lease.
    pub(crate) fn next(&mut self, at: usize) -> Beat {
        self.sequences[at] += 1;
        Beat {
            lease: self.leases[at],
            sequence: U32::new(self.sequences[at]),
            load: U16::ZERO,
            flags: U16::ZERO,
        }
    }

    /// Frames of beats for random leases.
    pub(crate) fn frames(&mut self, count: usize, beats_per_frame: usize) -> Vec<Vec<u8>> {
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

/// Ends the thread of [`beside`] also when what is measured panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Runs `measured` while another thread does `work` again and again; returns how often it did, and
/// in which time.
pub(crate) fn beside(mut work: impl FnMut() + Send, measured: impl FnOnce()) -> (u64, Duration) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let (start, mut rounds) = (Instant::now(), 0);
            while !stop.load(Relaxed) {
                work();
                rounds += 1;
            }
            (rounds, start.elapsed())
        });
        let running = Stop(&stop);
        measured();
        drop(running);
        worker.join().expect("the thread beside did not panic")
    })
}
